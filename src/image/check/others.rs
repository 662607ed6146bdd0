//! What else has clusters: internal snapshots, persistent bitmaps, an encryption
//! header.

use super::super::header::{L1_MAX, SNAPSHOTS_MAX};
use super::super::source::be;
use super::tables::Owner;
use super::{CheckError, Checker, buffer};

/// Bytes of a snapshot's or bitmap's fixed part.
const SNAPSHOT_LEN: u64 = 40;
const BITMAP_LEN: u64 = 24;
/// Bytes of the snapshot table and of the bitmap directory at most, as in QEMU.
const SNAPSHOT_TABLE_MAX: u64 = 1024 * SNAPSHOTS_MAX as u64;
const BITMAPS_MAX: u64 = 65535;
const BITMAP_DIRECTORY_MAX: u64 = 1024 * BITMAPS_MAX;
/// Entries of a bitmap's table at most, as in QEMU.
const BITMAP_TABLE_MAX: u64 = 0x0800_0000;
/// The offset in a bitmap table's entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl Checker<'_> {
    /// The snapshot table and every snapshot's tables.
    pub(super) fn check_snapshots(&mut self) -> Result<(), CheckError> {
        let start = self.header.snapshots_offset;
        let mut offset = start;
        let mut fixed = buffer(SNAPSHOT_LEN);
        for number in 0..self.header.snapshots {
            if offset >= self.end || offset - start > SNAPSHOT_TABLE_MAX {
                self.report
                    .error(|| format!("the snapshot table ends before snapshot {number}"));
                break;
            }
            self.read(&mut fixed, offset)?;
            let (l1, entries) = (be(&fixed, 0, 8), be(&fixed, 8, 4));
            let (id, name, extra) = (be(&fixed, 12, 2), be(&fixed, 14, 2), be(&fixed, 36, 4));
            offset = (offset + SNAPSHOT_LEN + extra + id + name).next_multiple_of(8);
            let what = format!("the L1 table of snapshot {number}");
            if entries > L1_MAX / 8 {
                self.report.error(|| format!("{what} is too large"));
            } else if self.is_aligned(&what, l1) {
                self.check_l1(&what, l1, entries, Owner::Snapshot, &mut |_, _| {})?;
            }
        }
        if offset > start {
            self.refer("the snapshot table", start, offset - start)?;
        }
        Ok(())
    }

    /// The bitmap directory, the bitmaps' tables and their data.
    pub(super) fn check_bitmaps(&mut self) -> Result<(), CheckError> {
        let Some(directory) = self.header.bitmaps else {
            return Ok(());
        };
        if directory.len > BITMAP_DIRECTORY_MAX || directory.count > BITMAPS_MAX {
            self.report
                .error(|| "the bitmap directory is too large".to_owned());
            return Ok(());
        }
        let what = "the bitmap directory";
        if directory.len == 0
            || !self.is_aligned(what, directory.offset)
            || !self.refer(what, directory.offset, directory.len)?
        {
            return Ok(());
        }
        let mut entries = buffer(directory.len);
        self.read(&mut entries, directory.offset)?;
        let mut at = 0;
        for number in 0..directory.count {
            let place = usize::try_from(at).unwrap_or(usize::MAX);
            let Some(entry) = entries
                .get(place..)
                .filter(|rest| rest.len() as u64 >= BITMAP_LEN)
            else {
                self.report
                    .error(|| format!("the bitmap directory ends before bitmap {number}"));
                break;
            };
            let (table, size) = (be(entry, 0, 8), be(entry, 8, 4));
            let (name, extra) = (be(entry, 18, 2), be(entry, 20, 4));
            at = (at + BITMAP_LEN + extra + name).next_multiple_of(8);
            self.check_bitmap(number, table, size)?;
        }
        Ok(())
    }

    fn check_bitmap(&mut self, number: u64, offset: u64, entries: u64) -> Result<(), CheckError> {
        let what = format!("the table of bitmap {number}");
        let len = entries.saturating_mul(8);
        if entries > BITMAP_TABLE_MAX {
            self.report.error(|| format!("{what} is too large"));
            return Ok(());
        }
        if entries == 0 || !self.is_aligned(&what, offset) || !self.refer(&what, offset, len)? {
            return Ok(());
        }
        let cluster = self.header.cluster();
        let data = format!("the data of bitmap {number}");
        let mut part = buffer(cluster);
        let mut done = 0;
        while done < len {
            let count = (len - done).min(cluster);
            let at = offset + done;
            done += count;
            // Entries in holes refer to nothing.
            if self.source.data_in(at..at + count)?.is_none() {
                continue;
            }
            let part = part.get_mut(..usize::try_from(count).unwrap_or_default());
            let part = part.unwrap_or_default();
            self.read(part, at)?;
            for entry in part.chunks_exact(8) {
                let place = be(entry, 0, 8) & OFFSET;
                if place != 0 && self.is_aligned(&data, place) {
                    self.refer(&data, place, cluster)?;
                }
            }
        }
        Ok(())
    }

    /// The encryption header.
    pub(super) fn check_encryption_header(&mut self) -> Result<(), CheckError> {
        /// Bytes of it at most: the largest LUKS header is 4 MiB with its keys.
        const MAX: u64 = 64 << 20;
        let Some((offset, len)) = self.header.encryption_header else {
            return Ok(());
        };
        let what = "the encryption header";
        if len > MAX {
            self.report.error(|| format!("{what} is too large"));
        } else if len > 0 && self.is_aligned(what, offset) {
            self.refer(what, offset, len)?;
        }
        Ok(())
    }
}
