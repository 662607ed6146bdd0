//! What the tests of the network device share: a link whose other end is the test, and
//! frames made and read without the code under test.
//!
//! The link is a pair of sockets, so that the host kernel itself reads and writes guest
//! memory, as it does for a tap.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard};

use super::link::{Gone, HEADER_LEN, Offloads, Port, Received, Sent};
use crate::memory::IoBuffers;

/// Every offload agreed on.
pub const ALL: Offloads = Offloads {
    checksum: true,
    tso4: true,
    tso6: true,
    ecn: true,
    uso: true,
};

/// What a port says instead of doing what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Later,
    Dropped,
    Gone,
    /// A frame of so many bytes has come, whatever was written.
    Claim(usize),
}

/// What the test and its port share.
#[derive(Debug, Default)]
pub struct Shared {
    /// One for each call to come; none is to do as asked.
    pub answers: VecDeque<Answer>,
    pub offloads: Option<Offloads>,
    pub enabled: Option<bool>,
    pub calls: u64,
    /// Pieces and bytes that the last frame could be received in without the spill.
    pub offered: (usize, usize),
}

/// The device's end.
pub struct TestPort {
    socket: UnixDatagram,
    shared: Arc<Mutex<Shared>>,
}

/// The test's end.
pub struct Peer {
    socket: UnixDatagram,
    shared: Arc<Mutex<Shared>>,
}

/// Both ends of a link.
pub fn link() -> (TestPort, Peer) {
    let (socket, peer) = UnixDatagram::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    let shared = Arc::new(Mutex::new(Shared::default()));
    let port = TestPort {
        socket,
        shared: shared.clone(),
    };
    let peer = Peer {
        socket: peer,
        shared,
    };
    (port, peer)
}

impl Peer {
    /// Sends a header and a frame to the device.
    pub fn send(&self, bytes: &[u8]) {
        assert_eq!(self.socket.send(bytes).unwrap(), bytes.len());
    }

    /// The next header and frame that the device has sent.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 1 << 17];
        let len = self.socket.recv(&mut bytes).ok()?;
        bytes.truncate(len);
        Some(bytes)
    }

    /// The port answers so when it is next used.
    pub fn answer(&self, answer: Answer) {
        self.shared().answers.push_back(answer);
    }

    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }
}

impl TestPort {
    fn call(&self) -> Option<Answer> {
        let mut shared = self.shared.lock().unwrap();
        shared.calls += 1;
        shared.answers.pop_front()
    }
}

impl Port for TestPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self, header: &[u8; HEADER_LEN], frame: &IoBuffers) -> Result<Sent, Gone> {
        match self.call() {
            Some(Answer::Later) => return Ok(Sent::Later),
            Some(Answer::Dropped) => return Ok(Sent::Dropped),
            Some(Answer::Gone) => return Err(gone()),
            Some(Answer::Claim(_)) | None => {}
        }
        let mut pieces = vec![piece(header.as_ptr().cast_mut(), HEADER_LEN)];
        pieces.extend_from_slice(frame.iovecs());
        let (fd, count) = (self.socket.as_raw_fd(), pieces.len() as i32);
        // SAFETY: the pieces are `header` and guest memory that `frame` keeps.
        let written = unsafe { libc::writev(fd, pieces.as_ptr(), count) };
        if written < 0 {
            assert_eq!(io::Error::last_os_error().kind(), io::ErrorKind::WouldBlock);
            return Ok(Sent::Later);
        }
        assert_eq!(written as usize, HEADER_LEN + frame.len());
        Ok(Sent::Whole)
    }

    fn receive(&mut self, buffers: &IoBuffers, spill: &mut [u8]) -> Result<Received, Gone> {
        let answer = self.call();
        match answer {
            Some(Answer::Gone) => return Err(gone()),
            Some(Answer::Later) => return Ok(Received::Nothing),
            _ => {}
        }
        self.shared.lock().unwrap().offered = (buffers.iovecs().len(), buffers.len());
        let mut pieces = buffers.iovecs().to_vec();
        pieces.push(piece(spill.as_mut_ptr(), spill.len()));
        let (fd, count) = (self.socket.as_raw_fd(), pieces.len() as i32);
        // SAFETY: the pieces are guest memory that `buffers` keeps, and `spill`.
        let read = unsafe { libc::readv(fd, pieces.as_ptr(), count) };
        if read < 0 {
            assert_eq!(io::Error::last_os_error().kind(), io::ErrorKind::WouldBlock);
            return Ok(Received::Nothing);
        }
        Ok(Received::Frame(match answer {
            Some(Answer::Claim(len)) => len,
            _ => read as usize,
        }))
    }

    fn set_offloads(&mut self, guest: Offloads) -> io::Result<()> {
        self.shared.lock().unwrap().offloads = Some(guest);
        Ok(())
    }

    fn set_enabled(&mut self, enabled: bool) -> io::Result<()> {
        self.shared.lock().unwrap().enabled = Some(enabled);
        Ok(())
    }

    fn system_calls(&self) -> u64 {
        self.shared.lock().unwrap().calls
    }
}

fn gone() -> Gone {
    Gone(io::Error::from_raw_os_error(libc::ENODEV))
}

fn piece(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base.cast(),
        iov_len: len,
    }
}

/// `len` bytes that tell one place from another and one `seed` from another.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    let byte = |index: usize| (index * 31 + (index >> 8) * 7) as u8 ^ seed;
    (0..len).map(byte).collect()
}

/// A header as a link gives it, for which nothing is left to do, and a frame.
pub fn plain(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADER_LEN], frame].concat()
}
