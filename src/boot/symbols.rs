//! What a kernel's file tells of its code: names for addresses, and what is at them.
//!
//! Names come from the kernel's own ELF symbol table, from a `System.map`
//! beside it, or from the tables that the kernel prints its own back traces with
//! ([`kallsyms`]). Files are opened at start-up and read only when a name is wanted,
//! within bounds: they may hold anything. Names are a service, so whatever is
//! wrong with a file leaves an address without one.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use linux_loader::elf;
use rustix::fs::OFlags;

use super::bytes::{u8_at, u16_at, u32_at, u64_at};
use super::image::Source;
use super::kallsyms;
use super::symbol_table::{Symbol, SymbolTable};

/// Read at most of a section or of a `System.map`, in bytes: several times Linux's.
const MAX_TABLE: u64 = 64 << 20;
/// Longest line of a `System.map` that is taken as one.
const MAX_LINE: u64 = 1024;
/// Longest name of a section that is asked for.
const MAX_SECTION_NAME: usize = 32;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

const SECTION_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHF_EXECINSTR: u64 = 4;
const SHN_UNDEF: u16 = 0;
/// From here on indices are not sections; `SHN_ABS` is a number, not a place.
const SHN_LORESERVE: u16 = 0xff00;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;

/// The files that may name the guest kernel's functions, open. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Symbols {
    elf: Option<Arc<Source>>,
    map: Option<Arc<File>>,
    shift: u64,
}

/// A section of the kernel's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSection {
    /// The virtual address it is linked at.
    pub address: u64,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Symbols {
    /// From the kernel's ELF file and its `System.map`. `None` without either.
    pub(super) fn new(elf: Option<Arc<Source>>, map: Option<File>) -> Option<Self> {
        let map = map.map(Arc::new);
        (elf.is_some() || map.is_some()).then_some(Self { elf, map, shift: 0 })
    }

    /// The same for a kernel that runs `shift` bytes above where it is linked:
    /// addresses are those at run time.
    pub fn shifted_by(self, shift: u64) -> Self {
        Self { shift, ..self }
    }

    /// How far above its linked addresses the kernel runs.
    pub fn shift(&self) -> u64 {
        self.shift
    }

    /// The function that `address` is in, as far as the files tell.
    pub fn nearest(&self, address: u64) -> Option<Symbol> {
        self.tables().find_map(|table| table.nearest(address))
    }

    /// All functions, from the first of the sources that has any.
    pub fn table(&self) -> Option<SymbolTable> {
        self.tables().find(|table| !table.is_empty())
    }

    fn tables(&self) -> impl Iterator<Item = SymbolTable> {
        let in_elf = || self.elf.as_deref().and_then(of_elf);
        let in_map = || self.map.as_deref().and_then(of_map);
        let in_image = || self.elf.as_deref().and_then(of_image);
        let sources: [&dyn Fn() -> Option<SymbolTable>; 3] = [&in_elf, &in_map, &in_image];
        let found: Vec<_> = sources
            .into_iter()
            .filter_map(|source| source())
            .filter(|table| !table.is_empty())
            .take(2)
            .map(|table| table.shifted_by(self.shift))
            .collect();
        found.into_iter()
    }

    /// The section `name` of the kernel's file, if it has one that holds bytes.
    pub fn section(&self, name: &str) -> Option<KernelSection> {
        let sections = Sections::of(self.elf.as_deref()?)?;
        let found = sections
            .iter()
            .find(|section| sections.is_named(section, name))?;
        sections.read(&found)
    }

    /// The sections that hold the kernel's code, as linked.
    pub fn code(&self) -> Vec<KernelSection> {
        /// More than any kernel has; their sizes are bounded all the same.
        const MOST: usize = 16;
        let Some(sections) = self.elf.as_deref().and_then(Sections::of) else {
            return Vec::new();
        };
        sections
            .iter()
            .filter(|section| section.flags & SHF_EXECINSTR != 0)
            .take(MOST)
            .filter_map(|section| sections.read(&section))
            .collect()
    }
}

/// Opens the `System.map` of the kernel at `path`: for `vmlinuz-VERSION`, as
/// distributions install it, `System.map-VERSION` beside it, else `System.map`.
pub(super) fn open_map(path: &Path) -> Option<File> {
    // Without blocking, should it be a FIFO; reading one at an offset fails.
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(map_path(path)?)
        .ok()
}

fn map_path(kernel: &Path) -> Option<PathBuf> {
    let mut name = OsString::from("System.map");
    let version = kernel.file_name()?.to_str()?.strip_prefix("vmlinuz-");
    if let Some(version) = version {
        name.push("-");
        name.push(version);
    }
    Some(kernel.with_file_name(name))
}

/// The functions in an ELF file's symbol table.
fn of_elf(file: &Source) -> Option<SymbolTable> {
    let sections = Sections::of(file)?;
    let symbols = sections.iter().find(|section| section.kind == SHT_SYMTAB)?;
    let names = sections.get(u16::try_from(symbols.link).ok()?)?;
    let mut functions = Vec::new();
    for symbol in sections.read(&symbols)?.bytes.chunks_exact(SYMBOL_LEN) {
        let kind = u8_at(symbol, 4)? & 0xf;
        let section = u16_at(symbol, 6)?;
        let name = u32_at(symbol, 0)?;
        let is_place = section != SHN_UNDEF && section < SHN_LORESERVE;
        if matches!(kind, STT_NOTYPE | STT_FUNC) && is_place && name != 0 {
            functions.push((u64_at(symbol, 8)?, name));
        }
    }
    let names = sections.read(&names)?.bytes;
    Some(SymbolTable::with_names(functions, names))
}

