//! The boot-timer port: a guest writes [`BOOT_TIMER_MAGIC`] when its userspace runs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BusDevice, EventSink, GuestEvent};
use crate::memory::layout::BOOT_TIMER_MAGIC;

/// Ports of the device.
pub const LEN: u64 = 1;

/// Everything the port remembers. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimerState {
    /// Whether userspace was reached; only the first time is reported.
    pub reached: bool,
}

/// The boot-timer port.
pub struct BootTimer {
    state: BootTimerState,
    events: Arc<dyn EventSink>,
}

impl BootTimer {
    /// Builds the port in `state`.
    pub fn from_state(state: BootTimerState, events: Arc<dyn EventSink>) -> Self {
        Self { state, events }
    }

    /// The state to save.
    pub fn state(&self) -> BootTimerState {
        self.state.clone()
    }
}

impl BusDevice for BootTimer {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write(&mut self, offset: u64, data: &[u8]) {
        let is_magic = offset == 0 && data.first() == Some(&BOOT_TIMER_MAGIC);
        if is_magic && !std::mem::replace(&mut self.state.reached, true) {
            self.events.guest_event(GuestEvent::UserspaceReached);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::testing::{Events, check_rebuild, pokes};

    #[test]
    fn userspace_is_reached_once() {
        let events = Arc::new(Events::default());
        let mut port = BootTimer::from_state(BootTimerState::default(), events.clone());
        port.write(0, &[122]);
        assert!(events.take().is_empty());
        port.write(0, &[123]);
        assert_eq!(events.take(), [GuestEvent::UserspaceReached]);
        let mut copy = BootTimer::from_state(port.state(), events.clone());
        copy.write(0, &[123]);
        assert!(events.take().is_empty());
    }

    proptest! {
        #[test]
        fn hostile_pokes(before in pokes(LEN), after in pokes(LEN)) {
            let build = |state| BootTimer::from_state(state, Arc::new(Events::default()));
            check_rebuild(build, BootTimer::state, &before, &after);
        }
    }
}
