//! Frames from the link to the driver.
//!
//! ```text
//!  link ─ one readv ─► taken chains, in order │ spill
//!                      ▲ more are taken, up to what a frame needs      ╲ copied into
//!                      └─ those a frame did not use stay for the next   ▼ more chains
//! ```
//!
//! Chains are taken before a frame is there, because the link writes it straight to
//! where they lead. How many bytes of them there have to be follows the traffic: enough
//! for a standard frame, and for the longest as long as big ones keep coming. What does not
//! fit ends in the spill. If the driver takes frames in several chains (mergeable
//! buffers, virtio 1.2 §5.1.6.3) it goes into the chains that come next, for which the
//! frame waits; else the frame is dropped, as one is that all of the queue's
//! descriptors could not hold.
//!
//! A driver whose receive buffers are not in RAM, or none at all, has broken its queue.

use std::collections::VecDeque;

use super::direction::{DirectionCounters, Failed, MOST_PIECES, Progress, SHORTEST_FRAME};
use super::header::NUM_BUFFERS_AT;
use super::link::{HEADER_LEN, LONGEST_FRAME, Port, Received};
use crate::devices::virtio::queue::{Chain, QueueError, VirtQueue};
use crate::devices::virtio::rate_limiter::RateLimiter;
use crate::memory::{GuestRam, IoBuffers};

/// Bytes of a header and a standard frame with a VLAN tag.
const STANDARD: usize = HEADER_LEN + SHORTEST_FRAME + 4 + 1500;
/// Bytes of a header and the longest frame.
const LONGEST: usize = HEADER_LEN + LONGEST_FRAME;
/// After so many standard frames in a row no big one is expected.
const QUIET: u32 = 64;

/// A chain that is taken and not returned.
#[derive(Clone, Copy, Debug)]
struct Held {
    head: u16,
    /// Bytes the device uses of it at most.
    len: usize,
    /// How many of the queue's descriptors it takes up.
    descriptors: u16,
}

/// A frame for which the driver has not given enough chains yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Bytes, header included.
    len: usize,
    /// Of which so many are in the spill,
    spilled: usize,
    /// and so many of those are copied to where they belong.
    copied: usize,
}

/// The receiving direction of a queue pair.
pub struct Receive {
    chain: Chain,
    /// Chains in the order they were taken. While a frame is pending, those at the
    /// end are not in `buffers`.
    held: VecDeque<Held>,
    /// Where the next frame goes: the held chains' writable pieces.
    buffers: IoBuffers,
    /// Pieces in `buffers` beyond which no chain is added.
    most_pieces: usize,
    spill: Box<[u8]>,
    pending: Option<Pending>,
    mergeable: bool,
    /// Bytes of the longest frame to be expected, header included.
    longest: usize,
    /// Bytes that `buffers` should have before the next frame.
    wanted: usize,
    /// Standard frames since the last big one.
    quiet: u32,
}

impl Receive {
    /// For queues of up to `queue_size` descriptors in `ram`.
    pub fn new(ram: GuestRam, queue_size: u16) -> Self {
        Self {
            chain: Chain::with_capacity(queue_size),
            held: VecDeque::with_capacity(queue_size.into()),
            buffers: IoBuffers::new(ram, MOST_PIECES),
            most_pieces: MOST_PIECES.saturating_sub(queue_size.into()),
            spill: vec![0; LONGEST].into(),
            pending: None,
            mergeable: false,
            longest: LONGEST,
            wanted: 0,
            quiet: 0,
        }
    }

    /// The driver has agreed on mergeable buffers, or not; `longest` is that of the
    /// frames to be expected in bytes, header included.
    pub fn activate(&mut self, mergeable: bool, longest: usize) {
        self.mergeable = mergeable;
        self.longest = longest.clamp(HEADER_LEN + SHORTEST_FRAME, LONGEST);
        self.reset();
    }

