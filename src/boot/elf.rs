//! ELF64 x86-64 executables: an uncompressed `vmlinux`, or what a bzImage unpacks to.
//!
//! Only the program headers count. Everything is checked against the file here;
//! placement against the guest's memory is checked when that is known
//! ([`super::place`]). Source: System V ABI, gABI chapters 4 and 5, AMD64 supplement.

use linux_loader::elf;

use super::bytes::{u8_at, u16_at, u32_at, u64_at};
use super::error::BootError;
use super::image::Image;

/// Size of an ELF64 file header.
const HEADER_LEN: usize = 64;
/// Size of an ELF64 program header.
const PHDR_LEN: usize = 56;
/// More program headers than any kernel has; Linux has about five.
const MAX_PHDRS: u16 = 128;
/// Notes larger than this hold no entry point of ours.
const MAX_NOTES: usize = 64 << 10;
/// The Xen note with the 32-bit physical entry of PVH (Xen `elfnote.h`).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// A loadable segment, by physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub addr: u64,
    /// Where its bytes begin in the image.
    pub offset: u64,
    /// Bytes that come from the image.
    pub file_len: u64,
    /// Bytes it has in memory; those beyond `file_len` are zero.
    pub mem_len: u64,
}

impl Segment {
    /// Guest-physical end (exclusive). Checked when the segment was made.
    pub fn end(&self) -> u64 {
        self.addr.saturating_add(self.mem_len)
    }
}

/// What booting an ELF needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Loadable segments in order of their physical address, without overlap.
    pub segments: Vec<Segment>,
    /// `e_entry`: where the 64-bit boot protocol enters (Linux: a physical address).
    pub entry: u64,
    /// The 32-bit entry of PVH, if the kernel has the note.
    pub pvh_entry: Option<u32>,
    /// Where the ELF file ends: what its headers speak of lies before. Section
    /// contents are not looked at, as linkers put the section headers behind them.
    pub end: u64,
}

/// Whether the bytes begin as an ELF file does.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Reads and checks the headers of an ELF image.
///
/// # Errors
/// One [`BootError`] for each way in which it is no x86-64 kernel.
pub(super) fn parse(image: &Image) -> Result<Elf, BootError> {
    let header = image.read_vec(0, HEADER_LEN)?;
    let phdrs = program_headers(image, &header)?;
    let mut segments = Vec::new();
    let mut pvh_entry = None;
    for phdr in phdrs.chunks_exact(PHDR_LEN) {
        let program = Program::read(phdr).ok_or_else(|| truncated(image, "program headers"))?;
        match program.kind {
            elf::PT_LOAD => segments.extend(loadable(image, &program)?),
            elf::PT_NOTE if pvh_entry.is_none() => pvh_entry = find_pvh_entry(image, &program)?,
            _ => {}
        }
    }
    segments.sort_by_key(|segment| segment.addr);
    if segments.is_empty() {
        return Err(malformed(image, "it has no loadable segment"));
    }
    if segments
        .iter()
        .zip(segments.iter().skip(1))
        .any(|(one, next)| one.end() > next.addr)
    {
        return Err(malformed(image, "its loadable segments overlap"));
    }
    let end = segments
        .iter()
        .map(|segment| segment.offset.saturating_add(segment.file_len))
        .fold(section_headers_end(&header), u64::max);
    Ok(Elf {
        end,
        segments,
        entry: u64_at(&header, 24).ok_or_else(|| truncated(image, "ELF header"))?,
        pvh_entry,
    })
}

/// Where the section headers end; 0 if there are none.
fn section_headers_end(header: &[u8]) -> u64 {
    let fields = || {
        let offset = u64_at(header, 40)?;
        let (size, count) = (u16_at(header, 58)?, u16_at(header, 60)?);
        (count > 0).then(|| offset.saturating_add(u64::from(size).saturating_mul(count.into())))
    };
    fields().unwrap_or(0)
}

