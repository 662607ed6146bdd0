//! The processor an instruction runs on: registers, memory and the rest of the vCPU's state.

use kvm_bindings::{kvm_regs, kvm_sregs};

use super::error::Stop;
use super::exception::Exception;
use super::features::Features;
use super::host;
use super::paging::{Privilege, Walker, bits};
use super::state::VcpuState;
use super::xsave_layout::XsaveLayout;
use crate::devices::bus::Bus;
use crate::memory::ram::GuestRam;

/// CR0 and CR4 bits that FPU instructions look at.
const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXSAVE: u64 = 1 << 18;

/// One vCPU between two runs.
///
/// `regs` and `sregs` are copies: they are taken over when the instruction
/// completes and dropped when it faults.
pub(super) struct Cpu<'a> {
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub ram: &'a GuestRam,
    pub mmio: &'a Bus,
    pub state: &'a mut dyn VcpuState,
    /// Accesses outside RAM are not covered: they are KVM's to make.
    pub ram_only: bool,
    pub host: &'a Host,
}

/// What the emulator needs to know of the host's processor, asked once (CPUID traps in a VM).
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// MAXPHYADDR.
    pub physical_bits: u32,
    /// Where each XSAVE component lies.
    pub xsave: XsaveLayout,
    /// The vector extensions it has.
    pub features: Features,
}

impl Host {
    /// Asks this processor.
    pub fn detect() -> Self {
        Self {
            physical_bits: host::physical_bits(),
            xsave: XsaveLayout::of_host(),
            features: Features::detect(),
        }
    }
}

impl Cpu<'_> {
    /// Current privilege level.
    pub fn cpl(&self) -> u8 {
        if self.sregs.cr0 & 1 == 0 {
            return 0;
        }
        (self.sregs.cs.selector & 3) as u8
    }

    /// Whose rights an operand's access has.
    pub fn privilege(&self) -> Privilege {
        if self.cpl() == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        }
    }

    /// Whether the vCPU runs 64-bit code.
    pub fn is_64_bit(&self) -> bool {
        self.sregs.efer & bits::EFER_LMA != 0 && self.sregs.cs.l != 0
    }

    /// 16, 32 or 64: how instructions at CS decode.
    pub fn bitness(&self) -> u32 {
        if self.is_64_bit() {
            64
        } else if self.sregs.cs.db != 0 {
            32
        } else {
            16
        }
    }

    /// The page-table walk in the current mode.
    pub fn walker(&self) -> Walker<'_> {
        Walker::new(
            self.ram,
            &self.sregs,
            self.regs.rflags,
            self.host.physical_bits,
        )
    }

    /// `#GP(0)` unless at CPL 0.
    pub fn require_cpl0(&self) -> Result<(), Stop> {
        if self.cpl() == 0 {
            Ok(())
        } else {
            Err(Exception::general_protection().into())
        }
    }

    /// The checks of x87 instructions: `#NM` if CR0.EM or CR0.TS.
    pub fn require_x87(&self) -> Result<(), Stop> {
        if self.sregs.cr0 & (CR0_EM | CR0_TS) != 0 {
            return Err(Exception::device_not_available().into());
        }
        Ok(())
    }

    /// The checks of WAIT: `#NM` if both CR0.MP and CR0.TS.
    pub fn require_wait(&self) -> Result<(), Stop> {
        if self.sregs.cr0 & CR0_MP != 0 && self.sregs.cr0 & CR0_TS != 0 {
            return Err(Exception::device_not_available().into());
        }
        Ok(())
    }

    /// The checks of SSE instructions: `#UD` without CR4.OSFXSR, `#NM` if CR0.TS.
    pub fn require_sse(&self) -> Result<(), Stop> {
        if self.sregs.cr0 & CR0_EM != 0 || self.sregs.cr4 & CR4_OSFXSR == 0 {
            return Err(Exception::invalid_opcode().into());
        }
        self.require_no_task_switch()
    }

    /// The checks of the XSAVE family: `#UD` without CR4.OSXSAVE, `#NM` if CR0.TS.
    pub fn require_xsave(&self) -> Result<(), Stop> {
        self.require_osxsave()?;
        self.require_no_task_switch()
    }

    /// `#UD` without CR4.OSXSAVE.
    pub fn require_osxsave(&self) -> Result<(), Stop> {
        if self.sregs.cr4 & CR4_OSXSAVE == 0 {
            return Err(Exception::invalid_opcode().into());
        }
        Ok(())
    }

    fn require_no_task_switch(&self) -> Result<(), Stop> {
        if self.sregs.cr0 & CR0_TS != 0 {
            return Err(Exception::device_not_available().into());
        }
        Ok(())
    }
}
