//! The entropy device behind a driver in memory.

use super::*;
use crate::devices::virtio::testing::{
    Driver, F_EVENT_IDX, Piece, TestInterrupt, activation, readable, wait_until, writable,
};

const RAM: u64 = 1 << 20;
const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;

struct Bench {
    ram: GuestRam,
    rng: Rng,
    driver: Driver,
    interrupt: Arc<TestInterrupt>,
}

impl Bench {
    /// An activated device.
    fn new(features: u64) -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        let mut bench = Self {
            driver: Driver::new(&ram, RINGS, 8),
            ram,
            rng: Rng::start().unwrap(),
            interrupt: TestInterrupt::new(),
        };
        bench.activate(features);
        bench
    }

    fn activate(&mut self, features: u64) {
        let activation = activation(features, &[&self.driver], &self.interrupt);
        self.rng.activate(activation).unwrap();
    }

    /// The length that a request comes back with.
    fn ask(&mut self, pieces: &[Piece]) -> u32 {
        let head = self.driver.add(pieces);
        self.driver.kick();
        let (id, len) = self.driver.wait_used();
        assert_eq!(id, u32::from(head));
        len
    }

    fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read(addr, &mut bytes).unwrap();
        bytes
    }
}

/// Whether every byte value occurs, as it does in thousands of random bytes.
fn looks_random(bytes: &[u8]) -> bool {
    (0..=255).all(|value| bytes.contains(&value))
}

#[test]
fn buffers_are_filled_to_their_ends() {
    let mut bench = Bench::new(0);
    let pieces = [writable(DATA, 5000), writable(DATA + 6000, 4000)];
    assert_eq!(bench.ask(&pieces), 9000);
    assert!(looks_random(&bench.bytes(DATA, 5000)));
    assert!(looks_random(&bench.bytes(DATA + 6000, 4000)));
    assert_eq!(bench.bytes(DATA + 5000, 1000), [0; 1000]);
    assert_eq!(bench.bytes(DATA + 10000, 1000), [0; 1000]);
    assert!(bench.interrupt.wait() > 0);
    let first = bench.bytes(DATA, 5000);
    bench.ask(&pieces);
    assert_ne!(bench.bytes(DATA, 5000), first);
}

#[test]
fn a_request_gets_no_more_than_the_limit() {
    let mut bench = Bench::new(0);
    let pieces = [writable(DATA, 60_000), writable(DATA + 60_000, 60_000)];
    assert_eq!(bench.ask(&pieces), 65536);
    assert!(looks_random(&bench.bytes(DATA + 60_000, 5536)));
    assert_eq!(bench.bytes(DATA + 65536, 1000), [0; 1000]);
    assert_eq!(bench.ask(&[writable(0x4_0000, u32::MAX)]), 65536);
}

#[test]
fn what_cannot_be_filled_comes_back_empty() {
    let mut bench = Bench::new(0);
    assert_eq!(bench.ask(&[readable(DATA, 100)]), 0);
    assert_eq!(bench.ask(&[writable(DATA, 0)]), 0);
    assert_eq!(bench.ask(&[writable(RAM, 100)]), 0);
    assert_eq!(bench.ask(&[writable(u64::MAX, 100)]), 0);
    assert_eq!(bench.ask(&[writable(DATA, 10), writable(RAM - 1, 9)]), 10);
    assert!(!bench.interrupt.is_broken());
}

#[test]
fn requests_are_answered_in_order_and_many_times() {
    for features in [0, F_EVENT_IDX] {
        let mut bench = Bench::new(features);
        for _ in 0..100 {
            let heads: Vec<_> = (0..8)
                .map(|_| u32::from(bench.driver.add(&[writable(DATA, 16)])))
                .collect();
            bench.driver.kick();
            for head in heads {
                assert_eq!(bench.driver.wait_used(), (head, 16));
            }
        }
    }
}

#[test]
fn nothing_is_touched_while_paused() {
    let mut bench = Bench::new(0);
    bench.ask(&[writable(DATA, 16)]);
    bench.rng.pause();
    bench.ram.write(DATA, &[0; 16]).unwrap();
    bench.driver.add(&[writable(DATA, 16)]);
    bench.driver.kick();
    bench.rng.pause();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(bench.driver.take_used(), None);
    assert_eq!(bench.bytes(DATA, 16), [0; 16]);
    bench.rng.resume();
    assert_eq!(bench.driver.wait_used().1, 16);
}

/// The kick is consumed before the pause, the chain only made available in it.
#[test]
fn a_resumed_device_looks_for_itself() {
    let mut bench = Bench::new(0);
    bench.rng.pause();
    bench.driver.add(&[writable(DATA, 16)]);
    bench.rng.resume();
    assert_eq!(bench.driver.wait_used().1, 16);
}

#[test]
fn a_reset_device_starts_anew() {
    let mut bench = Bench::new(0);
    for _ in 0..1000 {
        bench.driver.add(&[writable(DATA, 16)]);
        bench.driver.kick();
        bench.rng.reset();
        bench.ram.zero(RINGS, 4096).unwrap();
        bench.driver = Driver::new(&bench.ram, RINGS, 8);
        bench.activate(0);
    }
    assert_eq!(bench.ask(&[writable(DATA, 16)]), 16);
    bench.rng.reset();
    bench.driver.add(&[writable(DATA, 16)]);
    bench.driver.kick();
    bench.rng.reset();
    assert_eq!(bench.driver.take_used(), None);
}

#[test]
fn a_broken_queue_waits_for_a_reset() {
    let mut bench = Bench::new(0);
    bench.driver.offer(8);
    bench.driver.kick();
    wait_until("the device gives up", || bench.interrupt.is_broken());
    bench.driver.add(&[writable(DATA, 16)]);
    bench.driver.kick();
    bench.rng.pause();
    bench.rng.resume();
    bench.rng.reset();
    assert_eq!(bench.driver.take_used(), None);
    bench.ram.zero(RINGS, 4096).unwrap();
    bench.driver = Driver::new(&bench.ram, RINGS, 8);
    bench.activate(0);
    assert_eq!(bench.ask(&[writable(DATA, 16)]), 16);
}

/// A driver that has the device busy for ever does not keep it from pausing.
#[test]
fn a_guest_that_never_stops_can_be_paused() {
    let mut bench = Bench::new(0);
    for _ in 0..8 {
        bench.driver.add(&[writable(DATA, 65536)]);
    }
    for round in 0..200 {
        // Each chain that came back goes out again at once.
        while let Some((head, _)) = bench.driver.take_used() {
            bench.driver.offer(head as u16);
        }
        if round % 10 == 0 {
            bench.rng.pause();
            bench.rng.resume();
        }
    }
    bench.rng.reset();
}

#[test]
fn a_device_without_a_queue_is_not_activated() {
    let mut rng = Rng::start().unwrap();
    let empty = activation(0, &[], &TestInterrupt::new());
    let refused = rng.activate(empty);
    assert!(matches!(refused, Err(ActivateError::Queues { .. })));
    assert_eq!(rng.queue_sizes(), [QUEUE_SIZE]);
}
