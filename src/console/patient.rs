//! Writing to a reader that may stall: wait for it, but not for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::isatty;

/// The most that is written at once: what a pipe that has room surely takes
/// without making the writer wait (`PIPE_BUF`).
pub const PIECE_MAX: usize = 4096;

/// The same for a terminal, which reports room for less.
const PIECE_TTY: usize = 256;

/// How often a waiting writer asks whether it should still wait.
const RECHECK: Duration = Duration::from_millis(100);

/// How long to wait for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long it may take nothing at all.
    pub stall: Duration,
    /// How long altogether.
    pub total: Duration,
}

impl Default for Patience {
    /// Half a second without progress, ten seconds altogether.
    fn default() -> Self {
        Self {
            stall: Duration::from_millis(500),
            total: Duration::from_secs(10),
        }
    }
}

/// How many bytes to write to `target` at once.
pub fn piece_size(target: impl AsFd) -> usize {
    if isatty(target) { PIECE_TTY } else { PIECE_MAX }
}

/// Writes some of `bytes` as soon as `target` has room, until `given_up`.
///
/// # Errors
/// What the target says; `TimedOut` when given up.
pub fn write_some(
    target: impl AsFd,
    bytes: &[u8],
    given_up: impl Fn() -> bool,
) -> io::Result<usize> {
    let target = target.as_fd();
    loop {
        if wait_writable(target, RECHECK)? {
            match rustix::io::write(target, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => return Ok(count),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if given_up() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Writes all of `bytes` on the calling thread, as long as `patience` lasts.
///
/// # Errors
/// What the target says; `TimedOut` when patience ran out.
pub fn write_all(target: impl AsFd, mut bytes: &[u8], patience: Patience) -> io::Result<()> {
    let target = target.as_fd();
    let piece = piece_size(target);
    let started = Instant::now();
    while !bytes.is_empty() {
        let stalled_since = Instant::now();
        let given_up =
            || stalled_since.elapsed() >= patience.stall || started.elapsed() >= patience.total;
        let now = bytes.get(..piece).unwrap_or(bytes);
        let count = write_some(target, now, given_up)?;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Whether `target` takes bytes, or will say why it never will, within `timeout`.
fn wait_writable(target: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    match poll(
        &mut [PollFd::from_borrowed_fd(target, PollFlags::OUT)],
        Some(&timeout),
    ) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    #[test]
    fn a_reader_that_never_reads_is_left() {
        let (_reader, writer) = pipe().unwrap();
        let patience = Patience {
            stall: Duration::from_millis(50),
            total: Duration::from_secs(120),
        };
        let started = Instant::now();
        let error = write_all(&writer, &vec![b'x'; 1 << 20], patience).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let error = write_all(&writer, b"x", Patience::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
