//! A pseudo-terminal of our own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::ioctl_fionread;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::patient::Patience;

/// How often to look whether the user has read on; nothing tells.
const LOOK: Duration = Duration::from_millis(5);

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// Mayfly's end.
    pub master: OwnedFd,
    /// The user's end. Kept open, so that the master is never at end-of-file
    /// (EIO, and an epoll that never rests) while nobody else has it open.
    pub slave: OwnedFd,
    /// Where the user finds it.
    pub path: PathBuf,
}

/// Makes a pseudo-terminal in raw mode: the guest has a terminal driver of its
/// own, and an echo would be typed back to it.
///
/// # Errors
/// What the system says.
pub fn open() -> io::Result<Pty> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&name, flags, Mode::empty())?;
    let mut termios = tcgetattr(&slave)?;
    termios.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &termios)?;
    let path = PathBuf::from(name.to_string_lossy().into_owned());
    Ok(Pty {
        master,
        slave,
        path,
    })
}

/// Waits until the user has read what was written, as long as they read on:
/// the terminal and what is in it are gone when Mayfly's end is closed.
pub fn drain(slave: impl AsFd, patience: Patience) {
    let deadline = Instant::now() + patience.total;
    let mut left = u64::MAX;
    let mut stalled = Instant::now();
    loop {
        match unread(&slave) {
            Ok(now) if now > 0 => {
                if now < left {
                    left = now;
                    stalled = Instant::now();
                }
            }
            Ok(_) | Err(_) => return,
        }
        if stalled.elapsed() >= patience.stall || Instant::now() >= deadline {
            return;
        }
        thread::sleep(LOOK);
    }
}

/// Bytes that wait for the terminal's reader. What has just been written is on
/// its way to them for a moment, and only poll makes the kernel see it through
/// (Linux `n_tty_poll`).
fn unread(slave: impl AsFd) -> io::Result<u64> {
    let mut readable = [PollFd::new(&slave, PollFlags::IN)];
    poll(&mut readable, Some(&Timespec::default()))?;
    Ok(ioctl_fionread(&slave)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_read_is_waited_for_however_fresh_it_is() {
        let patience = Patience {
            stall: Duration::from_millis(2),
            ..Patience::default()
        };
        for _ in 0..100 {
            let pty = open().unwrap();
            rustix::io::write(&pty.master, b"unread").unwrap();
            let started = Instant::now();
            drain(&pty.slave, patience);
            assert!(started.elapsed() >= patience.stall);
        }
    }

    #[test]
    fn nothing_is_waited_for_when_all_is_read() {
        let pty = open().unwrap();
        rustix::io::write(&pty.master, b"read").unwrap();
        rustix::io::read(&pty.slave, &mut [0; 4]).unwrap();
        let started = Instant::now();
        drain(&pty.slave, Patience::default());
        assert!(started.elapsed() < Patience::default().stall);
    }
}
