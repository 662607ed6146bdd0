//! What a network device has moved and what that has cost.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::direction::{DirectionCounters, DirectionTotals};

/// What frames come to, over all queue pairs of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetTotals {
    /// Frames the driver has got.
    pub frames_received: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes_received: u64,
    /// Frames of the driver's that have gone to the link.
    pub frames_sent: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes_sent: u64,
    /// Frames that were read from the link and did not reach the driver.
    pub dropped_received: u64,
    /// Frames of the driver's that did not reach the link.
    pub dropped_sent: u64,
    /// Frames that the host has dropped because nobody read them, where it counts them.
    /// Up to date while the device is paused, and when it has ended.
    pub overruns: u64,
    /// System calls of the device's threads: waits, reads and writes of frames, and
    /// writes of eventfds.
    pub system_calls: u64,
}

/// The counters of one queue pair. Its thread alone counts.
#[derive(Debug, Default)]
pub struct PairCounters {
    /// What was received.
    pub(super) received: DirectionCounters,
    /// What was sent.
    pub(super) sent: DirectionCounters,
    system_calls: AtomicU64,
}

impl PairCounters {
    /// The pair's thread has made so many system calls.
    pub(super) fn set_system_calls(&self, count: u64) {
        self.system_calls.store(count, Ordering::Relaxed);
    }
}

/// The counters of a device; those of the threads that serve it go on counting.
#[derive(Debug)]
pub struct NetCounters {
    pairs: Box<[PairCounters]>,
    overruns: AtomicU64,
}

impl NetCounters {
    /// Nothing has happened on `pairs` queue pairs.
    pub(super) fn new(pairs: usize) -> Self {
        Self {
            pairs: (0..pairs).map(|_| PairCounters::default()).collect(),
            overruns: AtomicU64::new(0),
        }
    }

    /// Those of queue pair `index`.
    pub fn pair(&self, index: usize) -> Option<&PairCounters> {
        self.pairs.get(index)
    }

    /// The host has dropped so many frames.
    pub(super) fn set_overruns(&self, count: u64) {
        self.overruns.store(count, Ordering::Relaxed);
    }

    /// All queue pairs together.
    pub fn totals(&self) -> NetTotals {
        let mut totals = NetTotals {
            overruns: self.overruns.load(Ordering::Relaxed),
            ..NetTotals::default()
        };
        for pair in &self.pairs {
            let DirectionTotals {
                frames,
                bytes,
                dropped,
            } = pair.received.totals();
            totals.frames_received = totals.frames_received.saturating_add(frames);
            totals.bytes_received = totals.bytes_received.saturating_add(bytes);
            totals.dropped_received = totals.dropped_received.saturating_add(dropped);
            let DirectionTotals {
                frames,
                bytes,
                dropped,
            } = pair.sent.totals();
            totals.frames_sent = totals.frames_sent.saturating_add(frames);
            totals.bytes_sent = totals.bytes_sent.saturating_add(bytes);
            totals.dropped_sent = totals.dropped_sent.saturating_add(dropped);
            let calls = pair.system_calls.load(Ordering::Relaxed);
            totals.system_calls = totals.system_calls.saturating_add(calls);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_added_up_and_directions_kept_apart() {
        let counters = NetCounters::new(2);
        let pair = |index| counters.pair(index).unwrap();
        pair(0).received.passed(64);
        pair(1).received.passed(1000);
        pair(1).received.dropped();
        pair(0).sent.passed(1514);
        pair(1).sent.dropped();
        pair(1).sent.dropped();
        pair(0).set_system_calls(7);
        pair(0).set_system_calls(8);
        pair(1).set_system_calls(2);
        counters.set_overruns(5);
        assert!(counters.pair(2).is_none());
        let expected = NetTotals {
            frames_received: 2,
            bytes_received: 1064,
            frames_sent: 1,
            bytes_sent: 1514,
            dropped_received: 1,
            dropped_sent: 2,
            overruns: 5,
            system_calls: 10,
        };
        assert_eq!(counters.totals(), expected);
    }
}
