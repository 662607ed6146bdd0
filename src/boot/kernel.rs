//! The kernel file: opened, recognised, unpacked and checked before a VM exists.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::bytes::u32_at;
use super::bzimage::{self, SetupHeader};
use super::cache::PayloadCache;
use super::elf::{self, Segment};
use super::error::{BootError, FileRole};
use super::image::Image;
use super::initrd::InitrdLimits;
use super::memory_error;
use super::memory_map::low_ram_end;
use super::packed::Packed;
use super::payload::Compression;
use super::symbols::{self, Symbols};
use crate::memory::GuestRam;
use crate::memory::layout::{HIGH_RAM_START, PCI_HOLE_START};

/// Larger files are refused before they are read.
const MAX_FILE: u64 = 1 << 30;
/// Longest command line of an x86 kernel whose header does not say
/// (`COMMAND_LINE_SIZE` less the NUL).
const DEFAULT_CMDLINE_MAX: usize = 2047;
/// `initrd_addr_max` of today's kernels, plus one.
const DEFAULT_INITRD_END: u64 = 0x8000_0000;

/// The least distance between places a kernel can be put at: what its page tables
/// map at once (Linux `MIN_KERNEL_ALIGN`).
const MIN_ALIGNMENT: u64 = 2 << 20;

/// What kind of file the kernel came from, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelForm {
    /// An uncompressed ELF file.
    Vmlinux,
    /// An ELF that was unpacked on the host, from a bzImage or on its own.
    Unpacked {
        /// How it was compressed.
        compression: Compression,
        /// Whether an earlier run had unpacked it already.
        cached: bool,
    },
    /// A bzImage that unpacks itself in the guest.
    BzImage,
}

impl fmt::Display for KernelForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmlinux => f.write_str("vmlinux"),
            Self::Unpacked {
                compression,
                cached: false,
            } => write!(f, "{compression} kernel, unpacked now"),
            Self::Unpacked {
                compression,
                cached: true,
            } => write!(f, "{compression} kernel, unpacked earlier"),
            Self::BzImage => f.write_str("bzImage, unpacked by the guest"),
        }
    }
}

/// A kernel that is open, recognised and checked.
#[derive(Debug)]
pub struct Kernel {
    image: Image,
    form: KernelForm,
    segments: Vec<Segment>,
    /// End of the ELF in the image; what is behind it may be relocation data.
    elf_end: u64,
    entry: u64,
    pvh_entry: Option<u32>,
    setup: Option<SetupHeader>,
    release: Option<String>,
}

impl Kernel {
    /// Opens a kernel file: an x86-64 ELF `vmlinux`, plain or compressed, or a
    /// bzImage. What is compressed is unpacked here, unless `cache` has it.
    ///
    /// # Errors
    /// One [`BootError`] for each way in which the file is no kernel that can
    /// be started.
    pub fn open(path: &Path, cache: &PayloadCache) -> Result<Self, BootError> {
        let file = Image::open(path, FileRole::Kernel, MAX_FILE)?;
        let head = file.read_vec(0, 4096)?;
        if elf::is_elf(&head) {
            return Self::from_elf(file, KernelForm::Vmlinux);
        }
        if bzimage::is_bzimage(&head) {
            let setup =
                SetupHeader::parse(&head).ok_or_else(|| truncated(&file, "setup header"))?;
            return Self::from_bzimage(file, setup, cache);
        }
        if let Some(compression) = Compression::detect(&head) {
            let (image, cached) = Packed::whole(&file, compression).unpacked(&file, cache)?;
            if !elf::is_elf(&image.read_vec(0, 4)?) {
                return Err(not_a_kernel(&file));
            }
            let form = KernelForm::Unpacked {
                compression,
                cached,
            };
            return Self::from_elf(image, form);
        }
        Err(foreign_image(&file, &head))
    }

