//! Port 0x61: NMI status and control, PIT gate and speaker (Intel ICH data
//! sheets, `NMI_SC`).
//!
//! There is no PIT behind it: counter 2's output reads as high, so that no
//! guest waits for it, and the refresh toggle toggles at each read. Machines
//! with KVM's PIT have this port in KVM.

use serde::{Deserialize, Serialize};

/// Gate and speaker of counter 2, the two NMI disables: what can be written.
const WRITABLE: u8 = 0x0f;
const REFRESH_TOGGLE: u8 = 1 << 4;
const COUNTER_2_OUTPUT: u8 = 1 << 5;

/// The port, which is its own state. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port61 {
    control: u8,
    refresh: bool,
}

impl Port61 {
    /// The guest reads the port.
    pub fn read(&mut self) -> u8 {
        self.refresh = !self.refresh;
        let refresh = if self.refresh { REFRESH_TOGGLE } else { 0 };
        (self.control & WRITABLE) | refresh | COUNTER_2_OUTPUT
    }

    /// The guest writes the port.
    pub fn write(&mut self, value: u8) {
        self.control = value & WRITABLE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_is_kept_refresh_toggles_and_the_counter_is_done() {
        let mut port = Port61::default();
        port.write(0xff);
        assert_eq!((port.read(), port.read(), port.read()), (0x3f, 0x2f, 0x3f));
        let mut copy = port.clone();
        assert_eq!(copy.read(), port.read());
    }
}
