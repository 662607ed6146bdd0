//! The file's own refcounts, and how they compare with what was counted.

use std::collections::BTreeMap;

use super::super::source::be;
use super::{CheckError, Checker, Severity, buffer};

/// Bytes of blocks kept in memory: those of 2 TiB of clusters of 64 KiB.
const CACHE: u64 = 64 << 20;
/// Bits of a refcount table's entry that are reserved.
const RESERVED: u64 = 0x1ff;

/// The refcount table, and some of its blocks.
#[derive(Debug, Default)]
pub(super) struct Refcounts {
    /// Offsets of blocks; 0 where there is none that is usable.
    table: Vec<u64>,
    /// Blocks by their index in the table.
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Checker<'_> {
    /// Reads the refcount table and counts it and its blocks.
    pub(super) fn load_refcounts(&mut self) -> Result<(), CheckError> {
        let cluster = self.header.cluster();
        let len = self.header.refcount_clusters.saturating_mul(cluster);
        let offset = self.header.refcount_offset;
        if len == 0 {
            self.report
                .error(|| "there is no refcount table".to_owned());
            return Ok(());
        }
        if !self.refer("the refcount table", offset, len)? && offset >= self.end {
            return Ok(());
        }
        let mut bytes = buffer(len);
        self.read(&mut bytes, offset)?;
        let mut table = Vec::with_capacity(bytes.len() / 8);
        for (index, entry) in bytes.chunks_exact(8).enumerate() {
            table.push(self.refcount_block(index, be(entry, 0, 8))?);
        }
        while table.last() == Some(&0) {
            table.pop();
        }
        self.refcounts.table = table;
        Ok(())
    }

    /// Where the block of an entry is, if it is usable.
    fn refcount_block(&mut self, index: usize, entry: u64) -> Result<u64, CheckError> {
        if entry == 0 {
            return Ok(0);
        }
        if entry & RESERVED != 0 {
            self.report.error(|| {
                format!("refcount table entry {index} has reserved bits set: {entry:#x}")
            });
        }
        let offset = entry & !RESERVED;
        let what = format!("refcount block {index}");
        if offset == 0 || !self.is_aligned(&what, offset) {
            return Ok(0);
        }
        let again = self.counts.get(offset >> self.header.cluster_bits) > 0;
        if !self.refer(&what, offset, self.header.cluster())? {
            return Ok(0);
        }
        if again {
            self.report
                .error(|| format!("{what} at {offset:#x} is something else as well"));
            return Ok(0);
        }
        Ok(offset)
    }

    /// Refcounts in a block.
    fn per_block(&self) -> u64 {
        (self.header.cluster() << 3) >> self.header.refcount_order
    }

    /// The file's refcount of a cluster.
    pub(super) fn refcount(&mut self, cluster: u64) -> Result<u64, CheckError> {
        let (block, index) = (cluster / self.per_block(), cluster % self.per_block());
        let order = self.header.refcount_order;
        if !self.refcounts.blocks.contains_key(&block) {
            let at = usize::try_from(block).unwrap_or(usize::MAX);
            let offset = self.refcounts.table.get(at).copied().unwrap_or_default();
            if offset == 0 {
                return Ok(0);
            }
            let mut bytes = buffer(self.header.cluster());
            self.read(&mut bytes, offset)?;
            if self.refcounts.blocks.len() as u64 >= CACHE / self.header.cluster() {
                self.refcounts.blocks.clear();
            }
            self.refcounts.blocks.insert(block, bytes);
        }
        let bytes = self.refcounts.blocks.get(&block).map(Vec::as_slice);
        Ok(refcount_in(bytes.unwrap_or_default(), index, order))
    }

