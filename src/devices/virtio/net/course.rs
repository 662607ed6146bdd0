//! What a queue pair's thread knows between two rounds: which direction waits for what.

use std::time::{Duration, Instant};

use super::direction::Progress;
use super::sleeper::Woken;

/// What one direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Nothing: there may be something to do.
    Due,
    /// Frames, from where they come.
    Idle,
    /// Room, where they go.
    Blocked,
    /// The limits.
    Limited(Instant),
}

impl Side {
    pub(super) fn after(progress: Progress) -> Self {
        match progress {
            Progress::Idle => Self::Idle,
            Progress::Blocked => Self::Blocked,
            Progress::More => Self::Due,
            Progress::Wait(wait) => {
                // A wait beyond what a clock can tell is looked at again before.
                let until = Instant::now().checked_add(wait);
                until.map_or(Self::Due, Self::Limited)
            }
        }
    }

    pub(super) fn becomes_due(&mut self, from: Self) {
        if *self == from {
            *self = Self::Due;
        }
    }

    pub(super) fn is_limited(self) -> Option<Instant> {
        match self {
            Self::Limited(until) => Some(until),
            _ => None,
        }
    }
}

/// How far the thread has come, between two rounds.
pub(super) struct Course {
    pub(super) receive: Side,
    pub(super) transmit: Side,
    /// Whether the driver kicks for frames to send,
    pub(super) transmit_armed: bool,
    /// and for buffers.
    pub(super) receive_armed: bool,
    /// Whether there may be commands.
    pub(super) commands: bool,
    /// Whether there may be news of the link.
    pub(super) news: bool,
    /// Whether the link has woken the thread last.
    pub(super) received: bool,
    /// Whether the link may be gone while it is not asked for frames.
    pub(super) doubt: bool,
}

impl Course {
    /// Everything is to be looked at.
    pub(super) fn new() -> Self {
        Self {
            receive: Side::Due,
            transmit: Side::Due,
            transmit_armed: false,
            receive_armed: false,
            commands: true,
            news: true,
            received: false,
            doubt: false,
        }
    }

    pub(super) fn note(&mut self, woken: Woken) {
        if woken.readable {
            self.receive.becomes_due(Side::Idle);
        }
        if woken.receive_kick {
            self.receive.becomes_due(Side::Blocked);
        }
        if woken.transmit_kick {
            self.transmit.becomes_due(Side::Idle);
        }
        if woken.writable {
            self.transmit.becomes_due(Side::Blocked);
        }
        self.commands |= woken.control_kick || woken.control;
        self.news |= woken.watch;
        self.doubt |= woken.failed && self.receive != Side::Due;
        self.note_time(woken.control);
    }

    /// Limited directions are due when their time has come, or if the limits may have
    /// changed.
    pub(super) fn note_time(&mut self, changed: bool) {
        for side in [&mut self.receive, &mut self.transmit] {
            if let Some(until) = side.is_limited()
                && (changed || until <= Instant::now())
            {
                *side = Side::Due;
            }
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.receive == Side::Due || self.transmit == Side::Due || self.commands
    }

    /// How long to sleep at most.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let limits = [self.receive.is_limited(), self.transmit.is_limited()];
        let first = limits.into_iter().flatten().min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KICK: Woken = Woken {
        control: false,
        receive_kick: false,
        transmit_kick: true,
        control_kick: false,
        readable: false,
        writable: false,
        failed: false,
        watch: false,
    };

    fn waiting(receive: Side, transmit: Side) -> Course {
        Course {
            receive,
            transmit,
            commands: false,
            news: false,
            ..Course::new()
        }
    }

    /// Both directions after `woken`.
    fn after(receive: Side, transmit: Side, woken: Woken) -> (Side, Side) {
        let mut course = waiting(receive, transmit);
        course.note(woken);
        (course.receive, course.transmit)
    }

    #[test]
    fn each_direction_is_woken_by_what_it_waits_for() {
        use Side::{Blocked, Due, Idle};
        let buffers = Woken {
            transmit_kick: false,
            receive_kick: true,
            ..KICK
        };
        let frame = Woken {
            transmit_kick: false,
            readable: true,
            ..KICK
        };
        let room = Woken {
            transmit_kick: false,
            writable: true,
            ..KICK
        };
        assert_eq!(after(Idle, Idle, KICK), (Idle, Due));
        assert_eq!(after(Blocked, Blocked, KICK), (Blocked, Blocked));
        assert_eq!(after(Idle, Idle, buffers), (Idle, Idle));
        assert_eq!(after(Blocked, Idle, buffers), (Due, Idle));
        assert_eq!(after(Idle, Idle, frame), (Due, Idle));
        assert_eq!(after(Blocked, Idle, frame), (Blocked, Idle));
        assert_eq!(after(Idle, Blocked, room), (Idle, Due));
        assert_eq!(after(Idle, Idle, room), (Idle, Idle));
    }

    #[test]
    fn a_link_that_fails_is_looked_at_where_no_frame_is_asked_for() {
        let failed = Woken {
            transmit_kick: false,
            readable: true,
            writable: true,
            failed: true,
            ..KICK
        };
        for (receive, doubt) in [(Side::Idle, false), (Side::Blocked, true)] {
            let mut course = waiting(receive, Side::Blocked);
            course.note(failed);
            assert_eq!((course.doubt, course.transmit), (doubt, Side::Due));
        }
    }

    #[test]
    fn limits_are_waited_for_unless_they_change() {
        let soon = Side::after(Progress::Wait(Duration::from_secs(3600)));
        let mut course = waiting(soon, Side::Idle);
        let timeout = course.timeout().unwrap();
        assert!(timeout > Duration::from_secs(3500));
        course.note(KICK);
        assert_eq!((course.receive, course.transmit), (soon, Side::Due));
        course.note(Woken {
            control: true,
            ..KICK
        });
        assert_eq!(course.receive, Side::Due);
        assert!(course.is_due());
        let mut over = waiting(Side::Limited(Instant::now()), Side::Idle);
        assert_eq!(over.timeout(), Some(Duration::ZERO));
        assert!(!over.is_due());
        over.note(Woken::default());
        assert!(over.is_due());
        assert_eq!(waiting(Side::Idle, Side::Blocked).timeout(), None);
        assert_eq!(Side::after(Progress::Wait(Duration::MAX)), Side::Due);
        assert_eq!(Side::after(Progress::More), Side::Due);
    }
}
