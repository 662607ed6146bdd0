//! The ACPI and MP tables and the memory map of arbitrary machines.
//!
//! Input: CPUs (32 bits), memory in pages (64 bits), flags (8 bits), of which the upper
//! five are the number of virtio-mmio devices, and PCI devices (8 bits). The tables are
//! read back as a guest reads them: from the RSDP on, and by the MP signature.

use mayfly::boot::acpi::{self, AcpiConfig, AcpiError};
use mayfly::boot::{MapKind, memory_map, mptable};
use mayfly::devices::cmos_rtc::CmosRtcState;
use mayfly::memory::GuestRam;
use mayfly::memory::layout::{ACPI_END, ACPI_START, EBDA_START, ECAM_START, ISA_HOLE_START};

use super::script::{Script, sum, u16_at, u32_at, u64_at};

const MIB: u64 = 1 << 20;
const LEGACY_PIC: u8 = 1 << 0;
/// CPUs as given; else of a number that fits.
const ANY_CPUS: u8 = 1 << 1;
/// Memory as given; else of a size that test machines have.
const ANY_MEMORY: u8 = 1 << 2;
/// Places for virtio-mmio devices, and those of them with an ISA interrupt.
const VIRTIO_MMIO_PLACES: usize = 16;
const VIRTIO_MMIO_ISA: usize = 8;

/// Builds the tables of a machine and reads them back.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let (cpus, pages, flags) = (script.u32(), script.u64(), script.u8());
    let cpus = if flags & ANY_CPUS != 0 {
        cpus
    } else {
        cpus % 9000
    };
    let memory = if flags & ANY_MEMORY != 0 {
        pages.wrapping_mul(4096)
    } else {
        pages % (16 * MIB / 4096) * 4096
    };
    check_cmos(memory);
    let Ok(ram) = GuestRam::new(memory) else {
        return;
    };
    let config = AcpiConfig {
        cpus,
        legacy_pic: flags & LEGACY_PIC != 0,
        pci_devices: usize::from(script.u8() % 32),
        virtio_mmio_devices: usize::from(flags >> 3),
    };
    check_map(&ram);
    let mp = mptable::write(&ram, cpus, config.legacy_pic, config.virtio_mmio_devices);
    let acpi = acpi::build(&config, &ram);
    match mp {
        Ok(written) => check_mp(&ram, &config, written),
        Err(_) => assert!(memory < ISA_HOLE_START),
    }
    match acpi {
        Ok(rsdp) => check_acpi(&ram, rsdp, &config),
        Err(AcpiError::NoRoom { .. }) => assert!(cpus > 8000, "{cpus} CPUs must fit"),
        Err(AcpiError::Memory { .. }) => assert!(memory < ACPI_END),
    }
    if memory >= MIB {
        check_untouched(&ram);
    }
}

fn read(ram: &GuestRam, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.read(addr, &mut bytes).expect("it was written there");
    bytes
}

/// Nothing but the two windows was written.
fn check_untouched(ram: &GuestRam) {
    let below = read(ram, EBDA_START - 4096, 4096);
    let between = read(ram, ISA_HOLE_START, (ACPI_START - ISA_HOLE_START) as usize);
    assert!(below.iter().chain(&between).all(|byte| *byte == 0));
    let above = (ram.size() - MIB).min(4096) as usize;
    assert!(read(ram, MIB, above).iter().all(|byte| *byte == 0));
}

/// The tables that were found, to see that none overlaps another.
struct Walk<'a> {
    ram: &'a GuestRam,
    taken: Vec<(u64, u64)>,
}

