//! The walk of the guest's page tables (SDM vol. 3 ch. 4; APM vol. 2 ch. 5).
//!
//! KVM_TRANSLATE checks no permissions and sets no accessed or dirty bits, so
//! the walk is made here. What the tables hold is the guest's: every address
//! read from them is checked by [`GuestRam`], and the walk has at most five steps.

use kvm_bindings::kvm_sregs;

use super::exception::Exception;
use super::host;
use crate::memory::ram::GuestRam;

/// Bits of the control registers and EFER that paging looks at.
pub(super) mod bits {
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_PGE: u64 = 1 << 7;
    pub const CR4_LA57: u64 = 1 << 12;
    pub const CR4_SMEP: u64 = 1 << 20;
    pub const CR4_SMAP: u64 = 1 << 21;
    pub const CR4_PKE: u64 = 1 << 22;
    pub const EFER_SCE: u64 = 1;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_NXE: u64 = 1 << 11;
    pub const RFLAGS_AC: u64 = 1 << 18;
}

/// Page-table entry bits.
mod pte {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const NX: u64 = 1 << 63;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    pub const KEY_SHIFT: u32 = 59;
}

/// Page-fault error code bits.
pub(super) mod code {
    pub const PRESENT: u32 = 1;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
    pub const KEY: u32 = 1 << 5;
}

/// Times a walk starts over because an entry changed under it, before the instruction is run anew.
const MAX_RESTARTS: usize = 8;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Fetch,
}

/// On whose behalf an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privilege {
    /// CPL 3.
    User,
    /// An instruction's operand at CPL 0 to 2.
    Supervisor,
    /// The processor's own (descriptor tables): RFLAGS.AC does not open user pages to it.
    Implicit,
}

/// One access to be translated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub kind: Kind,
    pub privilege: Privilege,
}

/// Where a linear address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    /// Guest-physical address.
    pub gpa: u64,
    /// The page needs its protection key checked: (key, error code if it denies).
    pub key: Option<(u32, u32)>,
}

/// Why a linear address leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WalkError {
    Fault(Exception),
    /// Entries kept changing: another vCPU edits the same tables.
    Contended,
    /// 32-bit or PAE paging.
    Unsupported,
}

/// The guest's paging mode and the memory its tables lie in.
#[derive(Clone, Copy)]
pub(super) struct Walker<'a> {
    ram: &'a GuestRam,
    sregs: &'a kvm_sregs,
    rflags: u64,
    physical_bits: u32,
}

impl<'a> Walker<'a> {
    /// `physical_bits` is MAXPHYADDR: entry bits from there to 51 are reserved.
    pub fn new(ram: &'a GuestRam, sregs: &'a kvm_sregs, rflags: u64, physical_bits: u32) -> Self {
        Self {
            ram,
            sregs,
            rflags,
            physical_bits,
        }
    }

    /// Whether `linear` is canonical in the current mode.
    pub fn is_canonical(&self, linear: u64) -> bool {
        let unused = if self.sregs.cr4 & bits::CR4_LA57 != 0 {
            64 - 57
        } else {
            64 - 48
        };
        ((linear << unused) as i64 >> unused) as u64 == linear
    }

    /// Translates `linear`, setting accessed and dirty bits as the processor would.
    pub fn translate(&self, linear: u64, access: Access) -> Result<Translation, WalkError> {
        if self.sregs.cr0 & bits::CR0_PG == 0 {
            return Ok(Translation {
                gpa: linear,
                key: None,
            });
        }
        let long = self.sregs.efer & bits::EFER_LMA != 0 && self.sregs.cr4 & bits::CR4_PAE != 0;
        if !long {
            return Err(WalkError::Unsupported);
        }
        for _ in 0..MAX_RESTARTS {
            if let Some(translation) = self.walk(linear, access)? {
                return Ok(translation);
            }
        }
        Err(WalkError::Contended)
    }

    /// One descent; `None` if an entry changed before its bits could be set.
    fn walk(&self, linear: u64, access: Access) -> Result<Option<Translation>, WalkError> {
        let levels = if self.sregs.cr4 & bits::CR4_LA57 != 0 {
            5
        } else {
            4
        };
        let fault = |reason| self.fault(linear, access, reason);
        let mut table = self.sregs.cr3 & pte::ADDRESS;
        let mut path = [(0u64, 0u64); 5];
        let mut rights = pte::WRITABLE | pte::USER;
        let mut nx = false;
        for (depth, level) in (1..=levels).rev().enumerate() {
            let shift = 12 + 9 * (level - 1);
            let at = table + ((linear >> shift) & 0x1ff) * 8;
            // A table outside RAM reads as nothing mapped, as KVM has it.
            let entry = self
                .ram
                .read_u64(at)
                .map_err(|_| WalkError::Fault(fault(0)))?;
            if entry & pte::PRESENT == 0 {
                return Err(WalkError::Fault(fault(0)));
            }
            if entry & self.reserved(level, entry) != 0 {
                return Err(WalkError::Fault(fault(code::PRESENT | code::RESERVED)));
            }
            if let Some(step) = path.get_mut(depth) {
                *step = (at, entry);
            }
            rights &= entry;
            nx |= entry & pte::NX != 0;
            table = entry & pte::ADDRESS;
            if level == 1 || entry & pte::LARGE != 0 {
                if !self.permits(rights, nx, access) {
                    return Err(WalkError::Fault(fault(code::PRESENT)));
                }
                if !self.mark(path.get(..=depth).unwrap_or(&path), access) {
                    return Ok(None);
                }
                let offset_mask = (1u64 << shift) - 1;
                return Ok(Some(Translation {
                    gpa: (table & !offset_mask) | (linear & offset_mask),
                    key: self.key(rights, entry, access),
                }));
            }
        }
        // Level 1 always returns above.
        Err(WalkError::Fault(fault(0)))
    }

