//! The port bus and the memory-mapped bus: ranges → devices.
//!
//! A bus is filled by the builder and never changes afterwards, so that a vCPU
//! looks a device up without a lock; the device itself is behind a mutex that
//! only vCPUs of an SMP guest which touch the same device at once contend for.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::BusDevice;

/// Why a range could not be put on a bus.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// Two devices claim the same address.
    #[error("cannot place a device at {base:#x}..+{len:#x}: the range is taken")]
    Overlap {
        /// First address of the refused range.
        base: u64,
        /// Length of the refused range.
        len: u64,
    },
    /// The range is empty or runs past the end of the address space.
    #[error("cannot place a device at {base:#x}..+{len:#x}: not a range")]
    BadRange {
        /// First address of the refused range.
        base: u64,
        /// Length of the refused range.
        len: u64,
    },
}

struct Slot {
    base: u64,
    len: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// Ranges of one address space (ports or guest-physical addresses), sorted by base.
#[derive(Default)]
pub struct Bus {
    slots: Vec<Slot>,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base..base + len`.
    ///
    /// # Errors
    /// [`BusError`] if the range is empty, wraps or overlaps another device's.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let end = match base.checked_add(len) {
            Some(end) if len > 0 => end,
            _ => return Err(BusError::BadRange { base, len }),
        };
        let at = self.slots.partition_point(|slot| slot.base < base);
        let clear_of = |slot: Option<&Slot>| {
            slot.is_none_or(|slot| slot.base >= end || slot.base + slot.len <= base)
        };
        let before = at.checked_sub(1).and_then(|i| self.slots.get(i));
        if !clear_of(before) || !clear_of(self.slots.get(at)) {
            return Err(BusError::Overlap { base, len });
        }
        self.slots.insert(at, Slot { base, len, device });
        Ok(())
    }

    /// The guest reads at `addr`. Returns false, with `data` all ones, where no
    /// device claims the whole access.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        let Some((device, offset)) = self.find(addr, data.len()) else {
            return false;
        };
        device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(offset, data);
        true
    }

    /// The guest writes at `addr`. Returns false, with nothing done, where no
    /// device claims the whole access.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        let Some((device, offset)) = self.find(addr, data.len()) else {
            return false;
        };
        device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(offset, data);
        true
    }

    fn find(&self, addr: u64, len: usize) -> Option<(&Mutex<dyn BusDevice>, u64)> {
        let at = self.slots.partition_point(|slot| slot.base <= addr);
        let slot = self.slots.get(at.checked_sub(1)?)?;
        let offset = addr.checked_sub(slot.base)?;
        let room = slot.len.checked_sub(offset)?;
        (u64::try_from(len).ok()? <= room).then_some((&*slot.device, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers the last access and answers reads with the offset.
    #[derive(Default)]
    struct Probe(Vec<(u64, Vec<u8>)>);

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn probe() -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe::default()))
    }

    #[test]
    fn accesses_reach_the_device_with_their_offset() {
        let (low, high) = (probe(), probe());
        let mut bus = Bus::new();
        bus.insert(0x60, 5, low.clone()).unwrap();
        bus.insert(0x3f8, 8, high.clone()).unwrap();
        assert!(bus.write(0x3f9, &[7]));
        assert_eq!(high.lock().unwrap().0, [(1, vec![7])]);
        let mut data = [0; 1];
        assert!(bus.read(0x64, &mut data));
        assert_eq!(data, [4]);
        assert!(low.lock().unwrap().0.is_empty());
    }

    #[test]
    fn what_no_device_claims_reads_as_ones() {
        let mut bus = Bus::new();
        bus.insert(0x60, 5, probe()).unwrap();
        for addr in [0, 0x5f, 0x65, u64::MAX] {
            let mut data = [0; 4];
            assert!(!bus.read(addr, &mut data));
            assert_eq!(data, [0xff; 4]);
            assert!(!bus.write(addr, &data));
        }
    }

    #[test]
    fn an_access_that_leaves_the_range_is_not_the_devices() {
        let mut bus = Bus::new();
        bus.insert(0x60, 5, probe()).unwrap();
        assert!(!bus.read(0x62, &mut [0; 4]));
        assert!(bus.read(0x61, &mut [0; 4]));
    }

    #[test]
    fn overlapping_and_impossible_ranges_are_refused() {
        let mut bus = Bus::new();
        bus.insert(0x100, 0x10, probe()).unwrap();
        for (base, len) in [(0x100, 1), (0xff, 2), (0x10f, 8), (0x80, 0x100)] {
            assert_eq!(
                bus.insert(base, len, probe()),
                Err(BusError::Overlap { base, len })
            );
        }
        assert!(bus.insert(0x110, 1, probe()).is_ok());
        assert!(bus.insert(0xff, 1, probe()).is_ok());
        assert!(bus.insert(0x200, 0, probe()).is_err());
        assert!(bus.insert(u64::MAX, 2, probe()).is_err());
    }
}
