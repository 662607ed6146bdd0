//! The initial RAM disk: opened before the VM exists, placed beside the kernel.

mod unpack;

use std::ops::Range;
use std::path::Path;

use super::cache::{PayloadCache, PayloadKind};
use super::error::{BootError, FileRole};
use super::image::Image;
use super::memory_map::{high_ram_end, low_ram_end};
use crate::memory::GuestRam;
use crate::memory::layout::{HIGH_RAM_START, PCI_HOLE_END};

/// Larger files are refused before they are read.
const MAX_FILE: u64 = 16 << 30;
const PAGE: u64 = 4096;

/// An initrd that is open and readable.
#[derive(Debug)]
pub struct Initrd {
    image: Image,
    unpacked: bool,
}

/// Where the kernel lets an initrd be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InitrdLimits {
    /// Its bytes lie below this address, unless `above_4g`.
    pub end: u64,
    /// It may also lie above 4 GiB.
    pub above_4g: bool,
}

impl Initrd {
    /// Opens an initrd. With `unpack`, its compressed parts are unpacked here,
    /// unless that cache has them, and not by the guest.
    ///
    /// # Errors
    /// [`BootError::Open`], [`BootError::NotRegular`], [`BootError::Empty`],
    /// [`BootError::TooLarge`]; with `unpack` also [`BootError::Read`],
    /// [`BootError::Corrupt`] and [`BootError::Endless`].
    pub fn open(path: &Path, unpack: Option<&PayloadCache>) -> Result<Self, BootError> {
        let file = Image::open(path, FileRole::Initrd, MAX_FILE)?;
        if let Some(cache) = unpack
            && file.len() <= unpack::MAX_UNPACKED
            && unpack::is_packed(&file)?
        {
            let (image, _) = cache.unpacked(&file, PayloadKind::Initrd, || {
                unpack::unpack(&file, unpack::MAX_UNPACKED)
            })?;
            return Ok(Self {
                image,
                unpacked: true,
            });
        }
        Ok(Self {
            image: file,
            unpacked: false,
        })
    }

    /// Whether it was compressed and has been unpacked.
    pub fn unpacked(&self) -> bool {
        self.unpacked
    }

    /// Size in guest memory, in bytes.
    pub fn size(&self) -> u64 {
        self.image.len()
    }

    /// Where in guest memory it goes: as high as `limits` allow, and clear of `kernel`.
    ///
    /// # Errors
    /// [`BootError::InitrdFit`].
    pub(super) fn find_room(
        &self,
        ram: &GuestRam,
        kernel: &Range<u64>,
        limits: InitrdLimits,
    ) -> Result<Range<u64>, BootError> {
        let size = self.size();
        let rooms = rooms(low_ram_end(ram), high_ram_end(ram), kernel, limits);
        let start = rooms
            .iter()
            .find_map(|room| top_of(room, size))
            .ok_or_else(|| BootError::InitrdFit {
                path: self.image.path().to_owned(),
                size,
                room: rooms.iter().map(room_size).max().unwrap_or(0),
            })?;
        Ok(start..start.saturating_add(size))
    }

    /// Puts it into guest memory at `start`.
    ///
    /// # Errors
    /// [`BootError::Read`] if the file cannot be read, [`BootError::Memory`].
    pub(super) fn place(&self, ram: &GuestRam, start: u64) -> Result<(), BootError> {
        let len = usize::try_from(self.size()).unwrap_or(usize::MAX);
        self.image.place(ram, start, 0, len)
    }
}

/// The ranges an initrd may lie in, best first: above the kernel in low RAM,
/// below it, and above 4 GiB if the kernel allows that.
fn rooms(
    low_end: u64,
    high_end: Option<u64>,
    kernel: &Range<u64>,
    limits: InitrdLimits,
) -> Vec<Range<u64>> {
    let top = low_end.min(limits.end);
    let mut rooms = vec![kernel.end..top, HIGH_RAM_START..top.min(kernel.start)];
    if let (true, Some(high_end)) = (limits.above_4g, high_end) {
        rooms.push(PCI_HOLE_END..high_end);
    }
    rooms
}

