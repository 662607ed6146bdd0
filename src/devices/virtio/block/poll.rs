//! How a queue's thread sleeps where there is no io_uring: in poll, on the same eventfds.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

use super::ring::Surroundings;

/// What the thread waits for.
pub struct Poll {
    around: Surroundings,
    kick: Option<Arc<EventFd>>,
}

impl Poll {
    /// Kicks are not waited for yet.
    pub fn new(around: Surroundings) -> Self {
        Self { around, kick: None }
    }

    /// Wakes the thread at each signal of `kick` from now on.
    pub fn arm(&mut self, kick: &Arc<EventFd>) {
        self.kick = Some(Arc::clone(kick));
    }

    /// Kicks are no longer waited for.
    pub fn disarm(&mut self) {
        self.kick = None;
    }

    /// Signals `fd`.
    pub fn interrupt(&self, fd: &EventFd) {
        self.count_call();
        // A counter that is full has an interrupt on its way already.
        let _ = fd.write(1);
    }

    /// Sleeps until something happens or `timeout` is over.
    ///
    /// # Errors
    /// What the host says.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let control = self.around.control.event();
        let returns = self.around.returns.event();
        // Where there is no kick, control takes its place a second time.
        let kick = self.kick.as_deref().unwrap_or(control);
        let events = [control, returns, kick];
        let mut fds = events.map(poll_fd);
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.count_call();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let ready = fds.map(|fd| fd.revents().contains(PollFlags::IN));
        let distinct = if self.kick.is_some() { 3 } else { 2 };
        for (event, ready) in events.into_iter().zip(ready).take(distinct) {
            if ready {
                self.count_call();
                // Nobody else reads it, so this does not wait.
                let _ = event.read();
            }
        }
        Ok(())
    }

    fn count_call(&self) {
        if let Some(counters) = self.around.counters.queue(self.around.queue) {
            counters.system_call();
        }
    }
}

/// Sleeps until `event` is readable; now and then a bit less.
pub fn wait_readable(event: &EventFd) {
    // What comes of it the caller sees.
    let _ = poll(&mut [poll_fd(event)], None);
}

fn poll_fd(event: &EventFd) -> PollFd<'_> {
    // SAFETY: the descriptor is open as long as the eventfd is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}
