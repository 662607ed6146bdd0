//! The pvpanic port, through which a guest kernel says that it has panicked
//! (QEMU, "pvpanic device specification").
//!
//! Reading gives the events the device understands, writing reports one:
//! bit 0, the guest has panicked; bit 1, it has and runs its crash kernel now.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BusDevice, EventSink, GuestEvent};

/// Ports of the device.
pub const LEN: u64 = 1;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// The port remembers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvpanicState {}

/// The pvpanic port.
pub struct Pvpanic {
    events: Arc<dyn EventSink>,
}

impl Pvpanic {
    /// Builds the port.
    pub fn from_state(_: PvpanicState, events: Arc<dyn EventSink>) -> Self {
        Self { events }
    }

    /// The state to save.
    pub fn state(&self) -> PvpanicState {
        PvpanicState {}
    }
}

impl BusDevice for Pvpanic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (0, Some(byte)) = (offset, data.first_mut()) {
            *byte = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (0, Some(reported)) = (offset, data.first()) else {
            return;
        };
        if reported & PANICKED != 0 {
            self.events.guest_event(GuestEvent::Panicked);
        } else if reported & CRASH_LOADED != 0 {
            self.events.guest_event(GuestEvent::CrashLoaded);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::testing::{Events, check_rebuild, pokes};

    #[test]
    fn a_panic_is_reported_and_unknown_events_are_not() {
        let events = Arc::new(Events::default());
        let mut port = Pvpanic::from_state(PvpanicState {}, events.clone());
        let mut supported = [0xff];
        port.read(0, &mut supported);
        assert_eq!(supported, [3]);
        for reported in [0, 1, 2, 3, 4, 0xfc] {
            port.write(0, &[reported]);
        }
        let expected = [
            GuestEvent::Panicked,
            GuestEvent::CrashLoaded,
            GuestEvent::Panicked,
        ];
        assert_eq!(events.take(), expected);
    }

    proptest! {
        #[test]
        fn hostile_pokes(before in pokes(LEN), after in pokes(LEN)) {
            let build = |state| Pvpanic::from_state(state, Arc::new(Events::default()));
            check_rebuild(build, Pvpanic::state, &before, &after);
        }
    }
}