    /// Hands up to `budget` frames to the driver, those that are dropped included.
    /// Whether to interrupt it is for the caller to ask.
    ///
    /// # Errors
    /// [`Failed`]; nothing more can be received then.
    pub fn run(
        &mut self,
        rings: &mut VirtQueue,
        port: &mut dyn Port,
        limiter: &RateLimiter,
        counters: &DirectionCounters,
        budget: usize,
    ) -> Result<Progress, Failed> {
        for _ in 0..budget {
            if self.pending.is_none() {
                if !self.take_buffers(rings)? {
                    return Ok(Progress::Blocked);
                }
                if let Err(wait) = limiter.admit() {
                    return Ok(Progress::Wait(wait));
                }
                let received = port.receive(&self.buffers, &mut self.spill)?;
                let Received::Frame(len) = received else {
                    return Ok(Progress::Idle);
                };
                self.pending = self.received(len);
            }
            let Some(frame) = self.pending.take() else {
                counters.dropped();
                continue;
            };
            match self.place(rings, frame)? {
                Placed::Whole => {
                    let len = frame.len.saturating_sub(HEADER_LEN);
                    limiter.charge(len as u64);
                    counters.passed(len);
                }
                Placed::Never => counters.dropped(),
                Placed::NotYet => return Ok(Progress::Blocked),
            }
        }
        Ok(Progress::More)
    }

    /// Puts the chains that no frame is in back into the ring, so that the queue's state
    /// tells what has been done. A frame that waits for more of them is dropped.
    pub fn give_back(&mut self, rings: &mut VirtQueue, counters: &DirectionCounters) {
        if self.pending.is_some() {
            counters.dropped();
        }
        // No more than the queue has descriptors.
        rings.untake(u16::try_from(self.held.len()).unwrap_or(u16::MAX));
        self.reset();
    }

    /// Forgets the chains that are taken, and a frame that waits for more.
    pub fn reset(&mut self) {
        self.held.clear();
        self.buffers.clear();
        self.pending = None;
        self.wanted = self.longest.min(STANDARD);
        self.quiet = 0;
    }

    /// Takes chains until there is room for the next frame; false if the driver has
    /// none that one could begin in.
    fn take_buffers(&mut self, rings: &mut VirtQueue) -> Result<bool, QueueError> {
        while self.needs_more() {
            if !rings.pop(&mut self.chain)? {
                // The place of `num_buffers` at least; without mergeable buffers
                // nothing is written there by the device itself.
                return Ok(self.buffers.len() >= HEADER_LEN);
            }
            let head = self.chain.head;
            let before = self.buffers.len();
            let room = MOST_PIECES.saturating_sub(self.buffers.iovecs().len());
            for piece in self.chain.writable.iter().take(room) {
                let pushed = usize::try_from(piece.len)
                    .is_ok_and(|len| self.buffers.push(piece.addr, len).is_ok());
                if !pushed {
                    return Err(QueueError::Chain { head });
                }
            }
            let len = self.buffers.len().saturating_sub(before);
            self.hold(len)?;
        }
        Ok(true)
    }

    fn needs_more(&self) -> bool {
        if !self.mergeable {
            return self.held.is_empty();
        }
        self.buffers.len() < self.wanted
            && (self.held.is_empty() || self.buffers.iovecs().len() <= self.most_pieces)
    }

    /// `chain`, of which `len` bytes can be used, is the next held.
    fn hold(&mut self, len: usize) -> Result<(), QueueError> {
        let head = self.chain.head;
        if len == 0 {
            return Err(QueueError::Chain { head });
        }
        self.held.push_back(Held {
            head,
            len,
            descriptors: self.chain.descriptors,
        });
        Ok(())
    }

    /// A frame of `len` bytes, header included, has come; none if it is to be dropped.
    fn received(&mut self, len: usize) -> Option<Pending> {
        let room = self.buffers.len();
        // Even those that are dropped have been written.
        self.buffers.mark_dirty(len.min(room));
        self.expect_after(len);
        let spilled = len.saturating_sub(room);
        let fits = spilled == 0 || self.mergeable;
        let sound = (HEADER_LEN + SHORTEST_FRAME..=LONGEST).contains(&len);
        (fits && sound).then_some(Pending {
            len,
            spilled,
            copied: 0,
        })
    }

