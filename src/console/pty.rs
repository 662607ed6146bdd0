//! A pseudo-terminal of our own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

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
