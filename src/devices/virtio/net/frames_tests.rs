//! Frames through the device's thread: when it sleeps, what wakes it, when it interrupts.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::super::device_testing::*;
use super::super::testing::{Answer, plain};
use crate::devices::virtio::device::VirtioDevice;
use crate::devices::virtio::rate_limiter::{Rate, RateLimits};
use crate::devices::virtio::testing::wait_until;

const A_WHILE: Duration = Duration::from_millis(20);

impl Guest {
    fn wait_received(&mut self) -> Vec<u8> {
        let mut received = None;
        wait_until("a frame arrives", || {
            received = self.received(0);
            received.is_some()
        });
        received.unwrap()
    }

    fn wait_sent(&mut self) -> Vec<u8> {
        let mut sent = None;
        wait_until("a frame is sent", || {
            sent = self.peers[0].take();
            sent.is_some()
        });
        sent.unwrap()
    }

    fn system_calls(&self) -> u64 {
        self.net.counters().totals().system_calls
    }
}

#[test]
fn frames_go_both_ways_and_are_counted() {
    for features in [USUAL, F_MRG, 0] {
        let mut guest = Guest::new(features);
        guest.offer(0, 100);
        guest.receiveq(0).kick();
        for number in 0..50u8 {
            let (there, back) = (
                frame(number, 14 + 30 * usize::from(number)),
                frame(!number, 60),
            );
            guest.send(0, &there);
            guest.transmitq(0).kick();
            assert_eq!(guest.wait_sent(), plain(&there));
            guest.peers[0].send(&plain(&back));
            let received = guest.wait_received();
            // num_buffers is 1 for a driver that has agreed to mergeable buffers.
            assert_eq!(received[10..12], [1, 0]);
            assert_eq!(received[12..], back);
        }
        let totals = guest.net.counters().totals();
        assert_eq!((totals.frames_sent, totals.frames_received), (50, 50));
        assert_eq!(totals.bytes_received, 50 * 60);
        assert_eq!(totals.bytes_sent, 50 * 14 + 30 * (49 * 50 / 2));
        assert_eq!((totals.dropped_sent, totals.dropped_received), (0, 0));
    }
}

#[test]
fn a_batch_is_one_interrupt_for_each_direction_at_most() {
    let mut guest = Guest::new(USUAL);
    guest.offer(0, 32);
    guest.net.pause();
    guest.interrupt.take();
    for number in 0..32 {
        guest.send(0, &frame(number, 100));
        if number < 8 {
            guest.peers[0].send(&plain(&frame(number, 100)));
        }
    }
    // The driver wants one for the first chain of each.
    guest.net.resume();
    for _ in 0..32 {
        guest.transmitq(0).wait_used();
    }
    for _ in 0..8 {
        guest.wait_received();
    }
    guest.net.pause();
    // Both were returned in one round, and share the interrupt.
    assert_eq!(guest.interrupt.take(), 1);
}

#[test]
fn frames_in_quick_succession_take_one_wait_together() {
    let mut guest = Guest::new(USUAL);
    guest.net.pause();
    let before = guest.system_calls();
    for number in 0..200 {
        guest.send(0, &frame(number, 100));
    }
    guest.net.resume();
    for _ in 0..200 {
        guest.transmitq(0).wait_used();
        while guest.peers[0].take().is_some() {}
    }
    guest.net.pause();
    let calls = guest.system_calls() - before;
    // 200 of the port's to send. A few waits, interrupts, looks at the link; more where
    // the socket was full for a moment.
    assert!((200..260).contains(&calls), "{calls} system calls");
}

#[test]
fn a_sleeping_device_wants_one_kick_and_makes_no_system_calls() {
    let mut guest = Guest::new(USUAL);
    for number in 1..5u16 {
        guest.send(0, &frame(1, 60));
        guest.transmitq(0).kick();
        guest.wait_sent();
        // It asks for a kick for the chain after this.
        wait_until("the device sleeps", || {
            guest.transmitq(0).available_event() == number
        });
        // The buffers it has none of it asks for too.
        assert_eq!(guest.receiveq(0).available_event(), 0);
    }
    std::thread::sleep(A_WHILE);
    let calls = guest.system_calls();
    std::thread::sleep(A_WHILE);
    assert_eq!(guest.system_calls(), calls);
}

#[test]
fn without_event_idx_kicks_are_off_while_the_device_is_awake() {
    let mut guest = Guest::new(F_MRG);
    wait_until("the device sleeps", || guest.transmitq(0).used_flags() == 0);
    guest.offer(0, 8);
    guest.receiveq(0).kick();
    // Buffers are there: it needs no kick for more.
    wait_until("the device has buffers", || {
        guest.receiveq(0).used_flags() == 1
    });
    assert_eq!(guest.transmitq(0).used_flags(), 0);
}

