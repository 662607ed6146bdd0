//! Descriptor chains (virtio 1.2 §2.7.5), walked without trust in what they say.
//!
//! The crate's own iterator ends a chain where it finds it broken, so that a broken one
//! looks like a short one; and it follows tables that nobody agreed to.
//!
//! A driver that breaks one of these rules has lost track of its own queue, and the
//! device cannot guess what it meant, so each ends the queue (DEVICE_NEEDS_RESET):
//!
//! - a descriptor or an indirect table lies outside RAM, an index beyond its table;
//! - a chain has more descriptors than the device's queue size (§2.7.5.3.1), as one
//!   with a loop has, or more than 2^32 bytes (§2.7.5.2);
//! - a readable buffer comes after a writable one (§2.7.4.2);
//! - an indirect table is of no descriptors or of a part of one, lies in another, has a
//!   descriptor behind it, or comes from a driver that has not agreed to them (§2.7.5.3.1).
//!
//! Everything else is allowed: buffers of no bytes, anywhere, and overlapping; the
//! write flag of a descriptor that names a table (§2.7.5.3.2); flags that mean nothing.
//! Whether a buffer is RAM finds out who uses it.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: u32 = 16;
/// Bytes of a chain at most.
const MOST_BYTES: u64 = 1 << 32;

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
    /// How many of the queue's descriptors it takes up; those of an indirect table are
    /// not the queue's.
    pub descriptors: u16,
}

/// What a queue allows its chains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The queue's descriptors.
    pub table: Table,
    /// Descriptors of a chain at most, those that name a table not counted.
    pub longest: u16,
    /// Whether VIRTIO_F_INDIRECT_DESC was agreed on.
    pub indirect: bool,
}

/// A table of descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    /// Guest-physical address.
    pub addr: u64,
    /// Its number of descriptors.
    pub len: u32,
}

impl Chain {
    /// Room for chains of up to `descriptors`: with the queue's largest size, reading
    /// chains allocates nothing.
    pub fn with_capacity(descriptors: u16) -> Self {
        let room = usize::from(descriptors);
        Self {
            head: 0,
            readable: Vec::with_capacity(room),
            writable: Vec::with_capacity(room),
            descriptors: 0,
        }
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
        self.descriptors = 0;
    }

    /// Becomes the chain that starts at `head`; none if it is broken.
    pub(super) fn read(&mut self, ram: &GuestRam, head: u16, rules: &Rules) -> Option<()> {
        self.clear();
        self.head = head;
        let mut table = rules.table;
        let mut index = head;
        let mut in_queue = true;
        let mut total = 0;
        let mut room = rules.longest;
        loop {
            let descriptor = table.read(ram, index)?;
            if in_queue {
                // No more than `longest` and one that names a table.
                self.descriptors = self.descriptors.saturating_add(1);
            }
            let buffer = Buffer {
                addr: descriptor.addr().0,
                len: descriptor.len(),
            };
            if descriptor.refers_to_indirect_table() {
                if !in_queue || !rules.indirect || descriptor.has_next() {
                    return None;
                }
                in_queue = false;
                table = Table::within(buffer)?;
                index = 0;
                continue;
            }
            room = room.checked_sub(1)?;
            total += u64::from(buffer.len);
            if total > MOST_BYTES {
                return None;
            }
            if descriptor.is_write_only() {
                self.writable.push(buffer);
            } else if self.writable.is_empty() {
                self.readable.push(buffer);
            } else {
                return None;
            }
            if !descriptor.has_next() {
                return Some(());
            }
            index = descriptor.next();
        }
    }
}

impl Table {
    /// The indirect table that fills `buffer`.
    fn within(buffer: Buffer) -> Option<Self> {
        let whole = buffer.len > 0 && buffer.len.is_multiple_of(DESCRIPTOR);
        whole.then_some(Self {
            addr: buffer.addr,
            len: buffer.len / DESCRIPTOR,
        })
    }

    /// Descriptor `index`, read once.
    fn read(&self, ram: &GuestRam, index: u16) -> Option<Descriptor> {
        if u32::from(index) >= self.len {
            return None;
        }
        let offset = u64::from(index).saturating_mul(u64::from(DESCRIPTOR));
        let addr = self.addr.checked_add(offset)?;
        ram.backend().read_obj(GuestAddress(addr)).ok()
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
