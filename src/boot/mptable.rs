//! The MP table: processors, IOAPIC and ISA interrupts for kernels without
//! ACPI (Intel MultiProcessor Specification 1.4, chapter 4).
//!
//! It lies in the EBDA, the first place where such kernels look; without it
//! they go through the BIOS area page by page, which takes 2.3 s where kernel
//! code is interpreted.

use crate::memory::layout::{
    EBDA_START, IOAPIC_ADDR, ISA_HOLE_START, LAPIC_ADDR, virtio_mmio_slot,
};
use crate::memory::{GuestRam, MemoryError};

const SPEC_REVISION: u8 = 4;
const OEM_ID: &[u8; 8] = b"MAYFLY  ";
const PRODUCT_ID: &[u8; 12] = b"MAYFLY VM   ";

const FLOATING_POINTER_LEN: u64 = 16;
const HEADER_LEN: usize = 44;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
/// As in the MADT.
const IO_APIC_ID: u8 = 0;

const TYPE_INT: u8 = 0;
const TYPE_NMI: u8 = 1;
const TYPE_EXT_INT: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;

const ISA_IRQS: u8 = 16;
/// Conforms to the bus: for ISA, active high and edge-triggered.
const CONFORMS: u8 = 0;
/// Active high, edge-triggered.
const HIGH_EDGE: u8 = 0b0101;
const IRQ_PIT: u8 = 0;
const IRQ_CASCADE: u8 = 2;
/// The PIT is wired to pin 2, since pin 0 is the PIC's.
const PIN_PIT: u8 = 2;

/// Writes the table for `cpus` processors; `legacy_pic` says whether there are
/// a PIC and a PIT. The pins of the first `virtio_mmio_devices` are in it, so that the
/// numbers in their words on the command line ([`super::virtio_mmio`]) are interrupts.
/// False if the machine has more processors than the EBDA holds: kernels for those
/// know ACPI.
///
/// # Errors
/// [`MemoryError`] if guest memory ends below the EBDA.
pub fn write(
    ram: &GuestRam,
    cpus: u32,
    legacy_pic: bool,
    virtio_mmio_devices: usize,
) -> Result<bool, MemoryError> {
    let Some(entries) = entries(cpus, legacy_pic, virtio_mmio_devices) else {
        return Ok(false);
    };
    let table_addr = EBDA_START + FLOATING_POINTER_LEN;
    let table = table(&entries);
    if table_addr + table.len() as u64 > ISA_HOLE_START {
        return Ok(false);
    }
    ram.write(EBDA_START, &floating_pointer(table_addr as u32))?;
    ram.write(table_addr, &table)?;
    Ok(true)
}