/// Checks the file header and reads the table of program headers.
fn program_headers(image: &Image, header: &[u8]) -> Result<Vec<u8>, BootError> {
    let path = || image.path().to_owned();
    let short = || truncated(image, "ELF header");
    if header.len() < HEADER_LEN {
        return Err(short());
    }
    let machine = u16_at(header, 18).ok_or_else(short)?;
    if u8_at(header, 5) != Some(1) {
        return Err(BootError::WrongArchitecture {
            path: path(),
            architecture: "a big-endian machine".into(),
        });
    }
    match (machine, u8_at(header, 4)) {
        (elf::EM_386, _) | (elf::EM_X86_64, Some(1)) => {
            return Err(BootError::Bits32 { path: path() });
        }
        (elf::EM_X86_64, Some(2)) => {}
        (elf::EM_X86_64, _) => return Err(malformed(image, "its ELF class is neither 32 nor 64")),
        (other, _) => {
            return Err(BootError::WrongArchitecture {
                path: path(),
                architecture: machine_name(other),
            });
        }
    }
    if !matches!(u16_at(header, 16), Some(2 | 3)) {
        return Err(malformed(
            image,
            "it is not an executable (an object file or a core dump?)",
        ));
    }
    let offset = u64_at(header, 32).ok_or_else(short)?;
    let size = u16_at(header, 54).ok_or_else(short)?;
    let count = u16_at(header, 56).ok_or_else(short)?;
    if count == 0 || count > MAX_PHDRS || usize::from(size) != PHDR_LEN {
        return Err(malformed(image, "its program header table is not sane"));
    }
    let len = usize::from(count).saturating_mul(PHDR_LEN);
    let table = image.read_vec(offset, len)?;
    if table.len() != len {
        return Err(truncated(image, "program headers"));
    }
    Ok(table)
}

/// The fields of a program header that count.
struct Program {
    kind: u32,
    offset: u64,
    paddr: u64,
    file_len: u64,
    mem_len: u64,
    align: u64,
}

impl Program {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(bytes, 0)?,
            offset: u64_at(bytes, 8)?,
            paddr: u64_at(bytes, 24)?,
            file_len: u64_at(bytes, 32)?,
            mem_len: u64_at(bytes, 40)?,
            align: u64_at(bytes, 48)?,
        })
    }
}

/// The segment of a `PT_LOAD` header; `None` if it takes no memory.
fn loadable(image: &Image, program: &Program) -> Result<Option<Segment>, BootError> {
    if program.file_len > program.mem_len {
        return Err(malformed(
            image,
            "a segment has more bytes in the file than in memory",
        ));
    }
    if program.mem_len == 0 {
        return Ok(None);
    }
    if program.paddr.checked_add(program.mem_len).is_none() {
        return Err(malformed(image, "a segment wraps round the address space"));
    }
    match program.offset.checked_add(program.file_len) {
        Some(end) if end <= image.len() => {}
        _ => return Err(truncated(image, "loadable segments")),
    }
    Ok(Some(Segment {
        addr: program.paddr,
        offset: program.offset,
        file_len: program.file_len,
        mem_len: program.mem_len,
    }))
}

/// Looks for the PVH entry among the notes of a `PT_NOTE` header.
fn find_pvh_entry(image: &Image, program: &Program) -> Result<Option<u32>, BootError> {
    match usize::try_from(program.file_len) {
        Ok(len) if len <= MAX_NOTES => {
            let notes = image.read_vec(program.offset, len)?;
            Ok(pvh_entry_in(&notes, if program.align == 8 { 8 } else { 4 }))
        }
        _ => Ok(None),
    }
}

/// Walks the notes; names and descriptions are padded to `align` bytes.
fn pvh_entry_in(notes: &[u8], align: usize) -> Option<u32> {
    let mut rest = notes;
    loop {
        let name_len = usize::try_from(u32_at(rest, 0)?).ok()?;
        let desc_len = usize::try_from(u32_at(rest, 4)?).ok()?;
        let kind = u32_at(rest, 8)?;
        let name = rest.get(12..12usize.checked_add(name_len)?)?;
        let desc_start = 12usize
            .checked_add(name_len)?
            .checked_next_multiple_of(align)?;
        let desc_end = desc_start.checked_add(desc_len)?;
        let desc = rest.get(desc_start..desc_end)?;
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && name == b"Xen\0" {
            return match desc_len {
                4 => u32_at(desc, 0),
                8 => u64_at(desc, 0).and_then(|entry| u32::try_from(entry).ok()),
                _ => None,
            };
        }
        rest = rest.get(desc_end.checked_next_multiple_of(align)?..)?;
    }
}

/// The common name of an ELF machine number.
fn machine_name(machine: u16) -> String {
    match machine {
        elf::EM_AARCH64 => "arm64".into(),
        elf::EM_ARM => "32-bit ARM".into(),
        elf::EM_RISCV => "RISC-V".into(),
        elf::EM_PPC | elf::EM_PPC64 => "PowerPC".into(),
        elf::EM_S390 => "s390".into(),
        elf::EM_MIPS => "MIPS".into(),
        elf::EM_LOONGARCH => "LoongArch".into(),
        other => format!("ELF machine {other}"),
    }
}

fn truncated(image: &Image, what: &'static str) -> BootError {
    BootError::Truncated {
        path: image.path().to_owned(),
        what,
    }
}

