//! The two ways a queue's thread sleeps and is woken.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::disk::{Access, Location};
use super::poll::Poll;
use super::ring::{Ring, Transferred};
use super::slots::Request;

/// With this many transfers in flight the thread does not get up for each that ends.
const MANY: usize = 16;
/// What part of many transfers it gets up for.
const PART: usize = 8;
/// How long it stays down for them at most.
const PATIENCE: Duration = Duration::from_micros(100);

/// The way a queue's thread sleeps.
pub enum Sleeper {
    /// In io_uring, which makes transfers meanwhile.
    Ring(Box<Ring>),
    /// In poll.
    Poll(Poll),
}

impl Sleeper {
    /// Wakes the thread at each signal of `kick` from now on.
    pub fn arm(&mut self, kick: &Arc<EventFd>) {
        match self {
            Self::Ring(ring) => ring.arm(kick),
            Self::Poll(poll) => poll.arm(kick),
        }
    }

    /// Kicks are no longer waited for; nothing is in flight.
    ///
    /// # Errors
    /// The ring has failed.
    pub fn disarm(&mut self) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.disarm(),
            Self::Poll(poll) => {
                poll.disarm();
                Ok(())
            }
        }
    }

    /// Whether the kernel can make such a transfer while the thread goes on.
    pub fn takes(&self, request: &Request, place: &Location<'_>) -> bool {
        matches!(self, Self::Ring(_)) && Ring::takes(request, place)
    }

    /// Queues the transfer of a request that it [`takes`](Self::takes).
    ///
    /// # Errors
    /// The request, if there is no room.
    pub fn transfer(
        &mut self,
        request: Box<Request>,
        access: Access,
        place: &Location<'_>,
    ) -> Result<(), Box<Request>> {
        match self {
            Self::Ring(ring) => ring.transfer(request, access, place),
            Self::Poll(_) => Err(request),
        }
    }

    /// Signals `fd`, at once or with what is submitted next; until then the caller
    /// keeps it open.
    pub fn interrupt(&mut self, fd: &EventFd) {
        match self {
            Self::Ring(ring) => ring.interrupt(fd),
            Self::Poll(poll) => poll.interrupt(fd),
        }
    }

    /// Transfers queued that have not been submitted.
    pub fn fresh(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.fresh(),
            Self::Poll(_) => 0,
        }
    }

    /// Submits what is queued, without sleeping.
    ///
    /// # Errors
    /// The ring has failed.
    pub fn submit(&mut self) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.submit(),
            Self::Poll(_) => Ok(()),
        }
    }

    /// Submits what is queued, and sleeps until something happens or `timeout` is over.
    ///
    /// # Errors
    /// The ring has failed.
    pub fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Ring(ring) if ring.in_flight() >= MANY => {
                let want = ring.in_flight() / PART;
                let timeout = timeout.map_or(PATIENCE, |timeout| timeout.min(PATIENCE));
                ring.enter(want, Some(timeout))
            }
            Self::Ring(ring) => ring.enter(1, timeout),
            Self::Poll(poll) => poll.wait(timeout),
        }
    }

    /// Moves the transfers that have ended into `ended`.
    pub fn reap(&mut self, ended: &mut Vec<Transferred>) {
        if let Self::Ring(ring) = self {
            ring.reap(ended);
        }
    }
}
