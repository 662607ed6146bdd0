//! Serving one queue pair: frames in both directions in turn, round after round; between
//! rounds the thread sleeps.
//!
//! ```text
//!  commands, link state ─► receive ─► send ─► interrupt, if the driver wants it
//!     ▲                                                     │
//!     └────── sleep, if nothing came meanwhile ◄────────────┘
//! ```
//!
//! Kicks for frames to send are off while the thread is awake; those for buffers to
//! receive in are on only while there are none. The link is asked for frames once it
//! has told of some, until it has none left.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::control_queue::ControlQueue;
use super::course::{Course, Side};
use super::direction::{Failed, Progress};
use super::features::Agreed;
use super::link::Port;
use super::orders::Orders;
use super::sleeper::Source;
use super::worker::Worker;
use crate::devices::virtio::control::Command;
use crate::devices::virtio::device::{ActiveQueue, VirtioInterrupt};
use crate::devices::virtio::queue::QueueError;

/// Frames of one direction in a round at most.
const BUDGET: usize = 64;

/// A queue pair that is served, from activation to reset.
pub struct Session {
    /// `receiveq`.
    pub receive: ActiveQueue,
    /// `transmitq`.
    pub transmit: ActiveQueue,
    /// `controlq`, which the first pair's thread serves.
    pub control: Option<ControlQueue>,
    /// The way to the driver.
    pub interrupt: Arc<dyn VirtioInterrupt>,
    /// What the driver has agreed to.
    pub agreed: Agreed,
    /// What it asks for by the control queue.
    pub orders: Arc<Orders>,
    /// What the driver has done wrong; its queues are left alone then.
    pub broken: Option<QueueError>,
}

impl Session {
    /// Its queues, by what their kicks are told as.
    pub fn queues(&self) -> impl Iterator<Item = (Source, &ActiveQueue)> {
        let control = self.control.as_ref();
        [
            (Source::ReceiveKick, Some(&self.receive)),
            (Source::TransmitKick, Some(&self.transmit)),
            (Source::ControlKick, control.map(|control| &control.queue)),
        ]
        .into_iter()
        .filter_map(|(source, queue)| Some((source, queue?)))
    }
}

/// Why a queue pair is not served any longer.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Host(#[from] io::Error),
}

impl Worker {
    /// Serves `session` until something else is asked of the thread. Nothing is taken
    /// from its queues then that is not returned, but for a command.
    ///
    /// # Errors
    /// The host's, if the thread cannot sleep.
    pub(super) fn serve(&mut self, session: &mut Session) -> io::Result<Command<Session>> {
        match self.rounds(session) {
            Ok(()) => {
                if let Some(pair) = self.counters.pair(self.index) {
                    let rings = &mut session.receive.rings;
                    self.receive.give_back(rings, &pair.received);
                }
                self.transmit.give_back(&mut session.transmit.rings);
            }
            Err(Failure::Host(error)) => return Err(error),
            Err(Failure::Queue(error)) => {
                if !std::mem::replace(&mut self.told, true) {
                    log::warn!(
                        "network device {}, queue pair {}: {error}; the guest has to reset \
                         the device, and is not told off again",
                        self.name,
                        self.index
                    );
                }
                session.broken = Some(error);
                session.interrupt.device_broken();
            }
        }
        Ok(self.control.next())
    }

    fn rounds(&mut self, session: &mut Session) -> Result<(), Failure> {
        let mut course = Course::new();
        // After each look at what has woken the thread: it is not told of it again.
        while !self.control.is_pending() {
            self.attend(session, &mut course)?;
            self.receive_frames(session, &mut course)?;
            self.send_frames(session, &mut course)?;
            self.tell(session)?;
            let goes_on = course.is_due()
                || self.look_out(session, &mut course)
                || self.arm(session, &mut course)?;
            if !goes_on {
                self.sleep(&mut course)?;
            } else if self.sleeper.is_stale() {
                course.note(self.sleeper.wait(Some(Duration::ZERO))?);
            }
        }
        Ok(())
    }

    fn receive_frames(
        &mut self,
        session: &mut Session,
        course: &mut Course,
    ) -> Result<(), Failure> {
        if course.receive != Side::Due {
            return Ok(());
        }
        let Some(pair) = self.counters.pair(self.index) else {
            return Ok(());
        };
        let rings = &mut session.receive.rings;
        rings.disable_kicks()?;
        course.receive_armed = false;
        let outcome = self.receive.run(
            rings,
            &mut self.port,
            &self.limiters.receive,
            &pair.received,
            BUDGET,
        );
        course.receive = self.side_after(outcome, session)?;
        Ok(())
    }

