//! The user's choices in the terms of those who carry them out and know no command line.

use crate::boot;
use crate::config::{self, CpuModel, Irqchip};
use crate::interrupts::IrqchipMode;
use crate::vcpu::cpuid::model::Level;

/// How the kernel is entered.
pub fn boot_protocol(choice: config::BootProtocol) -> boot::BootProtocol {
    match choice {
        config::BootProtocol::Auto => boot::BootProtocol::Auto,
        config::BootProtocol::Linux64 => boot::BootProtocol::Linux64,
        config::BootProtocol::Pvh => boot::BootProtocol::Pvh,
    }
}

/// Whether it is moved.
pub fn kaslr(choice: config::Kaslr) -> boot::Kaslr {
    match choice {
        config::Kaslr::Auto => boot::Kaslr::Auto,
        config::Kaslr::On => boot::Kaslr::On,
        config::Kaslr::Off => boot::Kaslr::Off,
    }
}

/// The level of the psABI that `--cpu` names, unless it is the host.
pub fn level(choice: CpuModel) -> Option<Level> {
    match choice {
        CpuModel::Host => None,
        CpuModel::V2 => Some(Level::V2),
        CpuModel::V3 => Some(Level::V3),
        CpuModel::V4 => Some(Level::V4),
    }
}

/// Kernels told to do without the IOAPIC, or without the tables that describe
/// it, need a PIC and a PIT; those told to do without kvmclock measure the TSC against
/// the PIT, and count its ticks until they have.
pub fn irqchip_mode(choice: Irqchip, cmdline: &str) -> IrqchipMode {
    const NEEDS_PIC: [&str; 4] = ["noapic", "nolapic", "disableapic", "no-kvmclock"];
    match choice {
        Irqchip::Split => IrqchipMode::Split,
        Irqchip::Kernel => IrqchipMode::Kernel,
        Irqchip::Auto => {
            let is_told = NEEDS_PIC.iter().any(|key| boot::has_key(cmdline, key));
            if is_told || boot::acpi_is_off(cmdline) {
                IrqchipMode::Kernel
            } else {
                IrqchipMode::Split
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_without_an_ioapic_get_kvms_irqchip() {
        let auto = |line| irqchip_mode(Irqchip::Auto, line);
        assert_eq!(auto("console=ttyS0 panic=-1"), IrqchipMode::Split);
        assert_eq!(auto("console=ttyS0 noapic"), IrqchipMode::Kernel);
        assert_eq!(auto("acpi=off quiet"), IrqchipMode::Kernel);
        assert_eq!(auto("no-kvmclock"), IrqchipMode::Kernel);
        // As Linux reads them: `-` is `_`, and a value is no matter to a switch.
        assert_eq!(auto("no_kvmclock"), IrqchipMode::Kernel);
        assert_eq!(auto("noapic=1"), IrqchipMode::Kernel);
        assert_eq!(auto("acpi=\"off\""), IrqchipMode::Kernel);
        // The last word on ACPI holds, and what is for init is no word on anything.
        assert_eq!(auto("acpi=off acpi=force"), IrqchipMode::Split);
        assert_eq!(auto("acpi=force acpi=off"), IrqchipMode::Kernel);
        assert_eq!(auto("quiet -- noapic acpi=off"), IrqchipMode::Split);
        assert_eq!(auto("noapictimer nolapic_timer"), IrqchipMode::Split);
        assert_eq!(auto("dyndbg=\"file x noapic\""), IrqchipMode::Split);
        assert_eq!(irqchip_mode(Irqchip::Split, "noapic"), IrqchipMode::Split);
        assert_eq!(irqchip_mode(Irqchip::Kernel, ""), IrqchipMode::Kernel);
    }
}
