//! A disk whose bytes lie in a file or block device one after the other.

use std::io;
use std::ops::Range;

use super::host_file::HostFile;
use super::overlay::ReadPart;
use super::stat::SECTOR;
use super::transfer::Pieces;
use super::{Access, Disk, DiskLimits, Location};
use crate::memory::IoBuffers;

/// A raw disk. A file whose size is no multiple of 512 bytes is filled up with
/// zeros to the next, in the file itself once the guest writes there.
#[derive(Debug)]
pub struct RawDisk {
    file: HostFile,
    len: u64,
}

impl RawDisk {
    /// The disk in `file`.
    pub fn new(file: HostFile) -> Self {
        let len = file.len().checked_next_multiple_of(SECTOR);
        Self {
            // A file is at most i64::MAX bytes long.
            len: len.unwrap_or(u64::MAX - (SECTOR - 1)),
            file,
        }
    }

    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn check_write(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.file.is_writable() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.check(offset, len)
    }
}

impl ReadPart for RawDisk {
    fn read_part(&self, buffers: &IoBuffers, part: Range<usize>, offset: u64) -> io::Result<()> {
        let len = part.len();
        self.check(offset, len as u64)?;
        let pieces = Pieces::of(buffers);
        let done = self
            .file
            .transfer(Access::Read, pieces, part.clone(), offset)?;
        if done == len {
            return Ok(());
        }
        // All that may be missing is what fills up the last sector.
        if offset.saturating_add(done as u64) < self.file.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let zeros = [0; SECTOR as usize];
        let rest = zeros.get(..len.saturating_sub(done)).unwrap_or(&zeros);
        if !buffers.copy_in(part.start.saturating_add(done), rest) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl Disk for RawDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn limits(&self) -> DiskLimits {
        DiskLimits {
            read_only: !self.file.is_writable(),
            physical_block: self.file.physical_block(),
            discard: self.file.is_writable(),
        }
    }

    fn read_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()> {
        self.read_part(buffers, 0..buffers.len(), offset)
    }

    fn write_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()> {
        let len = buffers.len();
        self.check_write(offset, len as u64)?;
        let pieces = Pieces::of(buffers);
        self.file.transfer(Access::Write, pieces, 0..len, offset)?;
        Ok(())
    }

    fn locate(&self, access: Access, offset: u64, len: u64) -> Option<Location<'_>> {
        if access == Access::Write && !self.file.is_writable() {
            return None;
        }
        let end = offset.checked_add(len)?;
        if end > self.file.len() {
            return None;
        }
        Some(self.file.location(offset))
    }

    fn written(&self, _offset: u64, _len: u64) {}

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_write(offset, len)?;
        self.file.punch(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_write(offset, len)?;
        self.file.zero(offset, len, unmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::block::disk::open::{Cache, DiskOptions};
    use crate::devices::virtio::block::disk::testing::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_written_is_in_the_file_and_read_again() {
        for cache in [Cache::Writeback, Cache::None, Cache::Unsafe] {
            let (_dir, path) = file_with("x.img", &pattern(64 << 10, 0));
            let disk = open(&DiskOptions {
                cache,
                ..options(&path)
            });
            let disk = disk.expect("the directory for temporary files needs O_DIRECT");
            assert_eq!((disk.len(), disk.limits().read_only), (64 << 10, false));
            let mut expected = pattern(64 << 10, 0);
            // The first goes past the page cache with cache=none, the others cannot.
            for (offset, len) in [(8192, 12288), (512, 1536), (60 << 10, 4096)] {
                let data = pattern(len, offset as u8 | 1);
                write(&*disk, offset, &data).unwrap();
                let at = offset as usize;
                expected[at..at + len].copy_from_slice(&data);
                assert!(read(&*disk, 0, 64 << 10).unwrap() == expected);
            }
            assert!(read(&*disk, 1024, 512).unwrap() == expected[1024..1536]);
            disk.flush().unwrap();
            assert!(std::fs::read(&path).unwrap() == expected);
        }
    }

    #[test]
    fn transfers_may_go_to_the_file_itself() {
        let (_dir, path) = file_with("x.img", &[0; 8192]);
        let disk = open(&options(&path)).unwrap();
        let place = disk.locate(Access::Write, 512, 1024).unwrap();
        assert_eq!((place.offset, place.align), (512, 1));
        assert!(disk.locate(Access::Read, 7680, 1024).is_none());
        assert!(disk.locate(Access::Read, u64::MAX, 512).is_none());
        drop(disk);
        let disk = open(&DiskOptions {
            read_only: true,
            cache: Cache::None,
            ..options(&path)
        });
        let disk = disk.unwrap();
        assert!(disk.locate(Access::Write, 512, 1024).is_none());
        let place = disk.locate(Access::Read, 512, 1024).unwrap();
        assert!(place.align >= 512 && place.align.is_power_of_two());
        let link = format!("/proc/self/fdinfo/{}", place.file.as_raw_fd());
        let info = std::fs::read_to_string(link).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        assert_ne!(flags & libc::O_DIRECT, 0);
    }

    #[test]
    fn a_file_that_is_no_whole_number_of_sectors_is_filled_up() {
        let (_dir, path) = file_with("x.img", &pattern(1000, 3));
        let disk = open(&options(&path)).unwrap();
        assert_eq!(disk.len(), 1024);
        let mut expected = pattern(1000, 3);
        expected.resize(1024, 0);
        assert_eq!(read(&*disk, 0, 1024).unwrap(), expected);
        assert!(disk.locate(Access::Read, 512, 512).is_none());
        write(&*disk, 512, &pattern(512, 9)).unwrap();
        expected[512..].copy_from_slice(&pattern(512, 9));
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert_eq!(read(&*disk, 0, 1024).unwrap(), expected);
    }

    #[test]
    fn a_file_truncated_underneath_is_an_error_and_not_zeros() {
        let (_dir, path) = file_with("x.img", &pattern(8192, 0));
        let disk = open(&options(&path)).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path);
        file.unwrap().set_len(5000).unwrap();
        let error = read(&*disk, 4096, 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&*disk, 0, 4096).unwrap(), pattern(4096, 0));
    }

