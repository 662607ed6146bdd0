//! The NUMA nodes that guest RAM comes from.

use std::fs;
use std::io;

use crate::memory::error::MemoryError;
use crate::memory::mapping::Mapping;
use crate::memory::options::NumaNodes;

/// `MPOL_BIND`: these nodes and no other (Linux, `include/uapi/linux/mempolicy.h`).
const MPOL_BIND: libc::c_ulong = 2;
/// Words of a mask with a bit for every node.
const WORDS: usize = NumaNodes::MAX as usize / BITS;
const BITS: usize = 64;

/// The kernel's list of nodes that have memory.
const HAS_MEMORY: &str = "/sys/devices/system/node/has_memory";

/// Checks that the host has `nodes`, with memory.
pub(super) fn check(nodes: NumaNodes) -> Result<(), MemoryError> {
    let present = fs::read_to_string(HAS_MEMORY).map_err(|_| MemoryError::NoNuma)?;
    match missing(nodes, &present) {
        Some(node) => Err(MemoryError::NoSuchNode {
            node,
            present: present.trim().to_owned(),
        }),
        None => Ok(()),
    }
}

/// The first of `nodes` that is not in the list `present` (`0-1,4`).
fn missing(nodes: NumaNodes, present: &str) -> Option<u16> {
    let runs: Vec<NumaNodes> = present
        .trim()
        .split(',')
        .filter_map(NumaNodes::parse)
        .collect();
    let is_there = |node: u16| runs.iter().any(|run| run.contains(node));
    nodes.iter().find(|node| !is_there(*node))
}

/// Has pages of `mapping` come from `nodes` only.
pub(super) fn bind(mapping: &Mapping, nodes: NumaNodes) -> Result<(), MemoryError> {
    let mask = mask(nodes);
    // The kernel takes one bit less than it is told of.
    let bits = usize::from(NumaNodes::MAX).saturating_add(1);
    // SAFETY: the range is a whole mapping, whose contents stay; the mask has the bits
    // that the kernel is told of, and the kernel only reads it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            mapping.addr(),
            mapping.len(),
            MPOL_BIND,
            mask.as_ptr(),
            bits,
            0,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    Err(match source.raw_os_error() {
        Some(libc::ENOSYS) => MemoryError::NoNuma,
        _ => MemoryError::Bind { nodes, source },
    })
}

/// A bit for each of `nodes`.
fn mask(nodes: NumaNodes) -> [u64; WORDS] {
    std::array::from_fn(|word| {
        let bits = (0..BITS).filter(|bit| {
            let node = word.saturating_mul(BITS).saturating_add(*bit);
            u16::try_from(node).is_ok_and(|node| nodes.contains(node))
        });
        bits.fold(0, |mask, bit| mask | 1 << bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_a_bit_a_node() {
        let mask_of = |first, last| mask(NumaNodes::new(first, last).unwrap());
        assert_eq!(mask_of(0, 0)[0], 1);
        assert_eq!(mask_of(1, 3)[0], 0b1110);
        let wide = mask_of(63, 64);
        assert_eq!((wide[0], wide[1]), (1 << 63, 1));
        assert_eq!(mask_of(1023, 1023)[15], 1 << 63);
        assert_eq!(mask_of(0, 1023), [u64::MAX; WORDS]);
    }

    #[test]
    fn nodes_are_looked_for_in_the_kernels_list() {
        let nodes = |text| NumaNodes::parse(text).unwrap();
        assert_eq!(missing(nodes("0"), "0\n"), None);
        assert_eq!(missing(nodes("0-4"), "0-1,4\n"), Some(2));
        assert_eq!(missing(nodes("1-2"), "0-1,2-3\n"), None);
        assert_eq!(missing(nodes("0"), "\n"), Some(0));
    }
}
