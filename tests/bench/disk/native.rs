//! The ceiling: the same requests as the measuring guest's, made by a loop of a few
//! lines on this host, without any VM.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};
use vm_memory::MmapRegion;

use super::Workload;

/// Where the requests go: the guest's generator, or one after the other.
struct Places {
    workload: Workload,
    seed: u64,
    count: u64,
    next: u64,
}

impl Places {
    fn new(workload: Workload, size: u64) -> Self {
        Self {
            workload,
            seed: 88_172_645_463_325_252,
            count: size / workload.block,
            next: 0,
        }
    }

    /// The next request's offset in bytes.
    fn next(&mut self) -> u64 {
        if !self.workload.random {
            let place = self.next;
            self.next = (place + 1) % self.count;
            return place * self.workload.block;
        }
        // Marsaglia's xorshift, as in blk_load.inc.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (((self.seed & 0xffff_ffff) * self.count) >> 32) * self.workload.block
    }
}

/// Requests a second by `preadv2` or `pwritev2`, one at a time.
pub fn turn_to_boot(path: &Path, workload: Workload, direct: bool) -> io::Result<f64> {
    let file = open(path, direct)?;
    let mut places = Places::new(workload, file.metadata()?.len());
    let buffer = buffers(workload)?;
    let iovec = libc::iovec {
        iov_base: buffer.as_ptr().cast(),
        iov_len: usize::try_from(workload.block).unwrap_or(0),
    };
    let expected = isize::try_from(workload.block).unwrap_or(0);
    let start = Instant::now();
    for _ in 0..workload.count {
        let offset = libc::off_t::try_from(places.next()).map_err(io::Error::other)?;
        let fd = file.as_raw_fd();
        // SAFETY: the iovec names memory of `buffer`, which outlives the call.
        let done = unsafe {
            if workload.write {
                libc::pwritev2(fd, &iovec, 1, offset, 0)
            } else {
                libc::preadv2(fd, &iovec, 1, offset, 0)
            }
        };
        if done != expected {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(workload.count as f64 / start.elapsed().as_secs_f64())
}

/// Requests a second by io_uring, as many in flight as the workload has.
pub fn by_io_uring(path: &Path, workload: Workload, direct: bool) -> io::Result<f64> {
    let file = open(path, direct)?;
    let mut places = Places::new(workload, file.metadata()?.len());
    let buffer = buffers(workload)?;
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(64)?;
    let mut to_submit = workload.count;
    let mut to_complete = workload.count;
    let mut free: Vec<u64> = (0..workload.depth).collect();
    let start = Instant::now();
    while to_complete > 0 {
        while to_submit > 0
            && let Some(slot) = free.pop()
        {
            to_submit -= 1;
            let entry = request(&file, &buffer, workload, slot, places.next());
            // SAFETY: the slot's part of `buffer` outlives the loop, which waits
            // for all requests.
            unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        }
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            if u64::try_from(completion.result()) != Ok(workload.block) {
                return Err(io::Error::from_raw_os_error(-completion.result()));
            }
            free.push(completion.user_data());
            to_complete -= 1;
        }
    }
    Ok(workload.count as f64 / start.elapsed().as_secs_f64())
}

fn request(
    file: &File,
    buffer: &MmapRegion,
    workload: Workload,
    slot: u64,
    offset: u64,
) -> io_uring::squeue::Entry {
    let fd = types::Fd(file.as_raw_fd());
    let start = usize::try_from(slot * workload.block).unwrap_or(0);
    let at = buffer.as_ptr().wrapping_add(start);
    let len = u32::try_from(workload.block).unwrap_or(0);
    let entry = if workload.write {
        opcode::Write::new(fd, at, len).offset(offset).build()
    } else {
        opcode::Read::new(fd, at, len).offset(offset).build()
    };
    entry.user_data(slot)
}

fn open(path: &Path, direct: bool) -> io::Result<File> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

/// Room for all that is in flight, aligned to pages.
fn buffers(workload: Workload) -> io::Result<MmapRegion> {
    let size = usize::try_from(workload.block * workload.depth).map_err(io::Error::other)?;
    MmapRegion::new(size).map_err(io::Error::other)
}
