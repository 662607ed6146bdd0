//! Serving one queue: chains are taken, their requests begun, and what has ended is
//! answered, round after round; between rounds the thread sleeps.
//!
//! ```text
//!  answer what has ended ─► take what is available ─► interrupt, if the driver wants it
//!     ▲                                                              │
//!     └────── sleep, with kicks on, if nothing came meanwhile ◄──────┘
//! ```

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::Access;
use super::request::{Geometry, Operation, RequestError, Status, parse};
use super::slots::Request;
use super::worker::Worker;
use crate::devices::virtio::control::Command;
use crate::devices::virtio::device::{ActiveQueue, VirtioInterrupt};
use crate::devices::virtio::queue::QueueError;

/// A queue that is served, from activation to reset.
pub struct Session {
    /// The queue.
    pub queue: ActiveQueue,
    /// The way to the driver.
    pub interrupt: Arc<dyn VirtioInterrupt>,
    /// What requests are checked against.
    pub geometry: Geometry,
    /// What the driver has done wrong; nothing is taken or returned any more then.
    pub broken: Option<QueueError>,
}

impl Session {
    /// Whether chains may still be taken and returned.
    fn check<T: Default>(&mut self, result: Result<T, QueueError>) -> T {
        result.unwrap_or_else(|error| {
            self.broken.get_or_insert(error);
            T::default()
        })
    }
}

/// Why no more chains are taken for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// There are none.
    Empty,
    /// A whole queue's worth was taken: it is time to look at other things.
    Enough,
    /// As many are under way as may be.
    Full,
    /// The limits say to wait.
    Limited(Duration),
}

/// Whether transfers tend to be over as soon as they are submitted, as they are with
/// what lies in the page cache. Then it pays to look before kicks are asked for.
#[derive(Debug)]
pub struct Habit {
    at_once: bool,
    since_look: u8,
}

impl Habit {
    /// Of how many submissions one is looked at, where it is seldom over at once.
    const LOOK_EVERY: u8 = 64;

    /// They do, until they do not.
    pub fn new() -> Self {
        Self {
            at_once: true,
            since_look: 0,
        }
    }

    fn is_worth_a_look(&mut self) -> bool {
        self.since_look = self.since_look.saturating_add(1);
        self.at_once || self.since_look >= Self::LOOK_EVERY
    }

    fn learn(&mut self, at_once: bool) {
        self.at_once = at_once;
        self.since_look = 0;
    }
}

impl Worker {
    /// Serves `session` until something else is asked of the thread, with nothing under
    /// way when it returns.
    ///
    /// # Errors
    /// The ring has failed.
    pub(super) fn serve(&mut self, session: &mut Session) -> io::Result<Command<Session>> {
        self.sleeper.arm(&session.queue.kick);
        while !self.control.is_pending() && session.broken.is_none() {
            self.round(session)?;
        }
        self.drain(session)?;
        if let Some(error) = &session.broken {
            log::warn!("{}: {error}; the guest has to reset the device", self.name);
            session.interrupt.device_broken();
            self.sleeper.disarm()?;
        }
        Ok(self.control.next())
    }

    /// Whether `session` goes on being served.
    fn round(&mut self, session: &mut Session) -> io::Result<()> {
        self.answer_ended(session);
        let stop = self.take_chains(session);
        self.tell(session);
        if session.broken.is_some() {
            return Ok(());
        }
        if self.sleeper.fresh() > 0 && self.habit.is_worth_a_look() {
            let under_way = self.slots.under_way();
            self.sleeper.submit()?;
            self.answer_ended(session);
            self.habit.learn(self.slots.under_way() < under_way);
            return Ok(());
        }
        let idle = self.slots.under_way() == 0;
        let timeout = match stop {
            Stop::Enough => return self.sleeper.submit(),
            Stop::Empty => {
                if idle && self.look_out(session) {
                    return Ok(());
                }
                let rings = &mut session.queue.rings;
                let more = rings.enable_kicks();
                if session.check(more) || session.broken.is_some() {
                    return Ok(());
                }
                None
            }
            Stop::Full => None,
            Stop::Limited(wait) => Some(wait),
        };
        let asleep = Instant::now();
        self.sleeper.sleep(timeout)?;
        if idle {
            self.lookout.slept(asleep.elapsed());
        }
        let quiet = session.queue.rings.disable_kicks();
        session.check(quiet);
        Ok(())
    }

