//! A file or block device of the host that holds a disk or a part of one: opened,
//! locked, and read and written past or through the host's page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FallocateFlags;

use super::error::DiskError;
use super::lock::{self, Lock, Refusal};
use super::open::Cache;
use super::stat;
use super::transfer::{Pieces, transfer};
use super::{Access, Location};

/// Zeros for file systems that cannot make a range zero otherwise.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A second descriptor of the file, which passes the page cache (O_DIRECT).
#[derive(Debug)]
struct Direct {
    file: File,
    /// What offsets, lengths and addresses must be multiples of.
    align: u32,
}

/// An open and locked file or block device.
#[derive(Debug)]
pub struct HostFile {
    path: PathBuf,
    file: File,
    direct: Option<Direct>,
    writable: bool,
    cache: Cache,
    len: u64,
    physical_block: u32,
    in_memory: bool,
    /// Errno of an fdatasync that failed. The kernel has dropped what it could not
    /// write and would call the next one a success, so nothing is believed after it.
    lost: Mutex<Option<i32>>,
    /// Whether holes cannot be punched here.
    no_holes: AtomicBool,
}

impl HostFile {
    /// Opens `path` and locks it: alone if it is to be written, with other readers
    /// if not. A block device to be written must not be in use by the host either.
    ///
    /// # Errors
    /// The [`DiskError`] that tells why not.
    pub fn open(path: &Path, writable: bool, cache: Cache) -> Result<Self, DiskError> {
        let cannot_open = |source| DiskError::Open {
            path: path.to_owned(),
            source,
        };
        let found = std::fs::metadata(path).map_err(cannot_open)?;
        let is_device = found.file_type().is_block_device();
        if !is_device && !found.is_file() {
            return Err(DiskError::NotADisk {
                path: path.to_owned(),
            });
        }
        let file = open_path(path, writable, is_device)?;
        Self::take(path, file, writable, cache)
    }

    /// Locks `file`, which was opened from `path`.
    ///
    /// # Errors
    /// The [`DiskError`] that tells why not.
    pub fn take(path: &Path, file: File, writable: bool, cache: Cache) -> Result<Self, DiskError> {
        lock_file(path, &file, writable)?;
        let cannot_read = |source| DiskError::Read {
            path: path.to_owned(),
            source,
        };
        let direct = match cache {
            Cache::None => Some(open_direct(path, &file, writable)?),
            Cache::Writeback | Cache::Unsafe => None,
        };
        let len = (&file).seek(SeekFrom::End(0)).map_err(cannot_read)?;
        let physical_block = stat::physical_block(&file).map_err(cannot_read)?;
        let in_memory = stat::is_in_memory(&file).map_err(cannot_read)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            direct,
            writable,
            cache,
            len,
            physical_block,
            in_memory,
            lost: Mutex::new(None),
            no_holes: AtomicBool::new(false),
        })
    }

    /// What it was opened as.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it had no bytes then.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it may be written.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Block size of the medium in bytes; see [`DiskLimits`](super::DiskLimits).
    pub fn physical_block(&self) -> u32 {
        self.physical_block
    }

    /// The descriptor through the page cache, which holds the lock.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where a transfer at `offset` of the file goes best.
    pub fn location(&self, offset: u64) -> Location<'_> {
        let (file, align) = match &self.direct {
            Some(direct) => (&direct.file, direct.align),
            None => (&self.file, 1),
        };
        Location {
            file: file.as_fd(),
            offset,
            align,
            in_memory: self.in_memory,
        }
    }

    /// Transfers bytes `part` of the list; gives how many, less at the file's end.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn transfer(
        &self,
        access: Access,
        pieces: Pieces<'_>,
        part: Range<usize>,
        offset: u64,
    ) -> io::Result<usize> {
        let mut done = 0;
        if let Some(direct) = &self.direct {
            done = direct.transfer(access, pieces, part.clone(), offset)?;
        }
        let rest = part.start.saturating_add(done)..part.end;
        let offset = offset
            .checked_add(done as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let more = transfer(&self.file, access, pieces, rest, offset, false)?;
        Ok(done.saturating_add(more))
    }

    /// Puts everything written so far on stable storage, unless `cache=unsafe`.
    ///
    /// # Errors
    /// What the system says, and from then on always the same.
    pub fn flush(&self) -> io::Result<()> {
        if self.cache == Cache::Unsafe || !self.writable {
            return Ok(());
        }
        // Held during the call: the kernel tells an error once to a descriptor, and
        // a second caller must not take the silence after it for success.
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(errno) = *lost {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let result = retry(|| self.file.sync_data());
        if let Err(error) = &result {
            *lost = Some(error.raw_os_error().unwrap_or(libc::EIO));
        }
        result
    }

    /// Gives the range back to the host, if that can be done; what is read there
    /// later is then zeros.
    ///
    /// # Errors
    /// What the system says.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.try_punch(offset, len) {
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    /// Makes the range zeros, without space for them if `unmap`.
    ///
    /// # Errors
    /// What the system says.
    pub fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if unmap {
            match self.try_punch(offset, len) {
                Err(error) if is_unsupported(&error) => {}
                result => return result,
            }
        }
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        match self.fallocate(flags, offset, len) {
            Err(error) if is_unsupported(&error) => self.write_zeros(offset, len),
            result => result,
        }
    }

    fn try_punch(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.no_holes.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let result = self.fallocate(flags, offset, len);
        if let Err(error) = &result
            && error.raw_os_error() == Some(libc::EOPNOTSUPP)
        {
            self.no_holes.store(true, Ordering::Relaxed);
        }
        result
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        retry(|| Ok(rustix::fs::fallocate(&self.file, flags, offset, len)?))
    }

    pub(super) fn write_zeros(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let part = len.min(ZEROS.len() as u64);
            let zeros = ZEROS.get(..usize::try_from(part).unwrap_or(ZEROS.len()));
            self.file.write_all_at(zeros.unwrap_or(&ZEROS), offset)?;
            offset = offset.saturating_add(part);
            len = len.saturating_sub(part);
        }
        Ok(())
    }
}