    fn from_elf(image: Image, form: KernelForm) -> Result<Self, BootError> {
        let elf = elf::parse(&image)?;
        Ok(Self {
            image,
            form,
            segments: elf.segments,
            elf_end: elf.end,
            entry: elf.entry,
            pvh_entry: elf.pvh_entry,
            setup: None,
            release: None,
        })
    }

    fn from_bzimage(
        file: Image,
        setup: SetupHeader,
        cache: &PayloadCache,
    ) -> Result<Self, BootError> {
        let release = setup.release(&file)?;
        if let Some(packed) = Packed::in_bzimage(&file, &setup)? {
            let (image, cached) = packed.unpacked(&file, cache)?;
            if elf::is_elf(&image.read_vec(0, 4)?) {
                let compression = packed.compression();
                let form = KernelForm::Unpacked {
                    compression,
                    cached,
                };
                return Ok(Self {
                    setup: Some(setup),
                    release,
                    ..Self::from_elf(image, form)?
                });
            }
        }
        let (segment, entry) = setup.own_entry(&file)?;
        Ok(Self {
            elf_end: file.len(),
            image: file,
            form: KernelForm::BzImage,
            segments: vec![segment],
            entry,
            pvh_entry: None,
            setup: Some(setup),
            release,
        })
    }

    /// What kind of file it came from.
    pub fn form(&self) -> KernelForm {
        self.form
    }

    /// The kernel's release, such as `6.12.9-amd64`, if its setup header says.
    pub fn release(&self) -> Option<&str> {
        self.release.as_deref()
    }

    /// Opens the `System.map` beside the file: one system call more than nothing.
    ///
    /// A kernel that unpacks itself in the guest may move itself there, so that
    /// no map fits.
    pub fn open_map(&self) -> Option<File> {
        match self.form {
            KernelForm::BzImage => None,
            _ => symbols::open_map(self.image.path()),
        }
    }

    /// What can name the kernel's functions, once it is in guest memory: its own
    /// file, or `map`.
    pub fn symbols(&self, map: Option<File>) -> Option<Symbols> {
        match self.form {
            KernelForm::BzImage => None,
            _ => Symbols::new(Some(self.image.shared_source()), map),
        }
    }

    /// The path the user gave.
    pub(super) fn path(&self) -> &Path {
        self.image.path()
    }

    /// What is loaded of it, as linked.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The distances in bytes at which it can be placed.
    pub(super) fn alignment(&self) -> u64 {
        let header = self.setup.as_ref().and_then(SetupHeader::alignment);
        header.unwrap_or(MIN_ALIGNMENT).max(MIN_ALIGNMENT)
    }

    /// Whether it looks at `hdr.setup_data`.
    pub(super) fn takes_setup_data(&self) -> bool {
        self.setup
            .as_ref()
            .is_none_or(SetupHeader::takes_setup_data)
    }

