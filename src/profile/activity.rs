//! What a vCPU's thread does at a moment, and its frame in a flame graph.

use std::fmt;

use iced_x86::{Decoder, DecoderOptions};
use kvm_bindings::{KVM_EXIT_INTR, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_UNKNOWN};

/// What the thread of a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// It is in KVM_RUN: guest code, or KVM on its behalf.
    Guest,
    /// It is in KVM_RUN and the vCPU has executed HLT.
    Halted,
    /// It waits in KVM_RUN to be started by another vCPU.
    NotStarted,
    /// Mayfly serves a port access.
    Port {
        /// The port.
        port: u16,
        /// Whether the guest wrote.
        is_out: bool,
    },
    /// Mayfly serves an access to an address that is not RAM.
    Mmio {
        /// Guest-physical address.
        address: u64,
        /// Whether the guest wrote.
        is_write: bool,
    },
    /// Mayfly serves an access to a filtered MSR.
    Msr {
        /// Its number.
        index: u32,
    },
    /// Mayfly executes an instruction that KVM handed back.
    Emulation {
        /// Its bytes and more, as KVM fetched them.
        bytes: [u8; 15],
        /// How many of them there are.
        len: u8,
    },
    /// Mayfly serves an end of interrupt.
    EndOfInterrupt,
    /// Mayfly serves another exit.
    OtherExit {
        /// KVM's number for it.
        reason: u32,
    },
}

impl Activity {
    /// By KVM's number of the last exit, for those without details.
    pub(super) fn of_exit(reason: u32) -> Self {
        match reason {
            KVM_EXIT_UNKNOWN | KVM_EXIT_INTR => Self::Guest,
            KVM_EXIT_IOAPIC_EOI => Self::EndOfInterrupt,
            reason => Self::OtherExit { reason },
        }
    }

    /// Which of the shares of the whole it counts for, in guest mode by privilege.
    pub(super) fn share(self, user: bool) -> Share {
        match self {
            Self::Guest if user => Share::User,
            Self::Guest => Share::Kernel,
            Self::Halted | Self::NotStarted => Share::Halted,
            Self::Emulation { .. } => Share::Emulation,
            _ => Share::Exits,
        }
    }

    /// The frame on top of the stack; guest code needs none.
    pub(super) fn frame(self) -> Option<String> {
        match self {
            Self::Guest => None,
            activity => Some(format!("[{activity}]")),
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest => f.write_str("guest"),
            Self::Halted => f.write_str("halted"),
            Self::NotStarted => f.write_str("not started"),
            Self::Port { port, is_out: true } => write!(f, "out {port:#x}"),
            Self::Port { port, .. } => write!(f, "in {port:#x}"),
            Self::Mmio {
                address,
                is_write: true,
            } => write!(f, "mmio write {address:#x}"),
            Self::Mmio { address, .. } => write!(f, "mmio read {address:#x}"),
            Self::Msr { index } => write!(f, "msr {index:#x}"),
            Self::Emulation { bytes, len } => {
                let bytes = bytes.get(..usize::from(*len)).unwrap_or(bytes);
                let insn = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
                let mnemonic = format!("{:?}", insn.mnemonic()).to_lowercase();
                write!(f, "emulate {mnemonic}")
            }
            Self::EndOfInterrupt => f.write_str("ioapic eoi"),
            Self::OtherExit { reason } => write!(f, "exit {reason}"),
        }
    }
}

/// The parts that a vCPU's time is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Share {
    /// Guest code at CPL 0 to 2, with what KVM does for it.
    Kernel,
    /// Guest code at CPL 3.
    User,
    /// Waiting for an interrupt, or to be started.
    Halted,
    /// Mayfly executes instructions.
    Emulation,
    /// Mayfly serves all other exits.
    Exits,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::User => "user",
            Self::Halted => "halted",
            Self::Emulation => "emulated by Mayfly",
            Self::Exits => "exits to Mayfly",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_name_what_is_served() {
        let frame = |activity: Activity| activity.frame().unwrap_or_default();
        let port = |is_out| Activity::Port {
            port: 0x3f8,
            is_out,
        };
        assert_eq!(frame(port(true)), "[out 0x3f8]");
        assert_eq!(frame(port(false)), "[in 0x3f8]");
        let mut bytes = [0x90; 15];
        bytes[..4].copy_from_slice(&[0xf3, 0x0f, 0xb8, 0xc1]);
        let emulation = Activity::Emulation { bytes, len: 4 };
        assert_eq!(frame(emulation), "[emulate popcnt]");
        assert_eq!(emulation.share(true), Share::Emulation);
        let cut = Activity::Emulation { bytes, len: 200 };
        assert_eq!(frame(cut), "[emulate popcnt]");
        assert_eq!(Activity::of_exit(KVM_EXIT_INTR).frame(), None);
        assert_eq!(Activity::Guest.share(true), Share::User);
    }
}
