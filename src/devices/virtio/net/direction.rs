//! What both directions of a queue pair have in common: how far they came, what ends
//! them, and what they count.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;

use super::link::Gone;
use crate::devices::virtio::queue::QueueError;

/// Pieces of guest memory that a frame may lie in: what the kernel takes in one transfer
/// (UIO_MAXIOV), less one for what the link adds.
pub const MOST_PIECES: usize = 1023;

/// Bytes of an Ethernet header, below which there is no frame.
pub const SHORTEST_FRAME: usize = 14;

/// Why a direction has stopped, with no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing to do: the ring is empty (sending), or no frame waits (receiving).
    Idle,
    /// The link takes nothing more for now (sending), or the driver has no buffers for
    /// the next frame (receiving): all of its chains are taken.
    Blocked,
    /// The limit is reached; there is more after that time.
    Wait(Duration),
    /// There may be more at once: the budget is used up.
    More,
}

/// What ends a direction.
#[derive(Debug, Error)]
pub enum Failed {
    /// The driver has broken the queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The link is gone for good.
    #[error("the link is gone")]
    Gone(#[source] io::Error),
}

impl From<Gone> for Failed {
    fn from(Gone(error): Gone) -> Self {
        Self::Gone(error)
    }
}

/// What one direction of a queue pair comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionTotals {
    /// Frames that arrived: at the link, or at the driver.
    pub frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Frames that did not.
    pub dropped: u64,
}

/// The counters of one direction. Only the thread that serves it counts; others read.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct DirectionCounters {
    frames: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

impl DirectionCounters {
    /// A frame of so many bytes went through.
    pub(super) fn passed(&self, bytes: usize) {
        add(&self.frames, 1);
        add(&self.bytes, bytes as u64);
    }

    /// A frame was lost.
    pub(super) fn dropped(&self) {
        add(&self.dropped, 1);
    }

    /// All of it.
    pub fn totals(&self) -> DirectionTotals {
        DirectionTotals {
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

/// With a single writer this is exact, and spares the locked addition.
fn add(counter: &AtomicU64, count: u64) {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before.wrapping_add(count), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_their_bytes_are_counted_and_losses_apart() {
        let counters = DirectionCounters::default();
        counters.passed(64);
        counters.passed(1514);
        counters.dropped();
        let expected = DirectionTotals {
            frames: 2,
            bytes: 1578,
            dropped: 1,
        };
        assert_eq!(counters.totals(), expected);
    }
}
