//! The kernel file: opened, recognised and checked before a VM exists.

use std::ops::Range;
use std::path::Path;

use super::cache::PayloadCache;
use super::elf::{self, Elf};
use super::error::{BootError, FileRole};
use super::image::Image;
use super::initrd::InitrdLimits;
use super::memory_error;
use super::memory_map::low_ram_end;
use crate::memory::GuestRam;
use crate::memory::layout::{HIGH_RAM_START, PCI_HOLE_START};

/// Larger files are refused before they are read.
const MAX_FILE: u64 = 1 << 30;
/// Longest command line of an x86 kernel whose header does not say
/// (`COMMAND_LINE_SIZE` less the NUL).
const DEFAULT_CMDLINE_MAX: usize = 2047;
/// `initrd_addr_max` of today's kernels, plus one.
const DEFAULT_INITRD_END: u64 = 0x8000_0000;

/// A kernel that is open, recognised and checked.
#[derive(Debug)]
pub struct Kernel {
    image: Image,
    elf: Elf,
}

impl Kernel {
    /// Opens a kernel file.
    ///
    /// # Errors
    /// One [`BootError`] for each way in which the file is no kernel that can
    /// be started.
    pub fn open(path: &Path, _cache: &PayloadCache) -> Result<Self, BootError> {
        let image = Image::open(path, FileRole::Kernel, MAX_FILE)?;
        let head = image.read_vec(0, 4096)?;
        if !elf::is_elf(&head) {
            return Err(BootError::NotAKernel {
                path: path.to_owned(),
            });
        }
        let elf = elf::parse(&image)?;
        Ok(Self { image, elf })
    }

    /// Longest command line in bytes, without the NUL.
    pub fn cmdline_max(&self) -> usize {
        DEFAULT_CMDLINE_MAX
    }

    /// Where an initrd may lie.
    pub(super) fn initrd_limits(&self) -> InitrdLimits {
        InitrdLimits {
            end: DEFAULT_INITRD_END,
            above_4g: true,
        }
    }

    /// Puts the kernel into guest memory and returns the range it occupies,
    /// its zeroed part included. Zeros are written only where memory is not `fresh`.
    ///
    /// # Errors
    /// [`BootError::MemoryTooSmall`], [`BootError::Placement`], or
    /// [`BootError::Read`] if the file cannot be read.
    pub(super) fn place(&self, ram: &GuestRam, fresh: bool) -> Result<Range<u64>, BootError> {
        let range = self.check_range(ram)?;
        for segment in &self.elf.segments {
            let file_len = usize::try_from(segment.file_len).unwrap_or(usize::MAX);
            self.image
                .place(ram, segment.addr, segment.offset, file_len)?;
            let zeros = segment.mem_len.saturating_sub(segment.file_len);
            if !fresh && zeros > 0 {
                let start = segment.addr.saturating_add(segment.file_len);
                ram.zero(start, usize::try_from(zeros).unwrap_or(usize::MAX))
                    .map_err(|source| memory_error("kernel", source))?;
            }
        }
        Ok(range)
    }

    /// The 64-bit entry.
    ///
    /// # Errors
    /// [`BootError::Malformed`] if it lies outside the kernel.
    pub(super) fn linux64_entry(&self) -> Result<u64, BootError> {
        self.entry_inside(self.elf.entry)
    }

    /// The 32-bit entry of PVH.
    ///
    /// # Errors
    /// [`BootError::NoEntry`] if the kernel has none.
    pub(super) fn pvh_entry(&self) -> Result<u64, BootError> {
        let entry = self.elf.pvh_entry.ok_or_else(|| BootError::NoEntry {
            path: self.image.path().to_owned(),
            protocol: "PVH",
            hint: "build it with CONFIG_PVH or start it through the Linux protocol",
        })?;
        self.entry_inside(u64::from(entry))
    }

    fn entry_inside(&self, entry: u64) -> Result<u64, BootError> {
        let inside = self
            .elf
            .segments
            .iter()
            .any(|segment| (segment.addr..segment.end()).contains(&entry));
        if inside {
            Ok(entry)
        } else {
            Err(BootError::Malformed {
                path: self.image.path().to_owned(),
                reason: "its entry point lies outside its loadable segments",
            })
        }
    }

    fn check_range(&self, ram: &GuestRam) -> Result<Range<u64>, BootError> {
        let start = self.elf.segments.first().map_or(0, |first| first.addr);
        let end = self.elf.segments.last().map_or(0, |last| last.end());
        let misplaced = |reason| BootError::Placement {
            path: self.image.path().to_owned(),
            start,
            end,
            reason,
        };
        if start < HIGH_RAM_START {
            return Err(misplaced(
                "the first MiB holds the boot structures and the ACPI tables; link it at 1 MiB or above",
            ));
        }
        if end > PCI_HOLE_START {
            return Err(misplaced("RAM that a kernel can start in ends at 3 GiB"));
        }
        if end > low_ram_end(ram) {
            return Err(BootError::MemoryTooSmall {
                path: self.image.path().to_owned(),
                needed: end,
                available: ram.size(),
            });
        }
        Ok(start..end)
    }
}
