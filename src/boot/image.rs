//! The bytes of a kernel or an initrd: a file, or what was unpacked from one.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memmem::Finder;
use rustix::fs::OFlags;

use super::error::{BootError, FileRole};
use crate::memory::{GuestRam, MemoryError};

/// How many bytes of a file are read first: a page, in which most headers are.
const HEAD: usize = 4096;

/// Bytes that can be read at any offset and placed in guest memory.
#[derive(Debug)]
pub(super) struct Image {
    path: PathBuf,
    role: FileRole,
    len: u64,
    /// The first bytes of a file, read once for all who look at its headers.
    head: Vec<u8>,
    source: Arc<Source>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Source {
    /// On disk.
    File(File),
    /// In memory.
    Bytes(Vec<u8>),
}

impl Source {
    /// Fills `buf` from `offset` on, as far as there is something, and returns how
    /// many bytes that were.
    ///
    /// # Errors
    /// What pread(2) says.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bytes(bytes) => {
                let rest = usize::try_from(offset)
                    .ok()
                    .and_then(|offset| bytes.get(offset..))
                    .unwrap_or_default();
                for (to, from) in buf.iter_mut().zip(rest) {
                    *to = *from;
                }
                Ok(rest.len().min(buf.len()))
            }
            Self::File(file) => read_full_at(file, offset, buf),
        }
    }
}

impl Image {
    /// Opens `path`, which must be a regular file of 1 to `max` bytes.
    ///
    /// # Errors
    /// [`BootError::Open`], [`BootError::NotRegular`], [`BootError::Empty`],
    /// [`BootError::TooLarge`], [`BootError::Read`].
    pub(super) fn open(path: &Path, role: FileRole, max: u64) -> Result<Self, BootError> {
        let path = path.to_owned();
        let open_error = |source| BootError::Open {
            role,
            path: path.clone(),
            source,
        };
        // Looked at before it is opened: opening a device can have effects.
        if !std::fs::metadata(&path).map_err(open_error)?.is_file() {
            return Err(BootError::NotRegular { role, path });
        }
        // And without blocking, should a FIFO have taken its place.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path)
            .map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        if !metadata.is_file() {
            return Err(BootError::NotRegular { role, path });
        }
        match metadata.len() {
            0 => Err(BootError::Empty { role, path }),
            size if size > max => Err(BootError::TooLarge {
                role,
                path,
                size,
                max,
            }),
            len => {
                let image = Self {
                    path,
                    role,
                    len,
                    head: Vec::new(),
                    source: Arc::new(Source::File(file)),
                };
                let head = image.read_vec(0, HEAD)?;
                Ok(Self { head, ..image })
            }
        }
    }

    /// The same image (path and role kept for messages) with other contents.
    pub(super) fn with_bytes(&self, bytes: Vec<u8>) -> Self {
        Self {
            path: self.path.clone(),
            role: self.role,
            len: bytes.len() as u64,
            head: Vec::new(),
            source: Arc::new(Source::Bytes(bytes)),
        }
    }

    /// The same image (path and role kept for messages) with the contents of
    /// another file, `len` bytes long.
    pub(super) fn with_file(&self, file: File, len: u64) -> Self {
        Self {
            path: self.path.clone(),
            role: self.role,
            len,
            head: Vec::new(),
            source: Arc::new(Source::File(file)),
        }
    }

    /// The path the user gave.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file is for.
    pub(super) fn role(&self) -> FileRole {
        self.role
    }

    /// The file, if the image is one.
    pub(super) fn file(&self) -> Option<&File> {
        match &*self.source {
            Source::File(file) => Some(file),
            Source::Bytes(_) => None,
        }
    }

