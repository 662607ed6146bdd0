//! `setup_data`: what the 64-bit protocol tells beyond the zero page's room.
//!
//! One node, a seed for the kernel's random generator (`SETUP_RNG_SEED`, Linux 6.0 and
//! later; older ones pass it by). Linux stirs it in before it uses its first random
//! number, and zeroes it. Source: Linux `arch/x86/include/uapi/asm/setup_data.h`.

use linux_loader::loader::bootparam::SETUP_RNG_SEED;

use super::error::BootError;
use super::memory_error;
use super::random::SEED_LEN;
use crate::memory::GuestRam;
use crate::memory::layout::SETUP_DATA;

/// Size of a node's header: next, type, length.
const HEADER_LEN: usize = 16;

/// Writes the node and returns its address, for `hdr.setup_data`.
///
/// # Errors
/// [`BootError::Memory`] if its place is not RAM.
pub(super) fn write(ram: &GuestRam, seed: &[u8; SEED_LEN]) -> Result<u64, BootError> {
    let mut node = [0; HEADER_LEN + SEED_LEN];
    // There is no next one.
    let (header, data) = node.split_at_mut(HEADER_LEN);
    let len = SEED_LEN as u32;
    header[8..12].copy_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    header[12..].copy_from_slice(&len.to_le_bytes());
    data.copy_from_slice(seed);
    ram.write(SETUP_DATA, &node)
        .map_err(|source| memory_error("random seed", source))?;
    Ok(SETUP_DATA)
}

#[cfg(test)]
mod tests {
    use super::super::bytes::{u32_at, u64_at};
    use super::*;

    #[test]
    fn the_node_is_what_linux_reads() {
        let ram = GuestRam::new(1 << 20).unwrap();
        ram.write(SETUP_DATA, &[0xff; 64]).unwrap();
        let at = write(&ram, &[0x5e; 32]).unwrap();
        let mut node = [0; 64];
        ram.read(at, &mut node).unwrap();
        // struct setup_data: u64 next, u32 type, u32 len, data.
        assert_eq!(u64_at(&node, 0), Some(0));
        assert_eq!(u32_at(&node, 8), Some(9));
        assert_eq!(u32_at(&node, 12), Some(32));
        assert_eq!(node[16..48], [0x5e; 32]);
        assert_eq!(node[48..], [0xff; 16]);
    }

    /// The map calls the place reserved: Linux takes nodes in RAM out of it, and so
    /// would get a map of more parts.
    #[test]
    fn it_lies_in_what_is_reserved() {
        let map = super::super::memory_map(&GuestRam::new(1 << 30).unwrap());
        let end = SETUP_DATA + 48;
        let reserved = map.iter().any(|entry| {
            entry.kind == super::super::MapKind::Reserved
                && entry.start <= SETUP_DATA
                && end <= entry.start + entry.len
        });
        assert!(reserved);
    }
}
