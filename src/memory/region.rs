//! One range of guest RAM, as the rust-vmm crates know memory.

use std::fs::File;

use vm_memory::bitmap::{AtomicBitmap, BS, Bitmap};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, MemoryRegionAddress, VolatileSlice,
};

use super::layout::RamRange;
use super::mapping::Mapping;

/// All ranges of guest RAM.
pub(crate) type RamBackend = GuestRegionCollection<RamRegion>;

/// A range of guest RAM with the memory behind it, which lives as long.
#[derive(Debug)]
pub(crate) struct RamRegion {
    start: GuestAddress,
    mapping: Mapping,
    /// The file that is mapped, where the memory is shared.
    file: Option<FileOffset>,
    /// There while pages are tracked.
    bitmap: Option<AtomicBitmap>,
}

impl RamRegion {
    /// `mapping` as guest RAM from `start` on.
    pub(super) fn new(start: u64, mapping: Mapping, file: Option<FileOffset>) -> Self {
        Self {
            start: GuestAddress(start),
            mapping,
            file,
            bitmap: None,
        }
    }

    /// The memory itself.
    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Its guest-physical addresses.
    pub(super) fn range(&self) -> RamRange {
        RamRange {
            start: self.start.0,
            len: self.len(),
        }
    }

    /// The file behind it and where the range starts in that, if the memory is shared.
    pub(super) fn file(&self) -> Option<(&File, u64)> {
        self.file.as_ref().map(|file| (file.file(), file.start()))
    }
}

impl GuestMemoryRegion for RamRegion {
    type B = Option<AtomicBitmap>;

    fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, Self::B> {
        self.bitmap.slice_at(0)
    }

    fn get_host_address(&self, addr: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        let offset = usize::try_from(addr.0).ok();
        match offset.filter(|offset| *offset < self.mapping.len()) {
            Some(offset) => Ok(self.mapping.addr().wrapping_add(offset)),
            None => Err(GuestMemoryError::InvalidBackendAddress),
        }
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, Self::B>>, GuestMemoryError> {
        let offset = usize::try_from(offset.0).unwrap_or(usize::MAX);
        match offset.checked_add(count) {
            Some(end) if end <= self.mapping.len() => {
                let place = self.mapping.addr().wrapping_add(offset);
                let bitmap = self.bitmap.slice_at(offset);
                // SAFETY: the range is within the mapping, which `self` keeps for as long
                // as the slice lives, and which nobody makes references into.
                Ok(unsafe { VolatileSlice::with_bitmap(place, count, bitmap, None) })
            }
            _ => Err(GuestMemoryError::InvalidBackendAddress),
        }
    }
}

impl GuestMemoryRegionBytes for RamRegion {}
