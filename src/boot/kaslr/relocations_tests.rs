//! Tables of every kind, applied to a small kernel, and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::boot::bytes::{put, u32_at, u64_at};
use crate::boot::testing::{MAP, MOVABLE_ADDR, relocation_table};

const SHIFT: KernelShift = KernelShift {
    physical: 0x40_0000,
    virtual_: 0x1220_0000,
};

/// Two segments as linked, the second right behind the first, each with a BSS of none.
const SEGMENTS: [Segment; 2] = [
    Segment {
        addr: MOVABLE_ADDR,
        offset: 0,
        file_len: 0x1000,
        mem_len: 0x1000,
    },
    Segment {
        addr: MOVABLE_ADDR + 0x1000,
        offset: 0x1000,
        file_len: 0x800,
        mem_len: 0x1000,
    },
];

/// Guest memory with these bytes where the moved kernel begins.
fn memory(bytes: &[u8]) -> GuestRam {
    let ram = GuestRam::new(32 << 20).unwrap();
    ram.write(MOVABLE_ADDR + SHIFT.physical, bytes).unwrap();
    ram
}

fn moved(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; 0x2000];
    ram.read(MOVABLE_ADDR + SHIFT.physical, &mut bytes).unwrap();
    bytes
}

fn apply(table: Vec<u8>, ram: &GuestRam) -> Result<(), RelocationError> {
    Relocations::parse(table)
        .expect("a table")
        .apply(ram, &SEGMENTS, SHIFT)
}

#[test]
fn each_list_changes_its_places_and_nothing_else() {
    let mut before = vec![0x90; 0x2000];
    put(&mut before, 0x10, &(MAP + 0x100_1234).to_le_bytes());
    put(&mut before, 0xffc, &0x8100_5678u32.to_le_bytes());
    put(&mut before, 0x1003, &0x0123_4567u32.to_le_bytes());
    let ram = memory(&before);
    let table = relocation_table(&[0x10], Some(&[0x1003]), &[0xffc]);
    apply(table, &ram).unwrap();

    let mut after = before;
    put(&mut after, 0x10, &0xffff_ffff_9320_1234u64.to_le_bytes());
    put(&mut after, 0xffc, &0x9320_5678u32.to_le_bytes());
    put(&mut after, 0x1003, &0xef03_4567u32.to_le_bytes());
    assert!(moved(&ram) == after);
}

#[test]
fn a_table_of_two_lists_has_nothing_to_subtract_from() {
    let ram = memory(&[0; 0x1800]);
    apply(relocation_table(&[0x10, 0x20], None, &[0x100]), &ram).unwrap();
    let after = moved(&ram);
    assert_eq!(u64_at(&after, 0x10), Some(SHIFT.virtual_));
    assert_eq!(u64_at(&after, 0x20), Some(SHIFT.virtual_));
    assert_eq!(u32_at(&after, 0x100), Some(0x1220_0000));
    assert_eq!(after.iter().filter(|byte| **byte != 0).count(), 6);
}

#[test]
fn an_empty_list_in_the_middle_is_none_too() {
    let ram = memory(&[0; 0x1800]);
    apply(relocation_table(&[0x10], Some(&[]), &[0x100]), &ram).unwrap();
    assert_eq!(u32_at(&moved(&ram), 0x100), Some(0x1220_0000));
}

#[test]
fn what_leads_outside_the_segments_is_an_error() {
    let good = relocation_table(&[0x10], Some(&[0x20]), &[0x30]);
    // The last places that are inside, and the first that are not: a value that
    // spans two segments, the zeroed part, before the kernel, and far away.
    let text = (MAP + MOVABLE_ADDR) as u32;
    let cases = [
        (8, text + 0xff8, true),
        (8, text + 0xff9, false),
        (8, text + 0x17f8, true),
        (8, text + 0x17f9, false),
        (8, text - 1, false),
        (8, 1, false),
        (8, u32::MAX, false),
    ];
    // The entries of the three lists, of which the first is of 64 bits.
    for (at, word) in [(4, 8), (12, 4), (20, 4)] {
        for (width, address, inside) in cases {
            // Where a value of 32 bits would just fit.
            let address = if address > text && address < text + 0x2000 {
                address + width - word
            } else {
                address
            };
            let mut table = good.clone();
            put(&mut table, at, &address.to_le_bytes());
            let result = apply(table, &memory(&[0; 0x1800]));
            let expected = if inside {
                Ok(())
            } else {
                Err(RelocationError::Outside(address))
            };
            assert_eq!(result, expected, "{at} {address:#x}");
        }
    }
}

#[test]
fn a_kernel_that_is_not_in_memory_is_not_touched() {
    let ram = GuestRam::new(16 << 20).unwrap();
    let table = relocation_table(&[0x10], None, &[0x20]);
    assert_eq!(apply(table, &ram), Err(RelocationError::NotLoaded));
}

#[test]
fn other_data_is_no_table() {
    let table = relocation_table(&[0x10], Some(&[0x20]), &[0x30]);
    for wrong in [
        Vec::new(),
        vec![0; 4],
        // Padding of any length.
        vec![0; 8],
        vec![0; 12],
        vec![0; 4096],
        // No list of one kind or the other.
        relocation_table(&[], Some(&[0x20]), &[0x30]),
        relocation_table(&[0x10], Some(&[0x20]), &[]),
        relocation_table(&[0x10], None, &[]),
        // A list too many, no first stop, half a word.
        [relocation_table(&[0x10], None, &[0x20]), table.clone()].concat(),
        table[4..].to_vec(),
        table[..table.len() - 1].to_vec(),
        b"a signature, perhaps".to_vec(),
    ] {
        assert!(Relocations::parse(wrong.clone()).is_none(), "{wrong:02x?}");
    }
    assert_eq!(Relocations::parse(table).unwrap().len(), 3);
}

proptest! {
    #[test]
    fn hostile_tables_change_nothing_outside_the_segments(
        words in prop::collection::vec(
            prop_oneof![
                3 => 0x8100_0000u32..0x8100_1900,
                1 => Just(0u32),
                1 => any::<u32>(),
            ],
            0..40,
        ),
        tail in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut table: Vec<u8> = [0u32, 0x8100_0010, 0].iter().chain(&words)
            .flat_map(|word| word.to_le_bytes())
            .collect();
        table.extend_from_slice(&tail);
        let ram = memory(&[0xa5; 0x1800]);
        if let Some(relocations) = Relocations::parse(table) {
            let _ = relocations.apply(&ram, &SEGMENTS, SHIFT);
        }
        // From a page before the kernel on.
        let mut around = vec![0; 0x8000];
        ram.read(MOVABLE_ADDR + SHIFT.physical - 0x1000, &mut around).unwrap();
        let clean = |range: Range<usize>| around[range].iter().all(|byte| *byte == 0);
        prop_assert!(clean(0..0x1000) && clean(0x2800..0x8000));
    }
}
