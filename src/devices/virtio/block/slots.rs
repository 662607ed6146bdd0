//! Requests under way, in storage that is used again for the next ones.

use std::io;

use super::disk::Disk;
use super::request::{Operation, StatusByte};
use crate::memory::{GuestRam, IoBuffers};

/// A request from the moment its chain is taken until the chain is returned.
///
/// It has one owner at any time: the queue's thread, the ring while the kernel works on
/// it, or the pool.
pub struct Request {
    /// Number of its slot, which tells requests under way apart. (Heads do not: a driver
    /// may make one chain available twice.)
    pub slot: u16,
    /// The head of its chain.
    pub head: u16,
    /// What to do.
    pub operation: Operation,
    /// Where to say how it went.
    pub status: Option<StatusByte>,
    /// The pieces of guest memory that are still to be transferred.
    pub data: IoBuffers,
    /// Bytes transferred already, which have left `data`.
    pub done: usize,
    /// Whether all of a write is in the file and only has to be made stable.
    pub written: bool,
}

impl Request {
    fn new(slot: u16, ram: GuestRam, segments: usize) -> Self {
        Self {
            slot,
            head: 0,
            operation: Operation::Flush,
            status: None,
            data: IoBuffers::new(ram, segments),
            done: 0,
            written: false,
        }
    }

    /// Bytes of its data, transferred or not.
    pub fn total(&self) -> usize {
        self.done.saturating_add(self.data.len())
    }

    /// Carries out by blocking calls what has not been done yet. With `write_through`
    /// what it wrote is stable when this returns.
    pub fn carry_out(&mut self, disk: &dyn Disk, write_through: bool) -> io::Result<()> {
        let done = self.done as u64;
        match self.operation {
            Operation::Read { offset } => {
                return disk.read_at(&mut self.data, offset.saturating_add(done));
            }
            Operation::Write { offset } => {
                if !self.written {
                    disk.write_at(&mut self.data, offset.saturating_add(done))?;
                    self.written = true;
                }
            }
            Operation::Flush => return disk.flush(),
            Operation::GetId => return Ok(()),
            Operation::Discard(segments) => {
                for segment in segments.as_slice().iter().filter(|range| !range.is_empty()) {
                    disk.discard(segment.offset, segment.len())?;
                }
                return Ok(());
            }
            Operation::WriteZeroes(segments) => {
                for segment in segments.as_slice().iter().filter(|range| !range.is_empty()) {
                    disk.write_zeroes(segment.offset, segment.len(), segment.unmap)?;
                }
            }
        }
        if write_through { disk.flush() } else { Ok(()) }
    }
}

/// The slots of one queue.
///
/// There are as many as the queue has descriptors, and each is made when that many
/// requests are under way for the first time: the memory of those that are never needed
/// is never taken, and after that nothing is allocated.
pub struct Slots {
    ram: GuestRam,
    segments: usize,
    most: u16,
    made: u16,
    // A request goes from hand to hand as a pointer, and the kernel works on what it
    // holds meanwhile.
    #[expect(clippy::vec_box)]
    free: Vec<Box<Request>>,
}

impl Slots {
    /// Room for `most` requests of up to `segments` pieces each.
    pub fn new(ram: GuestRam, most: u16, segments: usize) -> Self {
        Self {
            ram,
            segments,
            most,
            made: 0,
            free: Vec::with_capacity(usize::from(most)),
        }
    }

    /// A slot, the one given back last first; none if all are under way.
    pub fn take(&mut self) -> Option<Box<Request>> {
        if let Some(mut request) = self.free.pop() {
            request.data.clear();
            request.status = None;
            request.done = 0;
            request.written = false;
            return Some(request);
        }
        if self.made >= self.most {
            return None;
        }
        let slot = self.made;
        self.made = slot.saturating_add(1);
        let request = Request::new(slot, self.ram.clone(), self.segments);
        Some(Box::new(request))
    }

    /// Gives a slot back.
    pub fn put(&mut self, request: Box<Request>) {
        self.free.push(request);
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        usize::from(self.made).saturating_sub(self.free.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_told_apart_and_used_again() {
        let mut slots = Slots::new(GuestRam::new(1 << 20).unwrap(), 2, 4);
        let mut first = slots.take().unwrap();
        let second = slots.take().unwrap();
        assert_eq!((first.slot, second.slot), (0, 1));
        assert!(slots.take().is_none());
        assert_eq!(slots.under_way(), 2);
        first.done = 3;
        first.written = true;
        first.data.push(0x1000, 8).unwrap();
        slots.put(first);
        assert_eq!(slots.under_way(), 1);
        let again = slots.take().unwrap();
        assert_eq!((again.slot, again.total(), again.written), (0, 0, false));
    }
}
