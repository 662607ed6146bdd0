//! What a disk has been asked for and what serving it has cost.
//!
//! Each queue has counters of its own, on cache lines of their own, so that counting
//! is not what queues contend for.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What requests come to, over all queues of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockTotals {
    /// Requests answered, however.
    pub requests: u64,
    /// Bytes read from the disk by requests that succeeded.
    pub bytes_read: u64,
    /// Bytes written to the disk by requests that succeeded.
    pub bytes_written: u64,
    /// System calls of the threads that serve the disk: entries into io_uring, waits,
    /// transfers made without it, and writes of eventfds.
    pub system_calls: u64,
    /// Requests that were not answered with success.
    pub errors: u64,
}

/// The counters of one queue.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueCounters {
    requests: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    system_calls: AtomicU64,
    errors: AtomicU64,
}

impl QueueCounters {
    /// A request was answered; it has moved that many bytes.
    pub(super) fn answered(&self, bytes_read: u64, bytes_written: u64) {
        add(&self.requests, 1);
        add(&self.bytes_read, bytes_read);
        add(&self.bytes_written, bytes_written);
    }

    /// A request was answered with an error.
    pub(super) fn failed(&self) {
        add(&self.requests, 1);
        add(&self.errors, 1);
    }

    /// The queue's thread has made a system call.
    pub(super) fn system_call(&self) {
        add(&self.system_calls, 1);
    }

    /// A thread of the pool has made system calls for the queue.
    pub(super) fn system_calls_elsewhere(&self, count: u64) {
        self.system_calls.fetch_add(count, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// The counters of a disk; those of the threads that serve it go on counting.
#[derive(Debug)]
pub struct BlockCounters {
    queues: Box<[QueueCounters]>,
}

impl BlockCounters {
    /// Nothing has happened on `queues` queues.
    pub(super) fn new(queues: u16) -> Self {
        Self {
            queues: (0..queues).map(|_| QueueCounters::default()).collect(),
        }
    }

    /// Those of queue `index`.
    pub fn queue(&self, index: u16) -> Option<&QueueCounters> {
        self.queues.get(usize::from(index))
    }

    /// All queues together.
    pub fn totals(&self) -> BlockTotals {
        let sum = |field: fn(&QueueCounters) -> &AtomicU64| {
            let each = self.queues.iter();
            each.map(|queue| field(queue).load(Ordering::Relaxed)).sum()
        };
        BlockTotals {
            requests: sum(|queue| &queue.requests),
            bytes_read: sum(|queue| &queue.bytes_read),
            bytes_written: sum(|queue| &queue.bytes_written),
            system_calls: sum(|queue| &queue.system_calls),
            errors: sum(|queue| &queue.errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_added_up() {
        let counters = BlockCounters::new(2);
        counters.queue(0).unwrap().answered(512, 0);
        counters.queue(1).unwrap().answered(0, 4096);
        counters.queue(1).unwrap().failed();
        counters.queue(1).unwrap().system_call();
        counters.queue(0).unwrap().system_calls_elsewhere(3);
        assert!(counters.queue(2).is_none());
        let expected = BlockTotals {
            requests: 3,
            bytes_read: 512,
            bytes_written: 4096,
            system_calls: 4,
            errors: 1,
        };
        assert_eq!(counters.totals(), expected);
    }
}