    /// What the file holds behind the ELF; `None` if that is nothing, or more than `max` bytes.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub(super) fn behind_elf(&self, max: u64) -> Result<Option<Vec<u8>>, BootError> {
        match self.image.len().saturating_sub(self.elf_end) {
            0 => Ok(None),
            len if len > max => Ok(None),
            len => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                self.image.read_vec(self.elf_end, len).map(Some)
            }
        }
    }

    /// Longest command line in bytes, without the NUL.
    pub fn cmdline_max(&self) -> usize {
        self.setup
            .as_ref()
            .and_then(SetupHeader::cmdline_max)
            .unwrap_or(DEFAULT_CMDLINE_MAX)
    }

    /// Whether `text` is in what is loaded of it. In a kernel that unpacks itself in
    /// the guest there is nothing to be seen.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub(super) fn mentions(&self, text: &str) -> Result<bool, BootError> {
        for segment in &self.segments {
            let range = segment.offset..segment.offset.saturating_add(segment.file_len);
            if self.image.contains(range, text.as_bytes())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those of `texts` that are nowhere in its file. In a kernel that unpacks itself in the
    /// guest there is nothing to be seen, so none of them is known to be missing.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub fn missing<'a>(&self, texts: &[&'a str]) -> Result<Vec<&'a str>, BootError> {
        match self.form {
            KernelForm::BzImage => Ok(Vec::new()),
            _ => self.image.missing(texts),
        }
    }

    /// Length of what is loaded of it, of its file at least, in bytes.
    pub fn file_len(&self) -> u64 {
        self.image.len()
    }

    /// The setup header for the zero page, if the kernel came with one.
    pub(super) fn setup_header(&self) -> Option<&[u8]> {
        self.setup.as_ref().map(SetupHeader::raw)
    }

    /// Where an initrd may lie.
    pub(super) fn initrd_limits(&self) -> InitrdLimits {
        match &self.setup {
            Some(setup) => setup.initrd_limits(),
            None => InitrdLimits {
                end: DEFAULT_INITRD_END,
                above_4g: true,
            },
        }
    }

    /// The 64-bit entry.
    ///
    /// # Errors
    /// [`BootError::Malformed`] if it lies outside the kernel.
    pub(super) fn linux64_entry(&self) -> Result<u64, BootError> {
        self.entry_inside(self.entry)
    }

    /// The 32-bit entry of PVH.
    ///
    /// # Errors
    /// [`BootError::NoEntry`] if the kernel has none.
    pub(super) fn pvh_entry(&self) -> Result<u64, BootError> {
        let entry = self.pvh_entry.ok_or_else(|| BootError::NoEntry {
            path: self.image.path().to_owned(),
            protocol: "PVH",
            hint: "build it with CONFIG_PVH or start it through the Linux protocol",
        })?;
        self.entry_inside(u64::from(entry))
    }

    fn entry_inside(&self, entry: u64) -> Result<u64, BootError> {
        let inside = self
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

    /// Puts the kernel into guest memory, `shift` bytes beyond where it was linked for.
    /// Its zeroed part is written only where memory is not `fresh`.
    ///
    /// # Errors
    /// [`BootError::Read`] if the file cannot be read, [`BootError::Memory`].
    pub(super) fn place(&self, ram: &GuestRam, fresh: bool, shift: u64) -> Result<(), BootError> {
        for segment in &self.segments {
            let addr = segment.addr.saturating_add(shift);
            let file_len = usize::try_from(segment.file_len).unwrap_or(usize::MAX);
            self.image.place(ram, addr, segment.offset, file_len)?;
            let zeros = segment.mem_len.saturating_sub(segment.file_len);
            if !fresh && zeros > 0 {
                let start = addr.saturating_add(segment.file_len);
                ram.zero(start, usize::try_from(zeros).unwrap_or(usize::MAX))
                    .map_err(|source| memory_error("kernel", source))?;
            }
        }
        Ok(())
    }

    /// The guest-physical range it was linked for, its zeroed part included, if
    /// a kernel can be there.
    ///
    /// # Errors
    /// [`BootError::MemoryTooSmall`], [`BootError::Placement`].
    pub(super) fn linked_range(&self, ram: &GuestRam) -> Result<Range<u64>, BootError> {
        let start = self.segments.first().map_or(0, |first| first.addr);
        let end = self.segments.last().map_or(0, Segment::end);
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

/// What is neither ELF nor bzImage nor compressed; some of it can be named.
fn foreign_image(file: &Image, head: &[u8]) -> BootError {
    // Both keep their magic number here (Documentation/arch/{arm64,riscv}/boot).
    let architecture = match u32_at(head, 56).map(u32::to_le_bytes).as_ref() {
        Some(b"ARM\x64") => "arm64",
        Some(b"RSC\x05") => "RISC-V",
        _ => return not_a_kernel(file),
    };
    BootError::WrongArchitecture {
        path: file.path().to_owned(),
        architecture: architecture.into(),
    }
}

fn not_a_kernel(file: &Image) -> BootError {
    BootError::NotAKernel {
        path: file.path().to_owned(),
    }
}

fn truncated(file: &Image, what: &'static str) -> BootError {
    BootError::Truncated {
        path: file.path().to_owned(),
        what,
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
