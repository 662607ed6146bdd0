use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::devices::testing::{Pulses, check_rebuild, poke, pokes};

/// Collects output; a flush is an error, as a port must not ask for one.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<u8>>>);

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        panic!("flushed on the vCPU thread");
    }
}

struct Port {
    serial: Serial,
    line: Arc<Pulses>,
    wire: Wire,
    asked: Arc<AtomicUsize>,
}

impl Port {
    fn new() -> Self {
        Self::from_state(SerialState {
            modem_control: 0x0b,
            ..SerialState::default()
        })
    }

    fn from_state(state: SerialState) -> Self {
        let line = Arc::new(Pulses::default());
        let wire = Wire::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let ask = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let serial = Serial::from_state(state, line.clone(), Box::new(wire.clone()), ask);
        Self {
            serial,
            line,
            wire,
            asked,
        }
    }

    fn out(&mut self, register: u8, value: u8) {
        self.serial.write(u64::from(register), &[value]);
    }

    fn inb(&mut self, register: u8) -> u8 {
        let mut data = [0xff];
        self.serial.read(u64::from(register), &mut data);
        data[0]
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

const NONE: u8 = IIR_FIFOS | IIR_NONE;
const SENT: u8 = IIR_FIFOS | IIR_THR_EMPTY;
const RECEIVED: u8 = IIR_FIFOS | IIR_RECEIVED_DATA;

#[test]
fn bytes_go_out_in_order_without_a_flush() {
    let mut port = Port::new();
    for byte in *b"mayfly\n" {
        port.out(THR, byte);
    }
    assert_eq!(*port.wire.0.lock().unwrap(), b"mayfly\n");
    assert_eq!(port.line.take(), 0);
    assert_eq!(port.inb(LSR), 0x60);
}

#[test]
fn the_divisor_latch_is_not_the_wire() {
    let mut port = Port::new();
    port.out(LCR, 0x83);
    port.out(0, 1);
    port.out(1, 2);
    assert_eq!((port.inb(0), port.inb(1)), (1, 2));
    assert_eq!(port.serial.state().divisor, 0x201);
    port.out(LCR, 0x03);
    assert_eq!(port.inb(IER), 0);
    assert!(port.wire.0.lock().unwrap().is_empty());
}

#[test]
fn enabling_the_thr_empty_interrupt_raises_it_each_time() {
    let mut port = Port::new();
    for _ in 0..2 {
        port.out(IER, IER_THR_EMPTY);
        assert_eq!(port.line.take(), 1);
        assert_eq!((port.inb(IIR), port.inb(IIR)), (SENT, NONE));
        port.out(IER, 0);
    }
}

#[test]
fn every_byte_sent_raises_the_thr_empty_interrupt() {
    let mut port = Port::new();
    port.out(IER, IER_THR_EMPTY);
    assert_eq!(port.line.take(), 1);
    // A driver that never reads IIR is served too.
    for _ in 0..3 {
        port.out(THR, b'x');
        assert_eq!(port.line.take(), 1);
    }
    assert_eq!((port.inb(IIR), port.inb(IIR)), (SENT, NONE));
}

#[test]
fn input_interrupts_once_until_it_is_read() {
    let mut port = Port::new();
    port.out(IER, IER_RECEIVED_DATA);
    assert_eq!(port.serial.enqueue(b"ab"), 2);
    assert_eq!(port.serial.enqueue(b"c"), 1);
    assert_eq!(port.line.take(), 1);
    // IIR goes on telling of data until the last byte is gone.
    for byte in *b"abc" {
        assert_eq!(port.inb(IIR), RECEIVED);
        assert_eq!(port.inb(LSR) & LSR_DATA_READY, LSR_DATA_READY);
        assert_eq!(port.inb(RBR), byte);
    }
    assert_eq!((port.inb(IIR), port.inb(LSR)), (NONE, 0x60));
    port.serial.enqueue(b"d");
    assert_eq!(port.line.take(), 1);
}

#[test]
fn input_that_came_while_interrupts_were_off_is_announced_when_they_are_on() {
    let mut port = Port::new();
    port.out(IER, IER_RECEIVED_DATA);
    port.out(IER, 0);
    port.serial.enqueue(b"a");
    assert_eq!(port.line.take(), 0);
    assert_eq!(port.inb(IIR), NONE);
    port.out(IER, IER_RECEIVED_DATA);
    assert_eq!(port.line.take(), 1);
}

/// What Linux's `serial8250_interrupt` does: serve until IIR shows nothing.
fn linux_handler(port: &mut Port, to_send: &mut Vec<u8>) -> Vec<u8> {
    let mut received = Vec::new();
    while port.inb(IIR) & IIR_NONE == 0 {
        while port.inb(LSR) & LSR_DATA_READY != 0 {
            received.push(port.inb(RBR));
        }
        for byte in to_send.drain(..to_send.len().min(16)) {
            port.out(THR, byte);
        }
        if to_send.is_empty() {
            port.out(IER, IER_RECEIVED_DATA);
        }
    }
    received
}

#[test]
fn both_directions_at_once_lose_nothing() {
    let mut port = Port::new();
    port.out(IER, IER_RECEIVED_DATA);
    port.serial.enqueue(b"in");
    port.out(IER, IER_RECEIVED_DATA | IER_THR_EMPTY);
    assert_eq!(port.line.take(), 2);
    let mut to_send = vec![b'o'; 100];
    assert_eq!(linux_handler(&mut port, &mut to_send), b"in");
    assert_eq!(port.wire.0.lock().unwrap().len(), 100);
    // The line is quiet now and hears what comes next, from either side.
    port.line.take();
    port.serial.enqueue(b"more");
    assert_eq!(port.line.take(), 1);
    assert_eq!(linux_handler(&mut port, &mut Vec::new()), b"more");
    port.out(IER, IER_RECEIVED_DATA | IER_THR_EMPTY);
    assert_eq!(port.line.take(), 1);
}

#[test]
fn a_full_fifo_takes_no_more_and_says_when_it_is_empty() {
    let mut port = Port::new();
    assert_eq!(port.serial.enqueue(&[b'x'; 100]), FIFO_SIZE);
    assert_eq!(port.serial.enqueue(b"y"), 0);
    for _ in 1..FIFO_SIZE {
        port.inb(RBR);
    }
    assert_eq!(port.asked(), 0);
    port.inb(RBR);
    assert_eq!(port.asked(), 1);
    port.inb(RBR);
    assert_eq!(port.asked(), 0);
    assert_eq!(port.serial.enqueue(b"y"), 1);
    port.inb(RBR);
    assert_eq!(port.asked(), 0);
}

#[test]
fn loopback_returns_output_and_keeps_input_out() {
    let mut port = Port::new();
    port.out(MCR, MCR_LOOPBACK);
    port.out(THR, b'l');
    assert_eq!(port.serial.enqueue(b"in"), 0);
    assert_eq!(port.inb(RBR), b'l');
    assert!(port.wire.0.lock().unwrap().is_empty());
    port.asked();
    assert_eq!(port.serial.enqueue(b"in"), 0);
    port.out(MCR, 0x0b);
    assert_eq!(port.asked(), 1);
    assert_eq!(port.serial.enqueue(b"in"), 2);
}

#[test]
fn a_wide_access_is_one_to_each_port() {
    let mut port = Port::new();
    port.serial.write(6, &[0, 0x5a, 7, 7]);
    let mut data = [0xff; 8];
    port.serial.read(0, &mut data);
    assert_eq!(data, [0, 0, NONE, 3, 0x0b, 0x60, 0xb0, 0x5a]);
}

#[test]
fn a_rebuilt_port_has_the_same_pending_interrupts_and_sends_no_second_edge() {
    let mut port = Port::new();
    port.out(IER, IER_RECEIVED_DATA | IER_THR_EMPTY);
    port.serial.enqueue(b"ab");
    let mut copy = Port::from_state(port.serial.state());
    assert_eq!(copy.line.take(), 0);
    assert_eq!((copy.inb(IIR), copy.inb(RBR)), (RECEIVED, b'a'));
    assert_eq!((copy.inb(RBR), copy.inb(IIR)), (b'b', SENT));
    copy.serial.enqueue(b"c");
    assert_eq!(copy.line.take(), 1);
}

#[test]
fn a_state_with_too_long_a_fifo_is_cut() {
    let state = SerialState {
        received: vec![1; 1000],
        ..SerialState::default()
    };
    assert_eq!(
        Port::from_state(state).serial.state().received.len(),
        FIFO_SIZE
    );
}

proptest! {
    #[test]
    fn hostile_pokes(before in pokes(LEN), after in pokes(LEN)) {
        check_rebuild(|state| Port::from_state(state).serial, Serial::state, &before, &after);
    }

    #[test]
    fn hostile_pokes_between_input(
        rounds in prop::collection::vec((0usize..200, pokes(LEN)), 0..8),
    ) {
        let mut port = Port::new();
        for (input, accesses) in rounds {
            prop_assert!(port.serial.enqueue(&vec![b'x'; input]) <= input);
            poke(&mut port.serial, &accesses);
            let state = port.serial.state();
            prop_assert!(state.received.len() <= FIFO_SIZE);
            prop_assert_eq!(Port::from_state(state.clone()).serial.state(), state);
        }
    }
}

#[test]
fn input_waits_until_the_guest_requests_to_send() {
    let mut port = Port::from_state(SerialState::default());
    assert_eq!(port.serial.enqueue(b"early"), 0);
    assert_eq!(port.asked(), 0);
    port.out(MCR, 0x0b);
    assert_eq!(port.asked(), 1);
    assert_eq!(port.serial.enqueue(b"early"), 5);
}
