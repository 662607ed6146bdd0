//! The ACPI tables: what the guest learns of the machine's fixed hardware.
//!
//! ```text
//!  RSDP ─► XSDT ─► FADT ─► FACS
//!              │       └─► DSDT   \_S5, COM1, RTC, pvpanic, the VM generation id, virtio-mmio devices, the PCI root
//!              ├─► MADT           local APICs, the IOAPIC
//!              └─► MCFG           configuration space, if there is PCI
//! ```
//!
//! The tables follow ACPI 6.3. AML is interpreted, slowly so where the guest's
//! kernel is interpreted itself, so the DSDT holds names and no methods, and no
//! processor devices: Linux finds its CPUs in the MADT.

mod dsdt;
mod fadt;
#[cfg(test)]
mod iasl_tests;
mod madt;
mod pci;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk_tests;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use thiserror::Error;

use crate::memory::layout::{ACPI_END, ACPI_START};
use crate::memory::{GuestRam, MemoryError};

const OEM_ID: [u8; 6] = *b"MAYFLY";
const OEM_TABLE_ID: [u8; 8] = *b"MAYFLYVM";
const OEM_REVISION: u32 = 1;

/// What the tables tell of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Number of vCPUs; their APIC ids are 0 to `cpus - 1`.
    pub cpus: u32,
    /// Whether the machine has a PC's two 8259A and its 8254 (KVM's full
    /// in-kernel irqchip and PIT).
    pub legacy_pic: bool,
    /// Number of PCI devices, 00:01.0 and up; without any there is no PCI.
    pub pci_devices: usize,
    /// Number of virtio-mmio devices to declare, in the places that
    /// [`virtio_mmio_slot`](crate::memory::layout::virtio_mmio_slot) gives them.
    pub virtio_mmio_devices: usize,
}

/// Why the tables could not be made.
#[derive(Debug, Error)]
pub enum AcpiError {
    /// The tables exceed the room below 1 MiB.
    #[error(
        "cannot describe {cpus} CPUs to the guest: their ACPI tables exceed the room below 1 MiB; choose a smaller --cpus"
    )]
    NoRoom {
        /// Number of vCPUs asked for.
        cpus: u32,
    },
    /// The guest has no RAM where the tables go.
    #[error("cannot write the ACPI tables; choose a larger --memory")]
    Memory {
        /// What guest memory said.
        #[source]
        source: MemoryError,
    },
}

/// Writes the tables to [`ACPI_START`]`..`[`ACPI_END`] and returns the
/// guest-physical address of the RSDP.
///
/// # Errors
/// [`AcpiError`] if the CPUs are too many to describe or the guest too small.
pub fn build(config: &AcpiConfig, ram: &GuestRam) -> Result<u64, AcpiError> {
    let no_room = || AcpiError::NoRoom { cpus: config.cpus };
    let mut room = Room::new(ram);
    let rsdp = room.reserve(Rsdp::len(), 16).ok_or_else(no_room)?;
    let mut place = |table: &[u8], align| room.place(table, align).ok_or_else(no_room)?;

    let facs = place(&bytes(&FACS::new()), 64)?;
    let dsdt = place(dsdt::dsdt(config).as_slice(), 8)?;
    let fadt = place(&bytes(&fadt::fadt(facs, dsdt)), 8)?;
    let madt = madt::madt(config).ok_or_else(no_room)?;
    let madt = place(madt.as_slice(), 8)?;
    let mcfg = match config.pci_devices {
        0 => None,
        _ => Some(place(&bytes(&pci::mcfg()), 8)?),
    };

    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if let Some(mcfg) = mcfg {
        xsdt.add_entry(mcfg);
    }
    let xsdt = place(&bytes(&xsdt), 8)?;

    write(ram, rsdp, &bytes(&Rsdp::new(OEM_ID, xsdt)))?;
    Ok(rsdp)
}

/// The part of the tables' room that is still free.
struct Room<'a> {
    ram: &'a GuestRam,
    next: u64,
}

impl<'a> Room<'a> {
    fn new(ram: &'a GuestRam) -> Self {
        Self {
            ram,
            next: ACPI_START,
        }
    }

    /// Takes `len` bytes; none if they do not fit.
    fn reserve(&mut self, len: usize, align: u64) -> Option<u64> {
        let addr = self.next.checked_next_multiple_of(align)?;
        let end = addr.checked_add(u64::try_from(len).ok()?)?;
        if end > ACPI_END {
            return None;
        }
        self.next = end;
        Some(addr)
    }

    /// Writes a table into the room; none if it does not fit.
    fn place(&mut self, table: &[u8], align: u64) -> Option<Result<u64, AcpiError>> {
        let addr = self.reserve(table.len(), align)?;
        Some(write(self.ram, addr, table).map(|()| addr))
    }
}

fn write(ram: &GuestRam, addr: u64, table: &[u8]) -> Result<(), AcpiError> {
    ram.write(addr, table)
        .map_err(|source| AcpiError::Memory { source })
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
