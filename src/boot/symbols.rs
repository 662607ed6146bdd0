//! Names for addresses in the guest's kernel, for the line that ends a VM.
//!
//! They come from the kernel's own ELF symbol table, or from a `System.map`
//! beside it. Files are opened at start-up and read only when a name is wanted,
//! within bounds: they may hold anything. Names are a service, so whatever is
//! wrong with a file leaves an address without one.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use linux_loader::elf;
use rustix::fs::OFlags;

use super::bytes::{u8_at, u16_at, u32_at, u64_at};

/// Farther from a function an address is not within it: no function is as long.
const MAX_DISTANCE: u64 = 1 << 20;
/// Read at most of a symbol table or of a `System.map`, in bytes: several times Linux's.
const MAX_TABLE: u64 = 64 << 20;
/// Longest name that is shown (Linux: `KSYM_NAME_LEN`, 512, which none comes near).
const MAX_NAME: usize = 128;
/// Longest line of a `System.map` that is taken as one.
const MAX_LINE: u64 = 1024;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

const SECTION_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const SHT_SYMTAB: u32 = 2;
const SHN_UNDEF: u16 = 0;
/// From here on indices are not sections; `SHN_ABS` is a number, not a place.
const SHN_LORESERVE: u16 = 0xff00;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;

/// A function, and how far into it an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name, printable ASCII.
    pub name: String,
    /// Distance from its start in bytes.
    pub offset: u64,
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

/// The files that may name the guest kernel's functions, open.
#[derive(Debug)]
pub struct Symbols {
    elf: Option<File>,
    map: Option<File>,
}

impl Symbols {
    /// From the kernel's ELF file and its `System.map`. `None` without either.
    pub(super) fn new(elf: Option<File>, map: Option<File>) -> Option<Self> {
        (elf.is_some() || map.is_some()).then_some(Self { elf, map })
    }

    /// The function that `address` (virtual, as linked) is in, as far as the files tell.
    pub fn nearest(&self, address: u64) -> Option<Symbol> {
        let in_elf = self.elf.as_ref().and_then(|file| in_elf(file, address));
        in_elf.or_else(|| self.map.as_ref().and_then(|file| in_map(file, address)))
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

/// The best candidate so far: the last function that begins at or below the address.
struct Search {
    address: u64,
    best: Option<(u64, u32)>,
}

impl Search {
    /// Takes note of a symbol; the first of several at one address stays.
    fn offer(&mut self, value: u64, name: u32) -> bool {
        let near = self
            .address
            .checked_sub(value)
            .is_some_and(|distance| distance < MAX_DISTANCE);
        let better = near && self.best.is_none_or(|(best, _)| value > best);
        if better {
            self.best = Some((value, name));
        }
        better
    }
}

fn in_elf(file: &File, address: u64) -> Option<Symbol> {
    let header = exactly(file, 0, SECTION_LEN)?;
    if !header.starts_with(b"\x7fELF") || u8_at(&header, 4)? != elf::ELFCLASS64 {
        return None;
    }
    let sections = Sections {
        file,
        offset: u64_at(&header, 0x28)?,
        count: u16_at(&header, 0x3c)?,
    };
    if usize::from(u16_at(&header, 0x3a)?) != SECTION_LEN {
        return None;
    }
    let symbols = (0..sections.count)
        .filter_map(|index| sections.get(index))
        .find(|section| section.kind == SHT_SYMTAB)?;
    let names = sections.get(u16::try_from(symbols.link).ok()?)?;

    let mut search = Search {
        address,
        best: None,
    };
    let mut table = reader(file, symbols.offset, symbols.len.min(MAX_TABLE));
    let mut symbol = [0; SYMBOL_LEN];
    while table.read_exact(&mut symbol).is_ok() {
        let kind = u8_at(&symbol, 4)? & 0xf;
        let section = u16_at(&symbol, 6)?;
        let name = u32_at(&symbol, 0)?;
        let is_place = section != SHN_UNDEF && section < SHN_LORESERVE;
        if matches!(kind, STT_NOTYPE | STT_FUNC) && is_place && name != 0 {
            search.offer(u64_at(&symbol, 8)?, name);
        }
    }
    let (value, name) = search.best?;
    let at = names.offset.checked_add(u64::from(name))?;
    let left = names.len.checked_sub(u64::from(name))?;
    let mut text = Vec::new();
    reader(file, at, left.min(MAX_NAME as u64))
        .read_until(0, &mut text)
        .ok()?;
    symbol_named(text.split(|byte| *byte == 0).next()?, address, value)
}

/// The section headers of an ELF file.
struct Sections<'a> {
    file: &'a File,
    offset: u64,
    count: u16,
}

/// What of a section header is of use here.
struct Section {
    kind: u32,
    offset: u64,
    len: u64,
    link: u32,
}

impl Sections<'_> {
    fn get(&self, index: u16) -> Option<Section> {
        if index >= self.count {
            return None;
        }
        let distance = u64::from(index).checked_mul(SECTION_LEN as u64)?;
        let header = exactly(self.file, self.offset.checked_add(distance)?, SECTION_LEN)?;
        Some(Section {
            kind: u32_at(&header, 4)?,
            offset: u64_at(&header, 0x18)?,
            len: u64_at(&header, 0x20)?,
            link: u32_at(&header, 0x28)?,
        })
    }
}

/// Lines of `address type name`, functions having the types t, T, w and W (nm(1)).
fn in_map(file: &File, address: u64) -> Option<Symbol> {
    let mut search = Search {
        address,
        best: None,
    };
    let mut found = Vec::new();
    let mut lines = reader(file, 0, MAX_TABLE);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.ok()? == 0 {
            break;
        }
        if let Some((value, name)) = map_entry(&line)
            && search.offer(value, 0)
        {
            found.clear();
            found.extend_from_slice(name);
        }
    }
    let (value, _) = search.best?;
    symbol_named(&found, address, value)
}

fn map_entry(line: &[u8]) -> Option<(u64, &[u8])> {
    let mut words = line.trim_ascii().split(|byte| *byte == b' ');
    let value = std::str::from_utf8(words.next()?).ok()?;
    let value = u64::from_str_radix(value, 16).ok()?;
    let is_function = matches!(words.next()?, b"t" | b"T" | b"w" | b"W");
    let name = words.next().filter(|name| !name.is_empty())?;
    is_function.then_some((value, name))
}

/// A name goes into one line of text, so nothing that is not a letter of one may be in it.
fn symbol_named(name: &[u8], address: u64, value: u64) -> Option<Symbol> {
    let printable = |byte: &u8| {
        if byte.is_ascii_graphic() {
            char::from(*byte)
        } else {
            '?'
        }
    };
    let name: String = name.iter().take(MAX_NAME).map(printable).collect();
    (!name.is_empty()).then_some(Symbol {
        name,
        offset: address.checked_sub(value)?,
    })
}

fn exactly(file: &File, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// `len` bytes of a file from `offset` on. The file's cursor, which vCPUs share, stays.
fn reader(file: &File, offset: u64, len: u64) -> impl BufRead + '_ {
    BufReader::with_capacity(CHUNK, At { file, offset }).take(len)
}

struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buf, self.offset)?;
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
#[path = "symbols_tests.rs"]
mod tests;