    /// Settles how much room the next frame is to find after one of `len` bytes.
    fn expect_after(&mut self, len: usize) {
        if len > STANDARD {
            self.wanted = self.longest;
            self.quiet = 0;
        } else if self.wanted > STANDARD {
            self.quiet = self.quiet.saturating_add(1);
            if self.quiet >= QUIET {
                self.wanted = STANDARD;
            }
        }
    }

    /// Returns the chains that the frame lies in, once all of it is in chains; until
    /// then it is pending again.
    fn place(&mut self, rings: &mut VirtQueue, mut frame: Pending) -> Result<Placed, QueueError> {
        while frame.copied < frame.spilled {
            if !rings.pop(&mut self.chain)? {
                if self.is_all_taken(rings) {
                    self.untake_unlisted(rings);
                    return Ok(Placed::Never);
                }
                self.pending = Some(frame);
                return Ok(Placed::NotYet);
            }
            let rest = self.spill.get(frame.copied..frame.spilled);
            let taken = copy_to(rings.ram(), &self.chain, rest.unwrap_or_default())?;
            frame.copied = frame.copied.saturating_add(taken);
            self.hold(taken)?;
        }
        self.deliver(rings, frame.len)?;
        Ok(Placed::Whole)
    }

    /// Whether the driver has no descriptors left for another chain like the last.
    fn is_all_taken(&self, rings: &VirtQueue) -> bool {
        let each = self.held.iter().map(|held| u64::from(held.descriptors));
        let last = self.held.back().map_or(1, |held| held.descriptors);
        each.sum::<u64>().saturating_add(last.into()) > u64::from(rings.size())
    }

    /// Puts back the chains that were taken for a spill.
    fn untake_unlisted(&mut self, rings: &mut VirtQueue) {
        let mut listed = 0usize;
        let room = self.buffers.len();
        let count = self.held.iter().take_while(|held| {
            let more = listed < room;
            listed = listed.saturating_add(held.len);
            more
        });
        let count = count.count();
        let unlisted = self.held.len().saturating_sub(count);
        rings.untake(u16::try_from(unlisted).unwrap_or(u16::MAX));
        self.held.truncate(count);
    }

    /// Returns the chains at the front that `len` bytes lie in.
    fn deliver(&mut self, rings: &mut VirtQueue, len: usize) -> Result<(), QueueError> {
        let mut room = 0usize;
        let reaching = self.held.iter().take_while(|held| {
            let more = room < len;
            room = if more {
                room.saturating_add(held.len)
            } else {
                room
            };
            more
        });
        let count = reaching.count();
        // The header is in `buffers`, which have room for it.
        let num_buffers = u16::try_from(count).unwrap_or(u16::MAX);
        self.buffers
            .copy_in(NUM_BUFFERS_AT, &num_buffers.to_le_bytes());
        self.buffers.advance(room);
        let mut left = len;
        rings.push_used_together(self.held.drain(..count).map(|held| {
            let written = held.len.min(left);
            left = left.saturating_sub(written);
            (held.head, u32::try_from(written).unwrap_or(u32::MAX))
        }))
    }
}

/// What became of a frame.
enum Placed {
    Whole,
    NotYet,
    /// All the driver's descriptors together do not hold it.
    Never,
}

/// Copies the front of `data` into the chain's buffers; gives how much of it fits.
fn copy_to(ram: &GuestRam, chain: &Chain, data: &[u8]) -> Result<usize, QueueError> {
    let mut rest = data;
    for piece in &chain.writable {
        let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
        let (part, behind) = rest.split_at(rest.len().min(len));
        if !part.is_empty() && ram.write(piece.addr, part).is_err() {
            return Err(QueueError::Chain { head: chain.head });
        }
        rest = behind;
    }
    Ok(data.len().saturating_sub(rest.len()))
}

#[cfg(test)]
#[path = "receive_tests/mod.rs"]
mod tests;
