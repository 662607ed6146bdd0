//! The thread that serves a queue pair: what it owns, what it is asked, how it ends.
//!
//! ```text
//!              Start              Pause
//!  (no queues) ─────► serving ──────────► paused
//!      ▲               │  ▲     Resume      │
//!      │     Stop      │  └─────────────────┘
//!      └───────────────┴──── broken queues wait here for Stop
//! ```

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::config_space::LinkStatus;
use super::counters::NetCounters;
use super::endpoint::Endpoint;
use super::link::{HEADER_LEN, LONGEST_FRAME, LinkWatch, Offloads, Port};
use super::receive::Receive;
use super::serve::Session;
use super::sleeper::{Sleeper, Source};
use super::transmit::Transmit;
use crate::devices::virtio::control::{Command, Control, Ending};
use crate::devices::virtio::lookout::Lookout;
use crate::devices::virtio::rate_limiter::RateLimiter;

/// Bytes of an Ethernet header with a VLAN tag.
const ETHERNET_HEADER: usize = 14 + 4;
/// What a driver takes that was told no MTU.
const USUAL_MTU: u16 = 1500;

/// The limits of both directions, which all queue pairs share.
pub struct Limiters {
    /// Frames to the driver.
    pub receive: RateLimiter,
    /// Frames from the driver.
    pub transmit: RateLimiter,
}

/// What the thread of one queue pair owns.
pub struct Worker {
    /// The device's name, for people.
    pub(super) name: String,
    /// The pair's number.
    pub(super) index: usize,
    /// The link's MTU.
    pub(super) mtu: u16,
    // Shared with the device and the other pairs.
    pub(super) limiters: Arc<Limiters>,
    pub(super) counters: Arc<NetCounters>,
    pub(super) link: Arc<LinkStatus>,
    pub(super) control: Arc<Control<Session>>,
    // Its own.
    /// Whether the log has it that the driver breaks its queues.
    pub(super) told: bool,
    pub(super) port: Endpoint,
    /// The first pair's thread sees to the link's state.
    pub(super) watch: Option<Box<dyn LinkWatch>>,
    pub(super) sleeper: Sleeper,
    pub(super) lookout: Lookout,
    pub(super) receive: Receive,
    pub(super) transmit: Transmit,
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
                "network device {}: cannot wait for its queues: {error}; \
                 it is gone for the guest",
                self.name
            ),
            Err(_) => log::error!(
                "network device {}: the code that serves it has failed; \
                 it is gone for the guest",
                self.name
            ),
        }
        self.count();
        self.count_overruns();
        if !matches!(outcome, Ok(Ok(())))
            && let Some(session) = session
        {
            session.interrupt.device_broken();
        }
        drop(ending);
    }

    fn obey(&mut self, session: &mut Option<Box<Session>>) -> io::Result<()> {
        self.prepare()?;
        let mut paused = false;
        loop {
            let command = match session {
                Some(active) if !paused && active.broken.is_none() => self.serve(active)?,
                _ => self.control.next(),
            };
            match command {
                Command::Start(started) => {
                    self.begin(session.insert(started))?;
                }
                Command::Stop => {
                    if let Some(session) = session.take() {
                        self.finish(&session)?;
                    }
                    paused = false;
                }
                Command::Pause => {
                    paused = true;
                    self.count_overruns();
                }
                Command::Resume => paused = false,
                Command::End => return Ok(()),
            }
            self.count();
            self.control.acknowledge();
        }
    }

    /// What lasts as long as the thread.
    fn prepare(&mut self) -> io::Result<()> {
        self.sleeper
            .add_event(Source::Control, self.control.event())?;
        self.sleeper.add(Source::Port, self.port.fd())?;
        if let Some(watch) = &self.watch {
            self.sleeper.add(Source::Watch, watch.fd())?;
        }
        self.leave_pair();
        Ok(())
    }

    /// Gets ready to serve `session`, of which nothing is left of one before.
    fn begin(&mut self, session: &Session) -> io::Result<()> {
        let offloads = session.agreed.guest_offloads();
        let longest = longest_frame(offloads, self.mtu);
        self.receive.activate(session.agreed.mergeable(), longest);
        self.transmit.reset();
        for (source, queue) in session.queues() {
            self.sleeper.add_event(source, &queue.kick)?;
        }
        Ok(())
    }

    /// Forgets `session`.
    fn finish(&mut self, session: &Session) -> io::Result<()> {
        for (_, queue) in session.queues() {
            self.sleeper.remove_event(&queue.kick)?;
        }
        self.receive.reset();
        self.transmit.reset();
        self.leave_pair();
        Ok(())
    }

    /// Without a driver nothing is to arrive on any pair but the first, which drivers
    /// use that know of one only.
    fn leave_pair(&mut self) {
        if self.index > 0
            && let Err(error) = self.port.set_enabled(false)
        {
            // Whoever enables it finds out what is wrong with it.
            log::debug!(
                "network device {}: cannot disable queue pair {}: {error}",
                self.name,
                self.index
            );
        }
    }

    /// Publishes what others may read of this thread's counts.
    pub(super) fn count(&self) {
        if let Some(pair) = self.counters.pair(self.index) {
            let calls = self.sleeper.calls();
            pair.set_system_calls(calls.wrapping_add(self.port.system_calls()));
        }
    }

    fn count_overruns(&mut self) {
        if let Some(watch) = &mut self.watch
            && let Some(overruns) = watch.overruns()
        {
            self.counters.set_overruns(overruns);
        }
    }
}

/// Bytes of the longest frame to be expected, header included.
fn longest_frame(offloads: Offloads, mtu: u16) -> usize {
    if offloads.tso4 || offloads.tso6 || offloads.uso {
        return HEADER_LEN + LONGEST_FRAME;
    }
    usize::from(mtu.max(USUAL_MTU)).saturating_add(HEADER_LEN + ETHERNET_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_segments_come_only_where_they_are_agreed_to() {
        let none = Offloads::default();
        assert_eq!(longest_frame(none, 1500), 12 + 18 + 1500);
        assert_eq!(longest_frame(none, 68), 12 + 18 + 1500);
        assert_eq!(longest_frame(none, 65_535), 12 + 18 + 65_535);
        let tso = Offloads {
            checksum: true,
            tso4: true,
            ..none
        };
        assert_eq!(longest_frame(tso, 1500), 12 + 18 + 65_535);
    }
}
