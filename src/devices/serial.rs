//! The first serial port: a 16550A on an edge-triggered interrupt line.
//!
//! Registers, receive FIFO and loopback are vm-superio's. Interrupt
//! identification is done here, because an edge-triggered line forgives no
//! mistake: an interrupt that stays pending is never announced twice.
//!
//! | interrupt (`IIR`)       | pending from                         | until                           |
//! |-------------------------|--------------------------------------|---------------------------------|
//! | received data (0b0100)  | a byte is in the receive FIFO        | the FIFO is empty               |
//! | THR empty (0b0010)      | a byte was sent, or IER.THRI was set | `IIR` told of it, or a new byte |
//!
//! Whenever an enabled interrupt becomes pending that was not, the line pulses.
//! One that stays pending after another was served is found by the driver in
//! `IIR`, which it must read until it shows no interrupt; that is what an ISA
//! machine asks of it too.
//!
//! The transmitter is always empty: a byte written leaves at once.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState as UartState};
use vm_superio::{Serial as Uart, Trigger};

use super::{BusDevice, IrqLine};

/// Ports of the device.
pub const LEN: u64 = 8;
/// Bytes that the receive FIFO holds.
pub const FIFO_SIZE: usize = 64;

const THR: u8 = 0;
const RBR: u8 = 0;
const IER: u8 = 1;
const IIR: u8 = 2;
const LCR: u8 = 3;
const MCR: u8 = 4;
const LSR: u8 = 5;

const IER_RECEIVED_DATA: u8 = 1 << 0;
const IER_THR_EMPTY: u8 = 1 << 1;
const IER_BITS: u8 = 0x0f;
const IIR_NONE: u8 = 0b0001;
const IIR_THR_EMPTY: u8 = 0b0010;
const IIR_RECEIVED_DATA: u8 = 0b0100;
const IIR_FIFOS: u8 = 0b1100_0000;
const LCR_DIVISOR_LATCH: u8 = 1 << 7;
const MCR_REQUEST_TO_SEND: u8 = 1 << 1;
const MCR_LOOPBACK: u8 = 1 << 4;
const LSR_DATA_READY: u8 = 1 << 0;

/// Everything the port remembers. The default is the state after reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// Divisor latch.
    pub divisor: u16,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// Line control register.
    pub line_control: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Received bytes the guest has not read, at most [`FIFO_SIZE`].
    pub received: Vec<u8>,
    /// Whether the THR empty interrupt is pending.
    pub thr_empty_pending: bool,
}

impl Default for SerialState {
    fn default() -> Self {
        Self::of(&UartState::default(), false)
    }
}

impl SerialState {
    fn of(uart: &UartState, thr_empty_pending: bool) -> Self {
        Self {
            divisor: u16::from_le_bytes([uart.baud_divisor_low, uart.baud_divisor_high]),
            interrupt_enable: uart.interrupt_enable,
            line_control: uart.line_control,
            modem_control: uart.modem_control,
            scratch: uart.scratch,
            received: uart.in_buffer.clone(),
            thr_empty_pending,
        }
    }

    fn into_uart(mut self) -> UartState {
        self.received.truncate(FIFO_SIZE);
        let reset = UartState::default();
        let [baud_divisor_low, baud_divisor_high] = self.divisor.to_le_bytes();
        UartState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: self.interrupt_enable & IER_BITS,
            line_control: self.line_control,
            line_status: reset.line_status | u8::from(!self.received.is_empty()),
            modem_control: self.modem_control,
            scratch: self.scratch,
            in_buffer: self.received,
            ..reset
        }
    }
}

/// The serial port.
pub struct Serial {
    uart: Uart<NoTrigger, NoEvents, LastByte>,
    interrupt_enable: u8,
    thr_empty_pending: bool,
    /// Enabled interrupts pending after the last access, as IER bits.
    announced: u8,
    /// An [`Serial::enqueue`] took less than it was given.
    input_waits: bool,
    line: Arc<dyn IrqLine>,
    output: Box<dyn Write + Send>,
    input_wanted: Box<dyn Fn() + Send>,
}

impl Serial {
    /// Builds the port in `state`.
    ///
    /// `output` gets each byte as the guest writes it, on the vCPU thread, and
    /// is never flushed: it must buffer and must not block. A byte it refuses
    /// is lost, as on a wire. `input_wanted` is called on the vCPU thread once
    /// the guest has emptied the FIFO (or raised RTS, or left loopback) after an
    /// [`Serial::enqueue`] that took less than it was given; it must neither
    /// block nor call back into the port.
    pub fn from_state(
        state: SerialState,
        line: Arc<dyn IrqLine>,
        output: Box<dyn Write + Send>,
        input_wanted: Box<dyn Fn() + Send>,
    ) -> Self {
        let interrupt_enable = state.interrupt_enable & IER_BITS;
        let thr_empty_pending = state.thr_empty_pending;
        let uart = Uart::from_state(&state.into_uart(), NoTrigger, NoEvents, LastByte::default())
            .unwrap_or_else(|_| Uart::new(NoTrigger, LastByte::default()));
        let mut serial = Self {
            uart,
            interrupt_enable,
            thr_empty_pending,
            announced: 0,
            input_waits: false,
            line,
            output,
            input_wanted,
        };
        // Its edge was sent before the state was saved.
        serial.announced = serial.pending();
        serial
    }

