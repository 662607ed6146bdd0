//! The devices of the machine, and what they share.
//!
//! A device knows its registers, the interrupt line it was given and the
//! [`EventSink`] through which it asks something of the VM as a whole. It knows
//! no vCPU, no other device and no command line.
//!
//! # Life cycle
//!
//! ```text
//!  State::default() ─► from_state(state, lines…) ─► read/write by the bus ─► state()
//!                            ▲                                                  │
//!                            └────────────── snapshot, reboot ──────────────────┘
//! ```
//!
//! Every device says in one serializable structure what state it has, and is
//! only ever built from such a structure: a fresh machine is one restored from
//! the reset state.

pub mod acpi_power;
pub mod boot_timer;
pub mod bus;
pub mod cmos_rtc;
pub mod debug_exit;
pub mod i8042;
pub mod ioapic;
pub mod pci;
pub mod port61;
pub mod pvpanic;
pub mod reset_control;
pub mod serial;
pub mod virtio;
pub mod vmgenid;

#[cfg(test)]
mod testing;

/// Something a guest asked of the VM through a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// A reset: i8042 command 0xfe, ACPI reset register, port 0xcf9.
    Reset,
    /// ACPI S5.
    PowerOff,
    /// A status through the debug-exit port, as the guest wrote it.
    Status(u32),
    /// pvpanic: the guest kernel has panicked.
    Panicked,
    /// pvpanic: the guest kernel has panicked and runs its crash kernel now.
    CrashLoaded,
    /// The boot timer: userspace runs.
    UserspaceReached,
}

/// Where devices report [`GuestEvent`]s. Called on the vCPU thread that made
/// the access; it must not block.
pub trait EventSink: Send + Sync {
    /// Takes note of `event`; the vCPU leaves guest mode for good, if that is
    /// what the event means, before it runs another instruction.
    fn guest_event(&self, event: GuestEvent);
}

/// One interrupt input of the machine's interrupt controller, as a device sees it.
pub trait IrqLine: Send + Sync {
    /// An edge: the line goes up and down again.
    fn pulse(&self);
}

/// A level-triggered interrupt input, as a device that holds it sees it.
pub trait LevelLine: Send + Sync {
    /// Asserts or negates the line; it stays so.
    fn set_level(&self, asserted: bool);
}

/// A device behind a range of ports or addresses.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes (1, 2, 4 or 8) at `offset` into the
    /// range. `data` comes filled with 0xff, what an absent device answers.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes `data` (1, 2, 4 or 8 bytes) at `offset` into the range.
    fn write(&mut self, offset: u64, data: &[u8]);
}
