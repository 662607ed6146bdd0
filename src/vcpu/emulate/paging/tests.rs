//! The walk of long mode, one entry at a time.

use proptest::prelude::*;

use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, USER_DATA};
use super::*;

pub(super) const READ: Access = Access {
    kind: Kind::Read,
    privilege: Privilege::Supervisor,
};
pub(super) const WRITE: Access = Access {
    kind: Kind::Write,
    ..READ
};
const FETCH: Access = Access {
    kind: Kind::Fetch,
    ..READ
};
pub(super) const USER_READ: Access = Access {
    privilege: Privilege::User,
    ..READ
};

/// The walk's outcome: the address, or the page fault's error code.
fn walk(machine: &Machine, linear: u64, access: Access) -> Result<u64, u32> {
    Walker::new(&machine.ram, &machine.sregs, machine.regs.rflags, 46)
        .translate(linear, access)
        .map(|translation| translation.gpa)
        .map_err(|error| match error {
            WalkError::Fault(exception) => {
                assert_eq!(exception.cr2, Some(linear));
                exception.error_code.unwrap()
            }
            other => panic!("{other:?}"),
        })
}

/// Maps 4 KiB at 0x40_0000 by `entry`, through a page table at 0x5000.
fn map_small(machine: &Machine, entry: u64) {
    machine.ram.write_u64(0x4010, 0x5007).unwrap();
    machine.ram.write_u64(0x5000, entry).unwrap();
}

#[test]
fn pages_of_every_size_are_found() {
    let machine = Machine::new();
    assert_eq!(walk(&machine, KERNEL_DATA + 5, READ), Ok(KERNEL_DATA + 5));
    map_small(&machine, 0x7003);
    assert_eq!(walk(&machine, END_OF_MAP + 0x123, READ), Ok(0x7123));
    machine.ram.write_u64(0x3008, 0x4000_0083).unwrap();
    assert_eq!(walk(&machine, 0x5234_5678, READ), Ok(0x5234_5678));
}

#[test]
fn five_levels_are_walked_with_la57() {
    let mut machine = Machine::new();
    machine.ram.write_u64(0x6000 + 8, 0x2007).unwrap();
    machine.sregs.cr3 = 0x6000;
    machine.sregs.cr4 |= bits::CR4_LA57;
    assert_eq!(walk(&machine, 1 << 48 | KERNEL_DATA, READ), Ok(KERNEL_DATA));
    assert_eq!(walk(&machine, KERNEL_DATA, READ), Err(0));
}

#[test]
fn accessed_and_dirty_bits_are_set() {
    let machine = Machine::new();
    let entry = |at| machine.ram.read_u64(at).unwrap();
    walk(&machine, KERNEL_DATA, READ).unwrap();
    assert_eq!([entry(0x2000), entry(0x3000)], [0x3027, 0x4027]);
    assert_eq!(entry(0x4000), 0xa3);
    walk(&machine, KERNEL_DATA, WRITE).unwrap();
    assert_eq!(entry(0x4000), 0xe3);
    assert_eq!(entry(0x3000), 0x4027, "only the leaf gets dirty");
    assert_eq!(entry(0x4008), 0x20_0087, "nobody went there");
}

#[test]
fn looking_leaves_no_trace_and_is_never_denied() {
    let mut machine = Machine::new();
    let look = |machine: &Machine, linear| look(&machine.ram, &machine.sregs, linear);
    let tables = |machine: &Machine| {
        let mut bytes = vec![0; 0x5000];
        machine.ram.read(0x1000, &mut bytes).unwrap();
        bytes
    };
    let before = tables(&machine);
    assert_eq!(look(&machine, KERNEL_DATA + 5), Some(KERNEL_DATA + 5));
    assert_eq!(tables(&machine), before);
    machine.sregs.cr4 |= bits::CR4_SMAP;
    assert_eq!(look(&machine, USER_DATA), Some(USER_DATA));
    assert_eq!(look(&machine, END_OF_MAP), None);
    assert_eq!(tables(&machine), before);
}

#[test]
fn a_denied_access_leaves_the_bits() {
    let machine = Machine::new();
    assert_eq!(walk(&machine, KERNEL_DATA, USER_READ), Err(5));
    assert_eq!(machine.ram.read_u64(0x4000).unwrap(), 0x83);
}