/// The structure a kernel searches for (§4.1).
fn floating_pointer(table_addr: u32) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend(table_addr.to_le_bytes());
    // Length in paragraphs, revision, checksum, then: a configuration table is present.
    bytes.extend([1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    seal(&mut bytes, 10);
    bytes
}

/// The configuration table (§4.2).
fn table(entries: &[Vec<u8>]) -> Vec<u8> {
    let body = entries.concat();
    let mut bytes = b"PCMP".to_vec();
    bytes.extend(((HEADER_LEN + body.len()) as u16).to_le_bytes());
    bytes.extend([SPEC_REVISION, 0]);
    bytes.extend(OEM_ID);
    bytes.extend(PRODUCT_ID);
    // No OEM table.
    bytes.extend([0; 6]);
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend((LAPIC_ADDR as u32).to_le_bytes());
    // No extended table.
    bytes.extend([0; 4]);
    bytes.extend(body);
    seal(&mut bytes, 7);
    bytes
}

/// The entries, sorted by type as the specification wants them (§4.3); none if
/// there are processors that 8 bits cannot number.
fn entries(cpus: u32, legacy_pic: bool, virtio_mmio_devices: usize) -> Option<Vec<Vec<u8>>> {
    let last = u8::try_from(cpus.checked_sub(1)?).ok()?;
    let mut entries: Vec<Vec<u8>> = (0..=last).map(processor).collect();
    entries.push([&[BUS, 0], b"ISA   ".as_slice()].concat());
    let mut io_apic = vec![IO_APIC, IO_APIC_ID, IO_APIC_VERSION, ENABLED];
    io_apic.extend((IOAPIC_ADDR as u32).to_le_bytes());
    entries.push(io_apic);
    for irq in 0..ISA_IRQS {
        let pin = match irq {
            IRQ_PIT if legacy_pic => PIN_PIT,
            IRQ_PIT | IRQ_CASCADE => continue,
            irq => irq,
        };
        entries.push(io_interrupt(CONFORMS, irq, pin));
    }
    // The ISA interrupts among them are there already; Linux gives the others the
    // number of their pin.
    let pins = (0..virtio_mmio_devices)
        .map_while(virtio_mmio_slot)
        .filter_map(|slot| u8::try_from(slot.gsi).ok())
        .filter(|pin| *pin >= ISA_IRQS);
    entries.extend(pins.map(|pin| io_interrupt(HIGH_EDGE, pin, pin)));
    let local = |kind, lint| vec![LOCAL_INTERRUPT, kind, 0, 0, 0, 0, ALL_LOCAL_APICS, lint];
    if legacy_pic {
        entries.push(local(TYPE_EXT_INT, 0));
    }
    entries.push(local(TYPE_NMI, 1));
    Some(entries)
}

/// An input of the IOAPIC (§4.3.4), from bus 0.
fn io_interrupt(flags: u8, irq: u8, pin: u8) -> Vec<u8> {
    vec![IO_INTERRUPT, TYPE_INT, flags, 0, 0, irq, IO_APIC_ID, pin]
}

fn processor(apic_id: u8) -> Vec<u8> {
    let flags = if apic_id == 0 {
        ENABLED | BOOT_PROCESSOR
    } else {
        ENABLED
    };
    let mut entry = vec![PROCESSOR, apic_id, LOCAL_APIC_VERSION, flags];
    // Signature and features: CPUID tells them better.
    entry.resize(20, 0);
    entry
}

/// Makes all bytes add up to zero by the one at `checksum`, which is zero still.
fn seal(bytes: &mut [u8], checksum: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(checksum) {
        *byte = sum.wrapping_neg();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(cpus: u32, legacy_pic: bool) -> Option<Vec<u8>> {
        written_with(cpus, legacy_pic, 0)
    }

    fn written_with(cpus: u32, legacy_pic: bool, virtio: usize) -> Option<Vec<u8>> {
        let ram = GuestRam::new(1 << 20).unwrap();
        let mut bytes = vec![0; (ISA_HOLE_START - EBDA_START) as usize];
        let done = write(&ram, cpus, legacy_pic, virtio).unwrap();
        ram.read(EBDA_START, &mut bytes).unwrap();
        assert_eq!(done, bytes.starts_with(b"_MP_"));
        done.then_some(bytes)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, b| sum.wrapping_add(*b))
    }

    /// (type, bytes) of each entry.
    fn parse(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let table = &bytes[16..];
        let len = u16::from_le_bytes([table[4], table[5]]) as usize;
        let count = u16::from_le_bytes([table[34], table[35]]) as usize;
        let mut rest = &table[44..len];
        let mut entries = Vec::new();
        while let Some(kind) = rest.first() {
            let (entry, after) = rest.split_at(if *kind == PROCESSOR { 20 } else { 8 });
            entries.push((*kind, entry.to_vec()));
            rest = after;
        }
        assert_eq!(entries.len(), count);
        entries
    }

    #[test]
    fn pointer_and_table_add_up_to_zero() {
        let bytes = written(2, true).unwrap();
        assert_eq!(sum(&bytes[..16]), 0);
        assert_eq!(
            u32::from_le_bytes(bytes[4..8].try_into().unwrap()),
            0x9_fc10
        );
        let len = u16::from_le_bytes([bytes[20], bytes[21]]) as usize;
        assert_eq!(&bytes[16..20], b"PCMP");
        assert_eq!(sum(&bytes[16..16 + len]), 0);
    }

    #[test]
    fn entries_come_by_type_and_name_every_processor() {
        let entries = parse(&written(3, true).unwrap());
        let kinds: Vec<u8> = entries.iter().map(|(kind, _)| *kind).collect();
        assert!(kinds.is_sorted());
        let ids: Vec<(u8, u8)> = entries
            .iter()
            .filter(|(kind, _)| *kind == PROCESSOR)
            .map(|(_, entry)| (entry[1], entry[3]))
            .collect();
        assert_eq!(ids, [(0, 3), (1, 1), (2, 1)]);
    }

    #[test]
    fn the_pit_has_an_input_only_where_there_is_one() {
        let pins = |legacy| -> Vec<(u8, u8)> {
            parse(&written(1, legacy).unwrap())
                .into_iter()
                .filter(|(kind, _)| *kind == IO_INTERRUPT)
                .map(|(_, entry)| (entry[5], entry[7]))
                .collect()
        };
        assert!(pins(true).contains(&(0, 2)));
        assert!(!pins(false).iter().any(|(irq, _)| *irq == 0));
        assert!(pins(false).contains(&(4, 4)));
    }

    #[test]
    fn pins_beyond_isa_are_listed_for_the_devices_that_have_them() {
        let inputs = |virtio| -> Vec<Vec<u8>> {
            parse(&written_with(1, false, virtio).unwrap())
                .into_iter()
                .filter(|(kind, _)| *kind == IO_INTERRUPT)
                .map(|(_, entry)| entry)
                .collect()
        };
        let isa = inputs(0);
        // The first eight devices have ISA interrupts.
        assert!(isa.contains(&vec![3, 0, 0, 0, 0, 5, 0, 5]));
        assert_eq!(inputs(8), isa);
        let more = inputs(10);
        assert_eq!(more[..isa.len()], isa);
        // Edge and active high: 0101b.
        let added = [
            vec![3, 0, 5, 0, 0, 16, 0, 16],
            vec![3, 0, 5, 0, 0, 17, 0, 17],
        ];
        assert_eq!(more[isa.len()..], added);
    }

    #[test]
    fn too_many_processors_get_no_table() {
        assert!(written(39, false).is_some());
        for cpus in [0, 64, 256, 300] {
            assert!(written(cpus, false).is_none(), "{cpus}");
        }
    }
}