    /// Holds the file's refcounts against what was counted. The counts are used up.
    pub(super) fn compare(&mut self) -> Result<(), CheckError> {
        let (cluster, per_block) = (self.header.cluster(), self.per_block());
        let order = self.header.refcount_order;
        let mut bytes = buffer(cluster);
        for (block, offset) in std::mem::take(&mut self.refcounts.table)
            .into_iter()
            .enumerate()
        {
            // What is in a hole is 0, and so compared below.
            if offset == 0 || self.source.data_in(offset..offset + cluster)?.is_none() {
                continue;
            }
            self.read(&mut bytes, offset)?;
            let first = (block as u64).saturating_mul(per_block);
            for index in used(&bytes, order) {
                let refcount = refcount_in(&bytes, index, order);
                let number = first.saturating_add(index);
                let counted = self.counts.take(number);
                self.judge(number, refcount, counted);
            }
        }
        let counts = std::mem::take(&mut self.counts);
        for (number, counted) in counts.left() {
            self.judge(number, 0, counted);
        }
        Ok(())
    }

    fn judge(&mut self, cluster: u64, refcount: u64, counted: u64) {
        // Counts end there.
        if refcount == counted || (refcount >= 65535 && counted == 65535) {
            return;
        }
        let at = cluster << self.header.cluster_bits;
        let times = if counted == 1 { "once" } else { "times" };
        if refcount > counted {
            self.report.add(Severity::Leak, || match counted {
                0 => format!("cluster {at:#x} is in use by nothing, but has refcount {refcount}"),
                1 => format!("cluster {at:#x} is in use {times}, but has refcount {refcount}"),
                _ => format!(
                    "cluster {at:#x} is in use {counted} {times}, but has refcount {refcount}"
                ),
            });
            return;
        }
        self.report.error(|| match (refcount, counted) {
            (0, 1) => format!("cluster {at:#x} is in use, but has refcount 0"),
            _ => {
                format!("cluster {at:#x} is in use {counted} {times}, but has refcount {refcount}")
            }
        });
    }
}

/// The refcount at `index` of a block. Those of less than a byte fill bytes from the
/// lowest bit on.
fn refcount_in(block: &[u8], index: u64, order: u32) -> u64 {
    if order < 3 {
        let bit = index << order;
        let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        let byte = block.get(byte).copied().unwrap_or_default();
        return u64::from(byte >> (bit % 8)) & ((1 << (1_u32 << order)) - 1);
    }
    let width = 1_usize << (order - 3);
    let at = usize::try_from(index)
        .unwrap_or(usize::MAX)
        .saturating_mul(width);
    be(block, at, width)
}

/// The indices of refcounts that are not 0, perhaps with a few that are.
fn used(block: &[u8], order: u32) -> impl Iterator<Item = u64> + '_ {
    let words = block.chunks(8).enumerate();
    words
        .filter(|(_, word)| word.iter().any(|byte| *byte != 0))
        .flat_map(move |(at, word)| {
            let per_word = 64 >> order;
            let first = at as u64 * per_word;
            let count = (word.len() as u64 * 8) >> order;
            first..first + count
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width() {
        let block = [0b1001_0110, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde];
        let bits: Vec<u64> = (0..8).map(|index| refcount_in(&block, index, 0)).collect();
        assert_eq!(bits, [0, 1, 1, 0, 1, 0, 0, 1]);
        assert_eq!(refcount_in(&block, 1, 1), 0b01);
        assert_eq!(refcount_in(&block, 3, 1), 0b10);
        assert_eq!(refcount_in(&block, 2, 2), 0x2);
        assert_eq!(refcount_in(&block, 2, 3), 0x34);
        assert_eq!(refcount_in(&block, 1, 4), 0x3456);
        assert_eq!(refcount_in(&block, 1, 5), 0x789a_bcde);
        assert_eq!(refcount_in(&block, 0, 6), 0x9612_3456_789a_bcde);
        assert_eq!(refcount_in(&block, 9, 4), 0);
    }

    #[test]
    fn only_words_with_something_in_them_are_looked_at() {
        let mut block = [0; 32];
        block[17] = 1;
        assert_eq!(used(&block, 4).collect::<Vec<_>>(), [8, 9, 10, 11]);
        assert_eq!(used(&block, 6).collect::<Vec<_>>(), [2]);
        assert_eq!(used(&block, 0).count(), 64);
    }
}
