//! A split virtqueue whose driver is not trusted (virtio 1.2 §2.7).
//!
//! The rings lie in guest memory and are the driver's to change at any time. What the
//! device goes by it keeps here: addresses, size and indexes are checked once and never
//! read again from where the driver could change them.
//!
//! Accesses to guest memory: the available index once for all chains it announces, a
//! ring entry and 16 bytes a descriptor for each chain, 8 bytes for each chain that is
//! returned, and the used index once for all of them ([`VirtQueue::publish_used`]).

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{Bytes, GuestAddress};

pub use super::chain::{Buffer, Chain};
use super::chain::{DESCRIPTOR, Rules, Table};
use crate::memory::GuestRam;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (§2.7.6): the driver polls.
const NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY (§2.7.8): the device polls.
const NO_NOTIFY: u16 = 1;
/// The largest size of a queue (§2.7).
const LARGEST: u16 = 32768;

/// Flags and index, which both rings begin with.
const RING_HEADER: u64 = 4;
/// Offset of the index in either ring.
const INDEX: u64 = 2;
/// Bytes of an entry of the available ring.
const AVAILABLE_ENTRY: u64 = 2;
/// Bytes of an entry of the used ring.
const USED_ENTRY: u64 = 8;
/// `used_event` or `avail_event` behind the entries.
const EVENT: u64 = 2;

/// What the driver has done wrong with a queue; there is no going on with it.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum QueueError {
    /// A size that is no power of two, or beyond the largest allowed.
    #[error("queue size {0} is not one that the device offers")]
    Size(u16),
    /// A ring outside RAM, or not aligned (§2.7).
    #[error("a ring of the queue is not in RAM or not aligned")]
    Rings,
    /// The available index has run away: more chains than the queue has descriptors
    /// would be with the device.
    #[error("the available ring is not valid")]
    Available,
    /// A descriptor chain that breaks a rule of [`chain`](super::chain).
    #[error("descriptor chain {head} is broken")]
    Chain {
        /// Its first descriptor.
        head: u16,
    },
    /// The used ring cannot be written.
    #[error("the used ring is not valid")]
    Used,
}

/// What the driver has told of a queue, and how far the device has come in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Number of descriptors.
    pub size: u16,
    /// Whether the driver has enabled it.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// The available index up to which the device has taken chains.
    pub next_available: u16,
    /// The used index up to which the device has returned chains.
    pub next_used: u16,
}

/// The device's side of a queue that the driver has enabled.
pub struct VirtQueue {
    ram: GuestRam,
    rules: Rules,
    size: u16,
    available: u64,
    used: u64,
    /// Chains taken.
    next_available: u16,
    /// Chains known to be available: the available index as it was last read.
    announced: u16,
    /// Chains returned, in the ring.
    next_used: u16,
    /// Of these, chains the driver may know of: the used index.
    published: u16,
    /// The used index when the driver was last thought of for an interrupt.
    considered: u16,
    event_idx: bool,
    /// Whether the used ring's flags ask for kicks, once the device has written them.
    kicks: Option<bool>,
}