    /// What it holds, for others to keep as well.
    pub(super) fn shared_source(&self) -> Arc<Source> {
        self.source.clone()
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buf` from `offset` on, as far as the image reaches, and returns
    /// how many bytes there were.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, BootError> {
        if let Some(known) = usize::try_from(offset)
            .ok()
            .and_then(|start| self.head.get(start..start.checked_add(buf.len())?))
        {
            buf.copy_from_slice(known);
            return Ok(buf.len());
        }
        self.source
            .read_at(offset, buf)
            .map_err(|source| self.read_error(source))
    }

    /// `len` bytes from `offset` on, or fewer at the image's end.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub(super) fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>, BootError> {
        let rest = self.len.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(rest).unwrap_or(usize::MAX).min(len)];
        let count = self.read_at(offset, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Whether the bytes of `needle` are somewhere in `range`.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub(super) fn contains(&self, range: Range<u64>, needle: &[u8]) -> Result<bool, BootError> {
        let finder = Finder::new(needle);
        let mut is_there = false;
        self.look_through(range, needle.len(), |part| {
            is_there = finder.find(part).is_some();
            is_there
        })?;
        Ok(is_there)
    }

    /// Those of `needles` that are nowhere in it.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub(super) fn missing<'a>(&self, needles: &[&'a str]) -> Result<Vec<&'a str>, BootError> {
        let longest = needles.iter().map(|needle| needle.len()).max();
        let mut wanted: Vec<_> = needles
            .iter()
            .map(|text| (*text, Finder::new(text)))
            .collect();
        self.look_through(0..self.len, longest.unwrap_or(0), |part| {
            wanted.retain(|(_, finder)| finder.find(part).is_none());
            wanted.is_empty()
        })?;
        Ok(wanted.into_iter().map(|(text, _)| text).collect())
    }

    /// Shows `range` to `look` in parts that have `overlap` bytes in common, until it
    /// has seen enough.
    fn look_through(
        &self,
        range: Range<u64>,
        overlap: usize,
        mut look: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), BootError> {
        const STEP: u64 = 1 << 18;
        // What lies across the end of a step is found at that step.
        let most = STEP.saturating_add(overlap as u64);
        let mut buf = vec![0; usize::try_from(most).unwrap_or_default()];
        let mut offset = range.start;
        while offset < range.end.min(self.len) {
            let rest = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
            let wanted = buf.len().min(rest);
            let chunk = buf.get_mut(..wanted).unwrap_or_default();
            let count = self.read_at(offset, chunk)?;
            if look(chunk.get(..count).unwrap_or_default()) {
                break;
            }
            offset = offset.saturating_add(STEP);
        }
        Ok(())
    }

    /// Places `len` bytes from `offset` on at guest-physical `addr`.
    ///
    /// # Errors
    /// [`BootError::Read`] if the image cannot be read or has become shorter,
    /// [`BootError::Memory`] if the range is not RAM.
    pub(super) fn place(
        &self,
        ram: &GuestRam,
        addr: u64,
        offset: u64,
        len: usize,
    ) -> Result<(), BootError> {
        ram.populate(addr, len);
        let placed = match &*self.source {
            Source::File(file) => ram.fill_from_file(addr, len, file, offset),
            Source::Bytes(bytes) => {
                let range = usize::try_from(offset)
                    .ok()
                    .and_then(|start| bytes.get(start..start.checked_add(len)?))
                    .ok_or_else(|| self.read_error(io::ErrorKind::UnexpectedEof.into()))?;
                ram.write(addr, range)
            }
        };
        placed.map_err(|error| match error {
            MemoryError::Fill { source, .. } => self.read_error(source),
            source => BootError::Memory {
                what: match self.role {
                    FileRole::Kernel => "kernel",
                    FileRole::Initrd => "initrd",
                },
                source,
            },
        })
    }

    fn read_error(&self, source: io::Error) -> BootError {
        BootError::Read {
            role: self.role,
            path: self.path.clone(),
            source,
        }
    }
}

/// Reads until `buf` is full or the file ends.
pub(super) fn read_full_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done = done.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Image, BootError> {
        Image::open(path, FileRole::Kernel, 100)
    }

    #[test]
    fn text_is_found_wherever_it_lies() {
        const STEP: usize = 1 << 18;
        for at in [0, 1, STEP - 3, STEP - 1, STEP, 2 * STEP, 2 * STEP + 92] {
            let mut bytes = vec![b'n'; 2 * STEP + 100];
            bytes[at..at + 8].copy_from_slice(b"needless");
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("file");
            std::fs::write(&file, &bytes).unwrap();
            let image = Image::open(&file, FileRole::Kernel, 1 << 30).unwrap();
            let end = bytes.len() as u64;
            let at = at as u64;
            for image in [&image, &image.with_bytes(bytes)] {
                assert!(image.contains(0..end, b"needless").unwrap(), "{at}");
                assert!(image.contains(at..at + 8, b"needless").unwrap(), "{at}");
                assert!(!image.contains(at + 1..end, b"needless").unwrap());
                assert!(!image.contains(0..at + 7, b"needless").unwrap());
                assert!(!image.contains(end..u64::MAX, b"n").unwrap());
                let missing = image.missing(&["haystack", "needless", "n", "ness"]);
                assert_eq!(missing.unwrap(), ["haystack", "ness"]);
            }
        }
    }

    #[test]
    fn only_regular_files_of_a_sane_size_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let missing = open(&file).unwrap_err();
        assert!(missing.to_string().starts_with("cannot open kernel '"));
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(open(&file), Err(BootError::Empty { .. })));
        std::fs::write(&file, [0; 101]).unwrap();
        assert!(matches!(open(&file), Err(BootError::TooLarge { .. })));
        assert!(matches!(
            open(dir.path()),
            Err(BootError::NotRegular { .. })
        ));
        assert!(matches!(
            open(Path::new("/dev/zero")),
            Err(BootError::NotRegular { .. })
        ));
    }

    #[test]
    fn a_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(matches!(open(&fifo), Err(BootError::NotRegular { .. })));
    }

    #[test]
    fn file_and_bytes_read_and_place_alike() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = open(&path).unwrap();
        let bytes = file.with_bytes(b"0123456789".to_vec());
        for image in [file, bytes] {
            assert_eq!(image.read_vec(7, 100).unwrap(), b"789");
            assert_eq!(image.read_vec(50, 100).unwrap(), b"");
            let ram = GuestRam::new(1 << 20).unwrap();
            image.place(&ram, 0x500, 2, 5).unwrap();
            let mut back = [0; 6];
            ram.read(0x500, &mut back).unwrap();
            assert_eq!(&back, b"23456\0");
            assert!(matches!(
                image.place(&ram, 0x500, 8, 5),
                Err(BootError::Read { .. })
            ));
            assert!(matches!(
                image.place(&ram, (1 << 20) - 2, 0, 5),
                Err(BootError::Memory { .. })
            ));
        }
    }
}
