//! All pages of a range at once, by as many threads as there are processors.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::io::Errno;
use rustix::mm::Advice;

use crate::memory::mapping::Mapping;

const PAGE: usize = 4096;
/// What a thread takes at a time; a multiple of a 2 MiB page.
const PART: usize = 64 << 20;
/// More threads only wait for each other.
const THREADS_MAX: usize = 16;

/// Takes every page of `mapping` from the host. Nothing else may use it yet.
pub(super) fn populate(mapping: &Mapping, pool_page: Option<u64>) -> io::Result<()> {
    by_parts(mapping.len(), pool_page, |at, len| {
        let place = mapping.addr().wrapping_add(at);
        loop {
            // SAFETY: the part lies in the mapping; the advice changes nothing that it holds.
            let answer =
                unsafe { rustix::mm::madvise(place.cast(), len, Advice::LinuxPopulateWrite) };
            match answer {
                Ok(()) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // Linux before 5.14.
                Err(Errno::INVAL) => {
                    touch(place, len);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    })
}

/// Writes to each page what it holds.
fn touch(place: *mut u8, len: usize) {
    for at in (0..len).step_by(PAGE) {
        let byte = place.wrapping_add(at);
        // SAFETY: the byte lies in a mapping that its maker alone uses yet.
        unsafe { byte.write_volatile(byte.read_volatile()) };
    }
}

/// Writes zeros over all of `mapping`, whose pages stay. The guest stands still.
pub(super) fn zero(mapping: &Mapping, pool_page: Option<u64>) {
    let cleared = by_parts(mapping.len(), pool_page, |at, len| {
        // SAFETY: the part lies in the mapping, to which there are no references.
        unsafe { mapping.addr().wrapping_add(at).write_bytes(0, len) };
        Ok(())
    });
    debug_assert!(cleared.is_ok(), "writing cannot fail");
}

/// Writes zeros over the pages of a pool that this process has touched.
pub(super) fn zero_resident(mapping: &Mapping, page: u64) -> io::Result<()> {
    by_parts(mapping.len(), Some(page), |at, len| {
        let page = usize::try_from(page).unwrap_or(len).max(PAGE);
        for at in (at..at.saturating_add(len)).step_by(page) {
            let place = mapping.addr().wrapping_add(at);
            if is_resident(place)? {
                // SAFETY: a mapping of a pool's pages consists of whole ones, so this one
                // lies in it; there are no references to it.
                unsafe { place.write_bytes(0, page) };
            }
        }
        Ok(())
    })
}

/// Whether the page at `place` is there.
fn is_resident(place: *mut u8) -> io::Result<bool> {
    let mut state = 0_u8;
    // SAFETY: the call only looks at page tables, and its answer for a page is a byte.
    match unsafe { libc::mincore(place.cast(), PAGE, &raw mut state) } {
        0 => Ok(state & 1 == 1),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has `work` done for every part (offset and length) of `len` bytes. Parts consist of
/// whole pages.
///
/// # Errors
/// The first one of `work`, after which no new part is begun.
#[cold]
fn by_parts(
    len: usize,
    pool_page: Option<u64>,
    work: impl Fn(usize, usize) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let page = pool_page.and_then(|page| usize::try_from(page).ok());
    let part = page.unwrap_or(PAGE).max(PART);
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = processors.min(THREADS_MAX).min(len.div_ceil(part));
    let next = AtomicUsize::new(0);
    let worker = || -> io::Result<()> {
        loop {
            let at = next.fetch_add(part, Ordering::Relaxed);
            if at >= len {
                return Ok(());
            }
            if let Err(error) = work(at, part.min(len.saturating_sub(at))) {
                next.store(len, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            // What no thread can be had for, the others do.
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, worker).ok())
            .collect();
        let mine = worker();
        helpers
            .into_iter()
            .map(|helper| {
                helper
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread ended")))
            })
            .fold(mine, Result::and)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::MapFlags;
    use std::sync::Mutex;

    #[test]
    fn parts_cover_everything_once() {
        for (len, page) in [
            (PAGE, None),
            (PART, None),
            (5 * PART + PAGE, None),
            (3 << 30, Some(1 << 30)),
        ] {
            let parts = Mutex::new(Vec::new());
            by_parts(len, page, |at, len| {
                parts.lock().unwrap().push((at, len));
                Ok(())
            })
            .unwrap();
            let mut parts = parts.into_inner().unwrap();
            parts.sort_unstable();
            let end = parts.iter().fold(0, |end, &(at, len)| {
                assert_eq!(at, end);
                assert!(page.is_none_or(|page| (len as u64).is_multiple_of(page)));
                at + len
            });
            assert_eq!(end, len);
        }
    }

    #[test]
    fn an_error_ends_the_work() {
        let begun = AtomicUsize::new(0);
        let failed = by_parts(1000 * PART, None, |_, _| {
            begun.fetch_add(1, Ordering::Relaxed);
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert!(begun.into_inner() <= THREADS_MAX);
    }

    #[test]
    fn touched_pages_are_there_and_keep_what_they_hold() {
        let mapping = Mapping::aligned(1 << 20, PAGE, None, MapFlags::NORESERVE).unwrap();
        let last = mapping.addr().wrapping_add((1 << 20) - PAGE);
        assert!(!is_resident(last).unwrap());
        // SAFETY: the byte is mapped, and this test alone uses it.
        unsafe { mapping.addr().write_volatile(7) };
        touch(mapping.addr(), mapping.len());
        assert!(is_resident(last).unwrap());
        // SAFETY: as above.
        assert_eq!(unsafe { mapping.addr().read_volatile() }, 7);
    }
}
