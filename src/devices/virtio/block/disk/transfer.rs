//! Scatter-gather transfers that go on where the kernel stopped short.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::Access;
use crate::memory::IoBuffers;

/// Pieces that one system call takes when the list is not used as it is.
const SOME_PIECES: usize = 64;
/// Pieces that one system call may take (UIO_MAXIOV).
const MAX_PIECES: usize = 1024;

/// A scatter-gather list that the kernel may read and write.
#[derive(Clone, Copy)]
pub(super) struct Pieces<'a>(&'a [libc::iovec]);

impl<'a> Pieces<'a> {
    /// The list in `buffers`, which keep the memory that it points into.
    pub(super) fn of(buffers: &'a IoBuffers) -> Self {
        Self(buffers.iovecs())
    }

    /// A list made otherwise.
    ///
    /// # Safety
    /// Each piece must be memory that stays for `'a` and that may be read, and
    /// written if the list is used for reading from a file.
    pub(super) unsafe fn new(iovecs: &'a [libc::iovec]) -> Self {
        Self(iovecs)
    }

    /// Whether every piece starts and ends at a multiple of `align` in memory, and
    /// the list is `len` bytes long.
    pub(super) fn are_aligned_to(self, align: usize, len: usize) -> bool {
        self.len() == len
            && self.0.iter().all(|piece| {
                piece.iov_base.addr().is_multiple_of(align) && piece.iov_len.is_multiple_of(align)
            })
    }

    /// Bytes in all pieces together.
    pub(super) fn len(self) -> usize {
        let lens = self.0.iter().map(|piece| piece.iov_len);
        lens.fold(0, usize::saturating_add)
    }

    /// Calls `take` with each piece of bytes `part`, in order.
    pub(super) fn each(self, mut part: Range<usize>, mut take: impl FnMut(libc::iovec)) {
        while !part.is_empty() {
            let (some, used) = self.some(part.clone());
            for piece in some.iter().take(used) {
                part.start = part.start.saturating_add(piece.iov_len);
                take(*piece);
            }
            if used == 0 {
                break;
            }
        }
    }

    /// Up to [`SOME_PIECES`] pieces from byte `part.start` on, and not beyond its end.
    fn some(self, part: Range<usize>) -> ([libc::iovec; SOME_PIECES], usize) {
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut some = [nothing; SOME_PIECES];
        let mut used: usize = 0;
        let mut skip = part.start;
        let mut left = part.len();
        for piece in self.0 {
            if skip >= piece.iov_len {
                skip = skip.saturating_sub(piece.iov_len);
                continue;
            }
            let Some(place) = some.get_mut(used).filter(|_| left > 0) else {
                break;
            };
            let len = piece.iov_len.saturating_sub(skip).min(left);
            place.iov_base = piece.iov_base.cast::<u8>().wrapping_add(skip).cast();
            place.iov_len = len;
            left = left.saturating_sub(len);
            used = used.saturating_add(1);
            skip = 0;
        }
        (some, used)
    }
}

/// Transfers bytes `part` of the list, from `offset` of the file on, in one go if
/// the kernel lets it. Gives the number of bytes done: less than asked for at the
/// end of a file that is read, or, with `once`, where the kernel stopped.
///
/// # Errors
/// What the system says; `WriteZero` if it takes nothing.
pub(super) fn transfer(
    file: &File,
    access: Access,
    pieces: Pieces<'_>,
    part: Range<usize>,
    offset: u64,
    once: bool,
) -> io::Result<usize> {
    let mut done: usize = 0;
    while done < part.len() {
        let at = offset
            .checked_add(done as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let whole = part.start == 0
            && done == 0
            && pieces.0.len() <= MAX_PIECES
            && pieces.len() == part.len();
        let count = if whole {
            call(file, access, pieces.0, at)?
        } else {
            let (some, used) = pieces.some(part.start.saturating_add(done)..part.end);
            call(file, access, some.get(..used).unwrap_or_default(), at)?
        };
        if count == 0 && access == Access::Write {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done = done.saturating_add(count);
        if count == 0 || once {
            break;
        }
    }
    Ok(done)
}

/// One `preadv` or `pwritev`, again when a signal came.
fn call(file: &File, access: Access, iovecs: &[libc::iovec], offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let count = i32::try_from(iovecs.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        // SAFETY: `iovecs` are pieces of a `Pieces`, whose memory stays and may be
        // used so, as its maker promised.
        let done = unsafe {
            match access {
                Access::Read => libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count, offset),
                Access::Write => libc::pwritev(file.as_raw_fd(), iovecs.as_ptr(), count, offset),
            }
        };
        if let Ok(done) = usize::try_from(done) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestRam;

    /// 300 pieces of 7 bytes that do not lie in order.
    fn scattered() -> IoBuffers {
        let mut buffers = IoBuffers::new(GuestRam::new(1 << 20).unwrap(), 300);
        for index in 0..300_u64 {
            buffers.push((index * 37 % 300) * 64, 7).unwrap();
        }
        buffers
    }

    #[test]
    fn parts_of_a_long_list_arrive_in_order() {
        let file = tempfile::tempfile().unwrap();
        let buffers = scattered();
        let data: Vec<u8> = (0..2100_u32).map(|at| (at % 251) as u8).collect();
        assert!(buffers.copy_in(0, &data));
        let pieces = Pieces::of(&buffers);
        for part in [0..2100, 3..2050, 700..707, 5..5] {
            file.set_len(0).unwrap();
            let len = part.len();
            let done = transfer(&file, Access::Write, pieces, part.clone(), 11, false);
            assert_eq!(done.unwrap(), len);
            let mut back = vec![0; len];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 11).unwrap();
            assert_eq!(back, data[part]);
        }
    }

    #[test]
    fn reading_stops_at_the_end_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[9; 1000], 0).unwrap();
        let buffers = scattered();
        let pieces = Pieces::of(&buffers);
        let read = |part, offset| transfer(&file, Access::Read, pieces, part, offset, false);
        assert_eq!(read(0..2100, 0).unwrap(), 1000);
        assert_eq!(read(2000..2100, 950).unwrap(), 50);
        let mut back = [0; 51];
        assert!(buffers.copy_out(2000, &mut back));
        assert_eq!(back.iter().filter(|&&byte| byte == 9).count(), 50);
        assert!(read(0..1, u64::MAX).is_err());
    }
}
