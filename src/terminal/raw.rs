//! Raw mode, and job control round it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Signal, getpgrp, getpid, kill_process};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr,
    tcgetpgrp, tcsetattr,
};

use super::last_resort;
use super::signal_stack::SignalStack;

/// A terminal and how it was before Mayfly changed it.
#[derive(Debug)]
pub(super) struct Saved {
    fd: OwnedFd,
    cooked: Termios,
}

impl Saved {
    /// Puts the terminal back, unless it is someone else's by now. Only system
    /// calls, so that signal handlers may call it.
    pub(super) fn put_back(&self) {
        if in_foreground(&self.fd) {
            // There is nobody left to tell that it failed.
            let _ = tcsetattr(&self.fd, OptionalActions::Now, &self.cooked);
        }
    }
}

/// A terminal in raw mode: every key goes to the guest, `Ctrl-c` and `Ctrl-z` too.
///
/// Raw mode ends when this is dropped, and on every other way out: see
/// [`restore`](super::restore). A process in the background does not touch the
/// terminal, which belongs to the shell then; [`RawMode::resume`] enters raw
/// mode when the process has come to the foreground.
///
/// Signals that the VM wants to handle itself (SIGINT, SIGTERM, SIGHUP, SIGQUIT,
/// SIGTSTP, SIGCONT) are to be blocked before raw mode is entered.
#[derive(Debug)]
pub struct RawMode {
    fd: OwnedFd,
    /// Made when the process is first in the foreground. Never freed: a signal
    /// handler may be looking at it.
    saved: Option<&'static Saved>,
    /// For this thread; others have [`guard_thread`](super::guard_thread).
    _stack: Option<SignalStack>,
}

impl RawMode {
    /// Takes over `terminal`; nothing if it is no terminal.
    ///
    /// # Errors
    /// When the terminal cannot be read or changed.
    pub fn enter(terminal: impl AsFd) -> io::Result<Option<Self>> {
        if !isatty(&terminal) {
            return Ok(None);
        }
        let mut raw_mode = Self {
            fd: terminal.as_fd().try_clone_to_owned()?,
            saved: None,
            _stack: SignalStack::install(),
        };
        raw_mode.resume()?;
        Ok(Some(raw_mode))
    }

    /// Whether the process may use the terminal now; if not, reading from it
    /// would stop the process (SIGTTIN).
    pub fn in_foreground(&self) -> bool {
        in_foreground(&self.fd)
    }

    /// Enters raw mode (again): after SIGCONT, or when the process may have come
    /// to the foreground. Does nothing in the background.
    ///
    /// # Errors
    /// When the terminal cannot be read or changed.
    pub fn resume(&mut self) -> io::Result<()> {
        if !self.in_foreground() {
            return Ok(());
        }
        let saved = match self.saved {
            Some(saved) => saved,
            None => {
                let saved: &'static Saved = Box::leak(Box::new(Saved {
                    fd: self.fd.try_clone()?,
                    cooked: tcgetattr(&self.fd)?,
                }));
                self.saved = Some(saved);
                saved
            }
        };
        // Announced first: undoing what was not done harms nobody, the reverse would.
        last_resort::announce(saved);
        tcsetattr(&self.fd, OptionalActions::Now, &raw(&saved.cooked))?;
        Ok(())
    }

    /// Stops the process as SIGTSTP would, with the terminal as the user knows
    /// it, and goes on in raw mode when it is continued.
    ///
    /// # Errors
    /// When the process cannot stop itself or the terminal cannot be changed.
    pub fn suspend(&mut self) -> io::Result<()> {
        last_resort::restore();
        kill_process(getpid(), Signal::STOP)?;
        self.resume()
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        last_resort::restore();
    }
}

/// Raw input; output processing stays as it is, so that Mayfly's own lines
/// start at the left edge.
fn raw(cooked: &Termios) -> Termios {
    let mut raw = cooked.clone();
    raw.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON;
    raw.local_modes -= LocalModes::ECHO
        | LocalModes::ECHONL
        | LocalModes::ICANON
        | LocalModes::ISIG
        | LocalModes::IEXTEN;
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    raw
}

/// Whether changing the terminal is this process's right. A terminal that is not
/// its controlling one asks nobody (ENOTTY).
pub fn in_foreground(terminal: impl AsFd) -> bool {
    match tcgetpgrp(terminal) {
        Ok(group) => group == getpgrp(),
        Err(error) => error == Errno::NOTTY,
    }
}

#[cfg(test)]
#[path = "raw_tests.rs"]
mod tests;
