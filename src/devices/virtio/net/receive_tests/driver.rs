//! Drivers that break rules or reset the device, links that go, and limits.

use std::num::NonZeroU64;

use super::*;
use crate::devices::virtio::rate_limiter::Rate;
use crate::devices::virtio::testing::{INDIRECT, Piece, readable};

#[test]
fn buffers_that_are_not_ram_or_none_break_the_queue() {
    let chains: [&[Piece]; 6] = [
        &[writable(RAM - 100, 101)],
        &[writable(u64::MAX, 2)],
        &[writable(BUFFERS, 100), writable(RAM, 1)],
        &[writable(BUFFERS, 0)],
        &[readable(BUFFERS, 2048)],
        &[writable(u64::MAX - 9, 10)],
    ];
    for pieces in chains {
        for spilled in [false, true] {
            let mut bench = Bench::new(true, LONGEST);
            if spilled {
                bench.offer(&[1530]);
            }
            let head = bench.driver.add(pieces);
            bench.peer.send(&plain(&pattern(20, 1700)));
            let failed = bench.run(8);
            let Err(Failed::Queue(QueueError::Chain { head: named })) = failed else {
                panic!("{pieces:?} {spilled}: {failed:?}");
            };
            assert_eq!(named, head);
        }
    }
}

#[test]
fn an_index_that_ran_away_ends_the_queue_even_while_a_frame_waits() {
    let mut bench = Bench::new(true, LONGEST);
    bench.offer(&[1530]);
    bench.peer.send(&plain(&pattern(21, 4000)));
    bench.expect(Progress::Blocked);
    bench.driver.set_available_index(1 + SIZE + 1);
    let failed = bench.run(8);
    assert!(matches!(failed, Err(Failed::Queue(QueueError::Available))));
}

/// One chain again and again, as a driver must not: the rest of the ring is all that
/// the device takes of it.
#[test]
fn a_chain_offered_many_times_is_taken_as_often_as_the_queue_is_long() {
    let mut bench = Bench::new(true, LONGEST);
    bench.driver.put(0, BUFFERS, 1, 2, 0);
    for _ in 0..SIZE {
        bench.driver.offer(0);
    }
    bench.peer.send(&plain(&pattern(22, 60)));
    bench.expect(Progress::Idle);
    assert_eq!(bench.totals(), (0, 0, 1));
    bench.driver.put(0, 0x2_0000, 16, INDIRECT, 0);
    bench.driver.put_in(0x2_0000, 0, BUFFERS, 100, 2, 0);
    bench.receive.reset();
    bench.driver = Driver::new(&bench.ram, 0x1_0000, SIZE);
    bench.rings = bench.driver.queue(1 << 28);
    for _ in 0..3 {
        bench.driver.offer(0);
    }
    bench.peer.send(&plain(&pattern(22, 200)));
    bench.expect(Progress::Blocked);
    // Each of the three chains, over the same 100 bytes.
    let used: Vec<_> = std::iter::from_fn(|| bench.driver.take_used()).collect();
    assert_eq!(used, [(0, 100), (0, 100), (0, 12)]);
}

#[test]
fn no_more_than_the_budget_is_done() {
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..SIZE {
        bench.offer(&[2048]);
    }
    for len in [60, 5, 60, 5, 60] {
        bench.peer.send(&plain(&pattern(23, len)));
    }
    assert_eq!(bench.run(0).unwrap(), Progress::More);
    assert_eq!(bench.run(2).unwrap(), Progress::More);
    assert_eq!(bench.totals(), (1, 60, 1));
    assert_eq!(bench.run(3).unwrap(), Progress::More);
    assert_eq!(bench.totals(), (3, 180, 2));
    assert_eq!(bench.run(1).unwrap(), Progress::Idle);
}

