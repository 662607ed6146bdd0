//! The keyboard controller: an Intel 8042 with nothing plugged in.
//!
//! It is there for the reset line (command 0xfe, Linux's `reboot=k`) and
//! answers probes at once: no keyboard replies and there is no second port.
//! With ACPI, Linux is told by the FADT not to look at all.
//!
//! | port | read          | written  |
//! |------|---------------|----------|
//! | 0x60 | output buffer | data     |
//! | 0x61 | `Port61`      | `Port61` |
//! | 0x64 | status        | command  |

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::port61::Port61;
use super::{BusDevice, EventSink, GuestEvent};

/// Ports of the device, from 0x60 on.
pub const LEN: u64 = 5;

const DATA: u64 = 0;
const PORT_61: u64 = 1;
const STATUS_COMMAND: u64 = 4;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM_FLAG: u8 = 1 << 2;
const STATUS_LAST_WAS_COMMAND: u8 = 1 << 3;
const STATUS_NOT_LOCKED: u8 = 1 << 4;

/// Configuration byte after reset: both ports' clocks off, translation on.
const CONFIG_RESET: u8 = 0b0111_0000;
const CONFIG_SYSTEM_FLAG: u8 = 1 << 2;

/// Output port: A20 is open, the reset line (active low) is not pulled.
const OUTPUT_PORT: u8 = 0b11;
const OUTPUT_PORT_RESET: u8 = 1 << 0;

const SELF_TEST_PASSED: u8 = 0x55;
const PORT_TEST_PASSED: u8 = 0x00;
const PORT_TEST_CLOCK_STUCK: u8 = 0x01;

/// What a byte written to the data port is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataMeans {
    /// For the keyboard, which is not there.
    #[default]
    Keyboard,
    /// The configuration byte (command 0x60).
    Config,
    /// The output port (command 0xd1).
    OutputPort,
    /// To be returned as if it came from a device (commands 0xd2, 0xd3).
    Echo,
    /// For the second port's device, which is not there (command 0xd4).
    SecondPort,
}

/// Everything the controller remembers. The default is the state after reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// Configuration byte.
    pub config: u8,
    /// The byte in the output buffer, if it is full.
    pub output: Option<u8>,
    /// The last byte in the output buffer, which an empty one still shows.
    pub last_output: u8,
    /// What the next byte of data is for.
    pub data_means: DataMeans,
    /// Whether the last write was a command.
    pub last_was_command: bool,
    /// Port 0x61.
    pub port61: Port61,
}

impl Default for I8042State {
    fn default() -> Self {
        Self {
            config: CONFIG_RESET,
            output: None,
            last_output: 0,
            data_means: DataMeans::Keyboard,
            last_was_command: false,
            port61: Port61::default(),
        }
    }
}

/// The keyboard controller.
pub struct I8042 {
    state: I8042State,
    events: Arc<dyn EventSink>,
}

impl I8042 {
    /// Builds the controller in `state`.
    pub fn from_state(state: I8042State, events: Arc<dyn EventSink>) -> Self {
        Self { state, events }
    }

    /// The state to save.
    pub fn state(&self) -> I8042State {
        self.state.clone()
    }

    /// The input buffer is always empty: commands are done when written.
    fn status(&self) -> u8 {
        let mut status = STATUS_NOT_LOCKED;
        if self.state.output.is_some() {
            status |= STATUS_OUTPUT_FULL;
        }
        if self.state.config & CONFIG_SYSTEM_FLAG != 0 {
            status |= STATUS_SYSTEM_FLAG;
        }
        if self.state.last_was_command {
            status |= STATUS_LAST_WAS_COMMAND;
        }
        status
    }

    fn take_output(&mut self) -> u8 {
        if let Some(byte) = self.state.output.take() {
            self.state.last_output = byte;
        }
        self.state.last_output
    }

