//! Every guest-physical address and I/O port that Mayfly chooses.
//!
//! Nothing else in the program invents an address; the rooms import these.
//!
//! | guest-physical range            | what is there                                    |
//! |---------------------------------|--------------------------------------------------|
//! | `0x0000_0500`                   | GDT of the boot vCPU                             |
//! | `0x0000_6000..0x0000_7000`      | PVH start info, modules and memory map           |
//! | `0x0000_7000..0x0000_8000`      | Linux zero page (`boot_params`)                  |
//! | `0x0000_9000..0x0000_f000`      | boot page tables: PML4, PDPT, four PDs (4 GiB)   |
//! | `0x0001_0000..0x0002_0000`      | kernel command line, NUL-terminated              |
//! | `0x0009_fc00..0x000a_0000`      | EBDA: the MP table (reserved)                    |
//! | `0x000d_f000..0x000e_0000`      | setup_data: the random seed (reserved)           |
//! | `0x000e_0000..0x000f_f000`      | ACPI tables, RSDP first (reserved)               |
//! | `0x000f_f000..0x0010_0000`      | the VM generation id, 16 bytes (reserved)        |
//! | `0x0010_0000..`                 | kernel, initrd, free RAM                         |
//! | `0xc000_0000..0x1_0000_0000`    | the PCI hole: no RAM                             |
//! | `0xd000_0000..0xe000_0000`      | 32-bit MMIO window of devices, of it:            |
//! | `0xd000_0000..0xd001_0000`      | virtio-mmio devices, a page each                 |
//! | `0xd010_0000..0xe000_0000`      | PCI BARs                                         |
//! | `0xe000_0000..0xe010_0000`      | PCI ECAM (one bus)                               |
//! | `0xfec0_0000..0xfec0_1000`      | IOAPIC                                           |
//! | `0xfee0_0000..0xfee0_1000`      | local APIC                                       |
//! | `0xfffb_c000..0xffff_c000`      | KVM's identity map and TSS pages (VT-x)          |
//! | `0x1_0000_0000..`               | RAM beyond 3 GiB                                 |

use thiserror::Error;

/// GDT of the boot vCPU.
pub const GDT_ADDR: u64 = 0x500;
/// PVH `hvm_start_info`, followed by its module list and memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// End of the room for PVH structures (exclusive).
pub const PVH_END: u64 = 0x7000;
/// Linux zero page (`struct boot_params`, 4096 bytes).
pub const ZERO_PAGE: u64 = 0x7000;
/// PML4 of the boot page tables.
pub const PML4_ADDR: u64 = 0x9000;
/// PDPT of the boot page tables.
pub const PDPT_ADDR: u64 = 0xa000;
/// The first of four page directories that map 4 GiB with 2 MiB pages.
pub const PD_ADDR: u64 = 0xb000;
/// Kernel command line.
pub const CMDLINE_ADDR: u64 = 0x1_0000;
/// Room for the command line, its NUL included, in bytes.
pub const CMDLINE_MAX: usize = 0x1_0000;
/// Start of the extended BIOS data area; RAM that guests may use ends here.
pub const EBDA_START: u64 = 0x9_fc00;
/// The classic ISA hole, reserved in the memory map up to 1 MiB.
pub const ISA_HOLE_START: u64 = 0xa_0000;
/// Linux `setup_data`, up to [`ACPI_START`]. In the ISA hole, which the memory map
/// reserves as a whole.
pub const SETUP_DATA: u64 = 0xd_f000;
/// ACPI tables; the RSDP comes first, where firmware puts it.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the room for ACPI tables (exclusive).
pub const ACPI_END: u64 = 0xf_f000;
/// The VM generation id, in a page of its own, as its specification wants it.
pub const VM_GENERATION_ID: u64 = 0xf_f000;
/// Start of RAM above the ISA hole.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// Start of the PCI hole: low RAM ends here at the latest (3 GiB).
pub const PCI_HOLE_START: u64 = 0xc000_0000;
/// End of the PCI hole: RAM goes on here (4 GiB).
pub const PCI_HOLE_END: u64 = 0x1_0000_0000;
/// 32-bit MMIO window for devices.
pub const MMIO32_START: u64 = 0xd000_0000;
/// Size of the 32-bit MMIO window in bytes.
pub const MMIO32_SIZE: u64 = 0x1000_0000;
/// Registers of the virtio-mmio devices, a page each.
pub const VIRTIO_MMIO_START: u64 = MMIO32_START;
/// Size of the registers of one virtio-mmio device in bytes.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// IOAPIC pins of the virtio-mmio devices: those that nothing else has. The ISA
/// interrupts come first: kernels find those without ACPI and without an IOAPIC.
const VIRTIO_MMIO_PINS: [u32; 16] = [5, 6, 7, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];
/// Start of the window for the BARs of PCI devices, behind the virtio-mmio devices.
pub const PCI_BAR_START: u64 = MMIO32_START + 0x10_0000;
/// Size of the window for BARs in bytes.
pub const PCI_BAR_SIZE: u64 = MMIO32_START + MMIO32_SIZE - PCI_BAR_START;
/// PCI ECAM window.
pub const ECAM_START: u64 = 0xe000_0000;
/// Size of the ECAM window in bytes: one bus.
pub const ECAM_SIZE: u64 = 0x10_0000;
/// IOAPIC registers.
pub const IOAPIC_ADDR: u64 = 0xfec0_0000;
/// Size of the IOAPIC's register window in bytes.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Local APIC registers.
pub const LAPIC_ADDR: u64 = 0xfee0_0000;
/// One page KVM needs for its identity map on VT-x (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP_ADDR: u64 = 0xfffb_c000;
/// Three pages KVM needs for its TSS on VT-x (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS_ADDR: u64 = 0xfffb_d000;