#[test]
fn error_codes_tell_the_access() {
    let mut machine = Machine::new();
    machine.sregs.efer |= bits::EFER_NXE;
    assert_eq!(walk(&machine, END_OF_MAP, WRITE), Err(2));
    assert_eq!(walk(&machine, END_OF_MAP, FETCH), Err(0x10));
    map_small(&machine, 1 << 63 | 0x7001);
    assert_eq!(walk(&machine, END_OF_MAP, FETCH), Err(0x11));
    machine.sregs.cr0 |= bits::CR0_WP;
    assert_eq!(walk(&machine, END_OF_MAP, WRITE), Err(3));
    machine.sregs.cr0 &= !bits::CR0_WP;
    assert_eq!(walk(&machine, END_OF_MAP, WRITE), Ok(0x7000));
}

#[test]
fn smep_and_smap_guard_user_pages() {
    let mut machine = Machine::new();
    machine.sregs.cr4 |= bits::CR4_SMEP | bits::CR4_SMAP;
    let implicit = Access {
        privilege: Privilege::Implicit,
        ..READ
    };
    assert_eq!(walk(&machine, USER_DATA, FETCH), Err(0x11));
    assert_eq!(walk(&machine, USER_DATA, READ), Err(1));
    machine.regs.rflags |= bits::RFLAGS_AC;
    assert_eq!(walk(&machine, USER_DATA, READ), Ok(USER_DATA));
    assert_eq!(walk(&machine, USER_DATA, implicit), Err(1));
    assert_eq!(walk(&machine, USER_DATA, USER_READ), Ok(USER_DATA));
}

#[test]
fn reserved_bits_fault() {
    let mut machine = Machine::new();
    map_small(&machine, 1 << 50 | 0x7003);
    assert_eq!(walk(&machine, END_OF_MAP, READ), Err(9));
    machine.sregs.efer &= !bits::EFER_NXE;
    map_small(&machine, 1 << 63 | 0x7003);
    assert_eq!(walk(&machine, END_OF_MAP, READ), Err(9));
    machine.ram.write_u64(0x4010, 0x2083).unwrap();
    assert_eq!(walk(&machine, END_OF_MAP, READ), Err(9));
}

#[test]
fn protection_keys_deny_by_pkru() {
    let mut machine = Machine::new();
    machine.sregs.cr4 |= bits::CR4_PKE;
    map_small(&machine, 3 << 59 | 0x7007);
    let walker = Walker::new(&machine.ram, &machine.sregs, 2, 46);
    let user_write = Access {
        kind: Kind::Write,
        privilege: Privilege::User,
    };
    let translation = walker.translate(END_OF_MAP, user_write).unwrap();
    assert_eq!(translation.key, Some((3, 0x27)));
    assert!(!walker.key_denies(0, 3, user_write));
    assert!(walker.key_denies(1 << 6, 3, USER_READ));
    assert!(walker.key_denies(1 << 7, 3, user_write));
    assert!(!walker.key_denies(1 << 7, 3, USER_READ));
}

#[test]
fn tables_that_point_at_themselves_end() {
    let mut machine = Machine::new();
    machine.ram.write_u64(0, 3).unwrap();
    machine.sregs.cr3 = 0;
    assert_eq!(walk(&machine, 0x123, READ), Ok(0x123));
}

proptest! {
    /// Whatever the tables and control registers hold, the walk answers.
    #[test]
    fn hostile_tables_never_panic(
        entries in prop::collection::vec((0u64..0x8000, prop_oneof![any::<u64>(), Just(u64::MAX), (0u64..8).prop_map(|page| page << 12 | 7)]), 64),
        registers in any::<[u64; 4]>(),
        linear in any::<u64>(),
        kind in prop_oneof![Just(Kind::Read), Just(Kind::Write), Just(Kind::Fetch)],
    ) {
        let mut machine = Machine::new();
        for (at, entry) in entries {
            machine.ram.write_u64(at & !7, entry).unwrap();
        }
        let [cr3, cr4, efer, flags] = registers;
        machine.sregs.cr3 = if flags & 1 != 0 { cr3 } else { cr3 & 0x7000 };
        machine.sregs.cr4 = cr4 | bits::CR4_PAE;
        machine.sregs.efer = efer | bits::EFER_LMA;
        for physical_bits in [32, 46, 52] {
            let walker = Walker::new(&machine.ram, &machine.sregs, flags, physical_bits);
            for privilege in [Privilege::User, Privilege::Supervisor, Privilege::Implicit] {
                if let Ok(found) = walker.translate(linear, Access { kind, privilege }) {
                    prop_assert!(found.gpa < 1 << 52);
                }
            }
        }
    }
}
