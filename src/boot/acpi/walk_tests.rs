//! The tables of many machines, read back as a guest finds them: from the RSDP on,
//! each by the pointer to it, down to the last name of the DSDT.

use super::tests::{entries, ram, read, sum, u32_at, u64_at};
use super::*;

/// The length of the header that all tables but the FACS have (ACPI 6.3 §5.2.6).
const HEADER: usize = 36;

/// A table where the guest finds it.
pub(super) struct Found {
    pub(super) signature: [u8; 4],
    pub(super) bytes: Vec<u8>,
}

/// Machines of every kind that the tables differ for.
pub(super) fn shapes() -> Vec<AcpiConfig> {
    let mut shapes = Vec::new();
    // The last needs x2APIC entries.
    for cpus in [1, 2, 64, 300] {
        for legacy_pic in [false, true] {
            for (pci_devices, virtio_mmio_devices) in [(0, 0), (1, 0), (31, 0), (0, 1), (0, 16)] {
                shapes.push(AcpiConfig {
                    cpus,
                    legacy_pic,
                    pci_devices,
                    virtio_mmio_devices,
                });
            }
        }
    }
    shapes
}

/// Every table that a guest can find but the RSDP. Each lies in the tables' room,
/// aligned, for itself, with the length and the checksum that it says.
pub(super) fn walk(config: &AcpiConfig) -> Vec<Found> {
    let ram = ram();
    let rsdp_addr = build(config, &ram).unwrap();
    assert_eq!(rsdp_addr % 16, 0);
    let rsdp = read(&ram, rsdp_addr, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
    assert_eq!((rsdp[15], u32_at(&rsdp, 16), u32_at(&rsdp, 20)), (2, 0, 36));

    let mut found = Vec::new();
    let mut taken = vec![(rsdp_addr, rsdp_addr + 36)];
    let mut wanted = vec![u64_at(&rsdp, 24)];
    while let Some(addr) = wanted.pop() {
        let start = read(&ram, addr, 8);
        let bytes = read(&ram, addr, u32_at(&start, 4) as usize);
        let end = addr + bytes.len() as u64;
        assert!(addr >= ACPI_START && end <= ACPI_END, "{addr:#x}");
        let apart = |other: &(u64, u64)| end <= other.0 || other.1 <= addr;
        assert!(taken.iter().all(apart), "tables overlap at {addr:#x}");
        taken.push((addr, end));
        let signature: [u8; 4] = start[..4].try_into().unwrap();
        match &signature {
            b"FACS" => assert_eq!((addr % 64, bytes.len()), (0, 64)),
            _ => assert_eq!((addr % 8, sum(&bytes)), (0, 0), "{signature:?}"),
        }
        match &signature {
            b"XSDT" => wanted.extend(bytes[HEADER..].chunks(8).map(|at| u64_at(at, 0))),
            b"FACP" => {
                assert_eq!(u64::from(u32_at(&bytes, 40)), u64_at(&bytes, 140));
                wanted.extend([u32_at(&bytes, 36).into(), u64_at(&bytes, 140)]);
            }
            _ => {}
        }
        found.push(Found { signature, bytes });
    }
    found
}

fn signatures(found: &[Found]) -> Vec<&str> {
    let mut all: Vec<_> = found
        .iter()
        .map(|table| str::from_utf8(&table.signature).unwrap())
        .collect();
    all.sort_unstable();
    all
}

fn only<'a>(found: &'a [Found], signature: &[u8; 4]) -> &'a [u8] {
    let mut with = found.iter().filter(|table| table.signature == *signature);
    let table = with.next().unwrap();
    assert!(with.next().is_none());
    &table.bytes
}

#[test]
fn every_table_is_found_from_the_rsdp() {
    for config in shapes() {
        let mut expected = vec!["APIC", "DSDT", "FACP", "FACS", "MCFG", "XSDT"];
        if config.pci_devices == 0 {
            expected.retain(|signature| *signature != "MCFG");
        }
        assert_eq!(signatures(&walk(&config)), expected, "{config:?}");
    }
}

#[test]
fn the_madt_counts_processors_and_interrupts() {
    for config in shapes() {
        let found = walk(&config);
        let madt = entries(only(&found, b"APIC"));
        let of = |kind| madt.iter().filter(|entry| entry.0 == kind).count();
        // Ids from 255 on need x2APIC entries.
        let (xapics, x2apics) = match config.cpus {
            300 => (255, 45),
            cpus => (cpus as usize, 0),
        };
        assert_eq!((of(0), of(9), of(1)), (xapics, x2apics, 1), "{config:?}");
        // The SCI; the PIT; PCI's two.
        let pci = if config.pci_devices == 0 { 0 } else { 2 };
        let overrides = 1 + usize::from(config.legacy_pic) + pci;
        assert_eq!(of(2), overrides, "{config:?}");
        assert_eq!(madt.len(), config.cpus as usize + 1 + overrides);
    }
}

