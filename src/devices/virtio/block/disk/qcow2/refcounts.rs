//! Refcounts of a qcow2 image that was not closed: raised to what its tables use.
//!
//! A count that is too low lets a cluster be taken twice; one that is too high wastes
//! it, and is left alone. Nothing but refcount blocks is written.

use std::io;
use std::os::unix::fs::FileExt;

use super::super::host_file::HostFile;
use super::header::{Header, number, wrong};

/// Clusters in a file at most, for 128 MiB of memory: 4 TiB with usual clusters.
const MAX_CLUSTERS: u64 = 64 << 20;
/// L2 tables read at most, over all snapshots: 2 PiB with usual clusters.
const MAX_TABLES: u64 = 4 << 20;
/// The offset in an L1, L2 or refcount table's entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// An L2 entry for a compressed cluster.
const COMPRESSED: u64 = 1 << 62;

/// Raises every count that is lower than the number of references to its cluster;
/// gives how many were, on stable storage if there were any.
///
/// # Errors
/// What the system says; `InvalidData` for tables that cannot be repaired so.
pub(super) fn raise(file: &HostFile, header: &Header) -> io::Result<u64> {
    let mut references = References {
        file,
        header,
        counts: Vec::new(),
        tables_left: most_tables(file, header),
    };
    references.count_all()?;
    let counts = references.counts;
    let per_block = header.cluster.saturating_mul(8) >> header.refcount_order;
    let per_block = usize::try_from(per_block).unwrap_or(usize::MAX);
    let blocks = read_table(file, header.refcounts_offset, header.refcounts_len)?;
    let mut raised: u64 = 0;
    for (index, wanted) in counts.chunks(per_block).enumerate() {
        if wanted.iter().all(|&count| count == 0) {
            continue;
        }
        let place = blocks.get(index).copied().unwrap_or(0) & OFFSET;
        if place == 0 {
            return wrong(UNREPAIRED.to_owned());
        }
        let mut block = read_bytes(file, place, header.cluster)?;
        let before = raised;
        for (index, &wanted) in wanted.iter().enumerate() {
            let wanted = u64::from(wanted);
            if get(&block, index, header.refcount_order) < wanted {
                if !set(&mut block, index, header.refcount_order, wanted) {
                    return wrong(UNREPAIRED.to_owned());
                }
                raised = raised.saturating_add(1);
            }
        }
        if raised > before {
            file.file().write_all_at(&block, place)?;
        }
    }
    if raised > 0 {
        file.flush()?;
    }
    Ok(raised)
}

/// L2 tables that an image of this length can have, each with its own place, but that
/// a snapshot may have all of them too.
fn most_tables(file: &HostFile, header: &Header) -> u64 {
    let places = (file.len() / header.cluster).saturating_add(1);
    let users = header.snapshots.saturating_add(1);
    places.saturating_mul(users).min(MAX_TABLES)
}

const UNREPAIRED: &str =
    "it was not closed and cannot be repaired here; repair it with 'qemu-img check -r all'";

/// How often each cluster is referred to.
struct References<'a> {
    file: &'a HostFile,
    header: &'a Header,
    counts: Vec<u16>,
    tables_left: u64,
}

impl References<'_> {
    fn count_all(&mut self) -> io::Result<()> {
        let header = self.header;
        self.add(0, header.cluster)?;
        self.add(header.refcounts_offset, header.refcounts_len)?;
        for block in read_table(self.file, header.refcounts_offset, header.refcounts_len)? {
            if block & OFFSET != 0 {
                self.add(block & OFFSET, header.cluster)?;
            }
        }
        self.count_mapped(header.l1_offset, header.l1_entries)?;
        self.count_snapshots()
    }

    /// An L1 table, its L2 tables, and what they map.
    fn count_mapped(&mut self, offset: u64, entries: u64) -> io::Result<()> {
        let len = entries.saturating_mul(8);
        self.add(offset, len)?;
        let cluster = self.header.cluster;
        for table in read_table(self.file, offset, len)? {
            if table & OFFSET == 0 {
                continue;
            }
            self.add(table & OFFSET, cluster)?;
            self.tables_left = match self.tables_left.checked_sub(1) {
                Some(left) => left,
                None => return wrong(UNREPAIRED.to_owned()),
            };
            for entry in read_table(self.file, table & OFFSET, cluster)? {
                if entry & COMPRESSED != 0 {
                    let (offset, len) = compressed(entry, cluster);
                    self.add(offset, len)?;
                } else if entry & OFFSET != 0 {
                    self.add(entry & OFFSET, cluster)?;
                }
            }
        }
        Ok(())
    }

    /// Each snapshot's entry: offset and size of its L1 table first, then lengths of
    /// what follows 40 bytes of fixed fields.
    fn count_snapshots(&mut self) -> io::Result<()> {
        let start = self.header.snapshots_offset;
        let mut at = start;
        for _ in 0..self.header.snapshots {
            let entry = read_bytes(self.file, at, 40)?;
            let (offset, entries) = (number::<8>(&entry, 0), number::<4>(&entry, 8));
            if offset >= 1 << 56 || entries > 4 << 20 {
                return wrong(UNREPAIRED.to_owned());
            }
            self.count_mapped(offset, entries)?;
            let tail = number::<2>(&entry, 12)
                .saturating_add(number::<2>(&entry, 14))
                .saturating_add(number::<4>(&entry, 36));
            at = at.saturating_add(40).saturating_add(tail);
            at = at.next_multiple_of(8);
        }
        self.add(start, at.saturating_sub(start))
    }

    /// One reference to each cluster of which the range has a byte.
    fn add(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let cluster = self.header.cluster;
        let end = offset.saturating_add(len).div_ceil(cluster);
        if end > MAX_CLUSTERS {
            return wrong(UNREPAIRED.to_owned());
        }
        let range = usize::try_from(offset / cluster).unwrap_or_default()
            ..usize::try_from(end).unwrap_or_default();
        if self.counts.len() < range.end {
            self.counts.resize(range.end, 0);
        }
        for count in self.counts.get_mut(range).unwrap_or_default() {
            *count = count.saturating_add(1);
        }
        Ok(())
    }
}