impl VirtQueue {
    /// Takes the queue up where `state` says. `max_size` is the largest size that the
    /// device offers, and how many descriptors a chain may have; `features` are those
    /// agreed on, of which EVENT_IDX and INDIRECT_DESC matter here.
    ///
    /// # Errors
    /// [`QueueError::Size`] or [`QueueError::Rings`].
    pub fn new(
        ram: GuestRam,
        state: &QueueState,
        max_size: u16,
        features: u64,
    ) -> Result<Self, QueueError> {
        let size = state.size;
        if !size.is_power_of_two() || size > max_size.min(LARGEST) {
            return Err(QueueError::Size(size));
        }
        let entries = u64::from(size);
        let in_ram = |addr: u64, align: u64, len: u64| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            addr.is_multiple_of(align) && ram.contains(addr, len)
        };
        let available_len = RING_HEADER + AVAILABLE_ENTRY * entries + EVENT;
        let used_len = RING_HEADER + USED_ENTRY * entries + EVENT;
        if !in_ram(state.descriptors, 16, u64::from(DESCRIPTOR) * entries)
            || !in_ram(state.available, 2, available_len)
            || !in_ram(state.used, 4, used_len)
        {
            return Err(QueueError::Rings);
        }
        let has = |feature: u32| features >> feature & 1 != 0;
        Ok(Self {
            rules: Rules {
                table: Table {
                    addr: state.descriptors,
                    len: u32::from(size),
                },
                longest: max_size,
                indirect: has(VIRTIO_RING_F_INDIRECT_DESC),
            },
            size,
            available: state.available,
            used: state.used,
            next_available: state.next_available,
            announced: state.next_available,
            next_used: state.next_used,
            published: state.next_used,
            considered: state.next_used,
            event_idx: has(VIRTIO_RING_F_EVENT_IDX),
            kicks: None,
            ram,
        })
    }

    /// What to save of it, once all that was returned is published.
    pub fn state(&self) -> QueueState {
        QueueState {
            size: self.size,
            ready: true,
            descriptors: self.rules.table.addr,
            available: self.available,
            used: self.used,
            next_available: self.next_available,
            next_used: self.next_used,
        }
    }

    /// Number of descriptors, and of chains that may be with the device at once:
    /// [`pop`](Self::pop) gives no more before one is returned.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The memory that the rings and buffers lie in.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Takes the next chain that the driver has made available; false if there is none.
    ///
    /// # Errors
    /// [`QueueError`] if the ring or the chain is broken.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, QueueError> {
        if self.announced == self.next_available {
            let index = self.available_index().ok_or(QueueError::Available)?;
            let waiting = index.wrapping_sub(self.next_available);
            if waiting == 0 {
                chain.clear();
                return Ok(false);
            }
            let in_flight = self.next_available.wrapping_sub(self.next_used);
            if u32::from(waiting) + u32::from(in_flight) > u32::from(self.size) {
                return Err(QueueError::Available);
            }
            self.announced = index;
        }
        let offset = AVAILABLE_ENTRY.wrapping_mul(self.slot(self.next_available));
        let entry = self
            .available
            .wrapping_add(RING_HEADER.wrapping_add(offset));
        let head = self.load(entry, Ordering::Relaxed);
        let head = head.ok_or(QueueError::Available)?;
        self.next_available = self.next_available.wrapping_add(1);
        match chain.read(&self.ram, head, &self.rules) {
            Some(()) => Ok(true),
            None => Err(QueueError::Chain { head }),
        }
    }

    /// Returns chain `head`, into whose writable buffers `written` bytes were written.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the ring cannot be written.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.stage_used(head, written)?;
        self.publish_used()
    }

    /// Returns a chain as [`push_used`](Self::push_used) does, but the driver sees it
    /// only with the next [`publish_used`](Self::publish_used), all in one go.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the ring cannot be written.
    pub fn stage_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        let offset = USED_ENTRY.wrapping_mul(self.slot(self.next_used));
        let entry = self.used.wrapping_add(RING_HEADER.wrapping_add(offset));
        let element = u64::from(head) | u64::from(written) << 32;
        self.ram
            .write(entry, &element.to_le_bytes())
            .map_err(|_| QueueError::Used)?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Lets the driver see what was returned.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the ring cannot be written.
    pub fn publish_used(&mut self) -> Result<(), QueueError> {
        if self.published == self.next_used {
            return Ok(());
        }
        self.published = self.next_used;
        self.store_used(INDEX, self.published, Ordering::Release)
    }

    /// Whether the driver wants an interrupt for what was published since this was
    /// last asked (§2.7.7.2, §2.7.10).
    ///
    /// # Errors
    /// [`QueueError::Available`] if the ring cannot be read.
    pub fn needs_interrupt(&mut self) -> Result<bool, QueueError> {
        let before = self.considered;
        self.considered = self.published;
        if before == self.published {
            return Ok(false);
        }
        // The used index is out before the driver's wish is read: had it been read
        // earlier, it could be from before a wait for just this chain.
        fence(Ordering::SeqCst);
        if !self.event_idx {
            let flags = self.load(self.available, Ordering::Relaxed);
            return Ok(flags.ok_or(QueueError::Available)? & NO_INTERRUPT == 0);
        }
        let offset = RING_HEADER + AVAILABLE_ENTRY * u64::from(self.size);
        let event = self.load(self.available.wrapping_add(offset), Ordering::Relaxed);
        let event = event.ok_or(QueueError::Available)?;
        // Whether the index went past `event` since then.
        let past = self.published.wrapping_sub(event).wrapping_sub(1);
        Ok(past < self.published.wrapping_sub(before))
    }

    /// Asks the driver to kick for the next chain; true if one came meanwhile, so
    /// that the caller has to look again before it sleeps.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the rings cannot be reached.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        if self.event_idx {
            let offset = RING_HEADER + USED_ENTRY * u64::from(self.size);
            self.store_used(offset, self.next_available, Ordering::Relaxed)?;
        } else if self.kicks != Some(true) {
            self.store_used(0, 0, Ordering::Relaxed)?;
            self.kicks = Some(true);
        }
        // The wish is out before the index is read: a chain that came earlier is seen.
        fence(Ordering::SeqCst);
        let index = self.available_index().ok_or(QueueError::Used)?;
        Ok(index != self.next_available)
    }

    /// Tells the driver that no kick is needed: the device is awake.
    ///
    /// With EVENT_IDX the driver kicks once after [`enable_kicks`](Self::enable_kicks)
    /// without being told.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the rings cannot be reached.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        if self.event_idx || self.kicks == Some(false) {
            return Ok(());
        }
        self.kicks = Some(false);
        self.store_used(0, NO_NOTIFY, Ordering::Relaxed)
    }

    /// The entry of either ring that `index` means.
    fn slot(&self, index: u16) -> u64 {
        // The size is a power of two.
        u64::from(index & self.size.wrapping_sub(1))
    }

    fn available_index(&self) -> Option<u16> {
        // What the index announces is written before it.
        self.load(self.available.wrapping_add(INDEX), Ordering::Acquire)
    }

    fn load(&self, addr: u64, order: Ordering) -> Option<u16> {
        let word = self.ram.backend().load(GuestAddress(addr), order);
        word.ok().map(u16::from_le)
    }

    fn store_used(&self, offset: u64, value: u16, order: Ordering) -> Result<(), QueueError> {
        let addr = GuestAddress(self.used.wrapping_add(offset));
        let stored = self.ram.backend().store(value.to_le(), addr, order);
        stored.map_err(|_| QueueError::Used)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