    /// Whether something was seen to come that makes sleeping unnecessary.
    fn look_out(&mut self, session: &mut Session) -> bool {
        let rings = &session.queue.rings;
        let control = &self.control;
        // What cannot be read is found out by who takes the next chain.
        self.lookout
            .keep(|| rings.has_more().unwrap_or(true) || control.is_pending())
    }

    /// Finishes what is under way, and tells the driver.
    fn drain(&mut self, session: &mut Session) -> io::Result<()> {
        self.answer_ended(session);
        while self.slots.under_way() > 0 {
            self.sleeper.sleep(None)?;
            self.answer_ended(session);
        }
        self.tell(session);
        self.sleeper.submit()
    }

    /// Interrupts the driver if it wants to know of what was returned.
    fn tell(&mut self, session: &mut Session) {
        if !std::mem::take(&mut self.returned) || session.broken.is_some() {
            return;
        }
        let wanted = session.queue.rings.needs_interrupt();
        if session.check(wanted)
            && let Some(fd) = session.interrupt.raise(session.queue.index)
        {
            self.sleeper.interrupt(fd);
        }
    }

    /// Takes what is available and begins it.
    fn take_chains(&mut self, session: &mut Session) -> Stop {
        let mut stop = Stop::Enough;
        for _ in 0..session.queue.rings.size() {
            if let Err(wait) = self.limiter.admit() {
                stop = Stop::Limited(wait);
                break;
            }
            let Some(mut request) = self.slots.take() else {
                stop = Stop::Full;
                break;
            };
            let popped = session.queue.rings.pop(&mut self.chain);
            if !session.check(popped) {
                self.slots.put(request);
                stop = Stop::Empty;
                break;
            }
            request.head = self.chain.head;
            match parse(&self.chain, &self.ram, &session.geometry, &mut request.data) {
                Ok(parsed) => {
                    request.operation = parsed.operation;
                    request.status = Some(parsed.status);
                    self.limiter.charge(request.data.len() as u64);
                    self.taken.push(request);
                }
                Err(error) => {
                    self.limiter.charge(0);
                    self.refuse(session, request, error);
                }
            }
        }
        let mut taken = std::mem::take(&mut self.taken);
        let alone = taken.len() == 1 && self.slots.under_way() == 1;
        for request in taken.drain(..) {
            self.begin(session, request, alone);
        }
        self.taken = taken;
        stop
    }

    fn refuse(&mut self, session: &mut Session, mut request: Box<Request>, error: RequestError) {
        match error {
            RequestError::Refused { place, status } => {
                request.status = Some(place);
                self.answer(session, request, status, 0);
            }
            RequestError::NoStatus => self.answer(session, request, Status::IoError, 0),
        }
    }

    /// Has a request carried out, in the way that suits it. `alone` is whether no other
    /// is under way.
    pub(super) fn begin(&mut self, session: &mut Session, request: Box<Request>, alone: bool) {
        let (access, offset) = match request.operation {
            Operation::Read { offset } => (Access::Read, offset),
            Operation::Write { offset } => (Access::Write, offset),
            Operation::GetId => return self.answer_id(session, request),
            _ => return self.hand_over(request),
        };
        if request.data.is_empty() {
            return self.answer(session, request, Status::Ok, 0);
        }
        if access == Access::Write && self.writes_through() {
            return self.hand_over(request);
        }
        let offset = offset.saturating_add(request.done as u64);
        let disk = Arc::clone(&self.disk);
        match disk.locate(access, offset, request.data.len() as u64) {
            Some(place) if place.in_memory => self.make_itself(session, request),
            // The kernel has its own threads make what it cannot do at once, and a write
            // to the page cache is among that on most file systems. For a single one the
            // way there and back costs more than the write.
            Some(place) if alone && access == Access::Write && place.align <= 1 => {
                self.make_itself(session, request);
            }
            Some(place) if self.sleeper.takes(&request, &place) => {
                if let Err(request) = self.sleeper.transfer(request, access, &place) {
                    self.hand_over(request);
                }
            }
            _ => self.hand_over(request),
        }
    }
}