    fn command(&mut self, command: u8) {
        self.state.last_was_command = true;
        self.state.data_means = DataMeans::Keyboard;
        match command {
            0x20 => self.state.output = Some(self.state.config),
            0x60 => self.state.data_means = DataMeans::Config,
            0xa9 => self.state.output = Some(PORT_TEST_CLOCK_STUCK),
            0xaa => {
                self.state.config |= CONFIG_SYSTEM_FLAG;
                self.state.output = Some(SELF_TEST_PASSED);
            }
            0xab => self.state.output = Some(PORT_TEST_PASSED),
            0xd0 => self.state.output = Some(OUTPUT_PORT),
            0xd1 => self.state.data_means = DataMeans::OutputPort,
            0xd2 | 0xd3 => self.state.data_means = DataMeans::Echo,
            0xd4 => self.state.data_means = DataMeans::SecondPort,
            // Pulse the output port lines whose bits are 0.
            0xf0..=0xff => self.drive_output_port(command),
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        self.state.last_was_command = false;
        match std::mem::take(&mut self.state.data_means) {
            DataMeans::Config => self.state.config = value,
            DataMeans::OutputPort => self.drive_output_port(value),
            DataMeans::Echo => self.state.output = Some(value),
            DataMeans::Keyboard | DataMeans::SecondPort => {}
        }
    }

    fn drive_output_port(&mut self, lines: u8) {
        if lines & OUTPUT_PORT_RESET == 0 {
            self.events.guest_event(GuestEvent::Reset);
        }
    }
}

/// The ports are a byte wide; a wider access is one to each port it covers.
impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..LEN).zip(data) {
            match port {
                DATA => *byte = self.take_output(),
                PORT_61 => *byte = self.state.port61.read(),
                STATUS_COMMAND => *byte = self.status(),
                _ => {}
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (port, byte) in (offset..LEN).zip(data) {
            match port {
                DATA => self.data(*byte),
                PORT_61 => self.state.port61.write(*byte),
                STATUS_COMMAND => self.command(*byte),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::testing::{Events, check_rebuild, pokes};

    fn controller() -> (I8042, Arc<Events>) {
        let events = Arc::new(Events::default());
        (
            I8042::from_state(I8042State::default(), events.clone()),
            events,
        )
    }

    fn read(controller: &mut I8042, port: u64) -> u8 {
        let mut data = [0xff];
        controller.read(port, &mut data);
        data[0]
    }

    /// The answer to a command, if there is one.
    fn ask(controller: &mut I8042, command: u8) -> Option<u8> {
        controller.write(STATUS_COMMAND, &[command]);
        let full = read(controller, STATUS_COMMAND) & STATUS_OUTPUT_FULL != 0;
        full.then(|| read(controller, DATA))
    }

    #[test]
    fn command_fe_resets() {
        let (mut controller, events) = controller();
        assert_eq!(read(&mut controller, STATUS_COMMAND) & 0b10, 0);
        controller.write(STATUS_COMMAND, &[0xff]);
        assert!(events.take().is_empty());
        controller.write(STATUS_COMMAND, &[0xfe]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }

    #[test]
    fn pulling_the_reset_line_of_the_output_port_resets() {
        let (mut controller, events) = controller();
        assert_eq!(ask(&mut controller, 0xd0), Some(3));
        controller.write(STATUS_COMMAND, &[0xd1]);
        controller.write(DATA, &[3]);
        controller.write(DATA, &[2]);
        assert!(events.take().is_empty());
        controller.write(STATUS_COMMAND, &[0xd1]);
        controller.write(DATA, &[2]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }

    #[test]
    fn a_probe_gets_clean_answers() {
        let (mut controller, _) = controller();
        assert_eq!(read(&mut controller, STATUS_COMMAND), 0x10);
        assert_eq!(ask(&mut controller, 0xaa), Some(0x55));
        assert_eq!(ask(&mut controller, 0xab), Some(0));
        assert_eq!(ask(&mut controller, 0xa9), Some(1));
        assert_eq!(ask(&mut controller, 0xad), None);
        controller.write(STATUS_COMMAND, &[0x60]);
        controller.write(DATA, &[0x47]);
        assert_eq!(ask(&mut controller, 0x20), Some(0x47));
        assert_eq!(read(&mut controller, STATUS_COMMAND), 0x1c);
    }

    #[test]
    fn the_second_port_does_not_loop_back_as_one() {
        let (mut controller, _) = controller();
        controller.write(STATUS_COMMAND, &[0xd3]);
        controller.write(DATA, &[0x5a]);
        let status = read(&mut controller, STATUS_COMMAND);
        assert_eq!(status & 0x21, STATUS_OUTPUT_FULL);
        assert_eq!(read(&mut controller, DATA), 0x5a);
    }

    #[test]
    fn nothing_is_between_the_ports() {
        let (mut controller, _) = controller();
        let mut data = [0xff; 4];
        controller.read(1, &mut data);
        assert_eq!(data, [0x30, 0xff, 0xff, 0x10]);
    }

    proptest! {
        #[test]
        fn hostile_pokes(before in pokes(LEN), after in pokes(LEN)) {
            let build = |state| I8042::from_state(state, Arc::new(Events::default()));
            check_rebuild(build, I8042::state, &before, &after);
        }
    }
}
