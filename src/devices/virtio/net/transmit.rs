//! Frames from the driver to the link.
//!
//! ```text
//!  chain:  header (12 bytes) │ frame          in readable buffers, however they are cut
//!            └─ copied, checked   └─ sent from where it lies
//! ```
//!
//! A frame that cannot be sent (too short or too long, not in RAM, a header that asks
//! for what was not agreed on) is counted and its chain returned like any other. What
//! the driver lets the device write in such a chain is ignored.

use super::direction::{DirectionCounters, Failed, MOST_PIECES, Progress, SHORTEST_FRAME};
use super::header;
use super::link::{HEADER_LEN, LONGEST_FRAME, Offloads, Port, Sent};
use crate::devices::virtio::queue::{Buffer, Chain, QueueError, VirtQueue};
use crate::devices::virtio::rate_limiter::RateLimiter;
use crate::memory::{GuestRam, IoBuffers};

/// The sending direction of a queue pair.
pub struct Transmit {
    ram: GuestRam,
    chain: Chain,
    /// The frame, while there is a header.
    frame: IoBuffers,
    /// Checked; of the frame that is in `chain` and to be sent.
    header: Option<[u8; HEADER_LEN]>,
}

impl Transmit {
    /// For queues of up to `queue_size` descriptors in `ram`.
    pub fn new(ram: GuestRam, queue_size: u16) -> Self {
        Self {
            frame: IoBuffers::new(ram.clone(), queue_size.into()),
            ram,
            chain: Chain::with_capacity(queue_size),
            header: None,
        }
    }

    /// Sends up to `budget` frames, good and bad ones, and returns their chains. Whether
    /// to interrupt the driver is for the caller to ask.
    ///
    /// # Errors
    /// [`Failed`]; nothing more can be sent then, and a frame that was to be is dropped.
    pub fn run(
        &mut self,
        rings: &mut VirtQueue,
        port: &mut dyn Port,
        agreed: Offloads,
        limiter: &RateLimiter,
        counters: &DirectionCounters,
        budget: usize,
    ) -> Result<Progress, Failed> {
        for _ in 0..budget {
            let header = match self.header {
                Some(header) => header,
                None if !rings.pop(&mut self.chain)? => return Ok(Progress::Idle),
                None => match read_frame(&self.chain, &self.ram, agreed, &mut self.frame) {
                    Some(header) => *self.header.insert(header),
                    None => {
                        self.drop_frame(rings, counters)?;
                        continue;
                    }
                },
            };
            if let Err(wait) = limiter.admit() {
                return Ok(Progress::Wait(wait));
            }
            match port.send(&header, &self.frame) {
                Ok(Sent::Later) => return Ok(Progress::Blocked),
                Ok(Sent::Whole) => {
                    limiter.charge(self.frame.len() as u64);
                    counters.passed(self.frame.len());
                    self.return_chain(rings)?;
                }
                Ok(Sent::Dropped) => {
                    limiter.charge(self.frame.len() as u64);
                    self.drop_frame(rings, counters)?;
                }
                Err(gone) => {
                    self.drop_frame(rings, counters)?;
                    return Err(gone.into());
                }
            }
        }
        Ok(Progress::More)
    }

    /// Drops up to `budget` frames and returns their chains: there is no link any more.
    ///
    /// # Errors
    /// [`QueueError`] if the driver has broken the queue.
    pub fn discard(
        &mut self,
        rings: &mut VirtQueue,
        counters: &DirectionCounters,
        budget: usize,
    ) -> Result<Progress, QueueError> {
        for _ in 0..budget {
            if self.header.is_none() && !rings.pop(&mut self.chain)? {
                return Ok(Progress::Idle);
            }
            self.drop_frame(rings, counters)?;
        }
        Ok(Progress::More)
    }

    /// Puts a chain back into the ring whose frame has not been sent, so that the
    /// queue's state tells what has been done. It is taken again when things go on.
    pub fn give_back(&mut self, rings: &mut VirtQueue) {
        if self.header.is_some() {
            rings.untake(1);
        }
        self.reset();
    }

    /// Forgets a frame that has not been sent.
    pub fn reset(&mut self) {
        self.header = None;
        self.frame.clear();
    }

    fn drop_frame(
        &mut self,
        rings: &mut VirtQueue,
        counters: &DirectionCounters,
    ) -> Result<(), QueueError> {
        counters.dropped();
        self.return_chain(rings)
    }

    /// The device has written nothing.
    fn return_chain(&mut self, rings: &mut VirtQueue) -> Result<(), QueueError> {
        self.reset();
        rings.push_used(self.chain.head, 0)
    }
}

/// Makes `frame` the list of the pieces that the chain's frame lies in, and gives the
/// header to send it with; none if it cannot be sent.
fn read_frame(
    chain: &Chain,
    ram: &GuestRam,
    agreed: Offloads,
    frame: &mut IoBuffers,
) -> Option<[u8; HEADER_LEN]> {
    frame.clear();
    let mut header = [0; HEADER_LEN];
    let mut read = 0;
    for &Buffer { addr, len } in &chain.readable {
        let len = usize::try_from(len).ok()?;
        let rest = header.get_mut(read..)?;
        let part = rest.len().min(len);
        if part > 0 {
            ram.read(addr, rest.get_mut(..part)?).ok()?;
            read = read.checked_add(part)?;
        }
        let behind = addr.checked_add(part as u64)?;
        frame.push(behind, len.checked_sub(part)?).ok()?;
    }
    let sendable = (SHORTEST_FRAME..=LONGEST_FRAME).contains(&frame.len())
        && frame.iovecs().len() <= MOST_PIECES;
    // A frame of some bytes has a whole header before it.
    let header = header::check(&header, frame.len(), agreed);
    header.ok().filter(|_| sendable)
}

#[cfg(test)]
#[path = "transmit_tests.rs"]
mod tests;
