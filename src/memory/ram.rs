//! Guest RAM, and the one place through which the VMM writes to it.
//!
//! Everything in Mayfly that changes guest memory on the host's behalf (the
//! loader, devices, the fallback emulator) does it through [`GuestRam`], whose
//! regions may carry a dirty bitmap; writes made by the kernel into guest
//! memory (`readv`, io_uring) are reported with [`GuestRam::mark_dirty`].

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::mm::Advice;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::backing;
use super::error::MemoryError;
use super::layout::{RamRange, ram_ranges};
use super::mapping::Mapping;
use super::options::RamOptions;
use super::region::{RamBackend, RamRegion};

/// Guest RAM. Cloning is cheap and gives another handle to the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    backend: RamBackend,
    size: u64,
    /// What it is made of, unless it is the plain kind.
    options: Option<Arc<RamOptions>>,
}

impl GuestRam {
    /// Reserves `size` bytes of private anonymous memory, laid out by
    /// [`ram_ranges`]. Pages are taken from the host when first touched.
    ///
    /// # Errors
    /// [`MemoryError::Reserve`] where mmap gives less than was asked for.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        let regions = ram_ranges(size)
            .into_iter()
            .map(|range| map_plain(range, size))
            .collect::<Result<Vec<_>, _>>()?;
        Self::of_regions(regions, size, None)
    }

    /// Reserves `size` bytes of the kind that `options` describe, laid out by
    /// [`ram_ranges`].
    ///
    /// # Errors
    /// A [`MemoryError`] that says which of the options the host cannot serve, and why.
    pub fn with_options(size: u64, options: &RamOptions) -> Result<Self, MemoryError> {
        if *options == RamOptions::default() {
            return Self::new(size);
        }
        let regions = backing::make(size, options)?;
        Self::of_regions(regions, size, Some(Arc::new(*options)))
    }

    fn of_regions(
        regions: Vec<RamRegion>,
        size: u64,
        options: Option<Arc<RamOptions>>,
    ) -> Result<Self, MemoryError> {
        let backend =
            RamBackend::from_regions(regions).map_err(|_| MemoryError::Layout { size })?;
        Ok(Self {
            backend,
            size,
            options,
        })
    }

    /// The memory as the rust-vmm crates know it; what they write is marked too.
    pub(crate) fn backend(&self) -> &RamBackend {
        &self.backend
    }

    /// Size in bytes, over all ranges.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The ranges with the host address each is mapped at, as KVM's memory slots need them.
    pub fn regions(&self) -> impl Iterator<Item = (RamRange, u64)> + '_ {
        let regions = self.backend.iter();
        regions.map(|region| (region.range(), region.mapping().addr().addr() as u64))
    }

    /// The ranges with the file and the offset in it that each is, as a process that
    /// shares the memory needs them; none unless the memory is shared.
    pub fn files(&self) -> impl Iterator<Item = (RamRange, &File, u64)> + '_ {
        self.backend.iter().filter_map(|region| {
            let (file, offset) = region.file()?;
            Some((region.range(), file, offset))
        })
    }

    /// Whether all of `addr..addr + len` is RAM.
    pub fn contains(&self, addr: u64, len: usize) -> bool {
        self.backend.check_range(GuestAddress(addr), len)
    }

    /// Reads `data.len()` bytes at guest-physical `addr`.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if a byte of the range is not RAM.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let len = data.len();
        self.backend
            .read_slice(data, GuestAddress(addr))
            .map_err(|_| MemoryError::NotRam { addr, len })
    }

    /// Writes `data` at guest-physical `addr` and marks its pages dirty.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if a byte of the range is not RAM.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), MemoryError> {
        let len = data.len();
        self.backend
            .write_slice(data, GuestAddress(addr))
            .map_err(|_| MemoryError::NotRam { addr, len })
    }

    /// Fills `addr..addr + len` with what `file` holds from `offset` on, without
    /// a copy in between, and marks the pages dirty.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if a byte of the range is not RAM,
    /// [`MemoryError::Fill`] if the file cannot be read or ends too early.
    pub fn fill_from_file(
        &self,
        addr: u64,
        len: usize,
        file: &File,
        offset: u64,
    ) -> Result<(), MemoryError> {
        let first = self.host_ptr(addr, len)?;
        let fill = |source| MemoryError::Fill { addr, len, source };
        let mut done = 0;
        while done < len {
            let place = first.wrapping_add(done);
            let rest = len.saturating_sub(done);
            let count = read_into(file, offset.saturating_add(done as u64), place, rest);
            match count {
                Ok(0) => return Err(fill(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => done = done.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fill(error)),
            }
            self.mark_dirty(addr, done);
        }
        Ok(())
    }

    /// Takes from the host, in one go, the pages of a range that is about to be
    /// written whole: cheaper than a page fault for each. Where the host cannot
    /// (Linux before 5.14) the faults come as ever.
    pub fn populate(&self, addr: u64, len: usize) {
        const PAGE: usize = 4096;
        // For a few pages the call costs what it spares.
        const WORTH_A_CALL: usize = 16 * PAGE;
        if len < WORTH_A_CALL {
            return;
        }
        let Ok(first) = self.host_ptr(addr, len) else {
            return;
        };
        let into_page = first.addr() % PAGE;
        // SAFETY: the pages lie in a mapping that `self` keeps and that consists
        // of whole pages; the advice changes nothing of what they hold.
        let _ = unsafe {
            rustix::mm::madvise(
                first.wrapping_sub(into_page).cast(),
                len.saturating_add(into_page),
                Advice::LinuxPopulateWrite,
            )
        };
    }

    /// Writes zeros over `addr..addr + len` and marks the pages dirty.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if a byte of the range is not RAM.
    pub fn zero(&self, addr: u64, len: usize) -> Result<(), MemoryError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        if !self.contains(addr, len) {
            return Err(MemoryError::NotRam { addr, len });
        }
        let mut done = 0;
        while done < len {
            let chunk = ZEROS.get(..len - done).unwrap_or(&ZEROS);
            self.write(addr.saturating_add(done as u64), chunk)?;
            done = done.saturating_add(chunk.len());
        }
        Ok(())
    }

    /// Makes all guest RAM what it was when it was new: zeros, and no pages of the
    /// host's but those that it was promised (prealloc, huge pages out of a pool).
    /// Marks it dirty. The guest must stand still.
    ///
    /// # Errors
    /// [`MemoryError::Clear`] where the host does not take the pages back; what the
    /// memory holds is then unknown.
    pub fn clear(&self) -> Result<(), MemoryError> {
        let size = self.size;
        for region in self.backend.iter() {
            match &self.options {
                None => region.mapping().advise(Advice::LinuxDontNeed),
                Some(options) => backing::clear(region, options),
            }
            .map_err(|source| MemoryError::Clear { size, source })?;
            region.bitmap().mark_dirty(0, region.mapping().len());
        }
        Ok(())
    }

    /// Reads a little-endian 64-bit word at an 8-byte-aligned address in one access.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if the word is not RAM or not aligned.
    pub fn read_u64(&self, addr: u64) -> Result<u64, MemoryError> {
        self.backend
            .load(GuestAddress(addr), Ordering::Acquire)
            .map_err(|_| MemoryError::NotRam { addr, len: 8 })
    }

    /// Writes a little-endian 64-bit word at an 8-byte-aligned address in one access.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if the word is not RAM or not aligned.
    pub fn write_u64(&self, addr: u64, value: u64) -> Result<(), MemoryError> {
        self.backend
            .store(value, GuestAddress(addr), Ordering::Release)
            .map_err(|_| MemoryError::NotRam { addr, len: 8 })
    }

    /// The host pointer to guest-physical `addr`, valid for `len` bytes.
    ///
    /// For the few accesses that vm-memory has no call for (locked 16-byte
    /// exchange, system calls that fill guest memory): whoever writes through
    /// it calls [`GuestRam::mark_dirty`] afterwards.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if the range is not RAM or spans two regions.
    pub fn host_ptr(&self, addr: u64, len: usize) -> Result<*mut u8, MemoryError> {
        self.backend
            .get_slice(GuestAddress(addr), len)
            .map(|slice| slice.ptr_guard_mut().as_ptr())
            .map_err(|_| MemoryError::NotRam { addr, len })
    }

    /// Marks the pages of a range that something else has written as dirty.
    pub fn mark_dirty(&self, addr: u64, len: usize) {
        if let Ok(slice) = self.backend.get_slice(GuestAddress(addr), len) {
            slice.bitmap().mark_dirty(0, len);
        }
    }
}

