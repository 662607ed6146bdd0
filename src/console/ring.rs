//! A bounded byte queue between one thread that puts and one that takes,
//! neither of which ever waits for the other.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// The queue. One thread calls [`Ring::put`], one thread calls [`Ring::take`].
///
/// Each byte is an atomic of its own (relaxed, so a plain move on x86), which
/// keeps the queue free of `unsafe`: two threads on one end would mix bytes up,
/// never touch memory that is not the ring's.
#[derive(Debug)]
pub struct Ring {
    bytes: Box<[AtomicU8]>,
    /// Bytes ever taken; only the taker writes it.
    taken: AtomicUsize,
    /// Bytes ever put; only the putter writes it.
    put: AtomicUsize,
}

impl Ring {
    /// A ring for `capacity` bytes, rounded up to a power of two. The memory is
    /// zero pages until bytes come.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1).next_power_of_two();
        Self {
            bytes: zeroed(capacity),
            taken: AtomicUsize::new(0),
            put: AtomicUsize::new(0),
        }
    }

    /// How many bytes fit altogether.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        let taken = self.taken.load(Ordering::Acquire);
        self.put.load(Ordering::SeqCst).wrapping_sub(taken)
    }

    /// Whether no byte waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends as many of `bytes` as fit and says how many did.
    pub fn put(&self, bytes: &[u8]) -> usize {
        let put = self.put.load(Ordering::Relaxed);
        let waiting = put.wrapping_sub(self.taken.load(Ordering::Acquire));
        let room = self.capacity().saturating_sub(waiting);
        let count = room.min(bytes.len());
        for (offset, byte) in bytes.iter().take(count).enumerate() {
            if let Some(slot) = self.slot(put.wrapping_add(offset)) {
                slot.store(*byte, Ordering::Relaxed);
            }
        }
        // Sequentially consistent, with `len` after it, so that of a putter and
        // a taker about to sleep at least one sees the other (see `output`).
        self.put.store(put.wrapping_add(count), Ordering::SeqCst);
        count
    }

    /// Moves the oldest bytes into `buffer` and says how many there were.
    pub fn take(&self, buffer: &mut [u8]) -> usize {
        let taken = self.taken.load(Ordering::Relaxed);
        let waiting = self.put.load(Ordering::SeqCst).wrapping_sub(taken);
        let count = waiting.min(buffer.len());
        for (offset, byte) in buffer.iter_mut().take(count).enumerate() {
            if let Some(slot) = self.slot(taken.wrapping_add(offset)) {
                *byte = slot.load(Ordering::Relaxed);
            }
        }
        self.taken
            .store(taken.wrapping_add(count), Ordering::Release);
        count
    }

    /// The place of the `position`-th byte; the capacity is a power of two, so
    /// positions may wrap round.
    fn slot(&self, position: usize) -> Option<&AtomicU8> {
        self.bytes.get(position & self.capacity().wrapping_sub(1))
    }
}

/// Zeroed memory that the allocator has not touched: a megabyte of page faults
/// at every start would be felt.
fn zeroed(len: usize) -> Box<[AtomicU8]> {
    // SAFETY: all bytes zero are a valid AtomicU8, which has the bit validity of u8.
    unsafe { Box::new_zeroed_slice(len).assume_init() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn what_does_not_fit_is_refused() {
        let ring = Ring::new(4);
        assert_eq!(ring.put(b"abcdef"), 4);
        assert_eq!(ring.put(b"x"), 0);
        let mut two = [0; 2];
        assert_eq!(ring.take(&mut two), 2);
        assert_eq!(&two, b"ab");
        assert_eq!(ring.put(b"xyz"), 2);
        let mut rest = [0; 8];
        assert_eq!(ring.take(&mut rest), 4);
        assert_eq!(&rest[..4], b"cdxy");
        assert!(ring.is_empty());
    }

    #[test]
    fn two_threads_lose_nothing() {
        let ring = Ring::new(64);
        const TOTAL: usize = 100_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut sent = 0;
                while sent < TOTAL {
                    sent += ring.put(&[sent as u8]);
                }
            });
            let mut seen = 0;
            let mut buffer = [0; 17];
            while seen < TOTAL {
                let count = ring.take(&mut buffer);
                for byte in &buffer[..count] {
                    assert_eq!(*byte, seen as u8);
                    seen += 1;
                }
            }
        });
    }

    proptest! {
        #[test]
        fn behaves_like_a_queue(
            steps in proptest::collection::vec((any::<bool>(), 0_usize..12), 0..200),
        ) {
            let ring = Ring::new(8);
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            for (putting, count) in steps {
                if putting {
                    let bytes: Vec<u8> = (0..count).map(|i| next.wrapping_add(i as u8)).collect();
                    let fits = (8 - model.len()).min(count);
                    prop_assert_eq!(ring.put(&bytes), fits);
                    model.extend(&bytes[..fits]);
                    next = next.wrapping_add(fits as u8);
                } else {
                    let mut buffer = vec![0; count];
                    let taken = ring.take(&mut buffer);
                    let expected: Vec<u8> = model.drain(..count.min(model.len())).collect();
                    prop_assert_eq!(&buffer[..taken], &expected[..]);
                }
                prop_assert_eq!(ring.len(), model.len());
            }
        }
    }
}
