//! The walk of the guest's page tables (SDM vol. 3 ch. 4; APM vol. 2 ch. 5).
//!
//! KVM_TRANSLATE checks no permissions and sets no accessed or dirty bits, so
//! the walk is made here. What the tables hold is the guest's: every address
//! read from them is checked by [`GuestRam`], and the walk has at most five steps.
//! 4- and 5-level paging and PAE differ in their first steps only and are here;
//! 32-bit paging has entries of another size and is in [`legacy`].

mod legacy;
#[cfg(test)]
mod legacy_tests;
#[cfg(test)]
mod tests;

use kvm_bindings::kvm_sregs;

use super::exception::Exception;
use super::host;
use crate::memory::ram::GuestRam;

/// Bits of the control registers and EFER that paging looks at.
pub(super) mod bits {
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_PSE: u64 = 1 << 4;
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

const PAE_LEVELS: u32 = 3;
/// Entry bits that long mode ignores and PAE reserves.
const PAE_RESERVED: u64 = 0x7ff0_0000_0000_0000;

/// The largest MAXPHYADDR (SDM vol. 3 §4.1.4).
const MAX_PHYSICAL_BITS: u32 = 52;

/// Times a walk starts over because an entry changed under it, before the instruction is run anew.
const MAX_RESTARTS: usize = 8;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Fetch,
    /// Not the guest's: nothing forbids it, and it leaves no trace in the tables.
    Look,
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
    /// Long mode without PAE, which no processor enters.
    Unsupported,
}

/// Where `linear` leads, for somebody who looks on and is not the guest.
pub(crate) fn look(ram: &GuestRam, sregs: &kvm_sregs, linear: u64) -> Option<u64> {
    let access = Access {
        kind: Kind::Look,
        privilege: Privilege::Implicit,
    };
    let walker = Walker::new(ram, sregs, 0, MAX_PHYSICAL_BITS);
    let translation = walker.translate(linear, access).ok()?;
    Some(translation.gpa)
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
        let pae = self.sregs.cr4 & bits::CR4_PAE != 0;
        if self.is_long() && !pae {
            return Err(WalkError::Unsupported);
        }
        for _ in 0..MAX_RESTARTS {
            let walked = if pae {
                self.walk(linear, access)?
            } else {
                self.walk_32_bit(linear, access)?
            };
            if let Some(translation) = walked {
                return Ok(translation);
            }
        }
        Err(WalkError::Contended)
    }

    fn is_long(&self) -> bool {
        self.sregs.efer & bits::EFER_LMA != 0
    }

    /// Levels, the root's address and the number of its entries.
    fn root(&self) -> (u32, u64, u64) {
        /// PAE has its four pointers at a multiple of 32, below 4 GiB.
        const POINTERS: u64 = 0xffff_ffe0;
        let cr3 = self.sregs.cr3;
        if !self.is_long() {
            (PAE_LEVELS, cr3 & POINTERS, 4)
        } else if self.sregs.cr4 & bits::CR4_LA57 != 0 {
            (5, cr3 & pte::ADDRESS, 512)
        } else {
            (4, cr3 & pte::ADDRESS, 512)
        }
    }

    /// One descent; `None` if an entry changed before its bits could be set.
    fn walk(&self, linear: u64, access: Access) -> Result<Option<Translation>, WalkError> {
        let (levels, mut table, mut entries) = self.root();
        let fault = |reason| self.fault(linear, access, reason);
        let mut path = [(0u64, 0u64); 5];
        let mut rights = pte::WRITABLE | pte::USER;
        let mut nx = false;
        for (depth, level) in (1..=levels).rev().enumerate() {
            let shift = 12 + 9 * (level - 1);
            let at = table + (linear >> shift) % entries * 8;
            entries = 512;
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
            table = entry & pte::ADDRESS;
            if self.is_pointer(level) {
                continue;
            }
            if let Some(step) = path.get_mut(depth) {
                *step = (at, entry);
            }
            rights &= entry;
            nx |= entry & pte::NX != 0;
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
        let pae = self.sregs.cr4 & bits::CR4_PAE != 0;
        let fetch_is_told =
            self.sregs.efer & bits::EFER_NXE != 0 && pae || self.sregs.cr4 & bits::CR4_SMEP != 0;
        if access.kind == Kind::Fetch && fetch_is_told {
            error |= code::FETCH;
        }
        Exception::page_fault(linear, error)
    }

    /// Whether entries at `level` are PAE's page-directory pointers, which grant and
    /// deny nothing and have no accessed bit (SDM vol. 3 §4.4.1).
    fn is_pointer(&self, level: u32) -> bool {
        level == PAE_LEVELS && !self.is_long()
    }

    /// Reserved bits of a present entry at `level` (SDM vol. 3 tables 4-14 to 4-20).
    fn reserved(&self, level: u32, entry: u64) -> u64 {
        let above = u64::MAX.checked_shl(self.physical_bits).unwrap_or(0) & pte::ADDRESS;
        let nx = if self.sregs.efer & bits::EFER_NXE == 0 {
            pte::NX
        } else {
            0
        };
        if self.is_pointer(level) {
            return above | PAE_RESERVED | 0x1e6 | pte::NX;
        }
        let unused = if self.is_long() { 0 } else { PAE_RESERVED };
        let by_level = match level {
            4 | 5 => pte::LARGE,
            3 if entry & pte::LARGE != 0 => 0x3fff_e000,
            2 if entry & pte::LARGE != 0 => 0x001f_e000,
            _ => 0,
        };
        above | nx | unused | by_level
    }

    /// Whether the rights that all levels grant allow the access (SDM vol. 3 §4.6.1).
    fn permits(&self, rights: u64, nx: bool, access: Access) -> bool {
        if access.kind == Kind::Look {
            return true;
        }
        let user_page = rights & pte::USER != 0;
        let writable = rights & pte::WRITABLE != 0;
        let write_protect = self.sregs.cr0 & bits::CR0_WP != 0;
        if access.privilege == Privilege::User {
            return user_page
                && match access.kind {
                    Kind::Read | Kind::Look => true,
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

    /// Protection keys apply in long mode, to data accesses to user pages (SDM vol. 3 §4.6.2).
    fn key(&self, rights: u64, entry: u64, access: Access) -> Option<(u32, u32)> {
        let applies = self.is_long()
            && self.sregs.cr4 & bits::CR4_PKE != 0
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
        if access.kind == Kind::Look {
            return true;
        }
        for (depth, (at, entry)) in path.iter().enumerate() {
            let mut wanted = pte::ACCESSED;
            if access.kind == Kind::Write && depth + 1 == path.len() {
                wanted |= pte::DIRTY;
            }
            // A pointer of PAE has left its place empty.
            let present = entry & pte::PRESENT != 0;
            if present
                && entry & wanted != wanted
                && !host::replace_u64(self.ram, *at, *entry, entry | wanted)
            {
                return false;
            }
        }
        true
    }
}
