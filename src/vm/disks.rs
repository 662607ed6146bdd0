//! The VM's disks: opened with everything the user can mend, then made into devices.

use std::sync::Arc;

use super::error::BuildError;
use super::report::DiskReport;
use crate::config::disk::SERIAL_LEN;
use crate::config::{self, Aio, DiskConfig, DiskFormat, VmConfig};
use crate::devices::virtio::block::disk::Disk;
use crate::devices::virtio::block::disk::open::{self, Cache, DiskOptions, Format};
use crate::devices::virtio::block::{Block, BlockCounters, BlockOptions, Engine};
use crate::devices::virtio::rate_limiter::{Rate, RateLimits};
use crate::memory::GuestRam;

/// A disk whose files are open and locked; no thread serves it yet.
pub struct OpenDisk {
    name: String,
    disk: Arc<dyn Disk>,
    options: BlockOptions,
}

/// What a disk counts, to be read when the VM has ended.
pub struct DiskCounters {
    name: String,
    counters: Arc<BlockCounters>,
}

/// Opens and locks the files of all disks.
///
/// # Errors
/// [`BuildError::Disk`] names the file.
pub fn open(config: &VmConfig) -> Result<Vec<OpenDisk>, BuildError> {
    let disks = config.disks.iter().enumerate();
    disks
        .map(|(index, disk)| {
            let options = files(disk, config);
            Ok(OpenDisk {
                name: name(index),
                disk: open::open(&options)?,
                options: device(disk),
            })
        })
        .collect()
}

impl OpenDisk {
    /// Starts the threads that serve the disk.
    ///
    /// # Errors
    /// [`BuildError::Block`] if the host gives none.
    pub fn start(self, ram: &GuestRam) -> Result<(Block, DiskCounters), BuildError> {
        let block = Block::start(self.disk, ram.clone(), self.options, &self.name)?;
        let counters = DiskCounters {
            name: self.name,
            counters: block.counters(),
        };
        Ok((block, counters))
    }
}

impl DiskCounters {
    /// What was counted so far.
    pub fn report(&self) -> DiskReport {
        DiskReport {
            name: self.name.clone(),
            totals: self.counters.totals(),
        }
    }
}

/// What Linux calls the disk with that number: vda to vdz, vdaa and so on.
fn name(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = Some(index);
    while let Some(index) = rest {
        letters.push(char::from(b'a' + (index % 26) as u8));
        rest = (index / 26).checked_sub(1);
    }
    let letters: String = letters.into_iter().rev().collect();
    format!("vd{letters}")
}

/// What concerns the disk's files.
fn files(disk: &DiskConfig, config: &VmConfig) -> DiskOptions {
    DiskOptions {
        path: disk.path.clone(),
        read_only: disk.readonly,
        format: match disk.format {
            DiskFormat::Auto => Format::Auto,
            DiskFormat::Raw => Format::Raw,
            DiskFormat::Qcow2 => Format::Qcow2,
            DiskFormat::Vmdk => Format::Vmdk,
        },
        ephemeral: disk.ephemeral,
        cache: match disk.cache {
            config::Cache::Writeback => Cache::Writeback,
            config::Cache::None => Cache::None,
            config::Cache::Unsafe => Cache::Unsafe,
        },
        backing_any: disk.backing == config::Backing::Any,
        scratch_dir: config.scratch_dir.clone(),
    }
}

/// What concerns the device.
fn device(disk: &DiskConfig) -> BlockOptions {
    let mut serial = [0; SERIAL_LEN];
    let given = disk.serial.as_deref().unwrap_or_default().bytes();
    for (place, byte) in serial.iter_mut().zip(given) {
        *place = byte;
    }
    BlockOptions {
        queues: disk.queues,
        engine: match disk.aio {
            Aio::IoUring => Engine::IoUring,
            Aio::Threads => Engine::Threads,
        },
        serial,
        limits: RateLimits {
            operations: disk.iops.map(Rate::per_second),
            bytes: disk.bandwidth.map(Rate::per_second),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    #[test]
    fn disks_are_named_as_linux_does() {
        assert_eq!([0, 1, 25].map(name), ["vda", "vdb", "vdz"]);
        assert_eq!(
            [26, 27, 701, 702].map(name),
            ["vdaa", "vdab", "vdzz", "vdaaa"]
        );
    }

    #[test]
    fn a_serial_number_is_filled_up_with_zeros() {
        let mut disk = DiskConfig::new("x".into());
        assert_eq!(device(&disk).serial, [0; 20]);
        disk.serial = Some("S12".to_owned());
        assert_eq!(&device(&disk).serial[..4], b"S12\0");
    }

    #[test]
    fn limits_reach_the_device() {
        let mut disk = DiskConfig::new("x".into());
        assert_eq!(device(&disk).limits, RateLimits::default());
        disk.iops = NonZeroU64::new(100);
        let operations = device(&disk).limits.operations.unwrap();
        assert_eq!(operations.per_second.get(), 100);
        assert_eq!(device(&disk).limits.bytes, None);
    }
}
