//! Reading files that may have holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes at offsets, as an image's reader sees its file.
pub trait Source {
    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on, with zeros behind the end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The first part of `range` that may hold something else than zeros, as far as
    /// the file system knows without reading.
    ///
    /// # Errors
    /// What the system says.
    fn data_in(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>>;
}

impl Source for File {
    fn size(&self) -> io::Result<u64> {
        use std::io::{Seek, SeekFrom};
        let metadata = self.metadata()?;
        if metadata.is_file() {
            return Ok(metadata.len());
        }
        // A block device's inode has no length. Nobody else uses the position.
        (&*self).seek(SeekFrom::End(0))
    }

    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match FileExt::read_at(self, buffer, offset) {
                Ok(0) => {
                    buffer.fill(0);
                    return Ok(());
                }
                Ok(count) => {
                    buffer = buffer.get_mut(count..).unwrap_or_default();
                    offset = offset.saturating_add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn data_in(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        if range.is_empty() {
            return Ok(None);
        }
        let start = match seek(self, SeekFrom::Data(range.start)) {
            Ok(start) => start,
            // Only a hole until the end.
            Err(Errno::NXIO) => return Ok(None),
            // A file system or device that does not know.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(range)),
            Err(error) => return Err(error.into()),
        };
        if start >= range.end {
            return Ok(None);
        }
        let end = seek(self, SeekFrom::Hole(start))?;
        // A file that changes meanwhile must not make an endless loop.
        let end = end.clamp(start.saturating_add(1), range.end);
        Ok(Some(start..end))
    }
}

impl Source for &[u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        let (head, tail) = buffer.split_at_mut(count);
        head.copy_from_slice(rest.get(..count).unwrap_or_default());
        tail.fill(0);
        Ok(())
    }

    fn data_in(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let end = range.end.min(self.len() as u64);
        Ok((range.start < end).then_some(range.start..end))
    }
}

/// A big-endian number of `N` bytes at `offset` of `bytes`; 0 where there is none.
pub(super) fn be(bytes: &[u8], offset: usize, width: usize) -> u64 {
    let end = offset.saturating_add(width);
    let field = bytes.get(offset..end).unwrap_or_default();
    field
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_skipped_and_ends_are_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"data", 32 << 20).unwrap();
        let data = file.data_in(0..64 << 20).unwrap().unwrap();
        assert!(data.contains(&(32 << 20)) && data.end - data.start < 1 << 20);
        assert_eq!(file.data_in(33 << 20..64 << 20).unwrap(), None);
        assert_eq!(file.data_in(80 << 20..90 << 20).unwrap(), None);
        let mut buffer = [1; 8];
        Source::read_at(&file, &mut buffer, (64 << 20) - 4).unwrap();
        assert_eq!(buffer, [0; 8]);
        Source::read_at(&file, &mut buffer, (32 << 20) - 2).unwrap();
        assert_eq!(&buffer, b"\0\0data\0\0");
    }

    #[test]
    fn numbers_are_big_endian_and_never_beyond() {
        assert_eq!(be(&[1, 2, 3, 4], 1, 2), 0x203);
        assert_eq!(be(&[1, 2], 1, 4), 0);
        assert_eq!(be(&[1, 2], usize::MAX, 4), 0);
    }
}