fn malformed(image: &Image, reason: &'static str) -> BootError {
    BootError::Malformed {
        path: image.path().to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::super::bytes::put;
    use super::super::error::FileRole;
    use super::super::testing::{self, ELF_ADDR, put_phdr};
    use super::*;

    fn read(bytes: &[u8]) -> Result<Elf, BootError> {
        let (_dir, path) = testing::file(bytes);
        parse(&Image::open(&path, FileRole::Kernel, 1 << 20)?)
    }

    /// A good ELF with some bytes changed.
    fn changed(at: usize, bytes: &[u8]) -> Result<Elf, BootError> {
        let mut image = testing::elf(&[0x90; 0x1000]);
        put(&mut image, at, bytes);
        read(&image)
    }

    #[test]
    fn segments_entry_and_note_are_found() {
        let elf = read(&testing::elf(&[0x90; 0x1000])).unwrap();
        assert_eq!(elf.entry, ELF_ADDR);
        assert_eq!(elf.pvh_entry, Some(testing::ELF_PVH as u32));
        let segment = Segment {
            addr: ELF_ADDR,
            offset: 0x200,
            file_len: 0x1000,
            mem_len: 0x3000,
        };
        assert_eq!(elf.segments, [segment]);
    }

    #[test]
    fn wrong_kinds_of_elf_are_named() {
        assert!(matches!(changed(4, &[1]), Err(BootError::Bits32 { .. })));
        assert!(matches!(changed(18, &[3]), Err(BootError::Bits32 { .. })));
        let arm = changed(18, &[183]).unwrap_err().to_string();
        assert!(arm.contains("is for arm64"), "{arm}");
        let big = changed(5, &[2]).unwrap_err().to_string();
        assert!(big.contains("big-endian"), "{big}");
        let object = changed(16, &[1]).unwrap_err().to_string();
        assert!(object.contains("not an executable"), "{object}");
    }

    #[test]
    fn every_cut_is_truncation() {
        let image = testing::elf(&[0x90; 0x1000]);
        for len in [4, 17, 20, 63, 64, 100, 175, 0x200, image.len() - 1] {
            let result = read(&image[..len]);
            let truncated = matches!(result, Err(BootError::Truncated { .. }));
            assert!(truncated, "{len}: {result:?}");
        }
    }

    #[test]
    fn senseless_tables_and_segments_are_malformed() {
        let malformed = [
            changed(56, &0u16.to_le_bytes()),
            changed(56, &u16::MAX.to_le_bytes()),
            changed(54, &8u16.to_le_bytes()),
            // More bytes in the file than in memory.
            changed(64 + 40, &1u64.to_le_bytes()),
            // An address that wraps.
            changed(64 + 24, &u64::MAX.to_le_bytes()),
            // Nothing to load.
            changed(64, &2u32.to_le_bytes()),
        ];
        for (case, result) in malformed.into_iter().enumerate() {
            assert!(
                matches!(result, Err(BootError::Malformed { .. })),
                "{case}: {result:?}"
            );
        }
        assert!(matches!(
            changed(64 + 8, &u64::MAX.to_le_bytes()),
            Err(BootError::Truncated { .. })
        ));
    }

    #[test]
    fn overlapping_segments_are_malformed() {
        let mut image = testing::elf(&[0x90; 0x1000]);
        put_phdr(&mut image, 120, 1, [0x200, ELF_ADDR + 0x2fff, 16, 16]);
        assert!(matches!(read(&image), Err(BootError::Malformed { .. })));
        put_phdr(&mut image, 120, 1, [0x200, ELF_ADDR + 0x3000, 16, 16]);
        assert_eq!(read(&image).unwrap().segments.len(), 2);
    }

    #[test]
    fn notes_of_both_alignments_are_walked() {
        for align in [4usize, 8] {
            let mut notes = Vec::new();
            for (name, kind, desc) in [
                (b"GNU\0".as_slice(), 3u32, [1; 5].as_slice()),
                (b"Xen\0", 1, b"unrelated"),
                (b"Xen\0", 18, &0x123_4567u32.to_le_bytes()),
            ] {
                notes.extend_from_slice(&(name.len() as u32).to_le_bytes());
                notes.extend_from_slice(&(desc.len() as u32).to_le_bytes());
                notes.extend_from_slice(&kind.to_le_bytes());
                notes.extend_from_slice(name);
                notes.resize(notes.len().next_multiple_of(align), 0);
                notes.extend_from_slice(desc);
                notes.resize(notes.len().next_multiple_of(align), 0);
            }
            assert_eq!(pvh_entry_in(&notes, align), Some(0x123_4567), "{align}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_notes_do_not_panic(
            notes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            align in proptest::sample::select(vec![4usize, 8]),
        ) {
            let _ = pvh_entry_in(&notes, align);
        }
    }
}
