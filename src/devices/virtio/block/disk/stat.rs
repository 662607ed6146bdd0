//! What the kernel tells of a file or block device beyond its size.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Smallest sector of a virtio disk in bytes (virtio 1.2 §5.2.4).
pub(super) const SECTOR: u64 = 512;
/// What O_DIRECT has always been content with on file systems that do not say.
const USUAL_ALIGN: u32 = 4096;
/// Larger block sizes are not passed on: guests know none.
const MAX_BLOCK: u32 = 64 << 10;
/// File system type of ramfs (linux/magic.h).
const RAMFS_MAGIC: libc::c_long = 0x8584_58f6;
/// Get the logical block size of a block device: `_IO(0x12, 104)`, linux/fs.h.
const BLKSSZGET: libc::Ioctl = 0x1268;
/// Get its physical block size: `_IO(0x12, 123)`, linux/fs.h.
const BLKPBSZGET: libc::Ioctl = 0x127b;

/// What offsets, lengths and addresses must be multiples of for O_DIRECT on `file`;
/// None if it cannot be had.
///
/// # Errors
/// What the system says.
pub(super) fn direct_align(file: &File) -> io::Result<Option<u32>> {
    let stat = statx(file)?;
    if stat.stx_mask & libc::STATX_DIOALIGN != 0 {
        let align = stat.stx_dio_mem_align.max(stat.stx_dio_offset_align);
        let none = stat.stx_dio_mem_align == 0 || stat.stx_dio_offset_align == 0;
        return Ok((!none && align.is_power_of_two()).then_some(align.max(512)));
    }
    if file.metadata()?.file_type().is_block_device() {
        return Ok(Some(block_size(file, BLKSSZGET)?));
    }
    Ok(Some(USUAL_ALIGN))
}

/// Whether what is in `file` is in the host's memory and nowhere else.
///
/// # Errors
/// What the system says.
pub(super) fn is_in_memory(file: &File) -> io::Result<bool> {
    // A device's node may be on a tmpfs.
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let kind = rustix::fs::fstatfs(file)?.f_type;
    Ok(kind == libc::TMPFS_MAGIC || kind == RAMFS_MAGIC)
}

/// Bytes in which the medium is written, a power of two from 512 to 65536.
///
/// # Errors
/// What the system says.
pub(super) fn physical_block(file: &File) -> io::Result<u32> {
    let stat = file.metadata()?;
    let size = if stat.file_type().is_block_device() {
        block_size(file, BLKPBSZGET)?
    } else {
        u32::try_from(stat.blksize()).unwrap_or(MAX_BLOCK)
    };
    if !size.is_power_of_two() {
        return Ok(USUAL_ALIGN);
    }
    Ok(size.clamp(512, MAX_BLOCK))
}

fn block_size(file: &File, request: libc::Ioctl) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: both requests write one int, to `size`, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut size) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn statx(file: &File) -> io::Result<libc::statx> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, and the structure is large enough for
    // what the kernel writes, since it is the kernel's own.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_BASIC_STATS | libc::STATX_DIOALIGN,
            stat.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every bit pattern is a valid statx structure, and it was zeroed.
    Ok(unsafe { stat.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_has_a_block_size_guests_know() {
        let size = physical_block(&tempfile::tempfile().unwrap()).unwrap();
        assert!(size.is_power_of_two() && (512..=65536).contains(&size));
    }

    #[test]
    fn alignment_for_direct_transfers_is_a_power_of_two() {
        let align = direct_align(&tempfile::tempfile().unwrap()).unwrap();
        assert!(align.is_none_or(|align| align.is_power_of_two() && align >= 512));
        // A pipe has no block size, and says so.
        assert!(block_size(&File::open("/dev/null").unwrap(), BLKSSZGET).is_err());
    }
}
