//! 32-bit and PAE paging, by tables written as the manual's figures have them.

use proptest::prelude::*;

use super::super::testing::{KERNEL_DATA, Machine, assemble};
use super::tests::{READ, USER_READ, WRITE};
use super::*;

fn walk(machine: &Machine, linear: u64, access: Access) -> Result<u64, u32> {
    match Walker::new(&machine.ram, &machine.sregs, machine.regs.rflags, 40)
        .translate(linear, access)
    {
        Ok(translation) => Ok(translation.gpa),
        Err(WalkError::Fault(exception)) => Err(exception.error_code.unwrap()),
        Err(other) => panic!("{other:?}"),
    }
}

fn words(machine: &Machine, at: u64, words: &[u32]) {
    for (at, word) in (at..).step_by(4).zip(words) {
        machine.ram.write(at, &word.to_le_bytes()).unwrap();
    }
}

fn word(machine: &Machine, at: u64) -> u32 {
    let mut bytes = [0; 4];
    machine.ram.read(at, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn in_32_bit_code(cr4: u64) -> Machine {
    let mut machine = Machine::new();
    machine.sregs.efer = 0;
    machine.sregs.cr4 = cr4;
    machine.sregs.cr3 = 0x1_0000;
    (machine.sregs.cs.l, machine.sregs.cs.db) = (0, 1);
    machine
}

/// A directory at 0x10000, a page table at 0x11000.
fn two_levels() -> Machine {
    let machine = in_32_bit_code(bits::CR4_PSE);
    words(&machine, 0x1_0000, &[0x1_1007, 0x0040_0083, 0x0000_2087]);
    words(&machine, 0x1_1000, &[0x8003, 0x9005, 0xa007, 0]);
    machine
}

#[test]
fn both_page_sizes_are_found() {
    let machine = two_levels();
    assert_eq!(walk(&machine, 0x123, READ), Ok(0x8123));
    assert_eq!(walk(&machine, 0x2fff, USER_READ), Ok(0xafff));
    assert_eq!(walk(&machine, 0x0040_0000 + 0x12_3456, READ), Ok(0x52_3456));
    // Bit 13 of the entry is bit 32 of the address.
    assert_eq!(walk(&machine, 0x0080_0010, READ), Ok(0x1_0000_0010));
    assert_eq!(walk(&machine, 0x3000, READ), Err(0));
    assert_eq!(walk(&machine, 0xc000_0000, WRITE), Err(2));
}

#[test]
fn rights_of_both_levels_count() {
    let mut machine = two_levels();
    assert_eq!(walk(&machine, 0, USER_READ), Err(5));
    assert_eq!(walk(&machine, 0x1000, WRITE), Err(3));
    machine.sregs.cr0 &= !bits::CR0_WP;
    assert_eq!(walk(&machine, 0x1000, WRITE), Ok(0x9000));
    words(&machine, 0x1_0000, &[0x1_1003]);
    assert_eq!(walk(&machine, 0x2000, USER_READ), Err(5));
    words(&machine, 0x1_0004, &[0x0060_0083]);
    assert_eq!(walk(&machine, 0x0040_0000, READ), Err(9), "bit 21");
    words(&machine, 0x1_0004, &[0x0001_0083 | 0x1f_e000]);
    assert_eq!(walk(&machine, 0x0040_0000, READ), Ok(0xff_0000_0000));
    machine.sregs.cr4 = 0;
    words(&machine, 0x1_0000, &[0x1_1087]);
    assert_eq!(walk(&machine, 0x2000, READ), Ok(0xa000), "no PSE, a table");
}

#[test]
fn entries_are_marked() {
    let machine = two_levels();
    walk(&machine, 0, READ).unwrap();
    assert_eq!(word(&machine, 0x1_0000), 0x1_1027);
    assert_eq!(word(&machine, 0x1_1000), 0x8023);
    walk(&machine, 0x2000, WRITE).unwrap();
    assert_eq!(word(&machine, 0x1_1008), 0xa067);
    walk(&machine, 0x0040_0000, WRITE).unwrap();
    assert_eq!(word(&machine, 0x1_0004), 0x0040_00e3);
    assert_eq!(word(&machine, 0x1_1004), 0x9005, "neighbours stay");
}

/// Pointers at 0x10020, a directory at 0x11000, a page table at 0x12000.
fn pae() -> Machine {
    let mut machine = in_32_bit_code(bits::CR4_PAE);
    machine.sregs.cr3 = 0x1_0020;
    machine.ram.write_u64(0x1_0020, 0x1_1001).unwrap();
    machine.ram.write_u64(0x1_0038, 0x1_1001).unwrap();
    machine.ram.write_u64(0x1_1000, 0x1_2007).unwrap();
    machine.ram.write_u64(0x1_1008, 0xe0_0020_0087).unwrap();
    machine.ram.write_u64(0x1_2000, 0x8003).unwrap();
    machine
}

#[test]
fn pae_has_three_levels() {
    let mut machine = pae();
    assert_eq!(walk(&machine, 0x123, READ), Ok(0x8123));
    assert_eq!(walk(&machine, 0xc000_0123, READ), Ok(0x8123));
    assert_eq!(walk(&machine, 0x20_0005, USER_READ), Ok(0xe0_0020_0005));
    assert_eq!(walk(&machine, 0x4000_0000, READ), Err(0));
    assert_eq!(machine.ram.read_u64(0x1_0020).unwrap(), 0x1_1001, "no bits");
    assert_eq!(machine.ram.read_u64(0x1_1000).unwrap(), 0x1_2027);
    machine.ram.write_u64(0x1_0020, 0x1_1003).unwrap();
    assert_eq!(walk(&machine, 0, READ), Err(9), "reserved in a pointer");
    machine.ram.write_u64(0x1_0020, 0x1_1001).unwrap();
    machine.ram.write_u64(0x1_2000, 1 << 52 | 0x8003).unwrap();
    assert_eq!(walk(&machine, 0, READ), Err(9), "ignored in long mode");
    machine.ram.write_u64(0x1_2000, 1 << 63 | 0x8003).unwrap();
    assert_eq!(walk(&machine, 0, READ), Err(9), "without NXE");
    machine.sregs.efer = bits::EFER_NXE;
    assert_eq!(walk(&machine, 0, READ), Ok(0x8000));
    let fetch = Access {
        kind: Kind::Fetch,
        ..READ
    };
    assert_eq!(walk(&machine, 0, fetch), Err(0x11));
}

// popcnt eax, [edi] in 32-bit code.
assemble! { count_in_32_bit_code: ".byte 0xf3, 0x0f, 0xb8, 0x07" }

#[test]
fn instructions_of_32_bit_code_reach_memory() {
    for mut machine in [two_levels(), pae()] {
        machine.ram.write_u64(KERNEL_DATA + 8, 0xff1).unwrap();
        machine.regs.rdi = 8;
        machine.run(count_in_32_bit_code()).unwrap();
        assert_eq!(machine.regs.rax, 9);
    }
}

proptest! {
    #[test]
    fn hostile_tables_never_panic(
        entries in prop::collection::vec((0u64..0x8000, any::<u64>()), 64),
        registers in any::<[u64; 3]>(),
        linear: u64,
        user: bool,
    ) {
        let mut machine = Machine::new();
        for (at, entry) in entries {
            machine.ram.write_u64(at & !7, entry).unwrap();
        }
        let [cr3, cr4, flags] = registers;
        machine.sregs.cr3 = if flags & 1 != 0 { cr3 } else { cr3 & 0x7fe0 };
        (machine.sregs.cr4, machine.sregs.efer) = (cr4, flags & bits::EFER_NXE);
        let access = if user { USER_READ } else { WRITE };
        let walker = Walker::new(&machine.ram, &machine.sregs, flags, 46);
        if let Ok(found) = walker.translate(linear, access) {
            prop_assert!(found.gpa < 1 << 52);
        }
    }
}