#[test]
fn the_mcfg_counts_one_segment() {
    for config in shapes().iter().filter(|config| config.pci_devices > 0) {
        let found = walk(config);
        let mcfg = only(&found, b"MCFG");
        assert_eq!((mcfg.len() - HEADER - 8) / 16, 1);
        assert_eq!((mcfg.len() - HEADER - 8) % 16, 0);
        assert_eq!(&mcfg[HEADER..HEADER + 8], &[0; 8], "reserved");
    }
}

#[test]
fn the_dsdt_reads_as_aml_and_counts_devices() {
    for config in shapes() {
        let found = walk(&config);
        let mut names = Names::default();
        names.read_terms(&only(&found, b"DSDT")[HEADER..]);
        // COM1, the RTC, pvpanic and the VM generation id; PCI's root and ECAM window; and virtio's.
        let pci = if config.pci_devices == 0 { 0 } else { 2 };
        let devices = 4 + pci + config.virtio_mmio_devices;
        assert_eq!(names.devices.len(), devices, "{config:?}");
        names.devices.sort_unstable();
        names.devices.dedup();
        assert_eq!(names.devices.len(), devices, "a name twice: {config:?}");
        let routes = match config.pci_devices {
            0 => vec![],
            devices => vec![devices],
        };
        assert_eq!(names.routes, routes, "{config:?}");
    }
}

/// What is found in the DSDT: names, and PCI interrupts by root. It reads the AML that
/// is in use (ACPI 6.3 §20.2) and knows no other.
#[derive(Default)]
struct Names {
    devices: Vec<[u8; 4]>,
    routes: Vec<usize>,
}

impl Names {
    /// Scopes, devices and names to the last byte.
    fn read_terms(&mut self, mut aml: &[u8]) {
        loop {
            aml = match aml {
                [] => return,
                [0x08, rest @ ..] => {
                    let (name, rest) = name(rest);
                    let (elements, rest) = skip_data(rest);
                    if name == *b"_PRT" {
                        self.routes.push(elements);
                    }
                    rest
                }
                [0x10, rest @ ..] => {
                    let (body, rest) = package(rest);
                    self.read_terms(name(body).1);
                    rest
                }
                [0x5b, 0x82, rest @ ..] => {
                    let (body, rest) = package(rest);
                    let (name, terms) = name(body);
                    self.devices.push(name);
                    self.read_terms(terms);
                    rest
                }
                [other, ..] => panic!("AML {other:#x} where a term should be"),
            }
        }
    }
}

/// A name of one segment, perhaps from the root.
fn name(aml: &[u8]) -> ([u8; 4], &[u8]) {
    let aml = aml.strip_prefix(b"\\").unwrap_or(aml);
    let (name, rest) = aml.split_at(4);
    let first = name[0].is_ascii_uppercase() || name[0] == b'_';
    let others = |c: &u8| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == b'_';
    assert!(first && name.iter().all(others), "{name:?}");
    (name.try_into().unwrap(), rest)
}

/// What `PkgLength`, which counts itself, spans; and what follows.
fn package(aml: &[u8]) -> (&[u8], &[u8]) {
    let lead = usize::from(aml[0]);
    let more = lead >> 6;
    let len = match more {
        0 => lead & 0x3f,
        _ => (1..=more).fold(lead & 0xf, |len, i| {
            len | usize::from(aml[i]) << (8 * i - 4)
        }),
    };
    let (whole, rest) = aml.split_at(len);
    (&whole[1 + more..], rest)
}

/// Passes over a constant; says how many elements it has, if it is a package.
fn skip_data(aml: &[u8]) -> (usize, &[u8]) {
    match aml {
        [0x00 | 0x01, rest @ ..] => (0, rest),
        [0x0a, rest @ ..] => (0, &rest[1..]),
        [0x0b, rest @ ..] => (0, &rest[2..]),
        [0x0c, rest @ ..] => (0, &rest[4..]),
        [0x0d, rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == 0).unwrap();
            (0, &rest[end + 1..])
        }
        [0x11, rest @ ..] => {
            let (buffer, rest) = package(rest);
            check_resources(buffer);
            (0, rest)
        }
        [0x12, rest @ ..] => {
            let (body, rest) = package(rest);
            let (count, mut elements) = (usize::from(body[0]), &body[1..]);
            for _ in 0..count {
                elements = skip_data(elements).1;
            }
            assert!(elements.is_empty(), "a package of more than it says");
            (count, rest)
        }
        other => panic!("AML {:#x?} where data should be", other.first()),
    }
}

/// A buffer is a list of resources: descriptors to the end tag (ACPI 6.3 §6.4).
fn check_resources(buffer: &[u8]) {
    let (size, mut rest) = match buffer {
        [0x0a, size, rest @ ..] => (usize::from(*size), rest),
        other => panic!("a buffer whose size is {:#x?}", other.first()),
    };
    assert_eq!(size, rest.len());
    loop {
        let len = match rest[0] {
            // The end tag; its checksum may be 0, which stands for a right one.
            0x79 => {
                assert_eq!(rest.len(), 2);
                assert!(rest[1] == 0 || sum(&buffer[2..]) == 0);
                return;
            }
            small if small & 0x80 == 0 => 1 + usize::from(small & 7),
            _ => 3 + usize::from(rest[1]) + usize::from(rest[2]) * 256,
        };
        rest = &rest[len..];
    }
}
