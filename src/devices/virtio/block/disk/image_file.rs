//! A host file as the image library sees it: opened and locked by us, with the
//! transfers, errors and durability of [`HostFile`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;

use super::Access;
use super::host_file::HostFile;
use super::transfer::Pieces;

/// Zeroing up to so many bytes is done by writing them: they lie in clusters that
/// are being filled, and a file system call for holes costs more.
const FEW: u64 = 128 << 10;
/// Offset of the lowest byte of a qcow2 header's incompatible features.
const FEATURES: u64 = 79;
/// Incompatible feature: refcounts may be too low.
const DIRTY: u8 = 1;

/// The file of an image, or of a part of one; clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct ImageFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: HostFile,
    /// How far the file reaches at least: what ends before has been cut off by others.
    len: AtomicU64,
    /// Whether the library is to find the dirty bit clear, whatever the file says.
    hides_dirty: bool,
    helper: CommonStorageHelper,
}

impl ImageFile {
    pub(super) fn new(file: HostFile, hides_dirty: bool) -> Self {
        let len = AtomicU64::new(file.len());
        Self(Arc::new(Inner {
            file,
            len,
            hides_dirty,
            helper: CommonStorageHelper::default(),
        }))
    }

    /// The file itself.
    pub(super) fn file(&self) -> &HostFile {
        &self.0.file
    }

    /// Whether the file is known to reach up to `end`.
    pub(super) fn reaches(&self, end: u64) -> bool {
        end <= self.0.len.load(Ordering::Acquire)
    }

    /// Sets or clears the dirty bit, on stable storage.
    pub(super) fn set_dirty(&self, is_dirty: bool) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let file = self.0.file.file();
        let mut byte = [0];
        file.read_exact_at(&mut byte, FEATURES)?;
        let [old] = byte;
        let new = if is_dirty { old | DIRTY } else { old & !DIRTY };
        file.write_all_at(&[new], FEATURES)?;
        self.0.file.flush()
    }

    /// Fills `bytes` from `offset` on, with zeros behind the end of the file.
    fn read(&self, pieces: Pieces<'_>, len: usize, offset: u64) -> io::Result<usize> {
        let done = self.0.file.transfer(Access::Read, pieces, 0..len, offset)?;
        let end = offset.saturating_add(done as u64);
        if done < len && end < self.0.len.load(Ordering::Acquire) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(done)
    }
}

impl fmt::Display for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.file.path().display())
    }
}

impl Storage for ImageFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len.load(Ordering::Acquire))
    }

    fn get_filename(&self) -> Option<PathBuf> {
        Some(self.0.file.path().to_owned())
    }

    fn resolve_relative_path<P: AsRef<Path>>(&self, relative: P) -> io::Result<PathBuf> {
        let dir = self.0.file.path().parent().unwrap_or(Path::new(""));
        Ok(dir.join(relative))
    }

    unsafe fn pure_readv(&self, mut bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let len = usize::try_from(bufv.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = offset.saturating_add(bufv.len());
        if self.0.hides_dirty && (offset..end).contains(&FEATURES) {
            let mut bytes = vec![0; len];
            let iovec = [libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: len,
            }];
            // SAFETY: the only piece is `bytes`, which nobody else uses meanwhile.
            let pieces = unsafe { Pieces::new(&iovec) };
            self.read(pieces, len, offset)?;
            let at = usize::try_from(FEATURES.saturating_sub(offset)).unwrap_or(len);
            if let Some(byte) = bytes.get_mut(at) {
                *byte &= !DIRTY;
            }
            bufv.copy_from_slice(&bytes);
            return Ok(());
        }
        // SAFETY: `bufv` stays borrowed, unused by others, while the pieces are used.
        let pieces = unsafe { Pieces::new(bufv.as_iovec()) };
        let done = self.read(pieces, len, offset)?;
        if done < len {
            bufv.split_tail_at(done as u64).fill(0);
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let len = usize::try_from(bufv.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: `bufv` stays borrowed while the pieces are used, for reading only.
        let pieces = unsafe { Pieces::new(bufv.as_iovec()) };
        self.0
            .file
            .transfer(Access::Write, pieces, 0..len, offset)?;
        let end = offset.saturating_add(len as u64);
        self.0.len.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let len = self.0.len.load(Ordering::Acquire);
        // Behind the end there are zeros, and what is written next makes it longer.
        let inside = length.min(len.saturating_sub(offset));
        match inside {
            0 => Ok(()),
            1..=FEW => self.0.file.write_zeros(offset, inside),
            _ => self.0.file.zero(offset, inside, false),
        }
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.file.punch(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.file.flush()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.0.helper
    }
}
