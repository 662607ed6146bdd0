//! A split virtqueue whose driver is not trusted (virtio 1.2 §2.7).
//!
//! The rings are read and written through the `virtio-queue` crate; this adds what
//! the crate leaves out: a chain that is broken is an error and not a short chain,
//! and VIRTQ_AVAIL_F_NO_INTERRUPT counts.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (§2.7.7): the driver polls.
const NO_INTERRUPT: u16 = 1;

/// What the driver has done wrong with a queue; there is no going on with it.
#[derive(Debug, Error)]
pub enum QueueError {
    /// A size that is no power of two, or beyond the largest allowed.
    #[error("queue size {0} is not one that the device offers")]
    Size(u16),
    /// A ring outside RAM, or not aligned (§2.7).
    #[error("a ring of the queue is not in RAM or not aligned")]
    Rings,
    /// The available index has run away, or a ring is gone.
    #[error("the available ring is not valid")]
    Available,
    /// A descriptor chain with a loop, an index beyond its table, more than 2^32
    /// bytes, or a readable buffer after a writable one (§2.7.4.2, §2.7.5.3.1).
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

/// A piece of guest memory that a descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address; nobody has checked it yet.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
}

/// A descriptor chain, in storage that is used again for the next one.
#[derive(Debug, Default)]
pub struct Chain {
    /// Its first descriptor, by which it is returned.
    pub head: u16,
    /// What the device may read, in order.
    pub readable: Vec<Buffer>,
    /// What the device may write, in order.
    pub writable: Vec<Buffer>,
}

impl Chain {
    /// Room for chains of up to `descriptors`.
    pub fn with_capacity(descriptors: u16) -> Self {
        let room = usize::from(descriptors);
        Self {
            head: 0,
            readable: Vec::with_capacity(room),
            writable: Vec::with_capacity(room),
        }
    }
}

/// The device's side of a queue that the driver has enabled.
pub struct VirtQueue {
    ram: GuestRam,
    queue: Queue,
}

impl VirtQueue {
    /// Takes the queue up where `state` says. `event_idx` is whether
    /// VIRTIO_F_EVENT_IDX was agreed on.
    ///
    /// # Errors
    /// [`QueueError::Size`] or [`QueueError::Rings`].
    pub fn new(
        ram: GuestRam,
        state: &QueueState,
        max_size: u16,
        event_idx: bool,
    ) -> Result<Self, QueueError> {
        let mut queue = Queue::new(max_size).map_err(|_| QueueError::Size(max_size))?;
        queue
            .try_set_size(state.size)
            .map_err(|_| QueueError::Size(state.size))?;
        queue
            .try_set_desc_table_address(GuestAddress(state.descriptors))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(state.available)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(state.used)))
            .map_err(|_| QueueError::Rings)?;
        queue.set_next_avail(state.next_available);
        queue.set_next_used(state.next_used);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        if !queue.is_valid(ram.backend()) {
            return Err(QueueError::Rings);
        }
        Ok(Self { ram, queue })
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

    /// Number of descriptors.
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
        chain.readable.clear();
        chain.writable.clear();
        let memory = self.ram.backend();
        let mut available = self.queue.iter(memory).map_err(|_| QueueError::Available)?;
        let waiting = available.next();
        let Some(descriptors) = waiting else {
            let index = self.queue.avail_idx(memory, Ordering::Acquire);
            return match index {
                Ok(index) if index.0 == self.queue.next_avail() => Ok(false),
                // A chain has come since, or there was one that could not be read.
                _ => Err(QueueError::Available),
            };
        };
        chain.head = descriptors.head_index();
        let broken = QueueError::Chain { head: chain.head };
        let mut ends = false;
        for descriptor in descriptors {
            let buffer = Buffer {
                addr: descriptor.addr().0,
                len: descriptor.len(),
            };
            if descriptor.is_write_only() {
                chain.writable.push(buffer);
            } else if chain.writable.is_empty() {
                chain.readable.push(buffer);
            } else {
                return Err(broken);
            }
            ends = !descriptor.has_next();
        }
        // The crate ends a chain early where it finds it broken.
        if ends { Ok(true) } else { Err(broken) }
    }

    /// Returns chain `head`, into whose writable buffers `written` bytes were written.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the ring cannot be written.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.queue
            .add_used(self.ram.backend(), head, written)
            .map_err(|_| QueueError::Used)
    }

    /// Whether the driver wants an interrupt for what was returned since this was
    /// last asked (§2.7.7.1, §2.7.10).
    ///
    /// # Errors
    /// [`QueueError::Available`] if the ring cannot be read.
    pub fn needs_interrupt(&mut self) -> Result<bool, QueueError> {
        let memory = self.ram.backend();
        let wanted = self
            .queue
            .needs_notification(memory)
            .map_err(|_| QueueError::Available)?;
        if !wanted || self.queue.event_idx_enabled() {
            return Ok(wanted);
        }
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(|_| QueueError::Available)?;
        Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
    }

    /// Asks the driver to kick for the next chain; true if one came meanwhile, so
    /// that the caller has to look again before it sleeps.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the rings cannot be reached.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        self.queue
            .enable_notification(self.ram.backend())
            .map_err(|_| QueueError::Used)
    }

    /// Tells the driver that no kick is needed: the device is awake.
    ///
    /// # Errors
    /// [`QueueError::Used`] if the rings cannot be reached.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        self.queue
            .disable_notification(self.ram.backend())
            .map_err(|_| QueueError::Used)
    }
}
