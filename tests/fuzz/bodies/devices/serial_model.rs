//! A 16550A written from its data sheet and from what the port says of itself,
//! to hold the port against.

use std::collections::VecDeque;

use mayfly::devices::serial::{FIFO_SIZE, SerialState};

const RECEIVED_DATA: u8 = 1 << 0;
const THR_EMPTY: u8 = 1 << 1;
const DIVISOR_LATCH: u8 = 1 << 7;
const REQUEST_TO_SEND: u8 = 1 << 1;
const LOOPBACK: u8 = 1 << 4;

/// The model, and what it expects of the port since the last access began.
pub struct SerialModel {
    divisor: [u8; 2],
    enabled: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    fifo: VecDeque<u8>,
    thr_empty: bool,
    announced: u8,
    pub pulses: u32,
    pub output: Vec<u8>,
}

impl SerialModel {
    /// The model of a port in this state.
    pub fn new(state: &SerialState) -> Self {
        let mut model = Self {
            divisor: state.divisor.to_le_bytes(),
            enabled: state.interrupt_enable,
            line_control: state.line_control,
            modem_control: state.modem_control,
            scratch: state.scratch,
            fifo: state.received.iter().copied().collect(),
            thr_empty: state.thr_empty_pending,
            announced: 0,
            pulses: 0,
            output: Vec::new(),
        };
        model.announced = model.pending();
        model
    }

    /// The state the port must be in.
    pub fn state(&self) -> SerialState {
        SerialState {
            divisor: u16::from_le_bytes(self.divisor),
            interrupt_enable: self.enabled,
            line_control: self.line_control,
            modem_control: self.modem_control,
            scratch: self.scratch,
            received: self.fifo.iter().copied().collect(),
            thr_empty_pending: self.thr_empty,
        }
    }

    /// An access begins.
    pub fn begin(&mut self) {
        self.pulses = 0;
        self.output.clear();
    }

    /// Bytes come in; how many the port takes.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        let open = self.modem_control & (LOOPBACK | REQUEST_TO_SEND) == REQUEST_TO_SEND;
        let room = if open { FIFO_SIZE - self.fifo.len() } else { 0 };
        let taken = room.min(input.len());
        self.fifo.extend(&input[..taken]);
        self.announce();
        taken
    }

    /// The guest reads consecutive ports.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..8).zip(data) {
            *byte = self.read_port(port);
        }
        self.announce();
    }

    /// The guest writes consecutive ports.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (port, byte) in (offset..8).zip(data) {
            self.write_port(port, *byte);
            self.announce();
        }
    }

    fn read_port(&mut self, port: u64) -> u8 {
        let latch = self.line_control & DIVISOR_LATCH != 0;
        match port {
            0 | 1 if latch => self.divisor[port as usize],
            0 => self.fifo.pop_front().unwrap_or(0),
            1 => self.enabled,
            2 => self.identify(),
            3 => self.line_control,
            4 => self.modem_control,
            5 => 0x60 | u8::from(!self.fifo.is_empty()),
            6 if self.modem_control & LOOPBACK != 0 => {
                let [dtr, rts, out1, out2] = [0, 1, 2, 3].map(|bit| self.modem_control >> bit & 1);
                rts << 4 | dtr << 5 | out1 << 6 | out2 << 7
            }
            6 => 0xb0,
            _ => self.scratch,
        }
    }

    fn write_port(&mut self, port: u64, value: u8) {
        let latch = self.line_control & DIVISOR_LATCH != 0;
        match port {
            0 | 1 if latch => self.divisor[port as usize] = value,
            0 => {
                if self.modem_control & LOOPBACK == 0 {
                    self.output.push(value);
                } else if self.fifo.len() < FIFO_SIZE {
                    self.fifo.push_back(value);
                }
                self.announced &= !THR_EMPTY;
                self.thr_empty = true;
            }
            1 => {
                self.thr_empty |= value & !self.enabled & THR_EMPTY != 0;
                self.enabled = value & 0xf;
            }
            3 => self.line_control = value,
            4 => self.modem_control = value,
            7 => self.scratch = value,
            _ => {}
        }
    }

    fn identify(&mut self) -> u8 {
        let pending = self.pending();
        if pending & RECEIVED_DATA != 0 {
            0xc4
        } else if pending & THR_EMPTY != 0 {
            self.thr_empty = false;
            0xc2
        } else {
            0xc1
        }
    }

    fn pending(&self) -> u8 {
        let data = u8::from(!self.fifo.is_empty()) * RECEIVED_DATA;
        let thr = u8::from(self.thr_empty) * THR_EMPTY;
        (data | thr) & self.enabled
    }

    fn announce(&mut self) {
        let pending = self.pending();
        self.pulses += u32::from(pending & !self.announced != 0);
        self.announced = pending;
    }
}
