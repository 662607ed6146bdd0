//! The thread that serves a queue: what it owns, what it is asked, how it ends.
//!
//! ```text
//!             Start              Pause
//!  (no queue) ─────► serving ──────────► paused
//!      ▲               │  ▲     Resume     │
//!      │     Stop      │  └────────────────┘
//!      └───────────────┴──── a broken queue waits here for Stop
//! ```

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::counters::BlockCounters;
use super::disk::Disk;
use super::poll::wait_readable;
use super::pool::{Finished, Returns, Shared};
use super::report::Report;
use super::request::ID_LEN;
use super::ring::Transferred;
use super::serve::{Habit, Session};
use super::sleeper::Sleeper;
use super::slots::{Request, Slots};
use crate::devices::virtio::control::{Command, Control, Ending};
use crate::devices::virtio::lookout::Lookout;
use crate::devices::virtio::queue::Chain;
use crate::devices::virtio::rate_limiter::RateLimiter;
use crate::memory::GuestRam;

/// What the thread of one queue owns.
pub struct Worker {
    /// The disk's name and the queue's number, for people.
    pub(super) name: String,
    pub(super) queue: u16,
    pub(super) serial: [u8; ID_LEN],
    // Shared with the device and the other queues.
    pub(super) disk: Arc<dyn Disk>,
    pub(super) ram: GuestRam,
    pub(super) limiter: Arc<RateLimiter>,
    pub(super) write_through: Arc<AtomicBool>,
    pub(super) report: Arc<Report>,
    pub(super) counters: Arc<BlockCounters>,
    pub(super) control: Arc<Control<Session>>,
    // The pool, what is there, and where it comes back.
    pub(super) pool: Arc<Shared>,
    pub(super) in_pool: usize,
    pub(super) returns: Arc<Returns>,
    pub(super) sleeper: Sleeper,
    pub(super) habit: Habit,
    pub(super) lookout: Lookout,
    pub(super) slots: Slots,
    /// Whether chains were returned that the driver was not told of.
    pub(super) returned: bool,
    // Lists that are used again each round, empty between their uses.
    pub(super) chain: Chain,
    #[expect(clippy::vec_box, reason = "see `Slots`")]
    pub(super) taken: Vec<Box<Request>>,
    pub(super) transferred: Vec<Transferred>,
    pub(super) finished: Vec<Finished>,
}

impl Worker {
    /// The thread's life.
    pub fn run(mut self) {
        let ending = Ending::of(&self.control);
        let mut session = None;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.obey(&mut session)));
        match &outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!(
                "{}: io_uring has failed: {error}; the disk is gone for the guest",
                self.name
            ),
            Err(_) => log::error!(
                "{}: the code that serves the disk has failed; it is gone for the guest",
                self.name
            ),
        }
        self.abandon();
        if !matches!(outcome, Ok(Ok(())))
            && let Some(session) = session
        {
            session.interrupt.device_broken();
        }
        drop(ending);
    }

    fn obey(&mut self, session: &mut Option<Box<Session>>) -> io::Result<()> {
        if let Sleeper::Ring(ring) = &mut self.sleeper {
            ring.enable()?;
        }
        let mut paused = false;
        loop {
            let command = match session {
                Some(active) if !paused && active.broken.is_none() => self.serve(active)?,
                _ => self.control.next(),
            };
            match command {
                Command::Start(started) => *session = Some(started),
                Command::Stop => {
                    self.sleeper.disarm()?;
                    *session = None;
                    paused = false;
                }
                Command::Pause => paused = true,
                Command::Resume => paused = false,
                Command::End => return Ok(()),
            }
            self.control.acknowledge();
        }
    }

    /// Waits until neither the kernel nor the pool touches guest memory on this
    /// thread's behalf any more.
    fn abandon(mut self) {
        let mut finished = Vec::new();
        loop {
            self.returns.take(&mut finished);
            self.in_pool = self.in_pool.saturating_sub(finished.len());
            finished.clear();
            if self.in_pool == 0 {
                break;
            }
            wait_readable(self.returns.event());
            let _ = self.returns.event().read();
        }
        // The ring waits for its transfers when it goes.
    }
}
