//! Frames from passt: read in big pieces, handed out one by one.

use std::io::{self, Read};

use crate::devices::virtio::net::link::{HEADER_LEN, LONGEST_FRAME};

/// Bytes of the length before each frame, big-endian.
pub(super) const LENGTH_LEN: usize = 4;

/// What is kept free at the front: the header that a frame gets takes the place of its
/// length and of bytes that have been handed out, which the first frame lacks.
const HEADROOM: usize = HEADER_LEN - LENGTH_LEN;

/// Bytes read at once: two of the longest frames, or some 80 common ones.
const CAPACITY: usize = HEADROOM + (128 << 10);

// After what is handed out has made room, there is some for the rest of any frame.
const _: () = assert!(CAPACITY > HEADROOM + LENGTH_LEN + LONGEST_FRAME);

/// A piece of the stream that has been read and not yet handed out.
pub(super) struct Inbox {
    buffer: Box<[u8]>,
    /// The piece is `buffer[start..end]`; `start` is never below [`HEADROOM`].
    start: usize,
    end: usize,
}

impl Inbox {
    /// With nothing in it.
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; CAPACITY].into_boxed_slice(),
            start: HEADROOM,
            end: HEADROOM,
        }
    }

    /// Hands the next frame out, behind a header of zeros; `None` if it is not all there.
    ///
    /// # Errors
    /// `InvalidData` if no frame can have the length that the stream tells. What follows
    /// cannot be made out any more.
    pub(super) fn next_frame(&mut self) -> io::Result<Option<&[u8]>> {
        let held = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((length, rest)) = held.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let told = u32::from_be_bytes(*length);
        let len = usize::try_from(told).unwrap_or(usize::MAX);
        if len == 0 || len > LONGEST_FRAME {
            let text = format!("'passt' announced a frame of {told} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let front = self.start - HEADROOM;
        self.start += LENGTH_LEN + len;
        let Some(frame) = self.buffer.get_mut(front..self.start) else {
            return Ok(None);
        };
        if let Some(header) = frame.get_mut(..HEADER_LEN) {
            header.fill(0);
        }
        Ok(Some(frame))
    }

    /// Reads once from `stream` what there is room for; how many bytes came.
    ///
    /// # Errors
    /// Those of the stream; `WouldBlock` if nothing waits.
    pub(super) fn fill(&mut self, mut stream: impl Read) -> io::Result<usize> {
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let count = stream.read(room)?;
        self.end += count.min(room.len());
        Ok(count)
    }

    /// Moves the beginning of a frame to the front.
    fn make_room(&mut self) {
        if self.start > HEADROOM {
            self.buffer.copy_within(self.start..self.end, HEADROOM);
            self.end -= self.start - HEADROOM;
            self.start = HEADROOM;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each frame behind its length.
    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
            bytes.extend(frame);
        }
        bytes
    }

    /// What comes out, without the headers, when `stream` arrives in `pieces`.
    fn read_in(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        let mut inbox = Inbox::new();
        let mut frames = Vec::new();
        for piece in pieces {
            assert_eq!(inbox.fill(&*piece).unwrap(), piece.len());
            while let Some(frame) = inbox.next_frame().unwrap() {
                assert_eq!(frame[..HEADER_LEN], [0; HEADER_LEN]);
                frames.push(frame[HEADER_LEN..].to_vec());
            }
        }
        frames
    }

    fn sample() -> Vec<Vec<u8>> {
        [14usize, 1, 60, 19]
            .into_iter()
            .zip(1u8..)
            .map(|(len, byte)| vec![byte; len])
            .collect()
    }

    #[test]
    fn one_read_brings_many_frames() {
        let bytes = stream(&sample());
        assert_eq!(read_in([bytes].into_iter()), sample());
    }

    #[test]
    fn frames_may_be_cut_at_every_byte() {
        let bytes = stream(&sample());
        for cut in 1..bytes.len() {
            let pieces = [bytes[..cut].to_vec(), bytes[cut..].to_vec()];
            assert_eq!(read_in(pieces.into_iter()), sample(), "cut at {cut}");
        }
        let single = bytes.iter().map(|&byte| vec![byte]);
        assert_eq!(read_in(single), sample());
    }

    #[test]
    fn the_longest_frames_go_through_however_they_lie() {
        let frames: Vec<Vec<u8>> = (0u8..20).map(|n| vec![n; LONGEST_FRAME]).collect();
        let bytes = stream(&frames);
        for size in [CAPACITY / 3, 65_536, 40_000] {
            let pieces = bytes.chunks(size).map(<[u8]>::to_vec);
            let mut inbox = Inbox::new();
            let mut seen = 0u8;
            for piece in pieces {
                let mut left = &piece[..];
                while !left.is_empty() {
                    let taken = inbox.fill(left).unwrap();
                    assert!(taken > 0, "there is room for the rest of a frame");
                    left = &left[taken..];
                    while let Some(frame) = inbox.next_frame().unwrap() {
                        assert_eq!(frame.len(), HEADER_LEN + LONGEST_FRAME);
                        assert!(frame[HEADER_LEN..].iter().all(|&byte| byte == seen));
                        seen += 1;
                    }
                }
            }
            assert_eq!(seen, 20, "in pieces of {size}");
        }
    }

    #[test]
    fn lengths_that_no_frame_has_are_told() {
        for (length, in_words) in [
            (0u32, "0 bytes"),
            (65_554, "65554 bytes"),
            (u32::MAX, "4294967295 bytes"),
        ] {
            let mut inbox = Inbox::new();
            inbox.fill(&length.to_be_bytes()[..]).unwrap();
            let error = inbox.next_frame().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(in_words), "{error}");
        }
    }
}
