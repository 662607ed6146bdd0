//! passt's socket as the host's end of a queue pair.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::error::UserError;
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::words::Words;
use crate::devices::virtio::net::link::{Gone, HEADER_LEN, Offloads, Port, Received, Sent};
use crate::memory::IoBuffers;

/// Bytes that may lie in the socket, each way. The kernel gives less (twice
/// `net.core.wmem_max`) if that is its limit. Far below the 8 MiB that passt reads at
/// once, as it loses a length that is cut by the end of what it has read.
const BUFFER_LEN: libc::c_int = 4 << 20;

/// The socket, with what has been read and not received, or sent and not written.
pub(super) struct StreamPort {
    socket: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
    /// What passt says, for the time when it is gone.
    words: Option<Arc<Words>>,
    reads: u64,
}

impl StreamPort {
    /// A port over `socket`, which is connected to passt or will be.
    ///
    /// # Errors
    /// [`UserError::Socket`]
    pub(super) fn new(socket: UnixStream) -> Result<Self, UserError> {
        socket.set_nonblocking(true).map_err(UserError::Socket)?;
        enlarge_buffer(&socket).map_err(UserError::Socket)?;
        Ok(Self {
            socket,
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            words: None,
            reads: 0,
        })
    }

    /// Tells passt's last words with the news of its end.
    pub(super) fn told_by(mut self, words: Arc<Words>) -> Self {
        self.words = Some(words);
        self
    }

    fn gone(&self, error: io::Error) -> Gone {
        if error.kind() == io::ErrorKind::InvalidData {
            return Gone(error);
        }
        let said = self.words.as_ref().and_then(|words| words.hear().pop());
        let text = match said {
            Some(said) => format!("'passt' has ended: {said}"),
            None => "'passt' has ended".to_owned(),
        };
        Gone(io::Error::new(error.kind(), text))
    }

    /// The next frame, header first, out of the inbox or read in one call.
    fn receive_frame(
        &mut self,
        buffers: &IoBuffers,
        spill: &mut [u8],
    ) -> io::Result<Option<usize>> {
        if let Some(frame) = self.inbox.next_frame()? {
            return Ok(Some(hand_over(frame, buffers, spill)));
        }
        self.reads = self.reads.wrapping_add(1);
        match self.inbox.fill(&self.socket) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        // A read ends where the socket's bytes do, unless the buffer is full of frames.
        Ok(self
            .inbox
            .next_frame()?
            .map(|frame| hand_over(frame, buffers, spill)))
    }
}

/// Copies `frame` into the guest's buffers, and into `spill` what they do not hold.
fn hand_over(frame: &[u8], buffers: &IoBuffers, spill: &mut [u8]) -> usize {
    let (front, rest) = frame.split_at(frame.len().min(buffers.len()));
    // The list's pieces were found to be RAM when they were put there.
    buffers.copy_in(0, front);
    if let Some(place) = spill.get_mut(..rest.len()) {
        place.copy_from_slice(rest);
    }
    frame.len()
}

impl Port for StreamPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self, _header: &[u8; HEADER_LEN], frame: &IoBuffers) -> Result<Sent, Gone> {
        let result = self.outbox.send(&self.socket, frame);
        result.map_err(|error| self.gone(error))
    }

    fn receive(&mut self, buffers: &IoBuffers, spill: &mut [u8]) -> Result<Received, Gone> {
        let result = self
            .outbox
            .flush(&self.socket)
            .and_then(|_| self.receive_frame(buffers, spill));
        match result {
            Ok(Some(len)) => Ok(Received::Frame(len)),
            Ok(None) => Ok(Received::Nothing),
            Err(error) => Err(self.gone(error)),
        }
    }

    /// passt sends whole packets with checksums, whatever the guest could take.
    fn set_offloads(&mut self, _guest: Offloads) -> io::Result<()> {
        Ok(())
    }

    /// There is one queue pair, so the other side has nowhere else to send.
    fn set_enabled(&mut self, _enabled: bool) -> io::Result<()> {
        Ok(())
    }

    fn system_calls(&self) -> u64 {
        self.reads.wrapping_add(self.outbox.system_calls)
    }
}

/// Lets more bytes lie in the socket on their way from this end to the other.
///
/// # Errors
/// Those of `setsockopt`.
pub(super) fn enlarge_buffer(socket: &UnixStream) -> io::Result<()> {
    set_buffer(socket, BUFFER_LEN)
}

fn set_buffer(socket: &UnixStream, len: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads the integer, of the size that it is told of.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const len).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
