//! A link that keeps what it is sent, and gives what it has been given.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use mayfly::devices::virtio::net::link::{Gone, HEADER_LEN, Offloads, Port, Received, Sent};
use mayfly::memory::IoBuffers;

/// What the link says to the next frame or call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Whole,
    Later,
    Dropped,
    Gone,
}

#[derive(Default)]
pub struct ModelPort {
    /// To what comes; what comes then is taken.
    pub answers: VecDeque<Answer>,
    /// Frames, with their headers, for the driver.
    pub incoming: VecDeque<Vec<u8>>,
    /// Whether the last call was told that there was nothing, though there was.
    pub was_late: bool,
    sent: Vec<Vec<u8>>,
    given: Vec<Vec<u8>>,
}

/// A header and bytes, `len` in all; a place looks like another only 251 bytes, or some
/// times that, away.
pub fn frame(seed: u8, len: usize) -> Vec<u8> {
    let some: Vec<u8> = (0..251)
        .map(|byte: u8| byte.wrapping_mul(29) ^ seed)
        .collect();
    let mut bytes = some.repeat(len.div_ceil(some.len()));
    bytes.truncate(len);
    bytes
}

impl ModelPort {
    pub fn take_sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent)
    }

    pub fn take_given(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.given)
    }
}

impl Port for ModelPort {
    fn fd(&self) -> BorrowedFd<'_> {
        unreachable!("nobody waits here")
    }

    fn send(&mut self, header: &[u8; HEADER_LEN], frame: &IoBuffers) -> Result<Sent, Gone> {
        assert!(frame.iovecs().len() <= 1023, "and one for the header");
        match self.answers.pop_front() {
            Some(Answer::Later) => return Ok(Sent::Later),
            Some(Answer::Dropped) => return Ok(Sent::Dropped),
            Some(Answer::Gone) => return Err(gone()),
            Some(Answer::Whole) | None => {}
        }
        let mut bytes = header.to_vec();
        for piece in frame.iovecs() {
            let start = bytes.len();
            bytes.resize(start + piece.iov_len, 0);
            // SAFETY: the piece is guest memory that `frame` keeps, and nobody else
            // uses meanwhile.
            unsafe {
                let from = piece.iov_base.cast::<u8>();
                std::ptr::copy_nonoverlapping(from, bytes[start..].as_mut_ptr(), piece.iov_len);
            }
        }
        self.sent.push(bytes);
        Ok(Sent::Whole)
    }

    fn receive(&mut self, buffers: &IoBuffers, spill: &mut [u8]) -> Result<Received, Gone> {
        assert!(buffers.iovecs().len() <= 1023, "and one for the spill");
        assert!(!buffers.is_empty());
        let answer = match self.incoming.is_empty() {
            true => None,
            false => self.answers.pop_front(),
        };
        self.was_late = matches!(answer, Some(Answer::Later | Answer::Dropped));
        if answer == Some(Answer::Gone) {
            return Err(gone());
        }
        if self.was_late {
            return Ok(Received::Nothing);
        }
        let Some(bytes) = self.incoming.pop_front() else {
            return Ok(Received::Nothing);
        };
        let mut rest = bytes.as_slice();
        for piece in buffers.iovecs() {
            let (part, behind) = rest.split_at(rest.len().min(piece.iov_len));
            // SAFETY: as above, and no longer than the piece.
            unsafe {
                let to = piece.iov_base.cast::<u8>();
                std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
            }
            rest = behind;
        }
        // The kernel cuts off what has no room.
        let spilled = rest.len().min(spill.len());
        spill[..spilled].copy_from_slice(&rest[..spilled]);
        let len = bytes.len() - (rest.len() - spilled);
        self.given.push(bytes);
        Ok(Received::Frame(len))
    }

    fn set_offloads(&mut self, _guest: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn set_enabled(&mut self, _enabled: bool) -> io::Result<()> {
        Ok(())
    }

    fn system_calls(&self) -> u64 {
        0
    }
}

fn gone() -> Gone {
    Gone(io::ErrorKind::NotConnected.into())
}
