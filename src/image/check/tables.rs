//! L1 and L2 tables: which clusters they refer to, and whether they may.

use super::super::Progress;
use super::super::source::be;
use super::{CheckError, Checker, buffer};

/// The offset in an L1 or L2 entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The entry's cluster has refcount 1 and may be written in place.
const COPIED: u64 = 1 << 63;
/// The L2 entry describes a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros.
const ZERO: u64 = 1;
/// Bytes of an L1 table read at once.
const PART: u64 = 64 << 10;
/// Bits of entries that are reserved.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// Whose tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The disk's.
    Active,
    /// An internal snapshot's, whose clusters others may share.
    Snapshot,
}

impl Checker<'_> {
    /// The disk's own tables.
    pub(super) fn check_active(&mut self, progress: &mut Progress<'_>) -> Result<(), CheckError> {
        let (offset, entries) = (self.header.l1_offset, self.header.l1_entries);
        self.check_l1("the L1 table", offset, entries, Owner::Active, progress)
    }

    /// An L1 table and all below.
    pub(super) fn check_l1(
        &mut self,
        what: &str,
        offset: u64,
        entries: u64,
        owner: Owner,
        progress: &mut Progress<'_>,
    ) -> Result<(), CheckError> {
        let len = entries.saturating_mul(8);
        if len == 0 || (!self.refer(what, offset, len)? && offset >= self.end) {
            return Ok(());
        }
        if offset.saturating_add(len) > self.end {
            self.report
                .error(|| format!("{what} at {offset:#x} is cut off by the file's end"));
        }
        let end = offset.saturating_add(len).min(self.end);
        let mut part = buffer(PART);
        let mut l2 = buffer(self.header.cluster());
        let mut at = offset;
        while at < end {
            progress((at - offset) / 8, entries);
            let next = end.min(at + PART);
            // Entries in holes refer to nothing.
            if self.source.data_in(at..next)?.is_some() {
                let count = usize::try_from(next - at).unwrap_or_default();
                let part = part.get_mut(..count).unwrap_or_default();
                self.read(part, at)?;
                for (index, entry) in ((at - offset) / 8..).zip(part.chunks_exact(8)) {
                    self.check_l1_entry(index, be(entry, 0, 8), owner, &mut l2)?;
                }
            }
            at = next;
        }
        progress(entries, entries);
        Ok(())
    }

    fn check_l1_entry(
        &mut self,
        index: u64,
        entry: u64,
        owner: Owner,
        table: &mut [u8],
    ) -> Result<(), CheckError> {
        if entry & L1_RESERVED != 0 {
            self.report
                .error(|| format!("L1 entry {index} has reserved bits set: {entry:#x}"));
        }
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(());
        }
        let what = format!("L2 table {index}");
        if !self.is_aligned(&what, offset) {
            return Ok(());
        }
        let cluster = self.header.cluster();
        let number = offset >> self.header.cluster_bits;
        let again = self.counts.get(number) > 0;
        if !self.refer(&what, offset, cluster)? {
            return Ok(());
        }
        if offset + cluster > self.end {
            self.report
                .error(|| format!("{what} at {offset:#x} is cut off by the file's end"));
        }
        if again && owner == Owner::Active {
            self.report
                .error(|| format!("{what} at {offset:#x} is something else as well"));
            return Ok(());
        }
        if owner == Owner::Active {
            self.check_copied(&what, offset, entry)?;
        }
        // Tables in holes refer to nothing.
        if self.source.data_in(offset..offset + cluster)?.is_none() {
            return Ok(());
        }
        self.read(table, offset)?;
        let width = usize::try_from(self.header.l2_entry()).unwrap_or(8);
        for (place, entry) in (0_u64..).zip(table.chunks_exact(width)) {
            let (standard, subclusters) = (be(entry, 0, 8), be(entry, 8, 8));
            if standard == 0 && subclusters == 0 {
                continue;
            }
            let guest = index * self.header.mapped_by_table() + place * cluster;
            self.check_l2_entry(guest, standard, subclusters, owner)?;
        }
        Ok(())
    }

    /// The entry for the cluster at `guest` of the disk.
    fn check_l2_entry(
        &mut self,
        guest: u64,
        entry: u64,
        subclusters: u64,
        owner: Owner,
    ) -> Result<(), CheckError> {
        if entry & COMPRESSED != 0 {
            return self.check_compressed(guest, entry, subclusters, owner);
        }
        let extended = self.header.has_extended_l2();
        let v3 = self.header.version >= 3;
        let zero_is_reserved = extended || !v3;
        if entry & L2_RESERVED != 0 || (zero_is_reserved && entry & ZERO != 0) {
            self.report
                .error(|| format!("the L2 entry of {guest:#x} has reserved bits set: {entry:#x}"));
        }
        // The lower half says what is allocated, the upper half what is zeros.
        let (allocated, zeros) = (subclusters & 0xffff_ffff, subclusters >> 32);
        if extended && allocated & zeros != 0 {
            self.report.error(|| {
                format!("the L2 entry of {guest:#x} has subclusters with data and zeros at once")
            });
        }
        let offset = entry & OFFSET;
        if self.header.has_data_file() {
            return Ok(());
        }
        if offset == 0 {
            if extended && allocated != 0 {
                self.report.error(|| {
                    format!("the L2 entry of {guest:#x} has subclusters with data, but no cluster")
                });
            }
            return Ok(());
        }
        let what = format!("the data of {guest:#x}");
        if !self.is_aligned(&what, offset) || !self.refer(&what, offset, self.header.cluster())? {
            return Ok(());
        }
        if owner == Owner::Active {
            self.report.data_clusters += 1;
            self.check_copied(&what, offset, entry)?;
        }
        Ok(())
    }

    fn check_compressed(
        &mut self,
        guest: u64,
        entry: u64,
        subclusters: u64,
        owner: Owner,
    ) -> Result<(), CheckError> {
        if entry & COPIED != 0 || subclusters != 0 {
            self.report.error(|| {
                format!("the L2 entry of {guest:#x} is compressed and has flags that forbid it")
            });
        }
        // The further the offset's field reaches, the smaller is that of the sectors.
        let sectors_width = self.header.cluster_bits - 8;
        let offset_width = 62 - sectors_width;
        let offset = entry & ((1 << offset_width) - 1);
        let more_sectors = (entry >> offset_width) & ((1 << sectors_width) - 1);
        let start = offset & !511;
        if owner == Owner::Active {
            self.report.data_clusters += 1;
        }
        let what = format!("the compressed data of {guest:#x}");
        self.refer(&what, start, (more_sectors + 1) * 512)?;
        Ok(())
    }

    /// The COPIED flag says that the refcount is 1, which is what lets a writer
    /// change the cluster in place.
    fn check_copied(&mut self, what: &str, offset: u64, entry: u64) -> Result<(), CheckError> {
        let refcount = self.refcount(offset >> self.header.cluster_bits)?;
        if (entry & COPIED != 0) != (refcount == 1) {
            let says = if entry & COPIED != 0 { "is" } else { "is not" };
            self.report.error(|| {
                format!("{what} at {offset:#x} has refcount {refcount}, but its entry says that it {says} 1")
            });
        }
        Ok(())
    }
}
