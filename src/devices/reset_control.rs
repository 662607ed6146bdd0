//! The reset control register at port 0xcf9 (Intel ICH data sheets, `RST_CNT`),
//! which is the FADT's `RESET_REG` too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BusDevice, EventSink, GuestEvent};

/// Ports of the device.
pub const LEN: u64 = 1;

/// System reset and full reset: which kind; they are remembered.
const KIND: u8 = 1 << 1 | 1 << 3;
/// Reset CPU: setting it resets the machine.
const RESET: u8 = 1 << 2;

/// Everything the register remembers. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetControlState {
    /// The kind of reset chosen.
    pub kind: u8,
}

/// The reset control register.
pub struct ResetControl {
    state: ResetControlState,
    events: Arc<dyn EventSink>,
}

impl ResetControl {
    /// Builds the register in `state`.
    pub fn from_state(mut state: ResetControlState, events: Arc<dyn EventSink>) -> Self {
        state.kind &= KIND;
        Self { state, events }
    }

    /// The state to save.
    pub fn state(&self) -> ResetControlState {
        self.state.clone()
    }
}

impl BusDevice for ResetControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (0, Some(byte)) = (offset, data.first_mut()) {
            *byte = self.state.kind;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (0, Some(value)) = (offset, data.first()) else {
            return;
        };
        self.state.kind = value & KIND;
        if value & RESET != 0 {
            self.events.guest_event(GuestEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::testing::{Events, check_rebuild, pokes};
    use crate::memory::layout::RESET_VALUE;

    #[test]
    fn the_reset_bit_resets_and_choosing_the_kind_does_not() {
        let events = Arc::new(Events::default());
        let mut port = ResetControl::from_state(ResetControlState::default(), events.clone());
        port.write(0, &[0x0a]);
        assert!(events.take().is_empty());
        let mut data = [0xff];
        port.read(0, &mut data);
        assert_eq!(data, [0x0a]);
        port.write(0, &[RESET_VALUE]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }

    proptest! {
        #[test]
        fn hostile_pokes(before in pokes(LEN), after in pokes(LEN)) {
            let build = |state| ResetControl::from_state(state, Arc::new(Events::default()));
            check_rebuild(build, ResetControl::state, &before, &after);
        }
    }
}
