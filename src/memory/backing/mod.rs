//! Guest RAM of another kind than the plain one: shared, of huge pages, merged, locked,
//! taken at once, bound to NUMA nodes. Nothing here runs where none of it was asked for.

mod huge_pages;
mod left;
mod merging;
mod numa;
mod populate;
mod sealed;

use std::io;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, MlockFlags};
use rustix::process::{Resource, getrlimit};
use vm_memory::FileOffset;

use super::error::MemoryError;
use super::layout::{RamRange, ram_ranges};
use super::mapping::Mapping;
use super::options::{HugePages, RamOptions};
use super::region::RamRegion;

/// What a transparent huge page must be aligned to, and ordinary ones.
const HUGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// The ranges of `size` bytes of guest RAM, made as `options` say.
#[cold]
pub(super) fn make(size: u64, options: &RamOptions) -> Result<Vec<RamRegion>, MemoryError> {
    if let Some(nodes) = options.numa {
        numa::check(nodes)?;
    }
    let pool_page = options.hugepages.pool_page();
    match pool_page {
        Some(page) => huge_pages::check(size, page, options.numa)?,
        None if options.prealloc => left::check(size, options.numa)?,
        // The kernel counts the pages of a file when they are taken: too late.
        None if options.shared && left::host_keeps_promises() && left::promises_left() < size => {
            return Err(MemoryError::Promise { size });
        }
        None => {}
    }
    let regions = map(size, options).map_err(|error| match error {
        MemoryError::Reserve { size, source } => refused(size, pool_page, source),
        other => other,
    })?;
    keep(&regions, size, options)?;
    if takes_all(options) {
        log::info!("taking {} MiB of guest memory from the host", size >> 20);
        for region in &regions {
            populate::populate(region.mapping(), pool_page)
                .map_err(|source| MemoryError::Populate { size, source })?;
        }
    }
    Ok(regions)
}

/// Makes a range what it was when it was new; the pages go back to the host unless it
/// was promised that they are there.
#[cold]
pub(super) fn clear(region: &RamRegion, options: &RamOptions) -> io::Result<()> {
    let mapping = region.mapping();
    let pool_page = options.hugepages.pool_page();
    // A pool's page that is given back may be another's when it is wanted again, so
    // those stay. Of a shared file another process may have touched more than this one.
    if takes_all(options) || pool_page.is_some() && options.shared {
        populate::zero(mapping, pool_page);
        return Ok(());
    }
    if let Some(page) = pool_page {
        return populate::zero_resident(mapping, page);
    }
    if let Some((file, offset)) = region.file() {
        return sealed::punch(file, offset, region.range().len);
    }
    if !options.lock {
        return mapping.advise(Advice::LinuxDontNeed);
    }
    unlock(mapping)?;
    mapping.advise(Advice::LinuxDontNeed)?;
    lock(mapping)
}

/// Whether all pages are taken at the start. A node's part of a pool can be reserved in
/// no other way, and a page that is missing later would end the VMM.
fn takes_all(options: &RamOptions) -> bool {
    options.prealloc || options.numa.is_some() && options.hugepages.pool_page().is_some()
}

fn map(size: u64, options: &RamOptions) -> Result<Vec<RamRegion>, MemoryError> {
    let file = match options.shared {
        true => Some(Arc::new(sealed::file(size, options.hugepages)?)),
        false => None,
    };
    let mut offset = 0;
    let mut regions = Vec::new();
    for range in ram_ranges(size) {
        let file = file
            .as_ref()
            .map(|file| FileOffset::from_arc(file.clone(), offset));
        let mapping = map_range(range, options.hugepages, file.as_ref())
            .map_err(|source| MemoryError::Reserve { size, source })?;
        regions.push(RamRegion::new(range.start, mapping, file));
        offset = offset.saturating_add(range.len);
    }
    Ok(regions)
}

/// Maps one range. Its guest-physical start is a multiple of every page's size, so that
/// an aligned host address lets KVM map huge pages as such.
fn map_range(range: RamRange, pages: HugePages, file: Option<&FileOffset>) -> io::Result<Mapping> {
    let len = usize::try_from(range.len).map_err(io::Error::other)?;
    // A page of a pool is reserved when it is mapped: one that is missing is found here.
    let pool = MapFlags::HUGETLB;
    let (align, flags) = match pages {
        HugePages::Host => (PAGE, MapFlags::NORESERVE),
        HugePages::Transparent => (HUGE, MapFlags::NORESERVE),
        HugePages::Pool2M => (HUGE, pool | MapFlags::HUGE_2MB),
        HugePages::Pool1G => (1 << 30, pool | MapFlags::HUGE_1GB),
    };
    match file {
        // The file knows what its pages are.
        Some(file) => {
            let flags = flags & MapFlags::NORESERVE;
            Mapping::aligned(len, align, Some((file.file(), file.start())), flags)
        }
        None => Mapping::aligned(len, align, None, flags),
    }
}

/// Why mmap refused `size` bytes, in the user's terms.
#[cold]
pub(super) fn refused(size: u64, pool_page: Option<u64>, source: io::Error) -> MemoryError {
    match pool_page {
        Some(page) => {
            huge_pages::lacking(size, page, None).unwrap_or(MemoryError::Reserve { size, source })
        }
        None if left::host_keeps_promises() => MemoryError::Promise { size },
        None => MemoryError::Reserve { size, source },
    }
}

/// Tells the kernel how to keep the pages; none has been taken yet.
fn keep(regions: &[RamRegion], size: u64, options: &RamOptions) -> Result<(), MemoryError> {
    let mappings = || regions.iter().map(RamRegion::mapping);
    if options.hugepages == HugePages::Transparent {
        huge_pages::transparent(mappings(), options.shared);
    }
    if options.mergeable {
        merging::allow(mappings())?;
    }
    for mapping in mappings() {
        if let Some(nodes) = options.numa {
            numa::bind(mapping, nodes)?;
        }
        // Pages of a pool are never swapped out.
        if options.lock && options.hugepages.pool_page().is_none() {
            lock(mapping).map_err(|source| not_locked(size, source))?;
        }
    }
    Ok(())
}

/// Keeps pages in memory from when they are touched.
fn lock(mapping: &Mapping) -> io::Result<()> {
    // SAFETY: the range is a whole mapping; what it holds stays.
    let result = unsafe {
        rustix::mm::mlock_with(mapping.addr().cast(), mapping.len(), MlockFlags::ONFAULT)
    };
    result.map_err(io::Error::from)
}

fn unlock(mapping: &Mapping) -> io::Result<()> {
    // SAFETY: as above.
    let result = unsafe { rustix::mm::munlock(mapping.addr().cast(), mapping.len()) };
    result.map_err(io::Error::from)
}

fn not_locked(size: u64, source: io::Error) -> MemoryError {
    let of_the_limit = [libc::ENOMEM, libc::EPERM, libc::EAGAIN];
    let errno = source.raw_os_error();
    match getrlimit(Resource::Memlock).current {
        Some(limit) if errno.is_some_and(|errno| of_the_limit.contains(&errno)) => {
            MemoryError::LockLimit { size, limit }
        }
        _ => MemoryError::Lock { size, source },
    }
}

#[cfg(test)]
mod tests;
