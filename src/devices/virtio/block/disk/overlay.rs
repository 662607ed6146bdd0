//! A disk that the guest may write and that nobody else sees changed: what it writes
//! goes to a file without a name, which the host takes back when the VM ends.
//!
//! The file is as long as the disk and sparse; a sector lies there at the same offset
//! as on the disk. A bitmap tells which do ([`SectorMap`] tells its size). Without a
//! scratch directory the file is in memory, and may come to take as much as the disk
//! is long; in a directory, a full file system is an I/O error for the guest.
//!
//! The scratch file always goes through the page cache: `cache=none` is for the disk
//! beneath, whose blocks may be those of O_DIRECT.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::MemfdFlags;

use super::error::DiskError;
use super::host_file::HostFile;
use super::open::Cache;
use super::sector_map::SectorMap;
use super::transfer::Pieces;
use super::{Access, Disk, DiskLimits, Location};
use crate::memory::IoBuffers;

/// A disk of which a part can be read into a part of a list.
pub(super) trait ReadPart: Disk {
    /// Fills bytes `part` of `buffers` from `offset` of the disk on.
    ///
    /// # Errors
    /// As [`Disk::read_at`].
    fn read_part(&self, buffers: &IoBuffers, part: Range<usize>, offset: u64) -> io::Result<()>;
}

/// A disk that is only read, with what the guest has written over it.
pub(super) struct Overlay<B> {
    base: B,
    scratch: HostFile,
    map: SectorMap,
}

impl<B: ReadPart> Overlay<B> {
    /// Nothing written over `base`, yet. `path` is for errors.
    ///
    /// # Errors
    /// [`DiskError::Scratch`] if there can be no scratch file for it.
    pub(super) fn new(base: B, path: &Path, dir: Option<&Path>) -> Result<Self, DiskError> {
        let no_scratch = |source| DiskError::Scratch {
            path: path.to_owned(),
            source,
        };
        let map = SectorMap::new(base.len()).map_err(no_scratch)?;
        let file = match dir {
            Some(dir) => unnamed_file(dir),
            None => memory_file(),
        };
        let file = file.map_err(no_scratch)?;
        file.set_len(base.len()).map_err(no_scratch)?;
        // Nothing of it is wanted on stable storage.
        let scratch = HostFile::take(path, file, true, Cache::Unsafe)?;
        Ok(Self { base, scratch, map })
    }

    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.base.len() => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl<B: ReadPart> Disk for Overlay<B> {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn limits(&self) -> DiskLimits {
        DiskLimits {
            read_only: false,
            discard: true,
            ..self.base.limits()
        }
    }

    fn read_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()> {
        let len = buffers.len();
        self.check(offset, len as u64)?;
        let mut done: usize = 0;
        while done < len {
            let at = offset.saturating_add(done as u64);
            let rest = len.saturating_sub(done);
            let (is_scratch, run) = self.map.run(at, rest as u64);
            // No request is a part of a sector; if one is, its rest goes with it.
            let run = usize::try_from(run)
                .unwrap_or(rest)
                .clamp(rest.min(512), rest);
            let part = done..done.saturating_add(run);
            if is_scratch {
                let pieces = Pieces::of(buffers);
                if self.scratch.transfer(Access::Read, pieces, part, at)? < run {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            } else {
                self.base.read_part(buffers, part, at)?;
            }
            done = done.saturating_add(run);
        }
        Ok(())
    }

    fn write_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()> {
        let len = buffers.len();
        self.check(offset, len as u64)?;
        let pieces = Pieces::of(buffers);
        self.scratch
            .transfer(Access::Write, pieces, 0..len, offset)?;
        self.map.set(offset, len as u64);
        Ok(())
    }

    fn locate(&self, access: Access, offset: u64, len: u64) -> Option<Location<'_>> {
        self.check(offset, len).ok()?;
        let is_scratch = match access {
            Access::Write => true,
            Access::Read => {
                let (is_scratch, run) = self.map.run(offset, len);
                if run < len {
                    return None;
                }
                is_scratch
            }
        };
        if !is_scratch {
            return self.base.locate(access, offset, len);
        }
        Some(self.scratch.location(offset))
    }

    fn written(&self, offset: u64, len: u64) {
        self.map.set(offset, len);
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len)?;
        // What was never written stays as it is; what was, reads as zeros.
        self.scratch.punch(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        self.check(offset, len)?;
        // Space for what is thrown away need not be kept.
        self.scratch.zero(offset, len, true)?;
        self.map.set(offset, len);
        Ok(())
    }
}

fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL;
    let file = rustix::fs::memfd_create(c"mayfly-scratch", flags)
        // Linux before 6.3 does not know the second flag.
        .or_else(|_| rustix::fs::memfd_create(c"mayfly-scratch", MemfdFlags::CLOEXEC))?;
    Ok(file.into())
}

