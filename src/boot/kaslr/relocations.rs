//! The relocation table behind a kernel's ELF, and its application in guest memory.
//!
//! A kernel with `CONFIG_X86_NEED_RELOCS` is packed together with a list of the
//! places that hold its own virtual addresses. Each entry is the lower half of the
//! virtual address of such a place, as linked; a zero word stands before each list:
//!
//! ```text
//! 0  places of 64 bits, to which the virtual shift is added
//! 0  places of 32 bits, from which it is subtracted   (Linux before 6.15)
//! 0  places of 32 bits, to which it is added
//! ```
//!
//! The middle list is of distances to the per-CPU area, which was linked at address 0 then.
//! Source: Linux `arch/x86/tools/relocs.c` and `handle_relocations` of
//! `arch/x86/boot/compressed/misc.c`, which does in the guest what is done here.

use std::ops::Range;

use thiserror::Error;
use vm_memory::bitmap::{BS, BitmapSlice};
use vm_memory::{
    ByteValued, GuestAddress, GuestMemoryBackend, VolatileMemory, VolatileRef, VolatileSlice,
};

use super::KernelShift;
use crate::boot::elf::Segment;
use crate::memory::GuestRam;

/// The lower half of `__START_KERNEL_map`: Linux is linked to run at its physical
/// address plus 0xffff_ffff_8000_0000.
const START_KERNEL_MAP: u32 = 0x8000_0000;
/// Larger tables are taken for none, in bytes: several times Linux's.
pub(super) const MAX_TABLE: u64 = 64 << 20;

/// Why a table cannot be applied.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RelocationError {
    /// An entry is not the address of something that was loaded.
    #[error("its entry {0:#x} leads outside the kernel")]
    Outside(u32),
    /// A segment is not in guest memory.
    #[error("it is of a kernel that is not in memory")]
    NotLoaded,
}

/// A kernel's relocation table.
#[derive(Debug)]
pub(super) struct Relocations {
    table: Vec<u8>,
    // Where each list is, in words.
    wide: Range<usize>,
    inverse: Range<usize>,
    narrow: Range<usize>,
}

impl Relocations {
    /// Recognises a table by its form; `None` if these bytes are something else.
    /// No kernel has an empty list of either width, nor does padding pass for a table so.
    pub(super) fn parse(table: Vec<u8>) -> Option<Self> {
        let (words, rest) = table.as_chunks::<4>();
        let count = words.len();
        let mut stops = words.iter().enumerate();
        let mut stop = || stops.find(|(_, word)| **word == [0; 4]).map(|(at, _)| at);
        let (first, second, third, fourth) = (stop(), stop(), stop(), stop());
        let after = |stop: usize| stop.saturating_add(1);
        let (wide, inverse, narrow) = match (first?, second?, third, fourth) {
            (0, second, None, None) => (1..second, second..second, after(second)..count),
            (0, second, Some(third), None) => {
                (1..second, after(second)..third, after(third)..count)
            }
            _ => return None,
        };
        if !rest.is_empty() || wide.is_empty() || narrow.is_empty() {
            return None;
        }
        Some(Self {
            table,
            wide,
            inverse,
            narrow,
        })
    }

    /// How many places it names.
    pub(super) fn len(&self) -> usize {
        [&self.wide, &self.inverse, &self.narrow]
            .into_iter()
            .fold(0, |sum: usize, list| sum.saturating_add(list.len()))
    }

    /// Makes the kernel of these `segments` (as linked), which lies in `ram` moved by
    /// `shift.physical`, one that runs moved by `shift.virtual_`.
    ///
    /// # Errors
    /// [`RelocationError`]; the kernel is then useless, and guest memory otherwise whole.
    pub(super) fn apply(
        &self,
        ram: &GuestRam,
        segments: &[Segment],
        shift: KernelShift,
    ) -> Result<(), RelocationError> {
        let pieces = segments
            .iter()
            .map(|segment| {
                let addr = segment.addr.saturating_add(shift.physical);
                let len = usize::try_from(segment.file_len).unwrap_or(usize::MAX);
                let memory = ram.backend().get_slice(GuestAddress(addr), len).ok()?;
                Some(Piece {
                    linked: segment.addr,
                    memory,
                })
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(RelocationError::NotLoaded)?;
        let (words, _) = self.table.as_chunks::<4>();
        let list = |range: &Range<usize>| words.get(range.clone()).unwrap_or_default();
        // A shift is less than 1 GiB.
        let low = shift.virtual_ as u32;
        patch(list(&self.wide), &pieces, |value: u64| {
            value.wrapping_add(shift.virtual_)
        })?;
        patch(list(&self.inverse), &pieces, |value: u32| {
            value.wrapping_sub(low)
        })?;
        patch(list(&self.narrow), &pieces, |value: u32| {
            value.wrapping_add(low)
        })
    }
}

/// A segment's bytes from the file, in guest memory.
struct Piece<'a, B> {
    /// Guest-physical address as linked.
    linked: u64,
    memory: VolatileSlice<'a, B>,
}

impl<B: BitmapSlice> Piece<'_, B> {
    /// The value at a guest-physical address as linked, if it is all in here.
    #[inline]
    fn value<T: ByteValued>(&self, linked: u64) -> Option<VolatileRef<'_, T, BS<'_, B>>> {
        let offset = usize::try_from(linked.checked_sub(self.linked)?).ok()?;
        self.memory.get_ref(offset).ok()
    }
}

/// Changes every value that the list names.
fn patch<T: ByteValued, B: BitmapSlice>(
    list: &[[u8; 4]],
    pieces: &[Piece<'_, B>],
    change: impl Fn(T) -> T,
) -> Result<(), RelocationError> {
    // Lists are sorted: the next place is nearly always in the same piece.
    let mut here = pieces.first().ok_or(RelocationError::NotLoaded)?;
    for word in list {
        let entry = u32::from_le_bytes(*word);
        let outside = RelocationError::Outside(entry);
        let linked = u64::from(entry.checked_sub(START_KERNEL_MAP).ok_or(outside)?);
        let value = match here.value::<T>(linked) {
            Some(value) => value,
            None => {
                let mut found = pieces.iter().filter_map(|piece| {
                    let value = piece.value::<T>(linked)?;
                    Some((piece, value))
                });
                let (piece, value) = found.next().ok_or(outside)?;
                here = piece;
                value
            }
        };
        value.store(change(value.load()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "relocations_tests.rs"]
mod tests;