/// First serial port (COM1), 8 ports.
pub const PORT_SERIAL: u16 = 0x3f8;
/// ISA interrupt of COM1.
pub const IRQ_SERIAL: u32 = 4;
/// i8042 data port; the status and command port is 0x64.
pub const PORT_I8042: u16 = 0x60;
/// CMOS index port; the data port is 0x71.
pub const PORT_CMOS: u16 = 0x70;
/// ISA interrupt of the CMOS RTC.
pub const IRQ_RTC: u32 = 8;
/// Debug-exit port: the value written becomes the guest's status.
pub const PORT_DEBUG_EXIT: u16 = 0xf4;
/// pvpanic port (`QEMU0001`).
pub const PORT_PVPANIC: u16 = 0x505;
/// Boot-timer port: the guest writes [`BOOT_TIMER_MAGIC`] when userspace runs.
pub const PORT_BOOT_TIMER: u16 = 0x3f0;
/// The value that means "userspace runs".
pub const BOOT_TIMER_MAGIC: u8 = 123;
/// ACPI PM1a event block (4 bytes: status, enable), then the control block (2 bytes).
pub const PORT_ACPI_PM1A_EVT: u16 = 0x600;
/// ACPI PM1a control block (2 bytes).
pub const PORT_ACPI_PM1A_CNT: u16 = 0x604;
/// ACPI reset register (FADT `RESET_REG`): the PC's port 0xcf9.
pub const PORT_RESET: u16 = 0xcf9;
/// PCI configuration mechanism #1, 8 ports; [`PORT_RESET`] is one of them.
pub const PORT_PCI_CONFIG: u16 = 0xcf8;
/// Value of the FADT `RESET_VALUE`.
pub const RESET_VALUE: u8 = 0x6;
/// SLP_TYP of S5 in the DSDT's `_S5` package.
pub const ACPI_S5_SLP_TYP: u8 = 5;
/// ISA interrupt of ACPI (SCI).
pub const IRQ_SCI: u32 = 9;
/// GSIs of PCI's INTx, level-triggered and shared: of even and of odd devices. They
/// are ISA interrupts, so that a guest with nothing but a PIC has them too.
pub const PCI_INTX_GSIS: [u32; 2] = [10, 11];
/// Input pins of the IOAPIC, GSI 0 to 23.
pub const IOAPIC_PINS: u32 = 24;

