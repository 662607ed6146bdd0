//! Disks as the block device sees them: bytes at offsets, whatever file holds them.
//!
//! A disk knows no queue and no request. Its calls block and may come from several
//! threads at once; where the bytes of a request lie in one host file without a gap,
//! [`Disk::locate`] says so, and the device's thread has io_uring do the transfer.

pub mod error;
pub mod host_file;
mod image_file;
pub mod lock;
pub mod open;
mod overlay;
mod qcow2;
pub mod raw;
mod sector_map;
mod stat;
#[cfg(test)]
mod testing;
mod transfer;

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::IoBuffers;

/// What a transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// From the disk into guest memory.
    Read,
    /// From guest memory to the disk.
    Write,
}

/// Where a range of a disk lies in a host file.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// Offset of the range's first byte in it, in bytes.
    pub offset: u64,
    /// What offset, length and the buffers' addresses must be multiples of (O_DIRECT);
    /// a transfer that is not goes through [`Disk::read_at`] or [`Disk::write_at`].
    pub align: u32,
    /// Whether the file lies in memory (memfd, tmpfs), so that a transfer waits for no
    /// device: the queue's thread makes it itself, which costs less than handing it on.
    pub in_memory: bool,
}

/// What a disk can do, for the configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// Whether it may not be written.
    pub read_only: bool,
    /// Block size of the medium in bytes, a power of two of at least 512: what is
    /// written in whole such blocks needs no reading first.
    pub physical_block: u32,
    /// Whether discarded ranges are given back to the host.
    pub discard: bool,
}

/// A disk of fixed size.
///
/// Errors are the host's; the device answers them with VIRTIO_BLK_S_IOERR.
pub trait Disk: Send + Sync {
    /// Capacity in bytes, a multiple of 512.
    fn len(&self) -> u64;

    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it can do.
    fn limits(&self) -> DiskLimits;

    /// Fills `buffers` from `offset` on. Leaves the list as it is and marks nothing
    /// dirty: that is the caller's.
    ///
    /// # Errors
    /// What the host says; `UnexpectedEof` if the file has been truncated.
    fn read_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()>;

    /// Writes `buffers` from `offset` on. Leaves the list as it is.
    ///
    /// # Errors
    /// What the host says.
    fn write_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()>;

    /// Where `offset..offset + len` lies, if in one file, in one piece, and the
    /// transfer may go there directly.
    fn locate(&self, access: Access, offset: u64, len: u64) -> Option<Location<'_>>;

    /// A write that went directly to where [`locate`](Self::locate) said has
    /// succeeded; called before the guest is told.
    fn written(&self, offset: u64, len: u64);

    /// Puts everything written so far on stable storage, unless the user chose
    /// `cache=unsafe`.
    ///
    /// # Errors
    /// What the host says.
    fn flush(&self) -> io::Result<()>;

    /// The range's content is no longer needed.
    ///
    /// # Errors
    /// What the host says; a disk that cannot discard does nothing.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The range reads as zeros from now on; with `unmap` its space may be given back.
    ///
    /// # Errors
    /// What the host says.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}
