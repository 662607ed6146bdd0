//! What the tests of disks share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Disk;
use super::error::DiskError;
use super::open::{self, DiskOptions};
use crate::memory::{GuestRam, IoBuffers};

/// A file with `data` in a directory of its own, which goes with the first value.
pub(super) fn file_with(name: &str, data: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, data).unwrap();
    (dir, path)
}

/// The default disk in `path`.
pub(super) fn options(path: &Path) -> DiskOptions {
    DiskOptions {
        path: path.to_owned(),
        ..DiskOptions::default()
    }
}

/// Opens a disk that nobody is to have. A lock that was just given up lives on for as
/// long as a child of another test, between fork and exec, has a copy of the file.
pub(super) fn open(options: &DiskOptions) -> Result<Arc<dyn Disk>, DiskError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match open::open(options) {
            Err(DiskError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// Bytes that tell where they belong.
pub(super) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at / 512).wrapping_mul(31).wrapping_add(at) as u8 ^ seed;
    (0..len).map(byte).collect()
}

/// Buffers of `len` bytes in three pieces, at multiples of 4096 if `aligned`.
pub(super) fn buffers(len: usize, aligned: bool) -> IoBuffers {
    let mut buffers = IoBuffers::new(GuestRam::new(4 << 20).unwrap(), 3);
    let odd = if aligned { 0 } else { 77 };
    let first = if aligned {
        len / 3 / 4096 * 4096
    } else {
        len / 3
    };
    buffers.push(0x20_0000 + odd, first).unwrap();
    buffers.push(0x1000 + odd * 2, first).unwrap();
    buffers.push(0x10_0000 + odd, len - 2 * first).unwrap();
    buffers
}

/// Reads through the disk's own call.
pub(super) fn read(disk: &dyn Disk, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let aligned = len.is_multiple_of(4096);
    let mut list = buffers(len, aligned);
    disk.read_at(&mut list, offset)?;
    assert_eq!(
        list.len(),
        len,
        "the caller still needs the list for its marks"
    );
    let mut data = vec![0; len];
    assert!(list.copy_out(0, &mut data));
    Ok(data)
}

/// Writes through the disk's own call.
pub(super) fn write(disk: &dyn Disk, offset: u64, data: &[u8]) -> io::Result<()> {
    let mut list = buffers(data.len(), data.len().is_multiple_of(4096));
    assert!(list.copy_in(0, data));
    disk.write_at(&mut list, offset)
}