    /// The state to save. Input not yet taken by [`Serial::enqueue`] is not in it.
    pub fn state(&self) -> SerialState {
        SerialState::of(&self.uart.state(), self.thr_empty_pending)
    }

    /// Receives bytes for the guest, as many as the FIFO has room for, and
    /// returns how many it took: none while the guest does not request to send
    /// (RTS) or has the port in loopback. A driver resets the FIFO when it opens
    /// the port and raises RTS afterwards, so that what was typed before waits.
    /// If it took less than all, `input_wanted` tells when to try again.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        let taken = if self.takes_input() {
            self.uart.enqueue_raw_bytes(input).unwrap_or(0)
        } else {
            0
        };
        self.input_waits = taken < input.len();
        self.announce();
        taken
    }

    fn read_register(&mut self, register: u8) -> u8 {
        match register {
            IIR => self.identify_interrupt(),
            RBR => self.read_data(),
            _ => self.uart.read(register),
        }
    }

    fn write_register(&mut self, register: u8, value: u8) {
        let divisor_latch = self.uart.read(LCR) & LCR_DIVISOR_LATCH != 0;
        let was_open = self.takes_input();
        // Neither the trigger nor the writer that it was given can fail.
        let _ = self.uart.write(register, value);
        match register {
            THR if !divisor_latch => self.transmit(),
            IER if !divisor_latch => self.enable_interrupts(value & IER_BITS),
            MCR if !was_open && self.takes_input() => self.ask_for_input(),
            _ => {}
        }
    }

    /// Passes on what the UART sent; in loopback that is nothing. The write
    /// ends a pending THR empty interrupt and, with THR empty again at once,
    /// begins the next: drivers need not read `IIR` between bytes.
    fn transmit(&mut self) {
        if let Some(byte) = self.uart.writer_mut().0.take() {
            let _ = self.output.write_all(&[byte]);
        }
        self.announced &= !IER_THR_EMPTY;
        self.thr_empty_pending = true;
    }

    /// Setting IER.THRI makes the interrupt pending if THR is empty, and it is.
    fn enable_interrupts(&mut self, enable: u8) {
        if enable & !self.interrupt_enable & IER_THR_EMPTY != 0 {
            self.thr_empty_pending = true;
        }
        self.interrupt_enable = enable;
    }

    fn identify_interrupt(&mut self) -> u8 {
        let pending = self.pending();
        let interrupt = if pending & IER_RECEIVED_DATA != 0 {
            IIR_RECEIVED_DATA
        } else if pending & IER_THR_EMPTY != 0 {
            self.thr_empty_pending = false;
            IIR_THR_EMPTY
        } else {
            IIR_NONE
        };
        interrupt | IIR_FIFOS
    }

    fn read_data(&mut self) -> u8 {
        let had_data = self.has_data();
        let byte = self.uart.read(RBR);
        if had_data && !self.has_data() {
            self.ask_for_input();
        }
        byte
    }

    fn ask_for_input(&mut self) {
        if std::mem::take(&mut self.input_waits) {
            (self.input_wanted)();
        }
    }

    /// Pulses the line if an interrupt has become pending.
    fn announce(&mut self) {
        let pending = self.pending();
        if pending & !self.announced != 0 {
            self.line.pulse();
        }
        self.announced = pending;
    }

    /// Enabled interrupts that are pending, as IER bits.
    fn pending(&mut self) -> u8 {
        let mut conditions = 0;
        if self.has_data() {
            conditions |= IER_RECEIVED_DATA;
        }
        if self.thr_empty_pending {
            conditions |= IER_THR_EMPTY;
        }
        conditions & self.interrupt_enable
    }

    fn has_data(&mut self) -> bool {
        self.uart.read(LSR) & LSR_DATA_READY != 0
    }

    /// RTS is up and leads to the wire.
    fn takes_input(&mut self) -> bool {
        self.uart.read(MCR) & (MCR_LOOPBACK | MCR_REQUEST_TO_SEND) == MCR_REQUEST_TO_SEND
    }
}

/// The registers are a byte wide; a wider access is one to each port it covers.
impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..LEN).zip(data) {
            *byte = self.read_register(port as u8);
        }
        self.announce();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (port, byte) in (offset..LEN).zip(data) {
            self.write_register(port as u8, *byte);
            self.announce();
        }
    }
}

/// The UART's own interrupts go nowhere; see [`Serial::announce`].
struct NoTrigger;

impl Trigger for NoTrigger {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Holds the byte that the UART sent until the port passes it on without a flush.
#[derive(Default)]
struct LastByte(Option<u8>);

impl Write for LastByte {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 = data.last().copied();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
