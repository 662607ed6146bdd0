//! The fixed ACPI hardware: PM1a event and control registers
//! (ACPI 6.3 §4.8.3.1 and §4.8.3.2).
//!
//! | offset | register       | what is in it                                          |
//! |--------|----------------|--------------------------------------------------------|
//! | 0, 1   | PM1a status    | power button (bit 8); writing a 1 clears               |
//! | 2, 3   | PM1a enable    | which status bits raise the SCI                        |
//! | 4, 5   | PM1a control   | `SCI_EN` (0, always set), `SLP_TYP` (12:10), `SLP_EN`  |
//!
//! The SCI is an edge, sent when an enabled status bit becomes set; the MADT
//! says so. There is no SMI command port: the machine is always in ACPI mode.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BusDevice, EventSink, GuestEvent, IrqLine};
use crate::memory::layout::ACPI_S5_SLP_TYP;

/// Ports of the device: the event block, then the control block.
pub const LEN: u64 = 6;

const POWER_BUTTON: u16 = 1 << 8;
/// The RTC's alarm, which never happens: the FADT says that it is not here
/// (`FIX_RTC`), but Linux's driver sets the bit all the same and expects it to stay.
const RTC_ALARM: u16 = 1 << 10;
/// Global lock, power button, RTC: all other events have no hardware here.
const ENABLE_BITS: u16 = 1 << 5 | POWER_BUTTON | RTC_ALARM;

/// The high byte of the control register.
const SLP_TYP: u8 = 0b0001_1100;
const SLP_TYP_SHIFT: u8 = 2;
const SLP_EN: u8 = 0b0010_0000;
/// The low byte of the control register.
const SCI_EN: u8 = 1;

/// Everything the registers remember. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPowerState {
    /// PM1a status.
    pub status: u16,
    /// PM1a enable.
    pub enable: u16,
    /// `SLP_TYP`, 0 to 7.
    pub sleep_type: u8,
}

/// The fixed ACPI registers.
pub struct AcpiPower {
    state: AcpiPowerState,
    sci: Arc<dyn IrqLine>,
    events: Arc<dyn EventSink>,
}

impl AcpiPower {
    /// Builds the registers in `state`.
    pub fn from_state(
        mut state: AcpiPowerState,
        sci: Arc<dyn IrqLine>,
        events: Arc<dyn EventSink>,
    ) -> Self {
        state.status &= POWER_BUTTON;
        state.enable &= ENABLE_BITS;
        state.sleep_type &= SLP_TYP >> SLP_TYP_SHIFT;
        Self { state, sci, events }
    }

    /// The state to save.
    pub fn state(&self) -> AcpiPowerState {
        self.state.clone()
    }

    /// Whether the guest wants to be told of the power button.
    pub fn listens(&self) -> bool {
        self.state.enable & POWER_BUTTON != 0
    }

    /// Presses the power button: a guest that listens powers itself off.
    pub fn press_power_button(&mut self) {
        let status = self.state.status | POWER_BUTTON;
        self.set_events(status, self.state.enable);
    }

    /// Changes status and enable, with an SCI if an enabled event becomes pending.
    fn set_events(&mut self, status: u16, enable: u16) {
        let before = self.state.status & self.state.enable;
        self.state.status = status;
        self.state.enable = enable & ENABLE_BITS;
        let pending = self.state.status & self.state.enable;
        if pending & !before != 0 {
            self.sci.pulse();
        }
    }

    fn read_byte(&self, offset: u64) -> u8 {
        let [status_low, status_high] = self.state.status.to_le_bytes();
        let [enable_low, enable_high] = self.state.enable.to_le_bytes();
        match offset {
            0 => status_low,
            1 => status_high,
            2 => enable_low,
            3 => enable_high,
            4 => SCI_EN,
            _ => self.state.sleep_type << SLP_TYP_SHIFT,
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let AcpiPowerState { status, enable, .. } = self.state;
        let low = u16::from(value);
        let high = low << 8;
        match offset {
            0 => self.set_events(status & !low, enable),
            1 => self.set_events(status & !high, enable),
            2 => self.set_events(status, (enable & 0xff00) | low),
            3 => self.set_events(status, (enable & 0x00ff) | high),
            5 => self.write_sleep(value),
            _ => {}
        }
    }

    fn write_sleep(&mut self, value: u8) {
        self.state.sleep_type = (value & SLP_TYP) >> SLP_TYP_SHIFT;
        if value & SLP_EN != 0 && self.state.sleep_type == ACPI_S5_SLP_TYP {
            self.events.guest_event(GuestEvent::PowerOff);
        }
    }
}

/// Drivers use words; whatever the width, each byte has its own effect.
impl BusDevice for AcpiPower {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..LEN).zip(data) {
            *byte = self.read_byte(at);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..LEN).zip(data) {
            self.write_byte(at, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::testing::{Events, Pulses, check_rebuild, pokes};

    fn power(state: AcpiPowerState) -> (AcpiPower, Arc<Pulses>, Arc<Events>) {
        let (sci, events) = (Arc::new(Pulses::default()), Arc::new(Events::default()));
        let power = AcpiPower::from_state(state, sci.clone(), events.clone());
        (power, sci, events)
    }

    fn read(power: &mut AcpiPower, offset: u64) -> u16 {
        let mut data = [0xff; 2];
        power.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    fn write(power: &mut AcpiPower, offset: u64, value: u16) {
        power.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn only_s5_with_slp_en_powers_off() {
        let (mut power, _, events) = power(AcpiPowerState::default());
        write(&mut power, 4, 5 << 10);
        write(&mut power, 4, 4 << 10 | 1 << 13);
        assert!(events.take().is_empty());
        write(&mut power, 4, 5 << 10 | 1 << 13);
        assert_eq!(events.take(), [GuestEvent::PowerOff]);
        assert_eq!(read(&mut power, 4), 5 << 10 | 1, "SLP_EN reads as 0");
    }

    #[test]
    fn the_power_button_raises_the_sci_once_until_it_is_cleared() {
        let (mut power, sci, _) = power(AcpiPowerState::default());
        write(&mut power, 2, 0xfeff);
        assert!(!power.listens());
        write(&mut power, 2, 0xffff);
        assert!(power.listens());
        assert_eq!(read(&mut power, 2), 0x520);
        power.press_power_button();
        power.press_power_button();
        assert_eq!((sci.take(), read(&mut power, 0)), (1, 0x100));
        write(&mut power, 0, 0x100);
        assert_eq!(read(&mut power, 0), 0);
        power.press_power_button();
        assert_eq!(sci.take(), 1);
    }

    #[test]
    fn a_press_before_the_driver_listens_is_kept() {
        let (mut power, sci, _) = power(AcpiPowerState::default());
        power.press_power_button();
        assert_eq!(sci.take(), 0);
        write(&mut power, 2, 0x100);
        assert_eq!(sci.take(), 1);
    }

    #[test]
    fn a_rebuilt_button_is_still_pressed_and_sends_no_second_sci() {
        let (mut original, _, _) = power(AcpiPowerState::default());
        write(&mut original, 2, 0x100);
        original.press_power_button();
        let (mut copy, sci, _) = power(original.state());
        assert_eq!((read(&mut copy, 0), sci.take()), (0x100, 0));
    }

    proptest! {
        #[test]
        fn hostile_pokes(before in pokes(LEN), after in pokes(LEN)) {
            check_rebuild(|state| power(state).0, AcpiPower::state, &before, &after);
        }
    }
}
