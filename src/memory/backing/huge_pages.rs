//! Huge pages: the host's pools of them, and transparent ones.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mm::Advice;

use crate::memory::error::MemoryError;
use crate::memory::mapping::Mapping;
use crate::memory::options::NumaNodes;

/// Checks that the pools have pages for `size` bytes of guest RAM, or could get them.
#[cold]
pub(super) fn check(size: u64, page: u64, nodes: Option<NumaNodes>) -> Result<(), MemoryError> {
    if Pool::of_host(page).is_none() {
        return Err(MemoryError::NoHugePages { page });
    }
    // Mapping tells for the host as a whole.
    nodes
        .and_then(|nodes| lacking(size, page, Some(nodes)))
        .map_or(Ok(()), Err)
}

/// What to do for `size` bytes in pages of `page` bytes, if too few are free.
#[cold]
pub(super) fn lacking(size: u64, page: u64, nodes: Option<NumaNodes>) -> Option<MemoryError> {
    let pools: Vec<Pool> = match nodes {
        None => vec![Pool::of_host(page)?],
        Some(nodes) => nodes
            .iter()
            .filter_map(|n| Pool::of_node(n, page))
            .collect(),
    };
    let free = pools.iter().map(Pool::available).sum();
    let needed = size.checked_div(page).unwrap_or(0);
    let missing = needed.checked_sub(free).filter(|missing| *missing > 0)?;
    let pool = pools.into_iter().next()?;
    Some(MemoryError::FewHugePages {
        needed,
        page,
        free,
        total: pool.total.saturating_add(missing),
        pool: pool.directory.join("nr_hugepages"),
    })
}

/// Pages of one size, of the host or of a node.
struct Pool {
    directory: PathBuf,
    total: u64,
    free: u64,
    /// Free and promised to somebody.
    reserved: u64,
}

impl Pool {
    fn of_host(page: u64) -> Option<Self> {
        Self::read(Path::new("/sys/kernel/mm/hugepages"), page)
    }

    fn of_node(node: u16, page: u64) -> Option<Self> {
        let place = format!("/sys/devices/system/node/node{node}/hugepages");
        Self::read(Path::new(&place), page)
    }

    #[cold]
    fn read(place: &Path, page: u64) -> Option<Self> {
        let directory = place.join(format!("hugepages-{}kB", page >> 10));
        let count = |file: &str| -> Option<u64> {
            let text = fs::read_to_string(directory.join(file)).ok()?;
            text.trim().parse().ok()
        };
        Some(Self {
            total: count("nr_hugepages")?,
            free: count("free_hugepages")?,
            // Counted for the host only.
            reserved: count("resv_hugepages").unwrap_or(0),
            directory,
        })
    }

    fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }
}

/// Asks for transparent huge pages in these, and says where that is in vain.
#[cold]
pub(super) fn transparent<'a>(mut mappings: impl Iterator<Item = &'a Mapping>, shared: bool) {
    const PLACE: &str = "/sys/kernel/mm/transparent_hugepage";
    // Files in memory have a switch of their own.
    let (file, word) = match shared {
        true => ("shmem_enabled", "advise"),
        false => ("enabled", "madvise"),
    };
    let path = format!("{PLACE}/{file}");
    let modes = fs::read_to_string(&path).ok();
    let asked = mappings.try_for_each(|mapping| mapping.advise(Advice::LinuxHugepage));
    if asked.is_err() || modes.is_none() {
        log::warn!(
            "hugepages=thp has no effect: the kernel of this host has no transparent huge pages"
        );
    } else if modes.is_some_and(|modes| is_off(&modes)) {
        log::warn!(
            "hugepages=thp has no effect: this host has them switched off; run 'echo {word} > {path}'"
        );
    }
}

/// Whether the chosen word, which sysfs puts into brackets, is one for "not at all".
fn is_off(modes: &str) -> bool {
    modes.contains("[never]") || modes.contains("[deny]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_what_its_files_say() {
        let place = tempfile::tempdir().unwrap();
        let pool = place.path().join("hugepages-2048kB");
        fs::create_dir(&pool).unwrap();
        for (file, number) in [
            ("nr_hugepages", 9),
            ("free_hugepages", 7),
            ("resv_hugepages", 3),
        ] {
            fs::write(pool.join(file), format!("{number}\n")).unwrap();
        }
        let read = Pool::read(place.path(), 2 << 20).unwrap();
        assert_eq!((read.total, read.available()), (9, 4));
        assert!(Pool::read(place.path(), 1 << 30).is_none());
        // A node's pool does not count promises.
        fs::remove_file(pool.join("resv_hugepages")).unwrap();
        assert_eq!(Pool::read(place.path(), 2 << 20).unwrap().available(), 7);
    }

    #[test]
    fn the_word_in_brackets_counts() {
        assert!(is_off("always madvise [never]\n"));
        assert!(is_off("always within_size advise never [deny] force\n"));
        assert!(!is_off("always [madvise] never\n"));
    }
}
