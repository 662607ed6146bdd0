use super::*;
use crate::memory::layout::{IOAPIC_ADDR, LAPIC_ADDR, PORT_ACPI_PM1A_CNT, PORT_ACPI_PM1A_EVT};

pub(super) const ONE_CPU: AcpiConfig = AcpiConfig {
    cpus: 1,
    legacy_pic: false,
    pci_devices: 0,
    virtio_mmio_devices: 0,
};

pub(super) fn ram() -> GuestRam {
    GuestRam::new(2 << 20).unwrap()
}

pub(super) fn read(ram: &GuestRam, addr: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    ram.read(addr, &mut data).unwrap();
    data
}

fn u16_at(table: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(table[at..at + 2].try_into().unwrap())
}

pub(super) fn u32_at(table: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(table[at..at + 4].try_into().unwrap())
}

pub(super) fn u64_at(table: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(table[at..at + 8].try_into().unwrap())
}

pub(super) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A table with its signature, length and checksum checked.
fn table(ram: &GuestRam, addr: u64, signature: &[u8; 4]) -> Vec<u8> {
    let header = read(ram, addr, 36);
    assert_eq!(&header[..4], signature);
    let table = read(ram, addr, u32_at(&header, 4) as usize);
    assert_eq!(sum(&table), 0, "checksum of {signature:?}");
    assert!(addr >= ACPI_START && addr + table.len() as u64 <= ACPI_END);
    table
}

struct Tables {
    fadt: Vec<u8>,
    madt: Vec<u8>,
    dsdt: Vec<u8>,
    facs: Vec<u8>,
    mcfg: Option<Vec<u8>>,
}

/// Follows the pointers from the RSDP, as a guest does.
fn tables(config: &AcpiConfig) -> Tables {
    let ram = ram();
    let rsdp_addr = build(config, &ram).unwrap();
    assert_eq!(rsdp_addr, ACPI_START);
    let rsdp = read(&ram, rsdp_addr, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
    assert_eq!((rsdp[15], u32_at(&rsdp, 20)), (2, 36));
    let xsdt = table(&ram, u64_at(&rsdp, 24), b"XSDT");
    assert!(matches!(xsdt.len(), 52 | 60));
    let fadt = table(&ram, u64_at(&xsdt, 36), b"FACP");
    let madt = table(&ram, u64_at(&xsdt, 44), b"APIC");
    let mcfg = (xsdt.len() == 60).then(|| table(&ram, u64_at(&xsdt, 52), b"MCFG"));
    assert_eq!(u64::from(u32_at(&fadt, 40)), u64_at(&fadt, 140));
    let dsdt = table(&ram, u64_at(&fadt, 140), b"DSDT");
    let facs_addr = u64::from(u32_at(&fadt, 36));
    assert_eq!(facs_addr % 64, 0);
    let facs = read(&ram, facs_addr, 64);
    Tables {
        fadt,
        madt,
        dsdt,
        facs,
        mcfg,
    }
}

/// The MADT's entries: type and content.
pub(super) fn entries(madt: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut rest = &madt[44..];
    while let [kind, len, ..] = *rest {
        let (entry, after) = rest.split_at(usize::from(len));
        entries.push((kind, entry.to_vec()));
        rest = after;
    }
    assert!(rest.is_empty());
    entries
}

fn count(madt: &[u8], kind: u8) -> usize {
    entries(madt).iter().filter(|entry| entry.0 == kind).count()
}

#[test]
fn the_fadt_tells_of_the_fixed_hardware() {
    let fadt = tables(&ONE_CPU).fadt;
    assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 3));
    assert_eq!(u16_at(&fadt, 46), 9);
    assert_eq!(u32_at(&fadt, 48), 0, "no SMI command port");
    assert_eq!(u32_at(&fadt, 56), u32::from(PORT_ACPI_PM1A_EVT));
    assert_eq!(u32_at(&fadt, 64), u32::from(PORT_ACPI_PM1A_CNT));
    assert_eq!((u32_at(&fadt, 76), fadt[91]), (0, 0), "no PM timer");
    assert_eq!((fadt[88], fadt[89]), (4, 2));
    assert_eq!(fadt[108], 0x32);
    assert_eq!(u16_at(&fadt, 109), 0b101);
    assert_eq!(u32_at(&fadt, 112), 0b1_0100_0110_0101);
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[128], 6);
    assert_eq!(u64_at(&fadt, 132), 0, "one FACS pointer");
    assert_eq!(fadt[148..152], [1, 32, 0, 2]);
    assert_eq!(u64_at(&fadt, 152), u64::from(PORT_ACPI_PM1A_EVT));
    assert_eq!(fadt[172..176], [1, 16, 0, 2]);
    assert_eq!(u64_at(&fadt, 176), u64::from(PORT_ACPI_PM1A_CNT));
}

