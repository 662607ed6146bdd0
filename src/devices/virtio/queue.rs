//! A split virtqueue whose driver is not trusted (virtio 1.2 §2.7).
//!
//! The rings are those of the `virtio-queue` crate. This adds what it leaves out:
//! rings are looked at before it would write a line to the log for them, a broken chain
//! is an error and not a short chain ([`chain`](super::chain)), no more chains are with
//! the device than the queue has descriptors, and VIRTQ_AVAIL_F_NO_INTERRUPT counts.
//!
//! Accesses to guest memory: for a chain the available index, a ring entry and 16 bytes
//! for each descriptor; to return it 8 bytes and the used index; and one word for each
//! question whether to interrupt.

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

pub use super::chain::{Buffer, Chain};
use super::chain::{DESCRIPTOR, Rules, Table};
use crate::memory::GuestRam;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (§2.7.6): the driver polls.
const NO_INTERRUPT: u16 = 1;

/// Flags, index and event, which both rings have beside their entries.
const RING_WORDS: u64 = 6;
/// Bytes of an entry of the available ring.
const AVAILABLE_ENTRY: u64 = 2;
/// Bytes of an entry of the used ring.
const USED_ENTRY: u64 = 8;

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
    queue: Queue,
    rules: Rules,
    /// Chains returned since an interrupt was last thought of.
    returned: u16,
    /// Whether the device has told the driver that it needs no kicks.
    kicks_disabled: bool,
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
        let has = |feature: u32| features >> feature & 1 != 0;
        let mut queue = Queue::new(max_size).map_err(|_| QueueError::Size(max_size))?;
        queue
            .try_set_size(state.size)
            .map_err(|_| QueueError::Size(state.size))?;
        if !rings_in_ram(&ram, state) {
            return Err(QueueError::Rings);
        }
        queue
            .try_set_desc_table_address(GuestAddress(state.descriptors))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(state.available)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(state.used)))
            .map_err(|_| QueueError::Rings)?;
        queue.set_next_avail(state.next_available);
        queue.set_next_used(state.next_used);
        queue.set_event_idx(has(VIRTIO_RING_F_EVENT_IDX));
        queue.set_ready(true);
        let table = Table {
            addr: state.descriptors,
            len: u32::from(state.size),
        };
        Ok(Self {
            ram,
            queue,
            rules: Rules {
                table,
                longest: max_size,
                indirect: has(VIRTIO_RING_F_INDIRECT_DESC),
            },
            returned: 0,
            kicks_disabled: false,
        })
    }

    /// What to save of it.
    pub fn state(&self) -> QueueState {
        QueueState {
            size: self.queue.size(),
            ready: self.queue.ready(),
            descriptors: self.queue.desc_table(),
            available: self.queue.avail_ring(),
            used: self.queue.used_ring(),
            next_available: self.queue.next_avail(),
            next_used: self.queue.next_used(),
        }
    }

    /// Number of descriptors, and of chains that may be with the device at once:
    /// [`pop`](Self::pop) gives no more before one is returned.
    pub fn size(&self) -> u16 {
        self.queue.size()
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
        let taken = self.queue.next_avail();
        let in_flight = taken.wrapping_sub(self.queue.next_used());
        let size = self.queue.size();
        let memory = self.ram.backend();
        // One look at the index: what comes after it is found by the next call.
        let mut available = self.queue.iter(memory).map_err(|_| QueueError::Available)?;
        let Some(waiting) = available.next() else {
            chain.clear();
            return Ok(false);
        };
        if in_flight >= size {
            return Err(QueueError::Available);
        }
        let head = waiting.head_index();
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
        self.returned = self.returned.saturating_add(1);
        self.queue
            .add_used(self.ram.backend(), head, written)
            .map_err(|_| QueueError::Used)
    }

    /// Returns chains, each with the bytes written to it, so that the driver sees all of
    /// them or none: a frame that lies in several chains is read when its first is seen.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the ring cannot be written.
    pub fn push_used_together(
        &mut self,
        chains: impl IntoIterator<Item = (u16, u32)>,
    ) -> Result<(), QueueError> {
        let memory = self.ram.backend();
        let (ring, mask) = (self.queue.used_ring(), self.queue.size().wrapping_sub(1));
        let mut next = self.queue.next_used();
        for (head, written) in chains {
            let slot = u64::from(next & mask);
            let at = ring.saturating_add(4).saturating_add(USED_ENTRY * slot);
            let entry = u64::from(written) << 32 | u64::from(head);
            memory
                .write_slice(&entry.to_le_bytes(), GuestAddress(at))
                .map_err(|_| QueueError::Used)?;
            next = next.wrapping_add(1);
            self.returned = self.returned.saturating_add(1);
        }
        self.queue.set_next_used(next);
        let index = GuestAddress(ring.saturating_add(2));
        memory
            .store(next.to_le(), index, Ordering::Release)
            .map_err(|_| QueueError::Used)
    }

    /// Puts the `count` chains taken last back where they were, as if they had not been
    /// taken; none of them has been returned.
    pub fn untake(&mut self, count: u16) {
        let taken = self.queue.next_avail();
        let in_flight = taken.wrapping_sub(self.queue.next_used());
        self.queue
            .set_next_avail(taken.wrapping_sub(count.min(in_flight)));
    }

    /// Whether the driver has made more chains available than were taken. Costs less
    /// than to [`pop`](Self::pop) none.
    ///
    /// # Errors
    /// [`QueueError::Available`] if the ring cannot be read.
    pub fn has_more(&self) -> Result<bool, QueueError> {
        let index = self
            .queue
            .avail_idx(self.ram.backend(), Ordering::Acquire)
            .map_err(|_| QueueError::Available)?;
        Ok(index.0 != self.queue.next_avail())
    }

    /// Whether the driver wants an interrupt for what was returned since this was
    /// last asked (§2.7.7.2, §2.7.10).
    ///
    /// # Errors
    /// [`QueueError::Available`] if the ring cannot be read.
    pub fn needs_interrupt(&mut self) -> Result<bool, QueueError> {
        let returned = std::mem::take(&mut self.returned);
        if returned == 0 {
            return Ok(false);
        }
        // The used index is out before the driver's wish is read.
        fence(Ordering::SeqCst);
        let ring = self.queue.avail_ring();
        if self.queue.event_idx_enabled() {
            // `used_event`, behind the entries. Whether the index went by it.
            let entries = AVAILABLE_ENTRY * u64::from(self.queue.size());
            let event = self.load(ring.saturating_add(4).saturating_add(entries))?;
            let since = self.queue.next_used().wrapping_sub(event).wrapping_sub(1);
            return Ok(since < returned);
        }
        Ok(self.load(ring)? & NO_INTERRUPT == 0)
    }

    /// The word at `addr` in the available ring.
    fn load(&self, addr: u64) -> Result<u16, QueueError> {
        let memory = self.ram.backend();
        let word: u16 = memory
            .load(GuestAddress(addr), Ordering::Relaxed)
            .map_err(|_| QueueError::Available)?;
        Ok(u16::from_le(word))
    }

    /// Asks the driver to kick for the next chain; true if one came meanwhile, so
    /// that the caller has to look again before it sleeps.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the rings cannot be reached.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        self.kicks_disabled = false;
        self.queue
            .enable_notification(self.ram.backend())
            .map_err(|_| QueueError::Used)
    }

    /// Tells the driver that no kick is needed: the device is awake.
    ///
    /// With EVENT_IDX the driver kicks once after [`enable_kicks`](Self::enable_kicks)
    /// without being told.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the rings cannot be reached.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        if self.kicks_disabled {
            return Ok(());
        }
        self.kicks_disabled = true;
        self.queue
            .disable_notification(self.ram.backend())
            .map_err(|_| QueueError::Used)
    }
}

/// Whether the queue's three parts, whose size has been checked, are RAM. The crate
/// takes an available ring at address 0 for one that was not set up.
fn rings_in_ram(ram: &GuestRam, state: &QueueState) -> bool {
    let entries = u64::from(state.size);
    let in_ram = |addr, len| usize::try_from(len).is_ok_and(|len| ram.contains(addr, len));
    state.available != 0
        && in_ram(state.descriptors, u64::from(DESCRIPTOR) * entries)
        && in_ram(state.available, RING_WORDS + AVAILABLE_ENTRY * entries)
        && in_ram(state.used, RING_WORDS + USED_ENTRY * entries)
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
