//! A range of the VMM's own address space, behind a range of guest RAM.

use std::fs::File;
use std::io;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Readable and writable, never executable in the VMM's own address space.
const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A mapping, undone when it is dropped. The memory is shared with a guest: nobody
/// makes references into it.
#[derive(Debug)]
pub(super) struct Mapping {
    addr: *mut u8,
    len: usize,
}

// SAFETY: the address leads to memory that only the drop takes away, and nothing of
// it is tied to the thread that mapped it.
unsafe impl Send for Mapping {}
// SAFETY: as above; what is read and written there is the users' to order, as with any
// memory that a guest shares.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private, anonymous, and without a claim on swap: more than the host's RAM is allowed.
    pub(super) fn plain(len: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses an address where nothing is.
        let addr = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                len,
                READ_WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        Ok(Self {
            addr: addr.cast(),
            len,
        })
    }

    /// Whole pages of `page` bytes, at a host address that is a multiple of that: `file`
    /// from an offset on, shared, or else private and anonymous. `flags` come on top.
    #[cold]
    pub(super) fn aligned(
        len: usize,
        page: usize,
        file: Option<(&File, u64)>,
        flags: MapFlags,
    ) -> io::Result<Self> {
        let room = Room::new(len, page)?;
        let place = room.aligned(page).cast();
        // SAFETY: the range lies in `room`, where nothing but that is mapped.
        match file {
            Some((file, offset)) => unsafe {
                let flags = flags | MapFlags::SHARED | MapFlags::FIXED;
                rustix::mm::mmap(place, len, READ_WRITE, flags, file, offset)
            },
            None => unsafe {
                let flags = flags | MapFlags::PRIVATE | MapFlags::FIXED;
                rustix::mm::mmap_anonymous(place, len, READ_WRITE, flags)
            },
        }?;
        Ok(room.give(place.cast(), len))
    }

    /// Where it starts.
    pub(super) fn addr(&self) -> *mut u8 {
        self.addr
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gives the kernel a piece of advice about all of it. `DontNeed` takes away what it
    /// holds; no other advice that Mayfly gives changes that.
    pub(super) fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the range is this whole mapping, to which there are no references.
        let result = unsafe { rustix::mm::madvise(self.addr.cast(), self.len, advice) };
        result.map_err(io::Error::from)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.addr, self.len);
    }
}

/// Addresses kept free, with room to align a mapping in them.
struct Room {
    addr: *mut u8,
    len: usize,
}

impl Room {
    fn new(len: usize, page: usize) -> io::Result<Self> {
        let len = len.checked_add(page);
        let len = len.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address where nothing is; what is there can
        // be neither read nor written.
        let addr =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), flags) }?;
        Ok(Self {
            addr: addr.cast(),
            len,
        })
    }

    /// The first multiple of `page` in it.
    fn aligned(&self, page: usize) -> *mut u8 {
        let over = self.addr.addr().checked_rem(page).unwrap_or(0);
        let skip = if over == 0 {
            0
        } else {
            page.wrapping_sub(over)
        };
        self.addr.wrapping_add(skip)
    }

    /// What is mapped at `addr` stays, the rest goes.
    fn give(self, addr: *mut u8, len: usize) -> Mapping {
        let before = addr.addr().saturating_sub(self.addr.addr());
        unmap(self.addr, before);
        let after = self.len.saturating_sub(before).saturating_sub(len);
        unmap(addr.wrapping_add(len), after);
        std::mem::forget(self);
        Mapping { addr, len }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        unmap(self.addr, self.len);
    }
}

/// Takes away a range that its owner has mapped and uses no more.
fn unmap(addr: *mut u8, len: usize) {
    if len > 0 {
        // SAFETY: both owners call it at their end, for what they have mapped themselves.
        // It fails only where nothing can be done about it.
        let _ = unsafe { rustix::mm::munmap(addr.cast(), len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_mappings_are() {
        for page in [4096, 2 << 20, 1 << 30] {
            let mapping = Mapping::aligned(6 << 20, page, None, MapFlags::NORESERVE).unwrap();
            assert!(mapping.addr().addr().is_multiple_of(page));
            assert_eq!(mapping.len(), 6 << 20);
            for offset in [0, (6 << 20) - 1] {
                // SAFETY: the byte is mapped, and nobody else uses it.
                unsafe { mapping.addr().add(offset).write_volatile(7) };
            }
        }
        assert!(Mapping::aligned(usize::MAX, 4096, None, MapFlags::NORESERVE).is_err());
    }

    /// Whether anything is mapped at the page of `addr`.
    fn is_mapped(addr: *mut u8) -> bool {
        let mut state = 0_u8;
        // SAFETY: the call looks at page tables only, and the answer is one byte.
        unsafe { libc::mincore(addr.cast(), 1, &raw mut state) == 0 }
    }

    #[test]
    fn nothing_is_left_of_a_mapping() {
        // Other threads map memory, too: one of a few rounds must be undisturbed.
        let gone = (0..20).any(|_| {
            let mapping = Mapping::aligned(4 << 20, 2 << 20, None, MapFlags::NORESERVE).unwrap();
            let (addr, len) = (mapping.addr(), mapping.len());
            let places = [addr, addr.wrapping_add(len - 4096)];
            assert!(places.iter().all(|place| is_mapped(*place)));
            drop(mapping);
            places.iter().all(|place| !is_mapped(*place))
        });
        assert!(gone);
    }
}