/// The highest page-aligned start of `size` bytes in `room`.
fn top_of(room: &Range<u64>, size: u64) -> Option<u64> {
    let start = room.end.checked_sub(size)? / PAGE * PAGE;
    (start >= room.start).then_some(start)
}

/// Bytes between the first page boundary and the end of `room`.
fn room_size(room: &Range<u64>) -> u64 {
    let start = room.start.div_ceil(PAGE).saturating_mul(PAGE);
    room.end.saturating_sub(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Range<u64> = 0x100_0000..0x300_0800;
    const LIMITS: InitrdLimits = InitrdLimits {
        end: 0x8000_0000,
        above_4g: false,
    };

    fn initrd(size: usize) -> (tempfile::NamedTempFile, Initrd) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0xa5; size]).unwrap();
        let initrd = Initrd::open(file.path(), None).unwrap();
        (file, initrd)
    }

    fn start(size: u64, memory: u64, limits: InitrdLimits) -> Option<u64> {
        let ram = GuestRam::new(memory).unwrap();
        rooms(low_ram_end(&ram), high_ram_end(&ram), &KERNEL, limits)
            .iter()
            .find_map(|room| top_of(room, size))
    }

    #[test]
    fn it_lies_as_high_as_ram_and_header_allow() {
        assert_eq!(start(5000, 128 << 20, LIMITS), Some((128 << 20) - 8192));
        assert_eq!(start(4096, 6 << 30, LIMITS), Some(0x8000_0000 - 4096));
    }

    #[test]
    fn it_goes_below_the_kernel_where_there_is_no_room_above() {
        let low = InitrdLimits {
            end: 0x300_1000,
            ..LIMITS
        };
        assert_eq!(start(0x1000, 128 << 20, low), Some(0xff_f000));
        assert_eq!(start(0x7ff, 128 << 20, low), Some(0xff_f000));
        assert_eq!(start(0xf0_0001, 128 << 20, low), None);
    }

    #[test]
    fn above_4_gib_only_where_the_kernel_says_so() {
        let big = (2u64 << 30) + 1;
        assert_eq!(start(big, 8 << 30, LIMITS), None);
        let above = InitrdLimits {
            above_4g: true,
            ..LIMITS
        };
        let top = (4u64 << 30) + (5 << 30);
        assert_eq!(start(big, 8 << 30, above), Some((top - big) / 4096 * 4096));
    }

    #[test]
    fn one_that_does_not_fit_is_an_error_with_sizes() {
        let (_file, initrd) = initrd(0x10_0000);
        let ram = GuestRam::new(0x310_0000).unwrap();
        let kernel = 0x10_0000..0x300_1000;
        let error = initrd.find_room(&ram, &kernel, LIMITS).unwrap_err();
        assert!(matches!(
            error,
            BootError::InitrdFit {
                size: 0x10_0000,
                room: 0xf_f000,
                ..
            }
        ));
    }

    #[test]
    fn it_is_unpacked_only_on_demand() {
        let plain = b"070701 and so on";
        let (dir, path) = super::super::testing::file(&super::super::testing::zstd(plain));
        let packed = Initrd::open(&path, None).unwrap();
        assert!(!packed.unpacked());
        let cache = PayloadCache::at(&dir.path().join("cache"));
        for _ in 0..2 {
            let unpacked = Initrd::open(&path, Some(&cache)).unwrap();
            assert!(unpacked.unpacked());
            assert_eq!(unpacked.size(), plain.len() as u64);
        }
    }

    #[test]
    fn its_bytes_arrive() {
        let (_file, initrd) = initrd(5000);
        let ram = GuestRam::new(64 << 20).unwrap();
        let range = initrd.find_room(&ram, &KERNEL, LIMITS).unwrap();
        initrd.place(&ram, range.start).unwrap();
        assert_eq!(range.end - range.start, 5000);
        let mut back = vec![0; 5001];
        ram.read(range.start, &mut back).unwrap();
        assert!(back[..5000].iter().all(|byte| *byte == 0xa5));
        assert_eq!(back[5000], 0);
    }
}