impl Walk<'_> {
    /// `len` bytes in the window that no other table has.
    fn take(&mut self, addr: u64, len: u64) -> Vec<u8> {
        let end = addr + len;
        assert!(addr >= ACPI_START && end <= ACPI_END, "{addr:#x}+{len:#x}");
        for (start, until) in &self.taken {
            assert!(
                end <= *start || *until <= addr,
                "tables overlap at {addr:#x}"
            );
        }
        self.taken.push((addr, end));
        read(self.ram, addr, len as usize)
    }

    /// A table with a standard header (ACPI 6.3 §5.2.6).
    fn table(&mut self, addr: u64, signature: &[u8; 4]) -> Vec<u8> {
        let len = u64::from(u32_at(&read(self.ram, addr, 36), 4));
        assert!(len >= 36);
        let table = self.take(addr, len);
        assert_eq!(&table[..4], signature);
        assert_eq!(sum(&table), 0, "checksum");
        table
    }
}

fn check_acpi(ram: &GuestRam, rsdp_addr: u64, config: &AcpiConfig) {
    assert_eq!(rsdp_addr % 16, 0);
    let mut walk = Walk {
        ram,
        taken: Vec::new(),
    };
    let rsdp = walk.take(rsdp_addr, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
    assert_eq!(u32_at(&rsdp, 20), 36);
    let xsdt = walk.table(u64_at(&rsdp, 24), b"XSDT");
    let with_pci = config.pci_devices > 0;
    assert_eq!(xsdt.len(), 36 + 2 * 8 + 8 * usize::from(with_pci));
    if with_pci {
        let mcfg = walk.table(u64_at(&xsdt, 52), b"MCFG");
        assert_eq!((mcfg.len(), u64_at(&mcfg, 44)), (60, ECAM_START));
    }
    let fadt = walk.table(u64_at(&xsdt, 36), b"FACP");
    let madt = walk.table(u64_at(&xsdt, 44), b"APIC");
    assert_eq!(u64::from(u32_at(&fadt, 40)), u64_at(&fadt, 140));
    let dsdt = walk.table(u64_at(&fadt, 140), b"DSDT");
    let facs_addr = u64::from(u32_at(&fadt, 36));
    assert_eq!(facs_addr % 64, 0);
    let facs = walk.take(facs_addr, 64);
    assert_eq!((&facs[..4], u32_at(&facs, 4)), (b"FACS".as_slice(), 64));
    check_aml(&dsdt[36..]);
    let ids = dsdt.windows(9).filter(|bytes| *bytes == b"LNRO0005\0");
    assert_eq!(
        ids.count(),
        config.virtio_mmio_devices.min(VIRTIO_MMIO_PLACES)
    );
    check_madt(&madt, config);
}

/// The names and scopes of the DSDT fill it exactly (ACPI 6.3 §20.2).
fn check_aml(mut aml: &[u8]) {
    while let Some((op, rest)) = aml.split_first() {
        let len = match op {
            // Name, a path, a package.
            0x08 => 1 + 5 + 1 + package_len(&rest[6..]),
            // Scope.
            0x10 => 1 + package_len(rest),
            other => panic!("unknown AML at top level: {other:#x}"),
        };
        aml = &aml[len..];
    }
}

/// `PkgLength`: one byte, or up to three more for lengths from 64 on.
fn package_len(aml: &[u8]) -> usize {
    let lead = usize::from(aml[0]);
    let more = lead >> 6;
    if more == 0 {
        return lead & 0x3f;
    }
    (0..more).fold(lead & 0xf, |len, i| {
        len | usize::from(aml[1 + i]) << (4 + 8 * i)
    })
}

fn check_madt(madt: &[u8], config: &AcpiConfig) {
    let legacy = u32_at(madt, 40) & 1 != 0;
    assert_eq!(legacy, config.legacy_pic);
    let mut rest = &madt[44..];
    let (mut next_cpu, mut io_apics, mut overrides) = (0u32, 0, 0);
    while let [kind, len, ..] = *rest {
        let (entry, after) = rest.split_at(usize::from(len));
        let expected_len = match kind {
            0 => {
                assert_eq!(u32::from(entry[3]), next_cpu);
                assert_eq!(u32_at(entry, 4), 1);
                next_cpu += 1;
                8
            }
            1 => {
                io_apics += 1;
                12
            }
            2 => {
                overrides += 1;
                10
            }
            9 => {
                assert!(next_cpu >= 255, "an xAPIC id needs no x2APIC entry");
                assert_eq!(u32_at(entry, 4), next_cpu);
                assert_eq!(u32_at(entry, 8), 1);
                next_cpu += 1;
                16
            }
            other => panic!("unknown MADT entry {other}"),
        };
        assert_eq!(usize::from(len), expected_len);
        rest = after;
    }
    assert!(rest.is_empty());
    assert_eq!((next_cpu, io_apics), (config.cpus, 1));
    let intx = if config.pci_devices > 0 { 2 } else { 0 };
    assert_eq!(overrides, 1 + u32::from(legacy) + intx);
}

/// MultiProcessor Specification 1.4, chapter 4.
fn check_mp(ram: &GuestRam, config: &AcpiConfig, written: bool) {
    if ram.size() < ISA_HOLE_START {
        assert!(!written);
        return;
    }
    let bytes = read(ram, EBDA_START, (ISA_HOLE_START - EBDA_START) as usize);
    if !written {
        assert!(config.cpus == 0 || config.cpus > 30);
        assert!(bytes.iter().all(|byte| *byte == 0));
        return;
    }
    assert_eq!((&bytes[..4], sum(&bytes[..16])), (b"_MP_".as_slice(), 0));
    assert_eq!(u64::from(u32_at(&bytes, 4)), EBDA_START + 16);
    let len = usize::from(u16_at(&bytes, 16 + 4));
    let table = &bytes[16..16 + len];
    assert_eq!((&table[..4], sum(table)), (b"PCMP".as_slice(), 0));
    let (mut entries, mut processors, mut last, mut high_pins) = (0, 0u32, 0, 0);
    let mut rest = &table[44..];
    while let Some(kind) = rest.first() {
        assert!((last..=4).contains(kind), "entries come by type");
        if *kind == 0 {
            let boot = if processors == 0 { 2 } else { 0 };
            assert_eq!((u32::from(rest[1]), rest[3]), (processors, 1 | boot));
            processors += 1;
        }
        if *kind == 3 && rest[7] >= 16 {
            // Edge and active high, by its own number.
            assert_eq!((rest[2], rest[5]), (0b0101, rest[7]));
            high_pins += 1;
        }
        entries += 1;
        last = *kind;
        rest = &rest[if *kind == 0 { 20 } else { 8 }..];
    }
    assert_eq!(processors, config.cpus);
    let devices = config.virtio_mmio_devices.min(VIRTIO_MMIO_PLACES);
    assert_eq!(high_pins, devices.saturating_sub(VIRTIO_MMIO_ISA));
    assert_eq!(entries, u16_at(table, 34));
    assert!(bytes[16 + len..].iter().all(|byte| *byte == 0));
}

/// Sorted, disjoint, within RAM where it says so, and all of RAM but the hole.
fn check_map(ram: &GuestRam) {
    let map = memory_map(ram);
    let (mut end, mut usable) = (0, 0u128);
    for entry in &map {
        assert!(entry.len > 0 && entry.start >= end);
        end = entry.start.checked_add(entry.len).expect("it ends");
        if entry.kind == MapKind::Ram {
            let len = usize::try_from(entry.len).expect("a 64-bit host");
            assert!(ram.contains(entry.start, len));
            usable += u128::from(entry.len);
        }
    }
    let hole = ram.size().clamp(EBDA_START, MIB) - EBDA_START;
    assert_eq!(usable, u128::from(ram.size() - hole));
}

/// The sizes in CMOS RAM never promise more than there is.
fn check_cmos(memory: u64) {
    let state = CmosRtcState::for_memory(memory);
    let at = |index: usize| u64::from(state.ram[index]);
    let kib = at(0x17) | at(0x18) << 8;
    let low = (at(0x34) | at(0x35) << 8) << 16;
    let high = (at(0x5b) | at(0x5c) << 8 | at(0x5d) << 16) << 16;
    assert!(kib << 10 <= memory.saturating_sub(MIB));
    assert!(low <= memory.saturating_sub(16 * MIB));
    assert!(high <= memory.saturating_sub(3 << 30));
}
