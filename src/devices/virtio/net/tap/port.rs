//! One queue of a tap: frames go between it and guest memory without a copy.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::super::link::{Gone, HEADER_LEN, LONGEST_FRAME, Offloads, Port, Received, Sent};
use super::ioctl;
use crate::memory::IoBuffers;

/// Pieces that one call takes (`UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;

/// How often a call is made again that a signal cut short, or that lost the frame it
/// was to fetch.
const TRIES: usize = 16;

/// A queue of a tap, one descriptor.
pub(super) struct TapPort {
    queue: File,
    pieces: Pieces,
    /// For frames in more pieces than a call takes, which no sound driver makes.
    bounce: Vec<u8>,
    /// What the kernel is able to leave to the guest.
    offloads: Offloads,
    /// Whether it can be switched off.
    multi_queue: bool,
    enabled: bool,
    system_calls: u64,
}

/// Room for the pieces of one frame, filled anew for each call.
struct Pieces(Vec<libc::iovec>);

// SAFETY: the pointers are used by none but the function that has just put them there;
// what is left of them after it is never looked at.
unsafe impl Send for Pieces {}

/// What it means that a frame is not taken, or not given.
enum Refusal {
    /// Not now.
    NotNow,
    /// The call was cut short, to no effect.
    Interrupted,
    /// This frame is lost.
    Lost,
    /// Nothing will go this way again: the interface was removed.
    Gone,
}

impl TapPort {
    /// A port over `queue`, which does not block and has headers of [`HEADER_LEN`] bytes.
    /// `enabled` tells whether it is attached now.
    pub(super) fn new(queue: File, offloads: Offloads, multi_queue: bool, enabled: bool) -> Self {
        Self {
            queue,
            pieces: Pieces(Vec::with_capacity(MOST_PIECES)),
            bounce: Vec::new(),
            offloads,
            multi_queue,
            enabled,
            system_calls: 0,
        }
    }

    fn write_frame(&mut self, header: &[u8; HEADER_LEN], frame: &IoBuffers) -> io::Result<usize> {
        self.system_calls += 1;
        if frame.iovecs().len() < MOST_PIECES {
            return self.write_pieces(header, frame);
        }
        let whole = HEADER_LEN + frame.len().min(LONGEST_FRAME);
        self.bounce.resize(whole, 0);
        let (first, rest) = self.bounce.split_at_mut(HEADER_LEN);
        first.copy_from_slice(header);
        if !frame.copy_out(0, rest) {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        self.queue.write(&self.bounce)
    }

    /// The number of pieces is below [`MOST_PIECES`].
    fn write_pieces(&mut self, header: &[u8; HEADER_LEN], frame: &IoBuffers) -> io::Result<usize> {
        let pieces = &mut self.pieces.0;
        pieces.clear();
        pieces.push(libc::iovec {
            iov_base: header.as_ptr().cast_mut().cast(),
            iov_len: header.len(),
        });
        pieces.extend_from_slice(frame.iovecs());
        let count = i32::try_from(pieces.len()).unwrap_or(i32::MAX);
        // SAFETY: the list has `count` entries; the first is `header`, which is only read,
        // the others lead into the mapping that `frame` keeps, and both outlive the call.
        let written = unsafe { libc::writev(self.queue.as_raw_fd(), pieces.as_ptr(), count) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn read_frame(&mut self, buffers: &IoBuffers, spill: &mut [u8]) -> io::Result<usize> {
        self.system_calls += 1;
        if buffers.iovecs().len() < MOST_PIECES {
            return self.read_pieces(buffers, spill);
        }
        self.bounce.resize(HEADER_LEN + LONGEST_FRAME, 0);
        let len = self.queue.read(&mut self.bounce)?;
        let frame = self.bounce.get(..len).unwrap_or_default();
        let (first, rest) = frame.split_at(len.min(buffers.len()));
        match spill.get_mut(..rest.len()) {
            Some(place) if buffers.copy_in(0, first) => place.copy_from_slice(rest),
            _ => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
        Ok(len)
    }

    /// The number of pieces is below [`MOST_PIECES`].
    fn read_pieces(&mut self, buffers: &IoBuffers, spill: &mut [u8]) -> io::Result<usize> {
        let pieces = &mut self.pieces.0;
        pieces.clear();
        pieces.extend_from_slice(buffers.iovecs());
        pieces.push(libc::iovec {
            iov_base: spill.as_mut_ptr().cast(),
            iov_len: spill.len(),
        });
        let count = i32::try_from(pieces.len()).unwrap_or(i32::MAX);
        // SAFETY: the list has `count` entries; the last is `spill`, which is ours alone to
        // write, the others lead into the guest's memory, which `buffers` keeps mapped and
        // to which nobody has references; all outlive the call.
        let read = unsafe { libc::readv(self.queue.as_raw_fd(), pieces.as_ptr(), count) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

impl Port for TapPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    fn send(&mut self, header: &[u8; HEADER_LEN], frame: &IoBuffers) -> Result<Sent, Gone> {
        for _ in 0..TRIES {
            let error = match self.write_frame(header, frame) {
                Ok(_) => return Ok(Sent::Whole),
                Err(error) => error,
            };
            match refusal(&error) {
                Refusal::NotNow => return Ok(Sent::Later),
                Refusal::Interrupted => {}
                Refusal::Lost => return Ok(Sent::Dropped),
                Refusal::Gone => return Err(Gone(error)),
            }
        }
        Ok(Sent::Dropped)
    }

    fn receive(&mut self, buffers: &IoBuffers, spill: &mut [u8]) -> Result<Received, Gone> {
        for _ in 0..TRIES {
            let error = match self.read_frame(buffers, spill) {
                // The kernel gives a header with each frame, or nothing.
                Ok(len) if len < HEADER_LEN => continue,
                Ok(len) => return Ok(Received::Frame(len)),
                Err(error) => error,
            };
            match refusal(&error) {
                Refusal::NotNow => break,
                // A frame that the kernel could not hand over is no reason to leave the
                // next one lying.
                Refusal::Interrupted | Refusal::Lost => {}
                Refusal::Gone => return Err(Gone(error)),
            }
        }
        Ok(Received::Nothing)
    }

    fn set_offloads(&mut self, guest: Offloads) -> io::Result<()> {
        self.system_calls += 1;
        ioctl::set_offloads(self.queue.as_fd(), guest.and(self.offloads))
    }

    fn set_enabled(&mut self, enabled: bool) -> io::Result<()> {
        // The only queue of a tap cannot be taken away, nor one that is not there be.
        if !self.multi_queue || enabled == self.enabled {
            return Ok(());
        }
        self.system_calls += 1;
        ioctl::set_queue(self.queue.as_fd(), enabled)?;
        self.enabled = enabled;
        Ok(())
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }
}

/// Linux, `drivers/net/tun.c`: what its reads and writes return.
fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Refusal::NotNow,
        Some(libc::EINTR) => Refusal::Interrupted,
        // The interface is no more (EBADFD), or is just being removed.
        Some(libc::EBADFD | libc::ENODEV | libc::ENXIO) => Refusal::Gone,
        // A header that the kernel does not like (EINVAL), an interface that is down
        // (EIO), no memory, or whatever else befalls a frame.
        _ => Refusal::Lost,
    }
}