#[test]
fn the_link_is_not_read_while_there_are_no_buffers() {
    let mut guest = Guest::new(USUAL);
    for number in 0..5 {
        guest.peers[0].send(&plain(&frame(number, 70)));
    }
    std::thread::sleep(A_WHILE);
    assert_eq!(guest.peers[0].shared().calls, 0);
    // Frames are sent meanwhile.
    guest.send(0, &frame(9, 60));
    guest.transmitq(0).kick();
    guest.wait_sent();
    for number in 0..5 {
        guest.offer(0, 1);
        guest.receiveq(0).kick();
        assert_eq!(guest.wait_received()[12..], frame(number, 70));
    }
    assert_eq!(guest.net.counters().totals().dropped_received, 0);
}

#[test]
fn frames_wait_for_a_link_that_is_full() {
    let mut guest = Guest::new(USUAL);
    guest.peers[0].answer(Answer::Later);
    guest.send(0, &frame(1, 60));
    guest.send(0, &frame(2, 60));
    guest.transmitq(0).kick();
    assert_eq!(guest.wait_sent(), plain(&frame(1, 60)));
    assert_eq!(guest.wait_sent(), plain(&frame(2, 60)));
    // The socket says itself that it is full.
    for number in 0..200 {
        guest.send(0, &frame(number, 1500));
    }
    guest.transmitq(0).kick();
    for number in 0..200 {
        assert_eq!(guest.wait_sent(), plain(&frame(number, 1500)));
    }
    assert_eq!(guest.net.counters().totals().dropped_sent, 0);
}

/// What is sent all the time does not keep what comes from being read.
#[test]
fn a_busy_driver_still_receives() {
    let mut guest = Guest::new(USUAL);
    guest.offer(0, 200);
    guest.receiveq(0).kick();
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut sent, mut received) = (0, 0);
    while received < 100 {
        assert!(Instant::now() < deadline, "{received} of 100 after {sent}");
        if guest.transmitq(0).used_index() == sent as u16 {
            guest.send(0, &frame(1, 60));
            guest.transmitq(0).kick();
            sent += 1;
        }
        if received == 0 || guest.received(0).is_some() {
            received += 1;
            guest.peers[0].send(&plain(&frame(2, 60)));
        }
        while guest.peers[0].take().is_some() {}
    }
}

#[test]
fn a_link_that_is_gone_is_down_for_good_and_takes_no_frames() {
    for receiving in [false, true] {
        let mut guest = Guest::new(USUAL);
        assert_eq!(guest.status(), 1);
        guest.peers[0].answer(Answer::Gone);
        if receiving {
            guest.offer(0, 4);
            guest.receiveq(0).kick();
        }
        for number in 0..100 {
            guest.send(0, &frame(number, 60));
        }
        guest.transmitq(0).kick();
        for _ in 0..100 {
            guest.transmitq(0).wait_used();
        }
        assert_eq!(guest.status(), 0);
        assert_eq!(guest.interrupt.config_changes(), 1);
        assert_eq!(guest.net.counters().totals().dropped_sent, 100);
        guest.news.send(&[1]).unwrap();
        std::thread::sleep(A_WHILE);
        assert_eq!(guest.status(), 0);
        // Nor does a reset bring it back.
        guest.restart(USUAL);
        guest.send(0, &frame(1, 60));
        guest.transmitq(0).kick();
        guest.transmitq(0).wait_used();
        assert_eq!(guest.peers[0].take(), None);
        assert!(!guest.interrupt.is_broken());
    }
}

#[test]
fn each_direction_has_the_limits_to_itself_and_they_can_be_lifted() {
    let three = NonZeroU64::new(3).unwrap();
    let limits = RateLimits {
        operations: Some(Rate {
            per_second: NonZeroU64::MIN,
            burst: three,
        }),
        bytes: None,
    };
    let mut guest = Guest::with(Making { limits, ..PLAIN }, USUAL);
    guest.offer(0, 16);
    guest.receiveq(0).kick();
    for number in 0..8 {
        guest.send(0, &frame(number, 60));
        guest.peers[0].send(&plain(&frame(number, 60)));
    }
    guest.transmitq(0).kick();
    let handle = guest.net.limits();
    for _ in 0..3 {
        guest.wait_sent();
        guest.wait_received();
    }
    std::thread::sleep(A_WHILE);
    assert_eq!(guest.peers[0].take(), None);
    assert_eq!(guest.received(0), None);
    let start = Instant::now();
    handle.set_limits(RateLimits::default());
    for _ in 3..8 {
        guest.wait_sent();
        guest.wait_received();
    }
    assert!(start.elapsed() < Duration::from_millis(900));
}
