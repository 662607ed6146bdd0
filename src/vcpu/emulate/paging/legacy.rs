//! 32-bit paging: two levels of 4-byte entries, pages of 4 KiB and 4 MiB (SDM vol. 3 §4.3).

use super::{Access, Kind, Translation, WalkError, Walker, bits, code, host, pte};

/// Bits 20:13 of an entry for 4 MiB are bits 39:32 of its address (PSE-36).
const HIGH_ADDRESS: u64 = 0x001f_e000;
const HIGH_SHIFT: u32 = 32 - 13;
/// Reserved in an entry for 4 MiB.
const RESERVED: u64 = 1 << 21;

impl Walker<'_> {
    /// One descent; `None` if an entry changed before its bits could be set.
    pub(super) fn walk_32_bit(
        &self,
        linear: u64,
        access: Access,
    ) -> Result<Option<Translation>, WalkError> {
        let fault = |reason| WalkError::Fault(self.fault(linear, access, reason));
        let linear = linear & 0xffff_ffff;
        let directory_at = (self.sregs.cr3 & 0xffff_f000) + (linear >> 22) * 4;
        let directory = self.entry(directory_at).ok_or_else(|| fault(0))?;
        let large = directory & pte::LARGE != 0 && self.sregs.cr4 & bits::CR4_PSE != 0;
        let (at, leaf, base, size) = if large {
            let above = u64::MAX.checked_shl(self.physical_bits).unwrap_or(0);
            let high = (directory & HIGH_ADDRESS) << HIGH_SHIFT;
            if directory & RESERVED != 0 || high & above != 0 {
                return Err(fault(code::PRESENT | code::RESERVED));
            }
            let base = directory & 0xffc0_0000 | high;
            (directory_at, directory, base, 4 << 20)
        } else {
            let at = (directory & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4;
            let leaf = self.entry(at).ok_or_else(|| fault(0))?;
            (at, leaf, leaf & 0xffff_f000, 4096)
        };
        let rights = directory & leaf;
        if !self.permits(rights, false, access) {
            return Err(fault(code::PRESENT));
        }
        let used = if access.kind == Kind::Write {
            pte::ACCESSED | pte::DIRTY
        } else {
            pte::ACCESSED
        };
        let marked = access.kind == Kind::Look
            || (large || self.set(directory_at, directory, pte::ACCESSED))
                && self.set(at, leaf, used);
        Ok(marked.then_some(Translation {
            gpa: base | (linear % size),
            key: None,
        }))
    }

    /// A present entry.
    fn entry(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 4];
        self.ram.read(at, &mut bytes).ok()?;
        let entry = u64::from(u32::from_le_bytes(bytes));
        (entry & pte::PRESENT != 0).then_some(entry)
    }

    /// Sets bits in an entry. False if it has changed.
    fn set(&self, at: u64, entry: u64, wanted: u64) -> bool {
        entry & wanted == wanted
            || host::compare_exchange(self.ram, at, 4, entry, entry | wanted) == Some(entry)
    }
}
