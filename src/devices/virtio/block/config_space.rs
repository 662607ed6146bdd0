//! The block device's configuration space (virtio 1.2 §5.2.4) and the features that
//! tell which of its fields count (§5.2.3).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::disk::DiskLimits;
use super::request::SECTOR;

/// Ranges in one DISCARD or WRITE_ZEROES request at most.
pub const MAX_SEGMENTS: u32 = 16;
/// Sectors in one range of a DISCARD at most: 4 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 8 << 20;
/// Sectors in one range of a WRITE_ZEROES at most: 256 MiB, which a host file system
/// that has to write the zeros does in well under a second or two.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 512 << 10;

/// Descriptors of a request that are not data: its header and its status.
const NO_DATA_DESCRIPTORS: u16 = 2;
/// What a file system is best told to keep apart: the host's page size, in sectors.
const DISCARD_ALIGNMENT: u32 = 4096 / SECTOR as u32;

/// Bytes up to `unused1` (§5.2.4); what follows belongs to features not offered.
const LEN: usize = 60;
const CAPACITY: usize = 0;
const SEG_MAX: usize = 12;
const BLK_SIZE: usize = 20;
const PHYSICAL_BLOCK_EXP: usize = 24;
const MIN_IO_SIZE: usize = 26;
const OPT_IO_SIZE: usize = 28;
const WRITEBACK: usize = 32;
const NUM_QUEUES: usize = 34;
const MAX_DISCARD: usize = 36;
const MAX_DISCARD_SEG: usize = 40;
const DISCARD_SECTOR_ALIGNMENT: usize = 44;
const MAX_WRITE_ZEROES: usize = 48;
const MAX_WRITE_ZEROES_SEG: usize = 52;
const WRITE_ZEROES_MAY_UNMAP: usize = 56;

/// Whether `features` has bit number `bit`.
pub const fn has(features: u64, bit: u32) -> bool {
    features >> bit & 1 != 0
}

/// What the driver reads and may write of the device's configuration.
///
/// `writeback` is 1 at first: the disk has a write cache that FLUSH empties.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; LEN],
    offered: u64,
}

impl ConfigSpace {
    /// The configuration of a disk of `capacity` bytes behind `queues` queues of
    /// `queue_size` descriptors each.
    pub fn new(capacity: u64, limits: &DiskLimits, queues: u16, queue_size: u16) -> Self {
        let mut config = Self {
            bytes: [0; LEN],
            offered: features(limits, queues),
        };
        let block = limits.physical_block.max(SECTOR as u32);
        let block_sectors = block / SECTOR as u32;
        let seg_max = u32::from(queue_size.saturating_sub(NO_DATA_DESCRIPTORS)).max(1);
        config.put(CAPACITY, &(capacity / SECTOR).to_le_bytes());
        config.put(SEG_MAX, &seg_max.to_le_bytes());
        config.put(BLK_SIZE, &(SECTOR as u32).to_le_bytes());
        let exponent = block_sectors.checked_ilog2().unwrap_or(0) as u8;
        config.put(PHYSICAL_BLOCK_EXP, &[exponent]);
        let min_io = u16::try_from(block_sectors).unwrap_or(u16::MAX);
        config.put(MIN_IO_SIZE, &min_io.to_le_bytes());
        // No size is better than another: 0.
        config.put(OPT_IO_SIZE, &0u32.to_le_bytes());
        config.put(WRITEBACK, &[1]);
        config.put(NUM_QUEUES, &queues.to_le_bytes());
        if has(config.offered, VIRTIO_BLK_F_DISCARD) {
            let alignment = block_sectors.max(DISCARD_ALIGNMENT);
            config.put(MAX_DISCARD, &MAX_DISCARD_SECTORS.to_le_bytes());
            config.put(MAX_DISCARD_SEG, &MAX_SEGMENTS.to_le_bytes());
            config.put(DISCARD_SECTOR_ALIGNMENT, &alignment.to_le_bytes());
        }
        if has(config.offered, VIRTIO_BLK_F_WRITE_ZEROES) {
            config.put(MAX_WRITE_ZEROES, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
            config.put(MAX_WRITE_ZEROES_SEG, &MAX_SEGMENTS.to_le_bytes());
            config.put(WRITE_ZEROES_MAY_UNMAP, &[u8::from(limits.discard)]);
        }
        config
    }

    /// The feature bits to offer: those whose fields are filled.
    pub fn features(&self) -> u64 {
        self.offered
    }

    /// Reads at `offset`; what lies beyond the end stays as it is in `data`.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let from = usize::try_from(offset).unwrap_or(LEN);
        let there = self.bytes.get(from..).unwrap_or_default();
        for (byte, field) in data.iter_mut().zip(there) {
            *byte = *field;
        }
    }

