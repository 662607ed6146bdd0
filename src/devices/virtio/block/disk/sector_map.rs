//! Which sectors of a disk have been written: a bitmap that takes memory only where
//! there are such sectors.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::stat::SECTOR;

/// Words of 64 bits in a leaf.
const LEAF_WORDS: usize = 4096;
/// Sectors that a leaf tells of.
const LEAF_SECTORS: u64 = LEAF_WORDS as u64 * 64;
/// Bytes that a leaf tells of, 128 MiB.
const LEAF_BYTES: u64 = LEAF_SECTORS * SECTOR;
/// Largest disk in bytes, 64 TiB: 8 MiB of memory for the leaves' places.
pub(super) const MAX_LEN: u64 = 64 << 40;

type Leaf = [AtomicU64; LEAF_WORDS];

/// A bit for each sector of 512 bytes. It takes 32 KiB for each 128 MiB of the disk
/// in which a sector is set, and 16 bytes for each where none is. Bits are only ever
/// set, by any thread; who sees one set sees what was written before it was.
pub(super) struct SectorMap {
    leaves: Box<[OnceLock<Box<Leaf>>]>,
}

impl SectorMap {
    /// No sector of a disk of `len` bytes.
    ///
    /// # Errors
    /// `FileTooLarge` for more than [`MAX_LEN`].
    pub(super) fn new(len: u64) -> io::Result<Self> {
        if len > MAX_LEN {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let leaves = (0..len.div_ceil(LEAF_BYTES)).map(|_| OnceLock::new());
        Ok(Self {
            leaves: leaves.collect(),
        })
    }

    /// Sets the sectors of which `offset..offset + len` has a byte.
    pub(super) fn set(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).div_ceil(SECTOR);
        let mut sector = offset / SECTOR;
        while sector < end {
            let Some(leaf) = self.leaves.get(leaf_index(sector)) else {
                return;
            };
            let leaf = leaf.get_or_init(empty_leaf);
            let in_word = (64 - sector % 64).min(end.saturating_sub(sector));
            if let Some(word) = leaf.get(word_index(sector)) {
                word.fetch_or(mask(sector, in_word), Ordering::Release);
            }
            sector = sector.saturating_add(in_word);
        }
    }

    /// Whether the sector at `offset` is set, and how many bytes from `offset` on, up
    /// to `len`, it is the same for. Both are multiples of 512.
    pub(super) fn run(&self, offset: u64, len: u64) -> (bool, u64) {
        let first = offset / SECTOR;
        let end = offset.saturating_add(len) / SECTOR;
        let is_set = self.word(first) >> (first % 64) & 1 == 1;
        let mut sector = first;
        while sector < end {
            let leaf = self.leaves.get(leaf_index(sector)).and_then(OnceLock::get);
            if leaf.is_none() {
                if is_set {
                    break;
                }
                // Nothing is set up to the next leaf.
                sector = (sector / LEAF_SECTORS + 1).saturating_mul(LEAF_SECTORS);
                continue;
            }
            let word = self.word(sector);
            let other = if is_set { !word } else { word } >> (sector % 64);
            let same = u64::from(other.trailing_zeros()).min(64 - sector % 64);
            sector = sector.saturating_add(same);
            if same == 0 || !sector.is_multiple_of(64) {
                break;
            }
        }
        let sectors = sector.min(end).saturating_sub(first);
        (is_set, sectors.saturating_mul(SECTOR))
    }

    fn word(&self, sector: u64) -> u64 {
        let leaf = self.leaves.get(leaf_index(sector)).and_then(OnceLock::get);
        let word = leaf.and_then(|leaf| leaf.get(word_index(sector)));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }
}

fn empty_leaf() -> Box<Leaf> {
    Box::new([const { AtomicU64::new(0) }; LEAF_WORDS])
}

fn leaf_index(sector: u64) -> usize {
    usize::try_from(sector / LEAF_SECTORS).unwrap_or(usize::MAX)
}

fn word_index(sector: u64) -> usize {
    usize::try_from(sector % LEAF_SECTORS / 64).unwrap_or(usize::MAX)
}

/// `count` bits from that of `sector` on, all in one word.
fn mask(sector: u64, count: u64) -> u64 {
    let ones = if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    };
    ones << (sector % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sectors of the disk in the tests: more than one leaf, with no whole last word.
    const SECTORS: u64 = LEAF_SECTORS + 1000;

    #[test]
    fn runs_end_where_a_bit_differs() {
        let map = SectorMap::new(SECTORS * SECTOR).unwrap();
        assert_eq!(map.run(0, SECTORS * SECTOR), (false, SECTORS * SECTOR));
        map.set(512, 1024);
        assert_eq!(map.run(0, 4096), (false, 512));
        assert_eq!(map.run(512, 4096), (true, 1024));
        assert_eq!(map.run(512, 512), (true, 512));
        assert_eq!(map.run(1536, 512), (false, 512));
        // Over the end of a leaf, and up to the end of the disk.
        map.set(LEAF_BYTES - 512, 1024);
        assert_eq!(map.run(LEAF_BYTES - 512, 4096), (true, 1024));
        map.set(LEAF_BYTES + 999 * 512, 512);
        assert_eq!(map.run(LEAF_BYTES + 999 * 512, 512), (true, 512));
        // What is outside is nothing and harms nothing.
        map.set(u64::MAX - 600, 600);
        assert_eq!(map.run(1 << 60, 512), (false, 512));
    }

    #[test]
    fn memory_is_bounded_by_a_largest_disk() {
        assert!(SectorMap::new(MAX_LEN + 1).is_err());
        assert_eq!(SectorMap::new(MAX_LEN).unwrap().leaves.len(), 512 << 10);
        assert_eq!(size_of::<OnceLock<Box<Leaf>>>(), 16);
        assert_eq!(size_of::<Leaf>(), 32 << 10);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list_of_bits(
            writes in prop::collection::vec((0..400_u64, 1..200_u64), 0..12),
            reads in prop::collection::vec((0..600_u64, 1..600_u64), 1..12),
        ) {
            // Around the boundary of two leaves.
            let base = LEAF_SECTORS - 300;
            let map = SectorMap::new(SECTORS * SECTOR).unwrap();
            let mut bits = vec![false; 1300];
            for (start, count) in writes {
                map.set((base + start) * SECTOR, count * SECTOR);
                bits[start as usize..(start + count) as usize].fill(true);
            }
            for (start, count) in reads {
                let (is_set, len) = map.run((base + start) * SECTOR, count * SECTOR);
                let first = bits[start as usize];
                let rest = &bits[start as usize..(start + count) as usize];
                let same = rest.iter().take_while(|&&bit| bit == first).count();
                prop_assert_eq!((is_set, len), (first, same as u64 * SECTOR));
            }
        }
    }
}