    fn send_frames(&mut self, session: &mut Session, course: &mut Course) -> Result<(), Failure> {
        if course.transmit != Side::Due {
            return Ok(());
        }
        let Some(pair) = self.counters.pair(self.index) else {
            return Ok(());
        };
        let rings = &mut session.transmit.rings;
        rings.disable_kicks()?;
        course.transmit_armed = false;
        let outcome = self.transmit.run(
            rings,
            &mut self.port,
            session.agreed.host_offloads(),
            &self.limiters.transmit,
            &pair.sent,
            BUDGET,
        );
        course.transmit = self.side_after(outcome, session)?;
        Ok(())
    }

    /// A link that is gone has frames to be dropped, so that is looked at again.
    fn side_after(
        &mut self,
        outcome: Result<Progress, Failed>,
        session: &Session,
    ) -> Result<Side, Failure> {
        match outcome {
            Ok(progress) => Ok(Side::after(progress)),
            Err(Failed::Queue(error)) => Err(error.into()),
            Err(Failed::Gone(error)) => {
                self.lose(&error, session);
                Ok(Side::Due)
            }
        }
    }

    /// The link is gone for good.
    pub(super) fn lose(&mut self, error: &io::Error, session: &Session) {
        self.port.lose();
        if self.link.lose() {
            log::error!(
                "network device {}: the link is gone: {error}; the guest goes on without it",
                self.name
            );
            session.interrupt.config_changed();
        }
    }

    /// Interrupts the driver if it wants to know of what was returned, once for both
    /// queues where they share an interrupt.
    fn tell(&mut self, session: &mut Session) -> Result<(), Failure> {
        let mut told = None;
        for queue in [&mut session.receive, &mut session.transmit] {
            if !queue.rings.needs_interrupt()? {
                continue;
            }
            let Some(fd) = session.interrupt.raise(queue.index) else {
                continue;
            };
            if !told.is_some_and(|other| std::ptr::eq(other, fd)) {
                self.sleeper.count_call();
                // A counter that is full has an interrupt on its way already.
                let _ = fd.write(1);
                told = Some(fd);
            }
        }
        Ok(())
    }

    /// Whether something was seen to come that makes sleeping unnecessary. What comes
    /// from the link is not seen, and so this is kept up only as long as nothing does.
    fn look_out(&mut self, session: &Session, course: &mut Course) -> bool {
        if course.transmit != Side::Idle {
            return false;
        }
        let (receive, transmit) = (&session.receive.rings, &session.transmit.rings);
        let no_buffers = course.receive == Side::Blocked;
        let control = &self.control;
        // What cannot be read is found out by who takes the next chain.
        let came = self.lookout.keep(|| {
            transmit.has_more().unwrap_or(true)
                || no_buffers && receive.has_more().unwrap_or(true)
                || control.is_pending()
        });
        if came {
            course.transmit = Side::Due;
            course.receive.becomes_due(Side::Blocked);
        }
        came
    }

    /// Has the driver kick for what is waited for; whether that has come meanwhile.
    fn arm(&mut self, session: &mut Session, course: &mut Course) -> Result<bool, Failure> {
        if course.transmit == Side::Idle && !course.transmit_armed {
            if session.transmit.rings.enable_kicks()? {
                course.transmit = Side::Due;
                return Ok(true);
            }
            course.transmit_armed = true;
        }
        if course.receive == Side::Blocked && !course.receive_armed {
            if session.receive.rings.enable_kicks()? {
                course.receive = Side::Due;
                return Ok(true);
            }
            course.receive_armed = true;
        }
        Ok(false)
    }

    fn sleep(&mut self, course: &mut Course) -> Result<(), Failure> {
        if course.transmit == Side::Blocked {
            self.sleeper.want_writable(self.port.fd(), true)?;
        }
        self.count();
        let asleep = Instant::now();
        let woken = self.sleeper.wait(course.timeout())?;
        // After a frame from the link the driver's next one is its answer: what comes after
        // that comes from the link again.
        let answer = std::mem::replace(&mut course.received, woken.readable);
        let time = match woken.by_frames_of_the_driver() && !answer {
            true => self.sleeper.looked().saturating_duration_since(asleep),
            false => Duration::MAX,
        };
        self.lookout.slept(time);
        if woken.writable && course.transmit != Side::Blocked {
            self.sleeper.want_writable(self.port.fd(), false)?;
        }
        course.note(woken);
        Ok(())
    }
}