#[test]
fn the_facs_is_there() {
    let facs = tables(&ONE_CPU).facs;
    assert_eq!(&facs[..4], b"FACS");
    assert_eq!((u32_at(&facs, 4), facs[32]), (64, 1));
}

#[test]
fn the_madt_has_the_ioapic_and_an_edge_triggered_sci() {
    let madt = tables(&ONE_CPU).madt;
    assert_eq!(u32_at(&madt, 36), LAPIC_ADDR as u32);
    assert_eq!(u32_at(&madt, 40), 0, "no PIC");
    let mut ioapic = vec![1, 12, 0, 0];
    ioapic.extend((IOAPIC_ADDR as u32).to_le_bytes());
    ioapic.extend([0; 4]);
    let expected = [
        (0, vec![0, 8, 0, 0, 1, 0, 0, 0]),
        (1, ioapic),
        (2, vec![2, 10, 0, 9, 9, 0, 0, 0, 5, 0]),
    ];
    assert_eq!(entries(&madt), expected);
}

#[test]
fn a_pic_brings_the_pit_on_pin_2() {
    let madt = tables(&AcpiConfig {
        legacy_pic: true,
        ..ONE_CPU
    })
    .madt;
    assert_eq!(u32_at(&madt, 40), 1);
    let pit = (2, vec![2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    assert!(entries(&madt).contains(&pit));
}

#[test]
fn pci_brings_two_level_triggered_interrupts() {
    let madt = tables(&AcpiConfig {
        pci_devices: 1,
        ..ONE_CPU
    })
    .madt;
    for gsi in [10, 11] {
        let level = (2, vec![2, 10, 0, gsi, gsi, 0, 0, 0, 0xf, 0]);
        assert!(entries(&madt).contains(&level), "{gsi}");
    }
    assert_eq!(count(&madt, 2), 3);
}

#[test]
fn apic_ids_from_255_get_x2apic_entries() {
    let madt = tables(&AcpiConfig {
        cpus: 257,
        ..ONE_CPU
    })
    .madt;
    assert_eq!((count(&madt, 0), count(&madt, 9)), (255, 2));
    let x2apics = entries(&madt).into_iter().filter(|entry| entry.0 == 9);
    let ids: Vec<_> = x2apics
        .map(|(_, x)| (u32_at(&x, 4), u32_at(&x, 12)))
        .collect();
    assert_eq!(ids, [(255, 255), (256, 256)]);
}

#[test]
fn four_thousand_cpus_fit_and_more_than_fit_are_an_error() {
    let madt = tables(&AcpiConfig {
        cpus: 4096,
        ..ONE_CPU
    })
    .madt;
    assert_eq!(count(&madt, 0) + count(&madt, 9), 4096);
    for cpus in [8320, 20_000, u32::MAX] {
        let error = build(&AcpiConfig { cpus, ..ONE_CPU }, &ram()).unwrap_err();
        assert!(matches!(error, AcpiError::NoRoom { .. }), "{error}");
    }
}

#[test]
fn a_guest_too_small_for_the_tables_is_an_error() {
    let small = GuestRam::new(64 << 10).unwrap();
    let error = build(&ONE_CPU, &small).unwrap_err();
    assert!(matches!(error, AcpiError::Memory { .. }), "{error}");
}

#[test]
fn the_dsdt_is_small_and_names_s5_and_the_devices() {
    let dsdt = tables(&ONE_CPU).dsdt;
    assert!(dsdt.len() < 352, "{} bytes", dsdt.len());
    let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00"));
    assert!(has(b"COM1") && has(&[0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 1, 8]));
    assert!(has(b"RTC_") && has(&[0x47, 0x01, 0x70, 0x00, 0x70, 0x00, 1, 2]));
    assert!(has(b"QEMU0001\0") && has(&[0x47, 0x01, 0x05, 0x05, 0x05, 0x05, 1, 1]));
    assert!(has(&[0x89, 6, 0, 0b11, 1, 4, 0, 0, 0]));
    assert!(has(b"MAYF0001\0\x08_CID\x12"));
    assert!(has(
        b"\x0dVMGENCTR\0\x0dVM_Gen_Counter\0\x08_DDN\x0dVM_Gen_Counter\0"
    ));
    // Two integers, the address's low half first.
    assert!(has(b"\x08ADDR\x12\x08\x02\x0c\x00\xf0\x0f\x00\x00"));
    assert!(!has(b"LNRO0005"));
}

#[test]
fn virtio_mmio_devices_have_their_registers_and_pins() {
    let dsdt = tables(&AcpiConfig {
        virtio_mmio_devices: 9,
        ..ONE_CPU
    })
    .dsdt;
    let count = |bytes: &[u8]| dsdt.windows(bytes.len()).filter(|w| *w == bytes).count();
    assert_eq!(count(b"LNRO0005\0"), 9);
    assert_eq!(count(b"VR00") + count(b"VR08"), 2);
    // Memory32Fixed, writable; then an edge, active high, exclusive (ACPI 6.3 §6.4.3).
    let first = [
        0x86, 9, 0, 1, 0, 0, 0, 0xd0, 0, 0x10, 0, 0, 0x89, 6, 0, 0b11, 1, 5, 0, 0, 0,
    ];
    let last = [
        0x86, 9, 0, 1, 0, 0x80, 0, 0xd0, 0, 0x10, 0, 0, 0x89, 6, 0, 0b11, 1, 16, 0, 0, 0,
    ];
    assert_eq!((count(&first), count(&last)), (1, 1));
}

/// Whether `table` has these bytes somewhere.
fn has(table: &[u8], bytes: &[u8]) -> bool {
    table.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn without_pci_devices_there_is_no_pci() {
    let tables = tables(&ONE_CPU);
    assert!(tables.mcfg.is_none());
    assert!(!has(&tables.dsdt, b"PCI0"));
}

#[test]
fn the_mcfg_has_the_one_bus() {
    let mcfg = tables(&AcpiConfig {
        pci_devices: 1,
        ..ONE_CPU
    })
    .mcfg
    .unwrap();
    assert_eq!((mcfg.len(), mcfg[8]), (60, 1));
    assert_eq!(u64_at(&mcfg, 44), 0xe000_0000);
    assert_eq!(mcfg[52..60], [0; 8], "segment 0, bus 0 to 0");
}

#[test]
fn the_dsdt_has_the_pci_root_with_its_windows_and_interrupts() {
    let dsdt = tables(&AcpiConfig {
        pci_devices: 3,
        ..ONE_CPU
    })
    .dsdt;
    // EISA ids (ACPI 6.3 §19.3.4), big-endian 5-bit letters and hexadecimal digits.
    assert!(has(
        &dsdt,
        b"PCI0\x08_HID\x0c\x41\xd0\x0a\x08\x08_CID\x0c\x41\xd0\x0a\x03"
    ));
    assert!(has(&dsdt, b"PCIE\x08_HID\x0c\x41\xd0\x0c\x02"));
    // Bus numbers 0 to 0, ports, and the window as a dword address space (§6.4.3.5).
    assert!(has(
        &dsdt,
        &[0x88, 0x0d, 0, 2, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    ));
    assert!(has(&dsdt, &[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]));
    let window = [
        0x87, 0x17, 0, 0, 0x0c, 1, 0, 0, 0, 0, 0, 0, 0x10, 0xd0, 0xff, 0xff, 0xff, 0xdf, 0, 0, 0,
        0, 0, 0, 0xf0, 0x0f,
    ];
    assert!(has(&dsdt, &window));
    assert!(has(&dsdt, &[0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x10, 0]));
    // Packages of address, pin, source and GSI: INTA of 00:01, 00:02, 00:03.
    for (device, gsi) in [(1, 11), (2, 10), (3, 11)] {
        let route = [0x0c, 0xff, 0xff, device, 0, 0, 0, 0x0a, gsi];
        assert!(has(&dsdt, &route), "{device}");
    }
    assert!(!has(&dsdt, &[0x0c, 0xff, 0xff, 4, 0, 0, 0]));
}

#[test]
fn a_full_bus_fits() {
    let config = AcpiConfig {
        pci_devices: 31,
        ..ONE_CPU
    };
    assert!(tables(&config).dsdt.len() < 1024);
}
