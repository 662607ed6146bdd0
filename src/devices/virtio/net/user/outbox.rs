//! Frames to passt: each straight from guest memory, behind its length.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::guard::{self, HEAD_LEN};
use super::inbox::LENGTH_LEN;
use crate::devices::virtio::net::link::{LONGEST_FRAME, Sent};
use crate::memory::IoBuffers;

/// The most pieces that one message takes (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// What is being sent.
pub(super) struct Outbox {
    pieces: Pieces,
    /// What the socket did not take of a frame, a copy: `rest[sent..]` goes before
    /// anything else.
    rest: Vec<u8>,
    sent: usize,
    /// The frame that `rest` is or was the end of, until its sender has been told.
    owed: Option<Head>,
    /// System calls made.
    pub(super) system_calls: u64,
}

/// A frame's length and beginning, copied from the guest so that what was looked at is
/// what is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    bytes: [u8; LENGTH_LEN + HEAD_LEN],
    len: usize,
}

/// Room for a message's pieces; empty between messages.
struct Pieces(Vec<libc::iovec>);

// SAFETY: the list is empty whenever nobody is inside a method of `Outbox`, so no
// pointer goes from one thread to another.
unsafe impl Send for Pieces {}

impl Head {
    /// `None` if the frame cannot be sent, for its length.
    fn of(frame: &IoBuffers) -> Option<Self> {
        let in_frame = frame.len().min(HEAD_LEN);
        let mut head = Self {
            bytes: [0; LENGTH_LEN + HEAD_LEN],
            len: LENGTH_LEN + in_frame,
        };
        let told = u32::try_from(frame.len()).ok()?;
        if told == 0 || frame.len() > LONGEST_FRAME {
            return None;
        }
        let (length, copied) = head.bytes.split_first_chunk_mut::<LENGTH_LEN>()?;
        *length = told.to_be_bytes();
        frame
            .copy_out(0, copied.get_mut(..in_frame)?)
            .then_some(head)
    }

    fn as_sent(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn of_frame(&self) -> &[u8] {
        self.as_sent().get(LENGTH_LEN..).unwrap_or_default()
    }
}

impl Outbox {
    /// With nothing in it.
    pub(super) fn new() -> Self {
        Self {
            pieces: Pieces(Vec::with_capacity(MAX_PIECES)),
            rest: Vec::with_capacity(LENGTH_LEN + LONGEST_FRAME),
            sent: 0,
            owed: None,
            system_calls: 0,
        }
    }

    /// Sends `frame`. If the socket takes only a part of it, the rest is copied, and the
    /// frame's sender told to come again once there is room: passt waits for the rest
    /// and does nothing else.
    ///
    /// # Errors
    /// Those of the socket, if it takes nothing any more.
    pub(super) fn send(&mut self, socket: impl AsFd, frame: &IoBuffers) -> io::Result<Sent> {
        if !self.flush(&socket)? {
            return Ok(Sent::Later);
        }
        let Some(head) = Head::of(frame) else {
            return Ok(Sent::Dropped);
        };
        if self.owed.take() == Some(head) {
            return Ok(Sent::Whole);
        }
        if guard::goes_to_loopback(head.of_frame()) {
            return Ok(Sent::Dropped);
        }
        let Some(total) = self.gather(&head, frame) else {
            return Ok(Sent::Dropped);
        };
        let result = send_pieces(&socket, &self.pieces.0);
        self.pieces.0.clear();
        self.system_calls = self.system_calls.wrapping_add(1);
        match result {
            Ok(count) if count >= total => Ok(Sent::Whole),
            Ok(count) => {
                self.keep_rest(&head, frame, count);
                self.owed = Some(head);
                Ok(Sent::Later)
            }
            Err(error) => what_next(error),
        }
    }

    /// Sends what is left of a frame; whether nothing is left.
    ///
    /// # Errors
    /// Those of the socket, if it takes nothing any more.
    pub(super) fn flush(&mut self, socket: impl AsFd) -> io::Result<bool> {
        while let Some(left) = self.rest.get(self.sent..).filter(|left| !left.is_empty()) {
            let piece = libc::iovec {
                iov_base: left.as_ptr().cast_mut().cast(),
                iov_len: left.len(),
            };
            let result = send_pieces(&socket, &[piece]);
            self.system_calls = self.system_calls.wrapping_add(1);
            match result {
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(error) => {
                    what_next(error)?;
                    return Ok(false);
                }
            }
        }
        self.rest.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Lists the pieces of `head` and of what follows it in `frame`; how many bytes they
    /// are together. `None` if they are too many pieces.
    fn gather(&mut self, head: &Head, frame: &IoBuffers) -> Option<usize> {
        let pieces = &mut self.pieces.0;
        pieces.clear();
        pieces.push(libc::iovec {
            iov_base: head.as_sent().as_ptr().cast_mut().cast(),
            iov_len: head.len,
        });
        let mut copied = head.of_frame().len();
        for piece in frame.iovecs() {
            let skipped = copied.min(piece.iov_len);
            copied -= skipped;
            if skipped < piece.iov_len {
                if pieces.len() == MAX_PIECES {
                    pieces.clear();
                    return None;
                }
                pieces.push(libc::iovec {
                    iov_base: piece.iov_base.cast::<u8>().wrapping_add(skipped).cast(),
                    iov_len: piece.iov_len - skipped,
                });
            }
        }
        Some(LENGTH_LEN.saturating_add(frame.len()))
    }

    /// Copies what follows the first `count` bytes of the message.
    fn keep_rest(&mut self, head: &Head, frame: &IoBuffers, count: usize) {
        self.rest.clear();
        self.sent = 0;
        self.rest
            .extend_from_slice(head.as_sent().get(count..).unwrap_or_default());
        let from = count.max(head.len).saturating_sub(LENGTH_LEN);
        let start = self.rest.len();
        let len = frame.len().saturating_sub(from);
        self.rest.resize(start.saturating_add(len), 0);
        if let Some(place) = self.rest.get_mut(start..) {
            // RAM that was there to be sent is there to be copied; else zeros follow.
            frame.copy_out(from, place);
        }
    }
}

/// What a failed call means for the frame.
fn what_next(error: io::Error) -> io::Result<Sent> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(Sent::Later),
        // The host has no memory for it, as happens to frames on other links too.
        Some(libc::ENOBUFS | libc::ENOMEM) => Ok(Sent::Dropped),
        _ => Err(error),
    }
}

/// Sends `pieces` as far as there is room, without waiting; how many bytes.
fn send_pieces(socket: impl AsFd, pieces: &[libc::iovec]) -> io::Result<usize> {
    // SAFETY: all zeros is a message with no name, no pieces and no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut();
    message.msg_iovlen = pieces.len() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads the message and its pieces, which the callers borrow for
    // the call: their own buffers, and guest memory that `IoBuffers` keeps mapped.
    let count = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
