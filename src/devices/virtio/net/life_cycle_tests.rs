//! Activation, pause, reset and the end, with frames under way.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::super::device_testing::*;
use super::super::link::{Gone, HEADER_LEN, Link, Offloads, Port, Received, Sent};
use super::super::testing::{link, plain};
use super::{Net, NetError, NetOptions};
use crate::devices::virtio::device::{ActivateError, DeviceType, VirtioDevice};
use crate::devices::virtio::rate_limiter::RateLimits;
use crate::devices::virtio::testing::{activation, wait_until};
use crate::memory::{GuestRam, IoBuffers};

const A_WHILE: Duration = Duration::from_millis(20);

fn pairs(pairs: usize) -> Making {
    Making { pairs, ..PLAIN }
}

#[test]
fn the_device_says_what_it_is() {
    let guest = Guest::inactive(pairs(3));
    assert_eq!(guest.net.device_type(), DeviceType::Net);
    assert_eq!(guest.net.queue_sizes(), [256, 256, 256, 256, 256, 256, 64]);
    assert_eq!(guest.net.features() & USUAL, USUAL & !(1 << 29));
    assert_ne!(guest.net.features() & F_MQ, 0);
    let mut config = [0; 12];
    guest.net.read_config(0, &mut config);
    // mac, LINK_UP, three pairs, 1500 bytes.
    assert_eq!(config, [2, 0, 0, 0, 0, 1, 1, 0, 3, 0, 0xdc, 5]);
}

#[test]
fn a_device_needs_a_link_with_an_end() {
    let options = NetOptions {
        mac: [2; 6],
        limits: RateLimits::default(),
        name: "eth7".to_owned(),
    };
    let none = Link {
        ports: Vec::new(),
        watch: None,
        offloads: Offloads::default(),
        mtu: 1500,
    };
    let refused = Net::start(none, GuestRam::new(1 << 20).unwrap(), options);
    let Err(NetError::Pairs { name, pairs: 0 }) = refused else {
        panic!("a device without an end");
    };
    assert_eq!(name, "eth7");
}

#[test]
fn a_device_needs_a_whole_pair_of_queues() {
    let mut guest = Guest::inactive(PLAIN);
    for given in [0, 1] {
        let drivers: Vec<_> = guest.drivers.iter().take(given).collect();
        let refused = guest
            .net
            .activate(activation(USUAL, &drivers, &guest.interrupt));
        let Err(ActivateError::Queues { given: told, .. }) = refused else {
            panic!("activated with {given} queues");
        };
        assert_eq!(told, given);
    }
    guest.net.reset();
    guest.activate(USUAL);
    exchange(&mut guest, 0);
}

/// A frame each way.
fn exchange(guest: &mut Guest, pair: usize) {
    guest.offer(pair, 1);
    guest.receiveq(pair).kick();
    guest.peers[pair].send(&plain(&frame(1, 90)));
    let mut received = None;
    wait_until("a frame arrives", || {
        received = guest.received(pair);
        received.is_some()
    });
    assert_eq!(received.unwrap()[12..], frame(1, 90));
    guest.send(pair, &frame(2, 1514));
    guest.transmitq(pair).kick();
    guest.transmitq(pair).wait_used();
    assert_eq!(guest.peers[pair].take(), Some(plain(&frame(2, 1514))));
}

#[test]
fn nothing_moves_after_a_reset() {
    let mut guest = Guest::new(USUAL);
    guest.offer(0, 8);
    guest.receiveq(0).kick();
    exchange(&mut guest, 0);
    guest.net.reset();
    let (received, sent) = (
        guest.receiveq(0).used_index(),
        guest.transmitq(0).used_index(),
    );
    guest.send(0, &frame(3, 60));
    guest.transmitq(0).kick();
    guest.peers[0].send(&plain(&frame(4, 60)));
    std::thread::sleep(A_WHILE);
    assert_eq!(guest.receiveq(0).used_index(), received);
    assert_eq!(guest.transmitq(0).used_index(), sent);
    assert_eq!(guest.peers[0].take(), None);
    // A new driver gets what was left lying.
    guest.restart(USUAL);
    guest.offer(0, 1);
    guest.receiveq(0).kick();
    assert_eq!(guest.receiveq(0).wait_used().1, 12 + 60);
    exchange(&mut guest, 0);
}

#[test]
fn thousands_of_resets_under_load_leave_nothing_behind() {
    let mut guest = Guest::with(pairs(2), USUAL | F_MQ);
    for round in 0..2000 {
        guest.offer(0, round % 4);
        for number in 0..round % 7 {
            guest.send(0, &frame(number as u8, 100));
        }
        guest.transmitq(0).kick();
        if round % 3 == 0 {
            guest.peers[0].send(&plain(&frame(9, 200)));
        }
        if round % 5 == 0 {
            guest.net.pause();
        }
        guest.restart(USUAL | F_MQ);
        guest.net.reset();
        guest.restart(USUAL | F_MQ);
        while guest.peers[0].take().is_some() {}
    }
    // Frames of former drivers may lie in the socket still.
    guest.offer(0, 256);
    guest.receiveq(0).kick();
    guest.send(0, &frame(7, 64));
    guest.transmitq(0).kick();
    guest.transmitq(0).wait_used();
    assert_eq!(guest.peers[0].take(), Some(plain(&frame(7, 64))));
    assert!(!guest.interrupt.is_broken());
}