/// The section headers of an ELF file.
struct Sections<'a> {
    file: &'a Source,
    offset: u64,
    count: u16,
    /// The section that holds the others' names.
    names: u16,
}

/// What of a section header is of use here.
#[derive(Clone, Copy)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    len: u64,
    link: u32,
}

impl<'a> Sections<'a> {
    fn of(file: &'a Source) -> Option<Self> {
        let header = exactly(file, 0, SECTION_LEN)?;
        let is_elf = header.starts_with(b"\x7fELF") && u8_at(&header, 4)? == elf::ELFCLASS64;
        if !is_elf || usize::from(u16_at(&header, 0x3a)?) != SECTION_LEN {
            return None;
        }
        Some(Self {
            file,
            offset: u64_at(&header, 0x28)?,
            count: u16_at(&header, 0x3c)?,
            names: u16_at(&header, 0x3e)?,
        })
    }

    fn iter(&self) -> impl Iterator<Item = Section> + '_ {
        (0..self.count).filter_map(|index| self.get(index))
    }

    fn get(&self, index: u16) -> Option<Section> {
        if index >= self.count {
            return None;
        }
        let distance = u64::from(index).checked_mul(SECTION_LEN as u64)?;
        let header = exactly(self.file, self.offset.checked_add(distance)?, SECTION_LEN)?;
        Some(Section {
            name: u32_at(&header, 0)?,
            kind: u32_at(&header, 4)?,
            flags: u64_at(&header, 8)?,
            address: u64_at(&header, 0x10)?,
            offset: u64_at(&header, 0x18)?,
            len: u64_at(&header, 0x20)?,
            link: u32_at(&header, 0x28)?,
        })
    }

    fn is_named(&self, section: &Section, name: &str) -> bool {
        let given = || {
            let names = self.get(self.names)?;
            let at = names.offset.checked_add(u64::from(section.name))?;
            let mut text = [0; MAX_SECTION_NAME];
            let count = self.file.read_at(at, &mut text).ok()?;
            let text = text.get(..count)?;
            Some(text.split(|byte| *byte == 0).next()? == name.as_bytes())
        };
        given().unwrap_or(false)
    }

    fn read(&self, section: &Section) -> Option<KernelSection> {
        if section.kind == SHT_NOBITS {
            return None;
        }
        Some(KernelSection {
            address: section.address,
            bytes: part(self.file, section.offset, section.len.min(MAX_TABLE))?,
        })
    }
}

/// The functions in the tables that a kernel has of itself.
fn of_image(file: &Source) -> Option<SymbolTable> {
    const MAX_IMAGE: u64 = 256 << 20;
    kallsyms::functions(&part(file, 0, MAX_IMAGE)?)
}

/// Lines of `address type name`, functions having the types t, T, w and W (nm(1)).
fn of_map(file: &File) -> Option<SymbolTable> {
    let mut table = SymbolTable::default();
    let mut lines = BufReader::with_capacity(CHUNK, At { file, offset: 0 }).take(MAX_TABLE);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.ok()? == 0 {
            break;
        }
        if let Some((value, name)) = map_entry(&line)
            && !table.push(value, name)
        {
            break;
        }
    }
    Some(table.sorted())
}

fn map_entry(line: &[u8]) -> Option<(u64, &[u8])> {
    let mut words = line.trim_ascii().split(|byte| *byte == b' ');
    let value = std::str::from_utf8(words.next()?).ok()?;
    let value = u64::from_str_radix(value, 16).ok()?;
    let is_function = matches!(words.next()?, b"t" | b"T" | b"w" | b"W");
    let name = words.next().filter(|name| !name.is_empty())?;
    is_function.then_some((value, name))
}

fn exactly(file: &Source, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let count = file.read_at(offset, &mut bytes).ok()?;
    (count == len).then_some(bytes)
}

/// `len` bytes from `offset` on, or fewer where the file ends; no more memory than that.
fn part(file: &Source, offset: u64, len: u64) -> Option<Vec<u8>> {
    const STEP: usize = 1 << 20;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; usize::try_from(len).unwrap_or(STEP).min(STEP)];
    while (bytes.len() as u64) < len {
        let at = offset.checked_add(bytes.len() as u64)?;
        let left = usize::try_from(len.saturating_sub(bytes.len() as u64)).unwrap_or(STEP);
        let wanted = chunk.len().min(left);
        let room = chunk.get_mut(..wanted)?;
        let count = file.read_at(at, room).ok()?;
        bytes.extend_from_slice(room.get(..count)?);
        if count < wanted {
            break;
        }
    }
    Some(bytes)
}

/// Reads on from an offset. The file's cursor, which vCPUs share, stays.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.file, buf, self.offset)?;
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
#[path = "symbols_tests.rs"]
mod tests;