    fn fault(&self, linear: u64, access: Access, reason: u32) -> Exception {
        let mut error = reason;
        if access.kind == Kind::Write {
            error |= code::WRITE;
        }
        if access.privilege == Privilege::User {
            error |= code::USER;
        }
        let fetch_is_told =
            self.sregs.efer & bits::EFER_NXE != 0 || self.sregs.cr4 & bits::CR4_SMEP != 0;
        if access.kind == Kind::Fetch && fetch_is_told {
            error |= code::FETCH;
        }
        Exception::page_fault(linear, error)
    }

    /// Reserved bits of a present entry at `level` (SDM vol. 3 tables 4-14 to 4-20).
    fn reserved(&self, level: u32, entry: u64) -> u64 {
        let above = u64::MAX.checked_shl(self.physical_bits).unwrap_or(0) & pte::ADDRESS;
        let nx = if self.sregs.efer & bits::EFER_NXE == 0 {
            pte::NX
        } else {
            0
        };
        let by_level = match level {
            4 | 5 => pte::LARGE,
            3 if entry & pte::LARGE != 0 => 0x3fff_e000,
            2 if entry & pte::LARGE != 0 => 0x001f_e000,
            _ => 0,
        };
        above | nx | by_level
    }

    /// Whether the rights that all levels grant allow the access (SDM vol. 3 §4.6.1).
    fn permits(&self, rights: u64, nx: bool, access: Access) -> bool {
        let user_page = rights & pte::USER != 0;
        let writable = rights & pte::WRITABLE != 0;
        let write_protect = self.sregs.cr0 & bits::CR0_WP != 0;
        if access.privilege == Privilege::User {
            return user_page
                && match access.kind {
                    Kind::Read => true,
                    Kind::Write => writable,
                    Kind::Fetch => !nx,
                };
        }
        if access.kind == Kind::Fetch {
            let smep = self.sregs.cr4 & bits::CR4_SMEP != 0;
            return !(nx || user_page && smep);
        }
        let opened =
            access.privilege == Privilege::Supervisor && self.rflags & bits::RFLAGS_AC != 0;
        if user_page && self.sregs.cr4 & bits::CR4_SMAP != 0 && !opened {
            return false;
        }
        access.kind == Kind::Read || writable || !write_protect
    }

    /// Protection keys apply to data accesses to user pages (SDM vol. 3 §4.6.2).
    fn key(&self, rights: u64, entry: u64, access: Access) -> Option<(u32, u32)> {
        let applies = self.sregs.cr4 & bits::CR4_PKE != 0
            && rights & pte::USER != 0
            && access.kind != Kind::Fetch;
        applies.then(|| {
            let denied = self.fault(0, access, code::PRESENT | code::KEY);
            let key = (entry >> pte::KEY_SHIFT) as u32 & 0xf;
            (key, denied.error_code.unwrap_or(0))
        })
    }

    /// Whether PKRU forbids the access that [`Translation::key`] was given for.
    pub fn key_denies(&self, pkru: u32, key: u32, access: Access) -> bool {
        let access_disable = pkru >> (2 * key) & 1 != 0;
        let write_disable = pkru >> (2 * key + 1) & 1 != 0;
        let writes_are_checked =
            access.privilege == Privilege::User || self.sregs.cr0 & bits::CR0_WP != 0;
        access_disable || (access.kind == Kind::Write && write_disable && writes_are_checked)
    }

    /// Sets accessed bits along the path and the leaf's dirty bit. False if an entry changed.
    fn mark(&self, path: &[(u64, u64)], access: Access) -> bool {
        for (depth, (at, entry)) in path.iter().enumerate() {
            let mut wanted = pte::ACCESSED;
            if access.kind == Kind::Write && depth + 1 == path.len() {
                wanted |= pte::DIRTY;
            }
            if entry & wanted != wanted && !host::replace_u64(self.ram, *at, *entry, entry | wanted)
            {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, USER_DATA};
    use super::*;

    const READ: Access = Access {
        kind: Kind::Read,
        privilege: Privilege::Supervisor,
    };
    const WRITE: Access = Access {
        kind: Kind::Write,
        ..READ
    };
    const FETCH: Access = Access {
        kind: Kind::Fetch,
        ..READ
    };
    const USER_READ: Access = Access {
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
}
