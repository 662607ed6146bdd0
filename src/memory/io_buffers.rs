//! Pieces of guest memory that the host kernel reads and writes itself
//! (`preadv`, `pwritev`, io_uring), without a copy in between.

use super::{GuestRam, MemoryError};

/// A scatter-gather list over guest memory. Made once for each request that may
/// be in flight and used again for the next: filling it allocates nothing.
///
/// It keeps the memory it points into. Guest memory is shared with the guest, so
/// what lies there may change at any time, and nobody keeps references into it.
pub struct IoBuffers {
    ram: GuestRam,
    iovecs: Vec<libc::iovec>,
    /// Guest-physical ranges behind `iovecs`, for the dirty marks.
    ranges: Vec<(u64, usize)>,
    len: usize,
}

// SAFETY: the pointers lead into the mapping that `ram` keeps, which any thread
// may use; nothing here is tied to the thread that made it.
unsafe impl Send for IoBuffers {}

impl IoBuffers {
    /// An empty list with room for `segments` pieces of `ram`.
    pub fn new(ram: GuestRam, segments: usize) -> Self {
        Self {
            ram,
            iovecs: Vec::with_capacity(segments),
            ranges: Vec::with_capacity(segments),
            len: 0,
        }
    }

    /// Empties the list.
    pub fn clear(&mut self) {
        self.iovecs.clear();
        self.ranges.clear();
        self.len = 0;
    }

    /// Adds `addr..addr + len` at the end; nothing is added for no bytes.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if a byte of it is not RAM, or all of them together
    /// are more than an address can count.
    pub fn push(&mut self, addr: u64, len: usize) -> Result<(), MemoryError> {
        if len == 0 {
            return Ok(());
        }
        let total = self.len.checked_add(len);
        let total = total.ok_or(MemoryError::NotRam { addr, len })?;
        let place = self.ram.host_ptr(addr, len)?;
        self.iovecs.push(libc::iovec {
            iov_base: place.cast(),
            iov_len: len,
        });
        self.ranges.push((addr, len));
        self.len = total;
        Ok(())
    }

    /// Bytes in all pieces together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The list as the kernel takes it; valid while `self` is neither changed nor dropped.
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.iovecs
    }

    /// Whether each piece starts and ends at a multiple of `align` bytes in the
    /// host's memory, as O_DIRECT wants it.
    pub fn is_aligned_to(&self, align: usize) -> bool {
        self.iovecs.iter().all(|piece| {
            piece.iov_base.addr().is_multiple_of(align) && piece.iov_len.is_multiple_of(align)
        })
    }

    /// Takes the first `count` bytes off the list: the kernel has served them.
    pub fn advance(&mut self, mut count: usize) {
        self.len = self.len.saturating_sub(count);
        let mut gone = 0;
        for (piece, range) in self.iovecs.iter_mut().zip(&mut self.ranges) {
            if count < piece.iov_len {
                piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(count).cast();
                piece.iov_len -= count;
                range.0 = range.0.saturating_add(count as u64);
                range.1 -= count;
                break;
            }
            count -= piece.iov_len;
            gone += 1;
        }
        self.iovecs.drain(..gone);
        self.ranges.drain(..gone);
    }

    /// Marks the first `count` bytes as written by the host.
    pub fn mark_dirty(&self, mut count: usize) {
        for &(addr, len) in &self.ranges {
            if count == 0 {
                break;
            }
            let written = len.min(count);
            self.ram.mark_dirty(addr, written);
            count -= written;
        }
    }

    /// Copies `data` into the list from `offset` on and marks it; false if it does not fit.
    pub fn copy_in(&self, offset: usize, data: &[u8]) -> bool {
        self.walk(offset, data.len(), |at, addr, len| {
            let part = data.get(at..at.saturating_add(len));
            part.is_some_and(|part| self.ram.write(addr, part).is_ok())
        })
    }

    /// Copies what the list holds from `offset` on into `data`; false if that is too little.
    pub fn copy_out(&self, offset: usize, data: &mut [u8]) -> bool {
        self.walk(offset, data.len(), |at, addr, len| {
            let part = data.get_mut(at..at.saturating_add(len));
            part.is_some_and(|part| self.ram.read(addr, part).is_ok())
        })
    }

    /// Calls `each` with (offset into the `len` bytes, guest-physical address, length)
    /// for the pieces that make up `offset..offset + len`.
    fn walk(
        &self,
        mut offset: usize,
        len: usize,
        mut each: impl FnMut(usize, u64, usize) -> bool,
    ) -> bool {
        let mut done = 0;
        for &(addr, piece) in &self.ranges {
            if done == len {
                break;
            }
            if offset >= piece {
                offset -= piece;
                continue;
            }
            let part = (piece - offset).min(len - done);
            if !each(done, addr.saturating_add(offset as u64), part) {
                return false;
            }
            done += part;
            offset = 0;
        }
        done == len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(pieces: &[(u64, usize)]) -> IoBuffers {
        let mut buffers = IoBuffers::new(GuestRam::new(1 << 20).unwrap(), 8);
        for &(addr, len) in pieces {
            buffers.push(addr, len).unwrap();
        }
        buffers
    }

    #[test]
    fn what_is_copied_in_over_several_pieces_comes_out_again() {
        let list = buffers(&[(0x1000, 3), (0x5000, 0), (0x3000, 5)]);
        assert_eq!(list.len(), 8);
        assert_eq!(list.iovecs().len(), 2);
        assert!(list.copy_in(1, b"mayfly!"));
        let mut back = [0; 6];
        assert!(list.copy_out(2, &mut back));
        assert_eq!(&back, b"ayfly!");
        assert!(!list.copy_in(2, b"mayfly!"));
        assert!(!list.copy_out(8, &mut back));
    }

    #[test]
    fn served_bytes_leave_the_list() {
        let mut list = buffers(&[(0x1000, 4), (0x3000, 4)]);
        assert!(list.copy_in(0, b"abcdefgh"));
        list.advance(5);
        assert_eq!((list.len(), list.iovecs().len()), (3, 1));
        let mut back = [0; 3];
        assert!(list.copy_out(0, &mut back));
        assert_eq!(&back, b"fgh");
        list.advance(9);
        assert!(list.is_empty() && list.iovecs().is_empty());
    }

    #[test]
    fn alignment_is_that_of_every_piece() {
        assert!(buffers(&[(0x1000, 512), (0x1200, 1024)]).is_aligned_to(512));
        assert!(!buffers(&[(0x1000, 512), (0x1201, 512)]).is_aligned_to(512));
        assert!(!buffers(&[(0x1000, 511)]).is_aligned_to(512));
    }

    #[test]
    fn memory_that_is_not_ram_is_refused() {
        let mut list = buffers(&[]);
        assert!(list.push((1 << 20) - 4, 5).is_err());
        assert!(list.push(u64::MAX, 2).is_err());
        assert!(list.push(0, usize::MAX).is_err());
        assert!(list.is_empty());
    }
}