#[test]
fn the_limit_leaves_frames_in_the_link() {
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..4 {
        bench.offer(&[2048]);
    }
    let one = |burst| {
        Some(Rate {
            per_second: NonZeroU64::MIN,
            burst: NonZeroU64::new(burst).unwrap(),
        })
    };
    for limits in [
        RateLimits {
            operations: one(1),
            bytes: None,
        },
        RateLimits {
            operations: None,
            bytes: one(100),
        },
    ] {
        bench.limiter.set_limits(limits);
        let calls = bench.peer.shared().calls;
        bench.peer.send(&plain(&pattern(24, 100)));
        bench.peer.send(&plain(&pattern(25, 100)));
        let Progress::Wait(time) = bench.run(8).unwrap() else {
            panic!("no wait");
        };
        assert!(!time.is_zero() && time.as_secs() <= 1);
        assert_eq!(bench.peer.shared().calls, calls + 1);
        assert_eq!(bench.take_frame(), Some(seen(&pattern(24, 100), 1)));
        assert_eq!(bench.take_frame(), None);
        bench.limiter.set_limits(RateLimits::default());
        bench.run(8).unwrap();
        assert_eq!(bench.take_frame(), Some(seen(&pattern(25, 100), 1)));
    }
}

#[test]
fn a_link_that_is_gone_is_told_of() {
    let mut bench = Bench::new(true, LONGEST);
    bench.offer(&[2048]);
    bench.peer.answer(Answer::Gone);
    let Err(Failed::Gone(error)) = bench.run(8) else {
        panic!("it is gone");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    assert_eq!((bench.driver.used_index(), bench.totals()), (0, (0, 0, 0)));
}

#[test]
fn taken_chains_go_back_into_the_ring() {
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..6 {
        bench.offer(&[1000]);
    }
    bench.peer.send(&plain(&pattern(26, 60)));
    bench.expect(Progress::Idle);
    let state = bench.rings.state();
    assert_eq!((state.next_available, state.next_used), (3, 1));
    // 6000 bytes do not fit in the five chains left.
    bench.peer.send(&plain(&pattern(27, 6000)));
    bench.expect(Progress::Blocked);
    bench.receive.give_back(&mut bench.rings, &bench.counters);
    let state = bench.rings.state();
    assert_eq!((state.next_available, state.next_used), (1, 1));
    assert_eq!(bench.totals(), (1, 60, 1));
    assert!(bench.take_frame().is_some());
    let frame = pattern(28, 4000);
    bench.peer.send(&plain(&frame));
    bench.expect(Progress::Blocked);
    assert!(bench.take_frame().unwrap() == seen(&frame, 5));
    bench.receive.give_back(&mut bench.rings, &bench.counters);
    let state = bench.rings.state();
    assert_eq!((state.next_available, state.next_used), (6, 6));
}

#[test]
fn after_a_reset_no_old_buffer_is_written() {
    let mut bench = Bench::new(true, LONGEST);
    bench.offer(&[1530]);
    bench.peer.send(&plain(&pattern(29, 4000)));
    bench.expect(Progress::Blocked);
    bench.ram.write(BUFFERS, &[0xaa; 1530]).unwrap();
    bench.receive.activate(true, LONGEST);
    bench.driver = Driver::new(&bench.ram, 0x3_0000, SIZE);
    bench.rings = bench.driver.queue(0);
    bench.chains.clear();
    bench.offer(&[2048]);
    let frame = pattern(30, 70);
    bench.peer.send(&plain(&frame));
    bench.expect(Progress::Blocked);
    assert_eq!(bench.take_frame(), Some(seen(&frame, 1)));
    let mut old = vec![0; 1530];
    bench.ram.read(BUFFERS, &mut old).unwrap();
    assert!(old.iter().all(|byte| *byte == 0xaa));
}

#[test]
fn nothing_is_allocated_for_a_frame() {
    let mut bench = Bench::new(true, LONGEST);
    let room = |receive: &Receive| {
        let pieces = receive.buffers.iovecs().as_ptr();
        (receive.held.capacity(), pieces, receive.spill.as_ptr())
    };
    let before = room(&bench.receive);
    for round in 0..50 {
        for _ in 0..SIZE {
            bench.offer(&[1000]);
        }
        bench.next = BUFFERS;
        for len in [60, 20_000, 1514, 40_000] {
            bench.peer.send(&plain(&pattern(round, len)));
            bench.run(1).unwrap();
        }
        bench.receive.give_back(&mut bench.rings, &bench.counters);
        bench.receive.activate(true, LONGEST);
        bench.driver = Driver::new(&bench.ram, 0x1_0000, SIZE);
        bench.rings = bench.driver.queue(0);
    }
    assert!(room(&bench.receive) == before);
}