/// The place of a virtio-mmio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmioSlot {
    /// Guest-physical address of its registers, [`VIRTIO_MMIO_SIZE`] bytes.
    pub addr: u64,
    /// Its interrupt: an IOAPIC pin, edge-triggered, that it has for itself.
    pub gsi: u32,
}

/// The place of virtio-mmio device `index`, counted from 0; none if there is no room.
pub fn virtio_mmio_slot(index: usize) -> Option<VirtioMmioSlot> {
    let gsi = *VIRTIO_MMIO_PINS.get(index)?;
    let before = VIRTIO_MMIO_SIZE.checked_mul(u64::try_from(index).ok()?)?;
    let addr = VIRTIO_MMIO_START.checked_add(before)?;
    Some(VirtioMmioSlot { addr, gsi })
}

/// More virtio-mmio devices than there are places for them.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "cannot place {wanted} virtio-mmio devices: there is room for {room}; use fewer, or --transport pci"
)]
pub struct TooManyDevices {
    /// Devices asked for.
    pub wanted: usize,
    /// Devices that fit.
    pub room: usize,
}

/// The places of the first `count` virtio-mmio devices.
///
/// # Errors
/// [`TooManyDevices`].
pub fn virtio_mmio_slots(count: usize) -> Result<Vec<VirtioMmioSlot>, TooManyDevices> {
    (0..count)
        .map(virtio_mmio_slot)
        .collect::<Option<_>>()
        .ok_or(TooManyDevices {
            wanted: count,
            room: VIRTIO_MMIO_PINS.len(),
        })
}

/// One range of RAM: guest-physical start and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// Guest-physical address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The RAM ranges of a machine with `size` bytes: one below the PCI hole and,
/// if the rest does not fit there, one from 4 GiB.
pub fn ram_ranges(size: u64) -> Vec<RamRange> {
    let low = size.min(PCI_HOLE_START);
    let mut ranges = vec![RamRange { start: 0, len: low }];
    if size > low {
        ranges.push(RamRange {
            start: PCI_HOLE_END,
            len: size - low,
        });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_range() {
        let ranges = ram_ranges(128 << 20);
        assert_eq!(
            ranges,
            [RamRange {
                start: 0,
                len: 128 << 20
            }]
        );
    }

    #[test]
    fn six_gib_go_round_the_pci_hole() {
        let ranges = ram_ranges(6 << 30);
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0].len, PCI_HOLE_START);
        assert_eq!(ranges[1].start, PCI_HOLE_END);
        assert_eq!(ranges[0].len + ranges[1].len, 6 << 30);
    }

    #[test]
    fn virtio_mmio_devices_share_neither_pages_nor_pins() {
        let slots = virtio_mmio_slots(16).unwrap();
        for (slot, next) in slots.iter().zip(&slots[1..]) {
            assert_eq!(slot.addr + 0x1000, next.addr);
            assert!(slot.gsi < next.gsi && next.gsi < IOAPIC_PINS);
        }
        assert!(slots[15].addr + 0x1000 <= PCI_BAR_START);
        // Timer, keyboard, cascade, serial ports, clock, ACPI, coprocessor.
        let taken = [0, 1, 2, 3, 4, 8, 9, 13];
        assert!(slots.iter().all(|slot| !taken.contains(&slot.gsi)));
        assert_eq!(PCI_BAR_START + PCI_BAR_SIZE, MMIO32_START + MMIO32_SIZE);
    }

    #[test]
    fn more_devices_than_places_are_an_error() {
        assert_eq!(virtio_mmio_slots(0), Ok(Vec::new()));
        let error = virtio_mmio_slots(17).unwrap_err();
        assert!(error.to_string().contains("17 virtio-mmio devices"));
        assert_eq!(virtio_mmio_slot(usize::MAX), None);
    }
}