/// A file in `dir` that has no name, or loses it at once where the file system
/// always wants one.
fn unnamed_file(dir: &Path) -> io::Result<File> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let unnamed = options
        .clone()
        .custom_flags(libc::O_TMPFILE | libc::O_EXCL)
        .open(dir);
    match unnamed {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!(".mayfly-scratch-{}-{number}", std::process::id());
            let path = dir.join(name);
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::block::disk::open::{self, DiskOptions};
    use crate::devices::virtio::block::disk::testing::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::sync::Arc;

    fn ephemeral(path: &Path, scratch_dir: Option<PathBuf>) -> Arc<dyn Disk> {
        open(&DiskOptions {
            ephemeral: true,
            scratch_dir,
            ..options(path)
        })
        .unwrap()
    }

    #[test]
    fn what_the_guest_writes_is_read_again_and_the_file_never_changes() {
        let (dir, path) = file_with("x.img", &pattern(64 << 10, 0));
        for scratch in [None, Some(dir.path().to_owned())] {
            let disk = ephemeral(&path, scratch);
            let mut expected = pattern(64 << 10, 0);
            for (offset, len) in [(512, 512), (4096, 8192), (1024, 2048), (63 << 10, 1024)] {
                let data = pattern(len, offset as u8 | 1);
                write(&*disk, offset, &data).unwrap();
                let at = offset as usize;
                expected[at..at + len].copy_from_slice(&data);
                assert!(read(&*disk, 0, 64 << 10).unwrap() == expected);
                assert!(read(&*disk, 512, 33 << 10).unwrap() == expected[512..(33 << 10) + 512]);
            }
            disk.flush().unwrap();
            assert!(!disk.limits().read_only);
            assert!(write(&*disk, 64 << 10, &[0; 512]).is_err());
            assert!(read(&*disk, u64::MAX - 511, 512).is_err());
        }
        assert!(std::fs::read(&path).unwrap() == pattern(64 << 10, 0));
        let names = std::fs::read_dir(dir.path()).unwrap();
        assert_eq!(names.count(), 1, "a scratch file has no name");
    }

    #[test]
    fn many_may_have_one_file_at_once() {
        let (_dir, path) = file_with("x.img", &[5; 4096]);
        let disks: Vec<_> = (0..10).map(|_| ephemeral(&path, None)).collect();
        for (number, disk) in disks.iter().enumerate() {
            write(&**disk, 512, &[number as u8; 512]).unwrap();
        }
        for (number, disk) in disks.iter().enumerate() {
            assert_eq!(read(&**disk, 512, 512).unwrap(), [number as u8; 512]);
        }
        assert!(open::open(&options(&path)).is_err());
    }

    #[test]
    fn transfers_go_to_the_file_that_has_the_whole_range() {
        let (_dir, path) = file_with("x.img", &pattern(8192, 0));
        let disk = ephemeral(&path, None);
        let file = |access, offset, len| {
            let place = disk.locate(access, offset, len);
            place.map(|place| (place.file.as_raw_fd(), place.offset))
        };
        let base = file(Access::Read, 0, 8192).unwrap();
        let scratch = file(Access::Write, 512, 512).unwrap();
        assert_ne!(base.0, scratch.0);
        assert_eq!((base.1, scratch.1), (0, 512));
        // As io_uring would: the data, then the word that it is there.
        let place = disk.locate(Access::Write, 512, 512).unwrap();
        let direct = File::from(place.file.try_clone_to_owned().unwrap());
        direct.write_all_at(&[9; 512], place.offset).unwrap();
        assert_eq!(read(&*disk, 512, 512).unwrap(), pattern(8192, 0)[512..1024]);
        disk.written(512, 512);
        assert_eq!(read(&*disk, 512, 512).unwrap(), [9; 512]);
        assert_eq!(file(Access::Read, 512, 512), Some(scratch));
        assert_eq!(file(Access::Read, 0, 1024), None);
        assert_eq!(file(Access::Read, 1024, 1024), Some((base.0, 1024)));
        assert_eq!(file(Access::Write, 8192, 512), None);
    }

    #[test]
    fn zeros_hide_the_file_and_discard_forgets_only_what_was_written() {
        let (_dir, path) = file_with("x.img", &[7; 16384]);
        let disk = ephemeral(&path, None);
        write(&*disk, 0, &[1; 8192]).unwrap();
        disk.write_zeroes(4096, 8192, false).unwrap();
        disk.discard(0, 512).unwrap();
        disk.discard(12288, 512).unwrap();
        let mut expected = vec![7; 16384];
        expected[..4096].fill(1);
        expected[..512].fill(0);
        expected[4096..12288].fill(0);
        assert!(read(&*disk, 0, 16384).unwrap() == expected);
        assert!(std::fs::read(&path).unwrap() == [7; 16384]);
    }

    #[test]
    fn a_full_scratch_directory_is_an_error_and_the_old_data_stays() {
        let (_dir, path) = file_with("x.img", &[7; 8192]);
        let file = HostFile::open(&path, false, Cache::Writeback).unwrap();
        let base = crate::devices::virtio::block::disk::raw::RawDisk::new(file);
        let mut full = OpenOptions::new();
        let full = full.read(true).write(true).open("/dev/full").unwrap();
        let overlay = Overlay {
            map: SectorMap::new(base.len()).unwrap(),
            base,
            scratch: HostFile::take(&path, full, true, Cache::Unsafe).unwrap(),
        };
        let error = write(&overlay, 0, &[1; 512]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(read(&overlay, 0, 512).unwrap(), [7; 512]);
    }

    #[test]
    fn a_directory_that_is_not_there_has_its_line() {
        let (dir, path) = file_with("x.img", &[7; 8192]);
        let error = open(&DiskOptions {
            ephemeral: true,
            scratch_dir: Some(dir.path().join("none")),
            ..options(&path)
        });
        let line = crate::one_line::one_line(&error.err().unwrap());
        assert!(
            line.contains("choose another --scratch-dir: No such file"),
            "{line}"
        );
    }
}
