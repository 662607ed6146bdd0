//! Sees a Linux kernel panic in the stream of console bytes.
//!
//! A guest without a pvpanic driver that panics and then resets looks like one
//! that rebooted cleanly; its last words tell the difference.

/// What Linux prints first of all when it panics (`kernel/panic.c`).
const NEEDLE: &[u8] = b"Kernel panic - not syncing";

/// A matcher that is fed the stream piece by piece.
#[derive(Clone, Debug, Default)]
pub struct PanicWatch {
    /// How many bytes of the needle the stream ends with.
    matched: usize,
    seen: bool,
}

impl PanicWatch {
    /// Looks at the next bytes of the stream; true once the words have been seen.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if self.seen {
                break;
            }
            self.step(byte);
        }
        self.seen
    }

    /// The needle's first letter stands nowhere else in it, so a mismatch
    /// starts again at nothing, or at that letter.
    fn step(&mut self, byte: u8) {
        if NEEDLE.get(self.matched) == Some(&byte) {
            self.matched = self.matched.saturating_add(1);
            self.seen = self.matched == NEEDLE.len();
        } else {
            self.matched = usize::from(NEEDLE.first() == Some(&byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_letter_stands_alone() {
        assert_eq!(NEEDLE.iter().filter(|b| **b == NEEDLE[0]).count(), 1);
    }

    #[test]
    fn near_misses_are_not_panics() {
        let mut watch = PanicWatch::default();
        assert!(!watch.feed(b"Kernel panic - not synching. kernel panic - not syncing"));
        assert!(!watch.feed(b"KernelKernel panic - not syncin"));
        assert!(watch.feed(b"g"));
        assert!(watch.feed(b"and it stays so"));
    }

    proptest! {
        #[test]
        fn found_wherever_and_however_it_is_split(
            before in proptest::collection::vec(any::<u8>(), 0..64),
            cuts in proptest::collection::vec(1_usize..8, 1..64),
        ) {
            let mut stream = before.clone();
            stream.extend_from_slice(NEEDLE);
            let mut watch = PanicWatch::default();
            let mut rest = stream.as_slice();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                watch.feed(piece);
                rest = after;
            }
            prop_assert!(watch.feed(rest));
        }

        #[test]
        fn agrees_with_a_search(stream in "[Kernl panic\\-otsyg]{0,80}") {
            let found = stream.as_bytes().windows(NEEDLE.len()).any(|w| w == NEEDLE);
            prop_assert_eq!(PanicWatch::default().feed(stream.as_bytes()), found);
        }
    }
}
