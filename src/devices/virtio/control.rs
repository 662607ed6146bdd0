//! What a device asks of a queue's thread, and how it learns that it is done.
//!
//! One command at a time: it is posted, the thread is woken by an eventfd, and the
//! thread acknowledges when it has done what it was asked. A thread that ends, for
//! whatever reason, acknowledges everything.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What a queue's thread is asked to do.
pub enum Command<S> {
    /// Serve what the driver has set up.
    Start(Box<S>),
    /// Finish what is under way and forget it.
    Stop,
    /// Finish what is under way and take nothing new.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Finish what is under way and end.
    End,
}

/// The thread has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended;

struct Mailbox<S> {
    command: Option<Command<S>>,
    /// Whether a command was posted that is not acknowledged.
    busy: bool,
    ended: bool,
}

/// The way to one thread; `S` is what it serves.
pub struct Control<S> {
    mailbox: Mutex<Mailbox<S>>,
    changed: Condvar,
    /// Whether there is a command to take, for a look without a lock.
    pending: AtomicBool,
    event: EventFd,
}

impl<S> Control<S> {
    /// Nothing is asked.
    ///
    /// # Errors
    /// There is no descriptor left for its eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            mailbox: Mutex::new(Mailbox {
                command: None,
                busy: false,
                ended: false,
            }),
            changed: Condvar::new(),
            pending: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Readable when there is a command to take or something to look at anew.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Asks for `command`, once what was asked before is done.
    ///
    /// # Errors
    /// [`Ended`]
    pub fn post(&self, command: Command<S>) -> Result<(), Ended> {
        let mut mailbox = self.settled();
        if mailbox.ended {
            return Err(Ended);
        }
        mailbox.command = Some(command);
        mailbox.busy = true;
        self.pending.store(true, Ordering::Release);
        drop(mailbox);
        self.changed.notify_all();
        self.nudge();
        Ok(())
    }

    /// Waits until what was asked is done.
    ///
    /// # Errors
    /// [`Ended`]
    pub fn wait_done(&self) -> Result<(), Ended> {
        if self.settled().ended {
            Err(Ended)
        } else {
            Ok(())
        }
    }

    /// Has the thread look at everything anew.
    pub fn nudge(&self) {
        // A counter that is full is readable.
        let _ = self.event.write(1);
    }

    /// The thread's look whether it is asked for something, which costs nothing.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// The thread waits, with nothing else to do, until it is asked for something.
    pub fn next(&self) -> Command<S> {
        let mut mailbox = self.lock();
        loop {
            if let Some(command) = mailbox.command.take() {
                self.pending.store(false, Ordering::Release);
                return command;
            }
            mailbox = self
                .changed
                .wait(mailbox)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The thread has done what it was asked.
    pub fn acknowledge(&self) {
        self.lock().busy = false;
        self.changed.notify_all();
    }

    /// The thread ends.
    pub fn end(&self) {
        let mut mailbox = self.lock();
        mailbox.ended = true;
        mailbox.busy = false;
        mailbox.command = None;
        drop(mailbox);
        self.changed.notify_all();
    }

    fn settled(&self) -> MutexGuard<'_, Mailbox<S>> {
        self.changed
            .wait_while(self.lock(), |mailbox| mailbox.busy)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Mailbox<S>> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the thread which has it has ended, even if that was by a panic.
pub struct Ending<S>(Arc<Control<S>>);

impl<S> Ending<S> {
    /// Of the thread that `control` leads to.
    pub fn of(control: &Arc<Control<S>>) -> Self {
        Self(Arc::clone(control))
    }
}

impl<S> Drop for Ending<S> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The descriptor of `event`, as rustix takes it.
pub fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: `event` keeps the descriptor open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_done_when_the_thread_says_so() {
        let control = Arc::new(Control::<()>::new().unwrap());
        let (asked, done) = (control.clone(), Arc::new(AtomicBool::new(false)));
        let seen = done.clone();
        let thread = std::thread::spawn(move || {
            assert!(matches!(asked.next(), Command::Pause));
            seen.store(true, Ordering::SeqCst);
            asked.acknowledge();
            assert!(matches!(asked.next(), Command::Resume));
            asked.acknowledge();
        });
        assert!(!control.is_pending());
        control.post(Command::Pause).unwrap();
        control.wait_done().unwrap();
        assert!(done.load(Ordering::SeqCst));
        control.post(Command::Resume).unwrap();
        control.wait_done().unwrap();
        thread.join().unwrap();
        assert!(!control.is_pending());
    }

    #[test]
    fn a_thread_that_ends_leaves_nobody_waiting() {
        let control = Arc::new(Control::<()>::new().unwrap());
        control.post(Command::Stop).unwrap();
        let asked = control.clone();
        let thread = std::thread::spawn(move || asked.end());
        assert_eq!(control.wait_done(), Err(Ended));
        assert_eq!(control.post(Command::Stop), Err(Ended));
        thread.join().unwrap();
    }
}