    #[test]
    fn what_is_outside_the_disk_or_not_to_be_written_is_refused() {
        let (_dir, path) = file_with("x.img", &[1; 4096]);
        let disk = open(&options(&path)).unwrap();
        for offset in [4096, 3585, u64::MAX - 100] {
            assert!(read(&*disk, offset, 512).is_err());
            assert!(write(&*disk, offset, &[0; 512]).is_err());
            assert!(disk.discard(offset, 512).is_err());
            assert!(disk.write_zeroes(offset, 512, true).is_err());
        }
        drop(disk);
        let disk = open(&DiskOptions {
            read_only: true,
            ..options(&path)
        });
        let disk = disk.unwrap();
        assert!(disk.limits().read_only && !disk.limits().discard);
        assert!(write(&*disk, 0, &[0; 512]).is_err());
        assert!(disk.discard(0, 512).is_err());
        assert!(disk.write_zeroes(0, 512, false).is_err());
        disk.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [1; 4096]);
    }

    #[test]
    fn zeros_take_space_unless_they_may_not() {
        for cache in [Cache::Writeback, Cache::None] {
            let (_dir, path) = file_with("x.img", &[7; 256 << 10]);
            let disk = open(&DiskOptions {
                cache,
                ..options(&path)
            });
            let disk = disk.unwrap();
            let blocks = || std::fs::metadata(&path).unwrap().blocks();
            disk.flush().unwrap();
            let before = blocks();
            disk.write_zeroes(64 << 10, 64 << 10, false).unwrap();
            disk.write_zeroes(512, 512, false).unwrap();
            disk.flush().unwrap();
            assert!(blocks() >= before, "{} {before}", blocks());
            disk.write_zeroes(128 << 10, 64 << 10, true).unwrap();
            disk.discard(192 << 10, 32 << 10).unwrap();
            disk.discard(0, 0).unwrap();
            disk.flush().unwrap();
            assert!(blocks() <= before - 192, "{} {before}", blocks());
            let mut expected = vec![7; 256 << 10];
            expected[512..1024].fill(0);
            expected[64 << 10..224 << 10].fill(0);
            assert!(read(&*disk, 0, 256 << 10).unwrap() == expected);
            assert!(std::fs::read(&path).unwrap() == expected);
        }
    }

    #[test]
    fn a_range_is_zeroed_where_the_file_system_cannot_help() {
        let (_dir, path) = file_with("x.img", &[7; 200 << 10]);
        let file = HostFile::open(&path, true, Cache::Writeback).unwrap();
        file.write_zeros(1000, 150 << 10).unwrap();
        let mut expected = vec![7; 200 << 10];
        expected[1000..1000 + (150 << 10)].fill(0);
        assert!(std::fs::read(&path).unwrap() == expected);
    }
}