/// Reads at most `len` bytes at `offset` of `file` to `place`, which points to that
/// many bytes of guest memory.
fn read_into(file: &File, offset: u64, place: *mut u8, len: usize) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: the caller has the pointer from `host_ptr` for at least this length,
    // and nobody keeps references to guest memory.
    let count = unsafe { libc::pread(file.as_raw_fd(), place.cast(), len, offset) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Maps a range of private anonymous memory.
fn map_plain(range: RamRange, size: u64) -> Result<RamRegion, MemoryError> {
    let len = usize::try_from(range.len).map_err(|_| MemoryError::Layout { size })?;
    let mapping = Mapping::plain(len).map_err(|source| backing::refused(size, None, source))?;
    Ok(RamRegion::new(range.start, mapping, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let ram = GuestRam::new(1 << 20).unwrap();
        ram.write(0x1234, b"mayfly").unwrap();
        let mut back = [0; 6];
        ram.read(0x1234, &mut back).unwrap();
        assert_eq!(&back, b"mayfly");
    }

    #[test]
    fn the_edge_of_ram_is_an_error_not_a_panic() {
        let ram = GuestRam::new(1 << 20).unwrap();
        assert!(ram.write((1 << 20) - 2, &[1, 2, 3]).is_err());
        assert!(ram.read(u64::MAX - 1, &mut [0; 8]).is_err());
        assert!(ram.read_u64(1 << 20).is_err());
        assert!(ram.host_ptr((1 << 20) - 8, 16).is_err());
    }

    #[test]
    fn a_file_fills_memory_across_pages() {
        use std::io::Write;
        let content: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let ram = GuestRam::new(1 << 20).unwrap();
        ram.fill_from_file(0x1ffe, 9_000, &file, 1_000).unwrap();
        let mut back = vec![0; 9_000];
        ram.read(0x1ffe, &mut back).unwrap();
        assert_eq!(back, content[1_000..]);
        let short = ram.fill_from_file(0, 9_001, &file, 1_000);
        assert!(matches!(short, Err(MemoryError::Fill { .. })));
        let outside = ram.fill_from_file((1 << 20) - 1, 2, &file, 0);
        assert!(matches!(outside, Err(MemoryError::NotRam { .. })));
    }

    #[test]
    fn populated_memory_keeps_what_it_holds() {
        let ram = GuestRam::new(16 << 20).unwrap();
        ram.write(0x30_0000, b"mayfly").unwrap();
        ram.populate(0x1234, 12 << 20);
        ram.populate((16 << 20) - (1 << 20), 1 << 20);
        ram.populate((16 << 20) - (1 << 20), (1 << 20) + 1);
        ram.populate(0x30_0000, 6);
        ram.populate(u64::MAX, usize::MAX);
        let mut back = [0; 6];
        ram.read(0x30_0000, &mut back).unwrap();
        assert_eq!(&back, b"mayfly");
    }

    #[test]
    fn zeroing_reaches_exactly_the_range() {
        let ram = GuestRam::new(1 << 20).unwrap();
        ram.write(0, &[0xff; 20_000]).unwrap();
        ram.zero(10, 10_000).unwrap();
        let mut back = vec![0; 20_000];
        ram.read(0, &mut back).unwrap();
        assert!(back[..10].iter().chain(&back[10_010..]).all(|b| *b == 0xff));
        assert!(back[10..10_010].iter().all(|b| *b == 0));
        assert!(ram.zero((1 << 20) - 1, 2).is_err());
    }

    /// Whether the page at `addr` is in the host's memory.
    fn is_resident(ram: &GuestRam, addr: u64) -> bool {
        let place = ram.host_ptr(addr, 4096).unwrap();
        let mut state = 0_u8;
        // SAFETY: the page is mapped, and the answer for one page is one byte.
        let rc = unsafe { libc::mincore(place.cast(), 4096, &raw mut state) };
        assert_eq!(rc, 0);
        state & 1 == 1
    }

    #[test]
    fn cleared_memory_is_zeros_and_the_hosts_again() {
        let size = 5 << 30;
        let ram = GuestRam::new(size).unwrap();
        let places = [0, 0x1_2000, (3 << 30) - 4096, 4 << 30, (6 << 30) - 4096];
        for place in places {
            ram.write(place, &[0xa5; 4096]).unwrap();
            assert!(is_resident(&ram, place), "{place:#x}");
        }
        ram.clear().unwrap();
        for place in places {
            assert!(!is_resident(&ram, place), "{place:#x}");
            let mut back = [1; 4096];
            ram.read(place, &mut back).unwrap();
            assert_eq!(back, [0; 4096], "{place:#x}");
        }
        ram.write(0, b"again").unwrap();
        ram.clear().unwrap();
        assert_eq!(ram.read_u64(0).unwrap(), 0);
    }

    #[test]
    fn more_than_the_hosts_memory_can_be_reserved() {
        let ram = GuestRam::new(64 << 30).unwrap();
        ram.write_u64(63 << 30, 7).unwrap();
        assert_eq!(ram.read_u64(63 << 30).unwrap(), 7);
    }

    #[test]
    fn nonsense_sizes_are_errors() {
        assert!(GuestRam::new(1 << 60).is_err());
    }
}
