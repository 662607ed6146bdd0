//! The file behind shared guest RAM: a memfd whose size nobody can change any more.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::memory::error::MemoryError;
use crate::memory::options::HugePages;

/// A file of `size` bytes, whose pages are taken when they are touched.
pub(super) fn file(size: u64, pages: HugePages) -> Result<File, MemoryError> {
    let from_pool = match pages {
        HugePages::Host | HugePages::Transparent => MemfdFlags::empty(),
        HugePages::Pool2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        HugePages::Pool1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
    };
    make(size, from_pool).map_err(|source| MemoryError::Memfd { size, source })
}

fn make(size: u64, from_pool: MemfdFlags) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | from_pool;
    let create = |flags| rustix::fs::memfd_create("guest-ram", flags);
    // Linux before 6.3 does not know files that can never be executed.
    let file = match create(flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => create(flags),
        other => other,
    }?;
    rustix::fs::ftruncate(&file, size)?;
    // Whoever else maps it relies on its size: a file cut short is a SIGBUS.
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(File::from(file))
}

/// Gives back the pages of a range, which is zeros from then on for whoever maps it.
pub(super) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, offset, len).map_err(io::Error::from)
}