/// Where a compressed cluster lies: x = 62 - (cluster bits - 8) bits of offset, then
/// the number of further sectors of 512 bytes that it reaches into.
fn compressed(entry: u64, cluster: u64) -> (u64, u64) {
    let shift = 70_u32.saturating_sub(cluster.trailing_zeros());
    let offset = entry
        & 1_u64
            .checked_shl(shift)
            .map_or(0, |bit| bit.saturating_sub(1));
    let sectors = (entry & (COMPRESSED - 1)).checked_shr(shift).unwrap_or(0);
    let end = (offset / 512).saturating_add(sectors).saturating_add(1) * 512;
    (offset, end.saturating_sub(offset))
}

fn read_bytes(file: &HostFile, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?];
    let mut done = 0;
    // What lies behind the end of the file is zeros.
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file
            .file()
            .read_at(rest, offset.saturating_add(done as u64))
        {
            Ok(0) => break,
            Ok(count) => done = done.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn read_table(file: &HostFile, offset: u64, len: u64) -> io::Result<Vec<u64>> {
    let bytes = read_bytes(file, offset, len)?;
    Ok(bytes
        .chunks_exact(8)
        .map(|entry| number::<8>(entry, 0))
        .collect())
}

/// Count `index` of a refcount block. Counts of less than a byte begin at its low bits.
fn get(block: &[u8], index: usize, order: u64) -> u64 {
    match order {
        0..=2 => {
            let (byte, shift, mask) = in_byte(index, order);
            u64::from(block.get(byte).copied().unwrap_or(0) >> shift & mask)
        }
        3 => number::<1>(block, index),
        4 => number::<2>(block, index.saturating_mul(2)),
        5 => number::<4>(block, index.saturating_mul(4)),
        _ => number::<8>(block, index.saturating_mul(8)),
    }
}

/// Sets it; false if it does not fit.
fn set(block: &mut [u8], index: usize, order: u64, value: u64) -> bool {
    if order < 3 {
        let (byte, shift, mask) = in_byte(index, order);
        let Some(byte) = block.get_mut(byte) else {
            return false;
        };
        let Some(value) = u8::try_from(value).ok().filter(|&value| value <= mask) else {
            return false;
        };
        *byte = *byte & !(mask << shift) | value << shift;
        return true;
    }
    let width = 1_usize << (order - 3).min(3);
    let bytes = value.to_be_bytes();
    let (high, low) = bytes.split_at(bytes.len().saturating_sub(width));
    let start = index.saturating_mul(width);
    match block.get_mut(start..start.saturating_add(width)) {
        Some(place) if high.iter().all(|&byte| byte == 0) => {
            place.copy_from_slice(low);
            true
        }
        _ => false,
    }
}

fn in_byte(index: usize, order: u64) -> (usize, u32, u8) {
    let bits = 1_u32 << order.min(2);
    let per_byte = 8 / bits;
    let shift = u32::try_from(index % per_byte as usize).unwrap_or(0) * bits;
    (index / per_byte as usize, shift, (1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_are_read_and_written() {
        for order in 0..=6 {
            let mut block = vec![0xff; 64];
            assert!(set(&mut block, 3, order, 0));
            assert!(set(&mut block, 3, order, 1));
            assert_eq!(get(&block, 3, order), 1, "order {order}");
            assert_ne!(get(&block, 2, order), 1 << 8);
            assert!(get(&block, 4, order) > 0);
            assert!(!set(&mut block, 4096, order, 1));
        }
        assert!(!set(&mut [0; 8], 0, 0, 2));
        assert!(!set(&mut [0; 8], 0, 4, 65536));
        // 16 bits, big-endian; 4 bits, the low half first.
        assert_eq!(get(&[0, 1, 2, 3], 1, 4), 0x203);
        assert_eq!((get(&[0x21], 0, 2), get(&[0x21], 1, 2)), (1, 2));
    }

    /// With clusters of 64 KiB: 54 bits of offset, 8 bits of further sectors.
    #[test]
    fn compressed_clusters_reach_over_sectors() {
        let entry = COMPRESSED | 3 << 54 | 0x5_0123;
        assert_eq!(compressed(entry, 65536), (0x5_0123, 0x5_0800 - 0x5_0123));
    }
}
