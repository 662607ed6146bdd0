//! The escape key: how to speak to Mayfly when the guest owns the keyboard.

/// Ctrl-a, as the terminal sends it.
const ESCAPE: u8 = 0x01;

/// What `Ctrl-a h` prints; for a terminal in raw mode, so each line is ended in full.
pub const HELP: &str = "\r\n\
    Ctrl-a x  quit: end the VM at once\r\n\
    Ctrl-a h  this help\r\n\
    Ctrl-a a  send Ctrl-a to the guest (Ctrl-a Ctrl-a does too)\r\n";

/// Something that came from the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// Bytes for the guest.
    Guest(&'a [u8]),
    /// `Ctrl-a x`: end the VM.
    Quit,
    /// `Ctrl-a h`: show [`HELP`].
    Help,
}

/// Tells the user's words to Mayfly from those to the guest.
///
/// A `Ctrl-a` waits for the key after it, even if that comes with a later read.
/// One that is followed by a key without a meaning goes to the guest with it.
#[derive(Clone, Debug, Default)]
pub struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// Takes what was read and hands out what it means, piece by piece.
    pub fn feed<'f, 'a>(
        &'f mut self,
        input: &'a [u8],
    ) -> impl Iterator<Item = Key<'a>> + use<'f, 'a> {
        let mut rest = input;
        std::iter::from_fn(move || self.next(&mut rest))
    }

    fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Key<'a>> {
        while let Some((&first, after)) = rest.split_first() {
            if self.escaped {
                self.escaped = false;
                match first {
                    b'x' | b'X' => {
                        *rest = after;
                        return Some(Key::Quit);
                    }
                    b'h' | b'H' | b'?' => {
                        *rest = after;
                        return Some(Key::Help);
                    }
                    b'a' | b'A' | ESCAPE => *rest = after,
                    _ => {}
                }
                return Some(Key::Guest(&[ESCAPE]));
            }
            if first == ESCAPE {
                self.escaped = true;
                *rest = after;
                continue;
            }
            let end = rest.iter().position(|&b| b == ESCAPE).unwrap_or(rest.len());
            let (plain, after) = rest.split_at_checked(end)?;
            *rest = after;
            return Some(Key::Guest(plain));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What came out: the guest's bytes, quits, helps.
    fn run(pieces: &[&[u8]]) -> (Vec<u8>, usize, usize) {
        let mut filter = EscapeFilter::default();
        let (mut bytes, mut quits, mut helps) = (Vec::new(), 0, 0);
        for piece in pieces {
            for key in filter.feed(piece) {
                match key {
                    Key::Guest(some) => bytes.extend_from_slice(some),
                    Key::Quit => quits += 1,
                    Key::Help => helps += 1,
                }
            }
        }
        (bytes, quits, helps)
    }

    #[test]
    fn plain_bytes_pass() {
        assert_eq!(
            run(&[b"ls\r", b"", b"\x03\xff"]),
            (b"ls\r\x03\xff".to_vec(), 0, 0)
        );
    }

    #[test]
    fn escapes_have_their_meaning() {
        assert_eq!(run(&[b"a\x01xb"]), (b"ab".to_vec(), 1, 0));
        assert_eq!(run(&[b"\x01h"]), (Vec::new(), 0, 1));
        assert_eq!(run(&[b"\x01a\x01\x01"]), (vec![1, 1], 0, 0));
        assert_eq!(run(&[b"\x01q"]), (b"\x01q".to_vec(), 0, 0));
    }

    #[test]
    fn the_state_outlives_a_read() {
        assert_eq!(run(&[b"\x01", b"x"]), (Vec::new(), 1, 0));
        assert_eq!(run(&[b"\x01", b"", b"z"]), (b"\x01z".to_vec(), 0, 0));
        assert_eq!(run(&[b"\x01"]), (Vec::new(), 0, 0));
    }

    proptest! {
        #[test]
        fn how_input_is_cut_does_not_matter(
            input in proptest::collection::vec(
                prop_oneof![Just(1_u8), Just(b'x'), Just(b'h'), Just(b'a'), any::<u8>()], 0..100),
            cut in 1_usize..10,
        ) {
            let pieces: Vec<&[u8]> = input.chunks(cut).collect();
            prop_assert_eq!(run(&pieces), run(&[&input]));
        }

        #[test]
        fn without_the_escape_key_nothing_changes(
            input in proptest::collection::vec(2_u8.., 0..100),
        ) {
            prop_assert_eq!(run(&[&input]), (input, 0, 0));
        }
    }
}
