//! KSM: the host keeps one of several pages that hold the same
//! (Linux, Documentation/admin-guide/mm/ksm.rst).

use std::fs;

use rustix::mm::Advice;

use crate::memory::error::MemoryError;
use crate::memory::mapping::Mapping;

/// The switch of the thread that merges.
const RUN: &str = "/sys/kernel/mm/ksm/run";

/// Lets the host merge pages of these, and says where it does not at the moment.
pub(super) fn allow<'a>(
    mut mappings: impl Iterator<Item = &'a Mapping>,
) -> Result<(), MemoryError> {
    mappings
        .try_for_each(|mapping| mapping.advise(Advice::LinuxMergeable))
        .map_err(|_| MemoryError::NoKsm)?;
    let runs = fs::read_to_string(RUN).is_ok_and(|text| text.trim() == "1");
    if !runs {
        log::warn!(
            "mergeable has no effect yet: KSM does not run on this host; run 'echo 1 > {RUN}'"
        );
    }
    Ok(())
}
