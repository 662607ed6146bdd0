//! What is typed to the guest: from a terminal, a pipe or a file to the UART.
//!
//! The event loop drives it:
//!
//! ```text
//!  readable, or always ready ─► receive() ─► pending() ─► UART FIFO ─► consume(n)
//!                                               ▲
//!  the guest has emptied its FIFO ──────────────┘
//! ```
//!
//! A pipe or a file is not read while bytes wait for the guest, so that its
//! writer feels the guest's pace. A terminal is always read, for `Ctrl-a x`
//! must work when the guest has stopped listening; what the guest does not
//! take in time is lost, as on any serial line.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::termios::isatty;

use super::descriptor::Descriptor;
use crate::terminal::{EscapeFilter, Key};

/// How many bytes are read at once, and wait for the guest, at most.
const PENDING_MAX: usize = 4096;

/// What came of one [`Input::receive`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The user wants the VM to end (`Ctrl-a x`).
    pub quit: bool,
    /// The user wants to be told the keys (`Ctrl-a h`).
    pub help: bool,
    /// No more will ever come: stop watching the descriptor.
    pub ended: bool,
    /// The terminal is not ours now, and reading it would stop the process: do
    /// not watch the descriptor for a moment (a quarter of a second will do),
    /// then call [`RawMode::resume`](crate::terminal::RawMode::resume) and watch again.
    pub in_background: bool,
}

/// The source of what is typed.
#[derive(Debug)]
pub struct Input {
    fd: Descriptor,
    pollable: bool,
    filter: Option<EscapeFilter>,
    ended: bool,
    pending: Box<[u8; PENDING_MAX]>,
    /// The bytes of `pending` that wait: `start..end`.
    start: usize,
    end: usize,
}

impl Input {
    /// Takes input from `fd`; a terminal's `Ctrl-a` speaks to Mayfly if
    /// `keyboard` says that a user sits at it.
    pub fn new(fd: impl Into<Descriptor>, keyboard: bool) -> Self {
        let fd = fd.into();
        Self {
            pollable: true,
            filter: (keyboard && isatty(&fd)).then(EscapeFilter::default),
            fd,
            ended: false,
            pending: Box::new([0; PENDING_MAX]),
            start: 0,
            end: 0,
        }
    }

    /// Whether epoll can watch the descriptor, as far as is known.
    pub fn pollable(&self) -> bool {
        self.pollable
    }

    /// Epoll has refused the descriptor: nothing but trying it tells. Such a one
    /// (a regular file, `/dev/null`) is always ready.
    pub fn set_always_ready(&mut self) {
        self.pollable = false;
    }

    /// Whether a user sits at it: then the terminal is to be put in raw mode.
    pub fn is_keyboard(&self) -> bool {
        self.filter.is_some()
    }

    /// Whether [`Input::receive`] should be called when the descriptor is ready.
    pub fn wants_more(&self) -> bool {
        !self.ended && (self.is_keyboard() || self.pending().is_empty())
    }

    /// Reads once what is there. Does not wait if the descriptor is ready.
    pub fn receive(&mut self) -> Received {
        let mut received = Received::default();
        if self.ended {
            received.ended = true;
            return received;
        }
        if self.is_keyboard() && !crate::terminal::in_foreground(&self.fd) {
            received.in_background = true;
            return received;
        }
        // Half the room for what is read: the other half is what still waits.
        let mut fresh = [0; PENDING_MAX / 2];
        match rustix::io::read(&self.fd, &mut fresh) {
            Ok(0) => self.ended = true,
            Ok(count) => self.sort(fresh.get(..count).unwrap_or_default(), &mut received),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.ended = true,
        }
        received.ended = self.ended;
        received
    }

    /// Bytes that wait for the guest, oldest first.
    pub fn pending(&self) -> &[u8] {
        self.pending.get(self.start..self.end).unwrap_or_default()
    }

    /// The guest has taken the first `count` bytes of [`Input::pending`].
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    /// Separates the user's words to Mayfly from those to the guest.
    fn sort(&mut self, fresh: &[u8], received: &mut Received) {
        let Some(mut filter) = self.filter.take() else {
            self.append(fresh);
            return;
        };
        for key in filter.feed(fresh) {
            match key {
                Key::Guest(bytes) => self.append(bytes),
                Key::Quit => received.quit = true,
                Key::Help => received.help = true,
            }
        }
        self.filter = Some(filter);
    }

    /// Appends what fits behind what waits.
    fn append(&mut self, bytes: &[u8]) {
        self.pending.copy_within(self.start..self.end, 0);
        self.end = self.end.saturating_sub(self.start);
        self.start = 0;
        let Some(room) = self.pending.get_mut(self.end..) else {
            return;
        };
        let count = room.len().min(bytes.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..count), bytes.get(..count)) {
            room.copy_from_slice(bytes);
        }
        self.end = self.end.saturating_add(count);
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::pty;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    fn take_all(input: &mut Input) -> Vec<u8> {
        let bytes = input.pending().to_vec();
        input.consume(bytes.len());
        bytes
    }

    #[test]
    fn a_pipe_waits_for_the_guest() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut input = Input::new(reader, true);
        assert!(input.pollable() && !input.is_keyboard() && input.wants_more());
        rustix::io::write(&writer, b"a\x01x").unwrap();
        assert_eq!(input.receive(), Received::default());
        assert!(!input.wants_more());
        assert_eq!(input.pending(), b"a\x01x");
        input.consume(2);
        assert_eq!(input.pending(), b"x");
        assert!(!input.wants_more());
        input.consume(9);
        assert!(input.wants_more());
        drop(writer);
        assert!(input.receive().ended);
        assert!(!input.wants_more());
    }

    #[test]
    fn a_file_is_always_ready_and_ends() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; PENDING_MAX + 1]).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut input = Input::new(OwnedFd::from(file), true);
        let mut total = 0;
        while !input.receive().ended {
            total += take_all(&mut input).len();
        }
        assert_eq!(total, PENDING_MAX + 1);
    }

    #[test]
    fn nothing_comes_from_null() {
        let null = File::open("/dev/null").unwrap();
        let mut input = Input::new(OwnedFd::from(null), true);
        assert!(input.receive().ended);
    }

    #[test]
    fn a_keyboard_is_heard_when_the_guest_is_deaf() {
        let pty = pty::open().unwrap();
        let mut input = Input::new(pty.slave.try_clone().unwrap(), true);
        assert!(input.is_keyboard());
        for _ in 0..10 {
            rustix::io::write(&pty.master, &[b'k'; 1000]).unwrap();
            assert_eq!(input.receive(), Received::default());
            assert!(input.wants_more());
        }
        assert_eq!(input.pending().len(), PENDING_MAX);
        rustix::io::write(&pty.master, b"\x01h\x01x").unwrap();
        let received = input.receive();
        assert!(received.help && received.quit && !received.ended);
    }
}