    /// Writes at `offset`: `writeback` is all that can be written.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let into = (WRITEBACK as u64).checked_sub(offset);
        let into = into.and_then(|into| usize::try_from(into).ok());
        if let Some(value) = into.and_then(|into| data.get(into)) {
            self.put(WRITEBACK, &[u8::from(*value != 0)]);
        }
    }

    /// The driver has agreed on `features` and is ready: a driver that can set
    /// `writeback` but cannot flush begins with 0 (§5.2.5.2).
    pub fn activated(&mut self, features: u64) {
        if has(features, VIRTIO_BLK_F_CONFIG_WCE) && !has(features, VIRTIO_BLK_F_FLUSH) {
            self.put(WRITEBACK, &[0]);
        }
    }

    /// Back to how it was made.
    pub fn reset(&mut self) {
        self.put(WRITEBACK, &[1]);
    }

    /// Whether a write has to be on stable storage before it is answered, with
    /// `features` agreed on (§5.2.6.2: the driver cannot flush, or has chosen to go
    /// without a write cache).
    pub fn write_through(&self, features: u64) -> bool {
        if has(features, VIRTIO_BLK_F_CONFIG_WCE) {
            self.bytes.get(WRITEBACK) == Some(&0)
        } else {
            !has(features, VIRTIO_BLK_F_FLUSH)
        }
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        let field = self.bytes.get_mut(at..at.saturating_add(value.len()));
        if let Some(field) = field {
            field.copy_from_slice(value);
        }
    }
}

/// DISCARD and WRITE_ZEROES change the disk, so one that is read-only has neither.
fn features(limits: &DiskLimits, queues: u16) -> u64 {
    let mut features = bit(VIRTIO_BLK_F_SEG_MAX)
        | bit(VIRTIO_BLK_F_BLK_SIZE)
        | bit(VIRTIO_BLK_F_TOPOLOGY)
        | bit(VIRTIO_BLK_F_FLUSH)
        | bit(VIRTIO_BLK_F_CONFIG_WCE);
    if queues > 1 {
        features |= bit(VIRTIO_BLK_F_MQ);
    }
    if limits.read_only {
        return features | bit(VIRTIO_BLK_F_RO);
    }
    if limits.discard {
        features |= bit(VIRTIO_BLK_F_DISCARD);
    }
    features | bit(VIRTIO_BLK_F_WRITE_ZEROES)
}

