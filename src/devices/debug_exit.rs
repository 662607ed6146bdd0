//! The debug-exit port: the value a guest writes to it becomes the guest's status.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BusDevice, EventSink, GuestEvent};

/// Ports of the device: room for a write of 32 bits. Only the first is one.
pub const LEN: u64 = 4;

/// The port remembers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugExitState {}

/// The debug-exit port.
pub struct DebugExit {
    events: Arc<dyn EventSink>,
}

impl DebugExit {
    /// Builds the port.
    pub fn from_state(_: DebugExitState, events: Arc<dyn EventSink>) -> Self {
        Self { events }
    }

    /// The state to save.
    pub fn state(&self) -> DebugExitState {
        DebugExitState {}
    }
}

impl BusDevice for DebugExit {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset != 0 {
            return;
        }
        let mut value = [0; 4];
        for (byte, written) in value.iter_mut().zip(data) {
            *byte = *written;
        }
        let status = u32::from_le_bytes(value);
        self.events.guest_event(GuestEvent::Status(status));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::testing::{Events, check_rebuild, pokes};

    #[test]
    fn a_write_of_any_width_is_the_status() {
        let events = Arc::new(Events::default());
        let mut port = DebugExit::from_state(DebugExitState {}, events.clone());
        port.write(0, &[7]);
        port.write(0, &[0, 1]);
        port.write(0, &[1, 0, 0, 0x80]);
        port.write(1, &[9]);
        let expected = [7, 0x100, 0x8000_0001].map(GuestEvent::Status);
        assert_eq!(events.take(), expected);
    }

    proptest! {
        #[test]
        fn hostile_pokes(before in pokes(LEN), after in pokes(LEN)) {
            let build = |state| DebugExit::from_state(state, Arc::new(Events::default()));
            check_rebuild(build, DebugExit::state, &before, &after);
        }
    }
}
