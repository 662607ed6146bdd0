//! The MADT: local APICs, the IOAPIC and how ISA interrupts reach it
//! (ACPI 6.3 §5.2.12).

use acpi_tables::sdt::Sdt;

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::memory::layout::{
    ACPI_END, ACPI_START, IOAPIC_ADDR, IRQ_SCI, LAPIC_ADDR, PCI_INTX_GSIS,
};

const HEADER_LEN: u32 = 36;
const REVISION: u8 = 5;

const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const INTERRUPT_SOURCE_OVERRIDE: u8 = 2;
const LOCAL_X2APIC: u8 = 9;

/// The first APIC id that needs an x2APIC entry; 255 is xAPIC's broadcast.
const FIRST_X2APIC: u32 = 255;
const ENABLED: u32 = 1;
const PCAT_COMPAT: u32 = 1;

const ISA_BUS: u8 = 0;
/// Conforms to the bus: for ISA, active high and edge-triggered.
const CONFORMS: u16 = 0;
/// Active high, edge-triggered: what the SCI would not be by default.
const HIGH_EDGE: u16 = 0b0101;
/// Active low, level-triggered: PCI's INTx, on what would be ISA interrupts.
const LOW_LEVEL: u16 = 0b1111;
const IRQ_PIT: u8 = 0;
/// The PIT is wired to pin 2, since pin 0 is the PIC's.
const GSI_PIT: u32 = 2;

/// The MADT; none if the CPUs are more than could ever fit.
pub fn madt(config: &AcpiConfig) -> Option<Sdt> {
    let entry_len = local_apic(0).len() as u64;
    if u64::from(config.cpus) * entry_len > ACPI_END - ACPI_START {
        return None;
    }
    let mut body = Vec::new();
    body.extend((LAPIC_ADDR as u32).to_le_bytes());
    let flags = if config.legacy_pic { PCAT_COMPAT } else { 0 };
    body.extend(flags.to_le_bytes());
    for id in 0..config.cpus {
        body.extend(local_apic(id));
    }
    body.extend(io_apic());
    if config.legacy_pic {
        body.extend(source_override(IRQ_PIT, GSI_PIT, CONFORMS));
    }
    // By an edge, since KVM offers no level-triggered irqfd to a split irqchip.
    body.extend(source_override(IRQ_SCI as u8, IRQ_SCI, HIGH_EDGE));
    if config.pci_devices > 0 {
        // Without these Linux, on a machine without a PIC, takes the pins for edges and
        // refuses PCI devices their interrupt.
        for gsi in PCI_INTX_GSIS {
            body.extend(source_override(gsi as u8, gsi, LOW_LEVEL));
        }
    }

    let mut table = Sdt::new(
        *b"APIC",
        HEADER_LEN,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(&body);
    Some(table)
}

/// Processor local APIC (§5.2.12.2), or local x2APIC (§5.2.12.12) where the id needs it.
fn local_apic(id: u32) -> Vec<u8> {
    let mut entry = Vec::with_capacity(16);
    match u8::try_from(id) {
        Ok(small) if id < FIRST_X2APIC => {
            entry.extend([LOCAL_APIC, 8, small, small]);
            entry.extend(ENABLED.to_le_bytes());
        }
        _ => {
            entry.extend([LOCAL_X2APIC, 16, 0, 0]);
            entry.extend(id.to_le_bytes());
            entry.extend(ENABLED.to_le_bytes());
            entry.extend(id.to_le_bytes());
        }
    }
    entry
}

/// I/O APIC (§5.2.12.3) with id 0 and GSIs from 0.
fn io_apic() -> Vec<u8> {
    let mut entry = vec![IO_APIC, 12, 0, 0];
    entry.extend((IOAPIC_ADDR as u32).to_le_bytes());
    entry.extend(0u32.to_le_bytes());
    entry
}

/// Interrupt source override (§5.2.12.5) of an ISA interrupt.
fn source_override(irq: u8, gsi: u32, flags: u16) -> Vec<u8> {
    let mut entry = vec![INTERRUPT_SOURCE_OVERRIDE, 10, ISA_BUS, irq];
    entry.extend(gsi.to_le_bytes());
    entry.extend(flags.to_le_bytes());
    entry
}