impl Direct {
    /// Transfers what is aligned as O_DIRECT wants it, as far as the kernel goes at
    /// once. What is left goes through the page cache, with which the kernel keeps
    /// this descriptor coherent.
    fn transfer(
        &self,
        access: Access,
        pieces: Pieces<'_>,
        part: Range<usize>,
        offset: u64,
    ) -> io::Result<usize> {
        let aligned = part.start == 0
            && offset.is_multiple_of(u64::from(self.align))
            && pieces.are_aligned_to(self.align as usize, part.len());
        if !aligned {
            return Ok(0);
        }
        match transfer(&self.file, access, pieces, part, offset, true) {
            // Some file systems find fault with what is aligned.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(0),
            result => result,
        }
    }
}

/// Whether the file system cannot do that at all, or not to this range.
fn is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    error.kind() == io::ErrorKind::Unsupported
        || matches!(
            errno,
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL)
        )
}

fn retry(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn open_path(path: &Path, writable: bool, is_device: bool) -> Result<File, DiskError> {
    // O_EXCL without O_CREAT: not while the host has the device mounted.
    let exclusive = writable && is_device;
    OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(if exclusive { libc::O_EXCL } else { 0 })
        .open(path)
        .map_err(|source| {
            if source.raw_os_error() == Some(libc::EBUSY) && exclusive {
                return device_in_use(path);
            }
            let path = path.to_owned();
            match source.raw_os_error() {
                Some(libc::EROFS | libc::EACCES | libc::EPERM | libc::ETXTBSY)
                    if writable && File::open(&path).is_ok() =>
                {
                    DiskError::NotWritable { path, source }
                }
                _ => DiskError::Open { path, source },
            }
        })
}

/// Who uses the device: one that locks it, such as another Mayfly, or the host.
fn device_in_use(path: &Path) -> DiskError {
    let locked = OpenOptions::new().read(true).write(true).open(path);
    match locked.map(|file| lock_file(path, &file, true)) {
        Ok(Err(error @ DiskError::Locked { .. })) => error,
        _ => DiskError::DeviceInUse {
            path: path.to_owned(),
        },
    }
}

fn lock_file(path: &Path, file: &File, writable: bool) -> Result<(), DiskError> {
    let kind = if writable {
        Lock::Exclusive
    } else {
        Lock::Shared
    };
    lock::acquire(file, kind).map_err(|refusal| match refusal {
        Refusal::Held(holder) => DiskError::Locked {
            path: path.to_owned(),
            holder,
            exclusive: writable,
        },
        Refusal::System(source) => DiskError::Lock {
            path: path.to_owned(),
            source,
        },
    })
}

fn open_direct(path: &Path, file: &File, writable: bool) -> Result<Direct, DiskError> {
    let no_direct = || DiskError::NoDirect {
        path: path.to_owned(),
    };
    let direct = OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => no_direct(),
            _ => DiskError::Open {
                path: path.to_owned(),
                source,
            },
        })?;
    let cannot_read = |source| DiskError::Read {
        path: path.to_owned(),
        source,
    };
    let first = file.metadata().map_err(cannot_read)?;
    let second = direct.metadata().map_err(cannot_read)?;
    if (first.dev(), first.ino()) != (second.dev(), second.ino()) {
        return Err(DiskError::Replaced {
            path: path.to_owned(),
        });
    }
    let align = stat::direct_align(&direct).map_err(cannot_read)?;
    let align = align.ok_or_else(no_direct)?;
    Ok(Direct {
        file: direct,
        align,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::block::disk::testing::file_with;

    #[test]
    fn after_a_flush_that_failed_none_is_a_success() {
        let (_dir, path) = file_with("x.img", &[0; 512]);
        // A device without fdatasync: the error is the kernel's own.
        let broken = OpenOptions::new().read(true).write(true).open("/dev/full");
        let mut file = HostFile::take(&path, broken.unwrap(), true, Cache::Writeback).unwrap();
        let first = file.flush().unwrap_err();
        let good = OpenOptions::new().read(true).write(true).open(&path);
        file.file = good.unwrap();
        let second = file.flush().unwrap_err();
        assert_eq!(first.raw_os_error(), second.raw_os_error());
        let other = HostFile::open(&path, true, Cache::Writeback).unwrap();
        other.flush().unwrap();
    }

    #[test]
    fn a_file_that_can_only_be_read_has_its_line() {
        // The system lets nobody write a program that runs.
        let program = std::env::current_exe().unwrap();
        let error = HostFile::open(&program, true, Cache::Writeback).unwrap_err();
        let line = crate::one_line::one_line(&error);
        assert!(
            line.contains("for writing; add readonly, or ephemeral"),
            "{line}"
        );
        assert!(HostFile::open(&program, false, Cache::Writeback).is_ok());
    }

    #[test]
    fn a_file_in_memory_is_known() {
        let memory = rustix::fs::memfd_create(c"test", rustix::fs::MemfdFlags::CLOEXEC);
        assert!(stat::is_in_memory(&memory.unwrap().into()).unwrap());
        // Device nodes lie in memory, what is behind them does not.
        assert!(!stat::is_in_memory(&File::open("/dev/null").unwrap()).unwrap());
    }
}
