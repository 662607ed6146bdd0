use std::fs;
use std::os::fd::AsRawFd;

use super::*;
use crate::memory::{GuestRam, NumaNodes};

const MIB: u64 = 1 << 20;

fn resident(ram: &GuestRam, addr: u64) -> bool {
    let place = ram.host_ptr(addr, PAGE).unwrap();
    let mut state = 0_u8;
    // SAFETY: the page is mapped, and the answer for one page is one byte.
    let rc = unsafe { libc::mincore(place.cast(), PAGE, &raw mut state) };
    assert_eq!(rc, 0);
    state & 1 == 1
}

/// Writes to a few places, clears, and looks at what is left; `stays` tells whether the
/// pages must still be there.
fn check_clear(options: &RamOptions, size: u64, stays: bool) {
    let ram = GuestRam::with_options(size, options).unwrap();
    let places = [0, 0x3000, size / 2, size - 4096];
    for round in 0..2 {
        for place in places {
            ram.write(place, &[0xa5; 4096]).unwrap();
        }
        ram.clear().unwrap();
        for place in places {
            assert_eq!(
                resident(&ram, place),
                stays,
                "{options:?} {place:#x} {round}"
            );
        }
        for place in places {
            let mut back = [1; 4096];
            ram.read(place, &mut back).unwrap();
            assert_eq!(back, [0; 4096], "{options:?} {place:#x} {round}");
        }
        // Reading may have taken pages: the next round begins like the first.
        ram.clear().unwrap();
    }
}

#[test]
fn every_kind_of_memory_is_cleared() {
    let plain = RamOptions::default();
    for shared in [false, true] {
        let plain = RamOptions { shared, ..plain };
        check_clear(&plain, 8 * MIB, false);
        let hugepages = HugePages::Transparent;
        check_clear(&RamOptions { hugepages, ..plain }, 8 * MIB, false);
        let prealloc = true;
        check_clear(&RamOptions { prealloc, ..plain }, 8 * MIB, true);
    }
}

/// Pages added to the host's pool while a test needs them; only root can.
struct MorePages {
    before: u64,
    added: u64,
}

impl MorePages {
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn new(added: u64) -> Self {
        let read = || -> u64 {
            let text = fs::read_to_string(Self::POOL).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        let before = read();
        // What the host does not do shows in the number.
        let _ = fs::write(Self::POOL, (before + added).to_string());
        let added = read().saturating_sub(before);
        Self { before, added }
    }
}

impl Drop for MorePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::POOL, self.before.to_string());
    }
}

#[test]
fn pages_of_a_pool_are_cleared_and_kept() {
    let pages = MorePages::new(4);
    for shared in [false, true] {
        let options = RamOptions {
            hugepages: HugePages::Pool2M,
            shared,
            ..RamOptions::default()
        };
        if pages.added < 4 {
            let error = GuestRam::with_options(1 << 46, &options).unwrap_err();
            let line = error.to_string();
            assert!(line.contains("huge pages"), "{line}");
            continue;
        }
        check_clear(&options, 8 * MIB, true);
        let ram = GuestRam::with_options(8 * MIB, &options).unwrap();
        let (_, address) = ram.regions().next().unwrap();
        assert!(flags_of(address).contains(" ht "), "{}", flags_of(address));
        if pages.before > 0 {
            continue;
        }
        // All there are are reserved for this one, so a second one has none.
        let error = GuestRam::with_options(8 * MIB, &options).unwrap_err();
        assert!(matches!(error, MemoryError::FewHugePages { needed: 4, .. }));
    }
}

#[test]
fn locked_memory_is_cleared_and_locked_again() {
    let options = RamOptions {
        lock: true,
        ..RamOptions::default()
    };
    // 2 MiB: less than any user may lock.
    check_clear(&options, 2 * MIB, false);
    let ram = GuestRam::with_options(2 * MIB, &options).unwrap();
    ram.clear().unwrap();
    let (_, address) = ram.regions().next().unwrap();
    assert!(flags_of(address).contains(" lo "), "{}", flags_of(address));
}

/// The flags of the mapping at `address`, as `/proc/self/smaps` has them.
fn flags_of(address: u64) -> String {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let start = smaps.find(&format!("{address:08x}-")).unwrap();
    let flags = smaps[start..]
        .lines()
        .find_map(|line| line.strip_prefix("VmFlags:"));
    format!("{} ", flags.unwrap())
}

#[test]
fn shared_memory_is_one_sealed_file() {
    let options = RamOptions {
        shared: true,
        ..RamOptions::default()
    };
    let ram = GuestRam::with_options(5 << 30, &options).unwrap();
    let files: Vec<_> = ram.files().collect();
    let [(low, file, low_at), (high, other, high_at)] = files[..] else {
        panic!("two ranges: {files:?}");
    };
    assert_eq!((low.start, low.len, low_at), (0, 3 << 30, 0));
    assert_eq!((high.start, high.len, high_at), (4 << 30, 2 << 30, 3 << 30));
    assert_eq!(file.as_raw_fd(), other.as_raw_fd());
    assert_eq!(file.metadata().unwrap().len(), 5 << 30);
    // What is written to memory is in the file, and the other way round.
    ram.write((4 << 30) + 0x1234, b"mayfly").unwrap();
    let mut back = [0; 6];
    let at = high_at + 0x1234;
    std::os::unix::fs::FileExt::read_exact_at(other, &mut back, at).unwrap();
    assert_eq!(&back, b"mayfly");
    for len in [0, 6 << 30] {
        let error = file.set_len(len).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{len}");
    }
    let flags = rustix::io::fcntl_getfd(file).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(GuestRam::new(MIB).unwrap().files().count(), 0);
}

#[test]
fn host_addresses_suit_huge_pages() {
    for shared in [false, true] {
        let options = RamOptions {
            hugepages: HugePages::Transparent,
            shared,
            ..RamOptions::default()
        };
        // Several at once: the kernel may align the first one by chance.
        let rams = [5 << 30, 4097 << 12, 3 << 20]
            .map(|size| GuestRam::with_options(size, &options).unwrap());
        for (range, address) in rams.iter().flat_map(GuestRam::regions) {
            assert_eq!(range.start % HUGE as u64, address % HUGE as u64);
        }
    }
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let options = RamOptions {
        numa: NumaNodes::new(1000, 1001),
        ..RamOptions::default()
    };
    let error = GuestRam::with_options(MIB, &options).unwrap_err();
    match error {
        MemoryError::NoSuchNode { node, .. } => assert_eq!(node, 1000),
        other => assert!(matches!(other, MemoryError::NoNuma), "{other}"),
    }
}

#[test]
fn more_than_the_host_has_is_not_taken_at_once() {
    let options = RamOptions {
        prealloc: true,
        ..RamOptions::default()
    };
    let error = GuestRam::with_options(1 << 46, &options).unwrap_err();
    assert!(
        matches!(error, MemoryError::TooMuchAtOnce { .. }),
        "{error}"
    );
}

#[test]
fn pages_that_no_pool_has_are_told_with_what_to_do() {
    // 64 TiB of huge pages are in no pool.
    for shared in [false, true] {
        let options = RamOptions {
            hugepages: HugePages::Pool2M,
            shared,
            ..RamOptions::default()
        };
        let error = GuestRam::with_options(1 << 46, &options).unwrap_err();
        match error {
            MemoryError::FewHugePages { needed, .. } => assert_eq!(needed, 1 << 25),
            other => assert!(matches!(other, MemoryError::NoHugePages { .. }), "{other}"),
        }
    }
}