#[test]
fn nothing_moves_during_a_pause_and_nothing_is_lost() {
    let mut guest = Guest::new(USUAL);
    guest.offer(0, 16);
    guest.receiveq(0).kick();
    exchange(&mut guest, 0);
    guest.net.pause();
    let (received, sent) = (
        guest.receiveq(0).used_index(),
        guest.transmitq(0).used_index(),
    );
    guest.peers[0].send(&plain(&frame(4, 60)));
    guest.send(0, &frame(3, 60));
    guest.transmitq(0).kick();
    std::thread::sleep(A_WHILE);
    assert_eq!(guest.receiveq(0).used_index(), received);
    assert_eq!(guest.transmitq(0).used_index(), sent);
    assert_eq!(guest.net.counters().totals().overruns, 42);
    guest.net.resume();
    guest.transmitq(0).wait_used();
    assert_eq!(guest.peers[0].take(), Some(plain(&frame(3, 60))));
    assert_eq!(guest.receiveq(0).wait_used().1, 12 + 60);
    guest.net.pause();
    guest.restart(USUAL);
    exchange(&mut guest, 0);
}

/// What a pause leaves is what the queues say: a device that takes them up from the used
/// indices, as one that is restored does, serves every chain that is left.
#[test]
fn chains_that_were_taken_before_a_pause_are_not_lost() {
    let mut guest = Guest::new(USUAL);
    guest.offer(0, 16);
    guest.receiveq(0).kick();
    exchange(&mut guest, 0);
    guest.net.pause();
    let before = guest.receiveq(0).used_index();
    let mut again = guest.activation(USUAL);
    for queue in &mut again.queues {
        let mut state = queue.rings.state();
        let driver = match queue.index {
            2 => &guest.control,
            index => &guest.drivers[usize::from(index)],
        };
        state.next_used = driver.used_index();
        state.next_available = driver.used_index();
        let ram = guest.ram.clone();
        queue.rings =
            crate::devices::virtio::queue::VirtQueue::new(ram, &state, 256, USUAL).unwrap();
    }
    guest.net.reset();
    guest.net.activate(again).unwrap();
    for number in 0..16 {
        guest.peers[0].send(&plain(&frame(number, 300)));
    }
    wait_until("all buffers are used", || {
        guest.receiveq(0).used_index() == before.wrapping_add(16)
    });
    assert!(!guest.interrupt.is_broken());
}

#[test]
fn a_driver_that_breaks_its_queue_is_told_and_may_begin_anew() {
    for queue in [0, 1, 2] {
        let mut guest = Guest::new(USUAL);
        let driver = match queue {
            2 => &mut guest.control,
            queue => &mut guest.drivers[queue],
        };
        // Far more chains than there are descriptors.
        driver.set_available_index(1000);
        driver.kick();
        let interrupt = guest.interrupt.clone();
        wait_until("the device gives up", || interrupt.is_broken());
        guest.net.pause();
        guest.net.resume();
        guest.restart(USUAL);
        exchange(&mut guest, 0);
    }
}

#[test]
fn a_device_ends_at_any_time() {
    drop(Guest::inactive(pairs(2)));
    let mut paused = Guest::with(pairs(2), USUAL | F_MQ);
    paused.net.pause();
    drop(paused);
    let mut busy = Guest::new(USUAL);
    for number in 0..100 {
        busy.send(0, &frame(number, 1000));
    }
    busy.transmitq(0).kick();
    let counters = busy.net.counters();
    drop(busy);
    assert_eq!(counters.totals().overruns, 42);
}

/// A port whose code is wrong.
struct Wrong(Box<dyn Port>);

impl Port for Wrong {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
    fn send(&mut self, _: &[u8; HEADER_LEN], _: &IoBuffers) -> Result<Sent, Gone> {
        panic!("a test makes a port panic");
    }
    fn receive(&mut self, _: &IoBuffers, _: &mut [u8]) -> Result<Received, Gone> {
        Ok(Received::Nothing)
    }
    fn set_offloads(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }
    fn set_enabled(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
    fn system_calls(&self) -> u64 {
        0
    }
}

#[test]
fn code_that_fails_breaks_the_device_and_hangs_nobody() {
    let (port, peer) = link();
    let wrong: Box<dyn Port> = Box::new(Wrong(Box::new(port)));
    let mut guest = Guest::behind(vec![wrong], vec![peer], PLAIN);
    guest.activate(USUAL);
    guest.send(0, &frame(1, 60));
    guest.transmitq(0).kick();
    let interrupt = guest.interrupt.clone();
    wait_until("the device gives up", || interrupt.is_broken());
    guest.net.pause();
    guest.net.resume();
    guest.net.reset();
    let again = guest.activation(USUAL);
    let refused = guest.net.activate(again);
    assert!(matches!(refused, Err(ActivateError::NoThread)));
}