const fn bit(number: u32) -> u64 {
    1 << number
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DiskLimits = DiskLimits {
        read_only: false,
        physical_block: 4096,
        discard: true,
    };

    fn field<const N: usize>(config: &ConfigSpace, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        config.read(offset, &mut data);
        data
    }

    /// Offsets as in `struct virtio_blk_config` of §5.2.4, counted by hand.
    #[test]
    fn the_fields_lie_where_the_specification_has_them() {
        let config = ConfigSpace::new(10 << 20, &DISK, 4, 256);
        assert_eq!(u64::from_le_bytes(field(&config, 0)), 20480);
        assert_eq!(u32::from_le_bytes(field(&config, 8)), 0);
        assert_eq!(u32::from_le_bytes(field(&config, 12)), 254);
        assert_eq!(u32::from_le_bytes(field(&config, 20)), 512);
        assert_eq!(field(&config, 24), [3, 0, 8, 0, 0, 0, 0, 0]);
        assert_eq!(field(&config, 32), [1, 0, 4, 0]);
        assert_eq!(u32::from_le_bytes(field(&config, 36)), 8388608);
        assert_eq!(u32::from_le_bytes(field(&config, 40)), 16);
        assert_eq!(u32::from_le_bytes(field(&config, 44)), 8);
        assert_eq!(u32::from_le_bytes(field(&config, 48)), 524288);
        assert_eq!(u32::from_le_bytes(field(&config, 52)), 16);
        assert_eq!(field(&config, 56), [1, 0, 0, 0]);
    }

    #[test]
    fn beyond_the_end_nothing_is_read_or_written() {
        let mut config = ConfigSpace::new(1 << 20, &DISK, 1, 256);
        let mut data = [0xee; 8];
        config.read(58, &mut data);
        assert_eq!(data, [0, 0, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
        config.read(u64::MAX, &mut data);
        for offset in [33, 60, 1 << 32, u64::MAX] {
            config.write(offset, &[0xff; 8]);
        }
        assert_eq!(field(&config, 32), [1, 0, 1, 0]);
    }

    #[test]
    fn only_writeback_can_be_written() {
        let mut config = ConfigSpace::new(1 << 20, &DISK, 1, 256);
        let before: [u8; LEN] = field(&config, 0);
        config.write(0, &[0; 32]);
        assert_eq!(field::<LEN>(&config, 0), before);
        config.write(28, &[0; 8]);
        assert_eq!(field(&config, 32), [0, 0, 1, 0]);
        config.write(32, &[0x80]);
        assert_eq!(field(&config, 32), [1]);
    }

    #[test]
    fn features_say_what_the_disk_can() {
        let writable = (1 << 2) | (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 14);
        let offered = |limits: DiskLimits, queues| {
            let config = ConfigSpace::new(1 << 20, &limits, queues, 256);
            config.features()
        };
        assert_eq!(offered(DISK, 1), writable | 1 << 13);
        assert_eq!(offered(DISK, 2), writable | 1 << 13 | 1 << 12);
        let no_discard = DiskLimits {
            discard: false,
            ..DISK
        };
        assert_eq!(offered(no_discard, 1), writable);
        let read_only = DiskLimits {
            read_only: true,
            ..DISK
        };
        assert_eq!(offered(read_only, 1), (writable ^ 1 << 14) | 1 << 5);
    }

    #[test]
    fn limits_of_what_is_not_offered_are_zero() {
        let read_only = DiskLimits {
            read_only: true,
            ..DISK
        };
        let config = ConfigSpace::new(1 << 20, &read_only, 1, 256);
        assert_eq!(field(&config, 36), [0; 24]);
    }

    /// §5.2.6.2: when a write is stable once it is completed.
    #[test]
    fn a_driver_without_a_flush_gets_write_through() {
        const FLUSH: u64 = 1 << 9;
        const CONFIG_WCE: u64 = 1 << 11;
        let mut config = ConfigSpace::new(1 << 20, &DISK, 1, 256);
        config.activated(0);
        assert!(config.write_through(0));
        assert!(!config.write_through(FLUSH));
        config.activated(FLUSH | CONFIG_WCE);
        assert!(!config.write_through(FLUSH | CONFIG_WCE));
        config.write(32, &[0]);
        assert!(config.write_through(FLUSH | CONFIG_WCE));
        assert!(!config.write_through(FLUSH));
        config.reset();
        config.activated(CONFIG_WCE);
        assert_eq!(field(&config, 32), [0]);
        assert!(config.write_through(CONFIG_WCE));
    }

    #[test]
    fn odd_limits_make_no_odd_fields() {
        let odd = DiskLimits {
            physical_block: 0,
            ..DISK
        };
        let config = ConfigSpace::new(0, &odd, 0, 1);
        assert_eq!(u32::from_le_bytes(field(&config, 12)), 1);
        assert_eq!(field(&config, 24), [0, 0, 1, 0]);
        let huge = DiskLimits {
            physical_block: 1 << 31,
            ..DISK
        };
        let config = ConfigSpace::new(u64::MAX, &huge, 1, 256);
        assert_eq!(field(&config, 24), [22, 0, 0xff, 0xff]);
    }
}
