//! Frames of all kinds from a driver, and the link they reach or not.

use std::num::NonZeroU64;

use super::super::direction::DirectionTotals;
use super::super::testing::{ALL, Answer, Peer, TestPort, link, pattern};
use super::*;
use crate::devices::virtio::rate_limiter::{Rate, RateLimits};
use crate::devices::virtio::testing::{Driver, Piece, readable, writable};

const RAM: u64 = 4 << 20;
const SIZE: u16 = 64;
const AT: u64 = 0x10_0000;

struct Bench {
    ram: GuestRam,
    driver: Driver,
    rings: VirtQueue,
    transmit: Transmit,
    port: TestPort,
    peer: Peer,
    limiter: RateLimiter,
    counters: DirectionCounters,
    agreed: Offloads,
}

impl Bench {
    fn new() -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        let driver = Driver::new(&ram, 0x1_0000, SIZE);
        let (port, peer) = link();
        Self {
            rings: driver.queue(1 << 28),
            transmit: Transmit::new(ram.clone(), SIZE),
            driver,
            port,
            peer,
            limiter: RateLimiter::new(RateLimits::default()),
            counters: DirectionCounters::default(),
            agreed: ALL,
            ram,
        }
    }

    fn run(&mut self, budget: usize) -> Result<Progress, Failed> {
        self.transmit.run(
            &mut self.rings,
            &mut self.port,
            self.agreed,
            &self.limiter,
            &self.counters,
            budget,
        )
    }

    /// Serves all there is.
    fn drain(&mut self) {
        assert_eq!(self.run(1000).unwrap(), Progress::Idle);
    }

    /// Puts `bytes` in memory at `at` and offers them in one piece.
    fn offer(&mut self, at: u64, bytes: &[u8]) -> u16 {
        self.ram.write(at, bytes).unwrap();
        self.driver.add(&[readable(at, bytes.len() as u32)])
    }

    fn totals(&self) -> (u64, u64, u64) {
        let DirectionTotals {
            frames,
            bytes,
            dropped,
        } = self.counters.totals();
        (frames, bytes, dropped)
    }

    /// What is in the ring is dropped, returned, and never reaches the link.
    fn expect_dropped(&mut self, head: u16) {
        let dropped = self.totals().2;
        self.drain();
        assert_eq!(self.driver.take_used(), Some((head.into(), 0)));
        assert_eq!(self.driver.take_used(), None);
        assert_eq!(self.peer.take(), None);
        assert_eq!(self.totals().2, dropped + 1);
    }

    /// What is in the ring reaches the link as `expected`.
    fn expect_sent(&mut self, head: u16, expected: &[u8]) {
        self.drain();
        assert_eq!(self.driver.take_used(), Some((head.into(), 0)));
        assert!(self.peer.take().unwrap() == expected);
        assert_eq!(self.peer.take(), None);
    }
}

/// An empty header and a frame of `len` bytes.
fn frame(seed: u8, len: usize) -> Vec<u8> {
    [vec![0; 12], pattern(seed, len)].concat()
}

#[test]
fn a_frame_reaches_the_link_and_its_chain_the_driver() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(8).unwrap(), Progress::Idle);
    let bytes = frame(1, 60);
    let head = bench.offer(AT, &bytes);
    bench.expect_sent(head, &bytes);
    assert_eq!(bench.totals(), (1, 60, 0));
}

#[test]
fn how_a_frame_lies_over_descriptors_means_nothing() {
    let bytes = frame(2, 40);
    let cuts: [&[usize]; 8] = [
        &[52],
        &[12, 40],
        &[1; 52],
        &[0, 11, 0, 2, 0, 39, 0],
        &[5, 7, 40],
        &[13, 39],
        &[10, 2, 14, 26],
        &[0, 0, 52],
    ];
    for cut in cuts {
        for indirect in [false, true] {
            let mut bench = Bench::new();
            let mut rest = bytes.as_slice();
            let mut pieces = Vec::new();
            // Backwards in memory, and far apart.
            for (index, len) in cut.iter().enumerate() {
                let at = AT - 0x100 * index as u64;
                let (part, behind) = rest.split_at(*len);
                rest = behind;
                // Nothing is read where there are no bytes.
                let addr = if *len == 0 { u64::MAX } else { at };
                bench.ram.write(at, part).unwrap();
                pieces.push(readable(addr, *len as u32));
            }
            assert!(rest.is_empty());
            let head = if indirect {
                bench.driver.add_indirect(0x2_0000, &pieces)
            } else {
                bench.driver.add(&pieces)
            };
            bench.expect_sent(head, &bytes);
        }
    }
}

#[test]
fn frames_are_14_to_65553_bytes_long() {
    let mut bench = Bench::new();
    for len in [0, 1, 13, 65554, 65555, 100_000] {
        let bytes = frame(3, len);
        let head = bench.offer(AT, &bytes);
        bench.expect_dropped(head);
    }
    for len in [14, 15, 1514, 65535, 65553] {
        let bytes = frame(4, len);
        let head = bench.offer(AT, &bytes);
        bench.expect_sent(head, &bytes);
    }
    assert_eq!(bench.totals(), (5, 14 + 15 + 1514 + 65535 + 65553, 6));
}

#[test]
fn chains_with_no_frame_in_them_are_returned() {
    let mut bench = Bench::new();
    bench.ram.write(AT, &frame(5, 200)).unwrap();
    let chains: [&[Piece]; 12] = [
        &[readable(AT, 0)],
        &[readable(AT, 11)],
        &[readable(AT, 12)],
        &[readable(AT, 12), readable(AT, 13)],
        &[writable(AT, 2048)],
        &[readable(AT, 12), writable(AT, 2048)],
        &[readable(RAM - 6, 72)],
        &[readable(RAM - 12, 12), readable(RAM - 59, 60)],
        &[readable(AT, 12), readable(u64::MAX, 60)],
        &[readable(u64::MAX - 5, 60)],
        &[readable(u64::MAX - 11, 12), readable(AT, 60)],
        &[readable(AT, 12), readable(AT, u32::MAX - 12)],
    ];
    for pieces in chains {
        let head = bench.driver.add(pieces);
        bench.expect_dropped(head);
    }
    let bytes = frame(6, 60);
    let head = bench.offer(AT, &bytes);
    bench.expect_sent(head, &bytes);
}

#[test]
fn what_the_device_may_write_stays_as_it_is() {
    let mut bench = Bench::new();
    let bytes = frame(7, 60);
    bench.ram.write(AT, &bytes).unwrap();
    let pieces = [
        readable(AT, 72),
        writable(AT + 0x1000, 64),
        writable(RAM, 9),
    ];
    let head = bench.driver.add(&pieces);
    bench.expect_sent(head, &bytes);
    let mut behind = [0xff; 64];
    bench.ram.read(AT + 0x1000, &mut behind).unwrap();
    assert_eq!(behind, [0; 64]);
}

#[test]
fn headers_are_checked_against_the_frame_and_what_was_agreed_on() {
    // NEEDS_CSUM, TCPv4, hdr_len 54, gso_size 1460, csum_start 34, csum_offset 16.
    let tso = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0xaa, 0xbb];
    let mut bench = Bench::new();
    let bytes = [&tso[..], &pattern(8, 3000)].concat();
    let head = bench.offer(AT, &bytes);
    let mut expected = bytes.clone();
    expected[10..12].copy_from_slice(&[0, 0]);
    bench.expect_sent(head, &expected);
    bench.agreed.tso4 = false;
    let head = bench.offer(AT, &bytes);
    bench.expect_dropped(head);
    // The checksum's last byte is byte 51 of the frame.
    let csum = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
    for (len, sent) in [(52, true), (51, false)] {
        let bytes = [&csum[..], &pattern(9, len)].concat();
        let head = bench.offer(AT, &bytes);
        if sent {
            bench.expect_sent(head, &bytes);
        } else {
            bench.expect_dropped(head);
        }
    }
}

#[test]
fn a_frame_that_has_to_wait_is_sent_once() {
    let mut bench = Bench::new();
    let (first, second) = (frame(10, 60), frame(11, 70));
    bench.offer(AT, &first);
    bench.offer(AT + 0x1000, &second);
    for _ in 0..3 {
        bench.peer.answer(Answer::Later);
        assert_eq!(bench.run(8).unwrap(), Progress::Blocked);
    }
    assert_eq!((bench.driver.used_index(), bench.totals()), (0, (0, 0, 0)));
    bench.drain();
    assert!(bench.peer.take().unwrap() == first);
    assert!(bench.peer.take().unwrap() == second);
    assert_eq!(bench.peer.take(), None);
    assert_eq!(
        (bench.driver.used_index(), bench.totals()),
        (2, (2, 130, 0))
    );
}

#[test]
fn a_full_link_takes_the_rest_when_it_is_read() {
    let mut bench = Bench::new();
    let all: Vec<_> = (0..SIZE as u8).map(|seed| frame(seed, 20_000)).collect();
    for (index, bytes) in all.iter().enumerate() {
        bench.offer(AT + 0x8000 * index as u64, bytes);
    }
    let mut got = Vec::new();
    let mut blocked = 0;
    while bench.run(1000).unwrap() == Progress::Blocked {
        blocked += 1;
        got.extend(bench.peer.take());
    }
    got.extend(std::iter::from_fn(|| bench.peer.take()));
    assert!(blocked > 0);
    assert!(got == all);
    assert_eq!(bench.totals(), (64, 64 * 20_000, 0));
}

#[test]
fn a_frame_the_link_refuses_is_gone() {
    let mut bench = Bench::new();
    bench.peer.answer(Answer::Dropped);
    let head = bench.offer(AT, &frame(12, 60));
    bench.expect_dropped(head);
    assert_eq!(bench.totals(), (0, 0, 1));
}

#[test]
fn a_link_that_is_gone_is_told_of_and_the_rest_is_discarded() {
    let mut bench = Bench::new();
    for index in 0..5 {
        bench.offer(AT + 0x1000 * index, &frame(13, 60));
    }
    bench.peer.answer(Answer::Gone);
    let Err(Failed::Gone(error)) = bench.run(8) else {
        panic!("it is gone");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    assert_eq!((bench.driver.used_index(), bench.totals()), (1, (0, 0, 1)));
    let mut discard = |budget| {
        let counters = &bench.counters;
        let rings = &mut bench.rings;
        bench.transmit.discard(rings, counters, budget).unwrap()
    };
    assert_eq!(discard(3), Progress::More);
    assert_eq!(discard(3), Progress::Idle);
    assert_eq!((bench.driver.used_index(), bench.totals()), (5, (0, 0, 5)));
    assert_eq!(bench.peer.take(), None);
}

#[test]
fn a_frame_that_waits_is_discarded_too() {
    let mut bench = Bench::new();
    let head = bench.offer(AT, &frame(14, 60));
    bench.peer.answer(Answer::Later);
    assert_eq!(bench.run(8).unwrap(), Progress::Blocked);
    let (rings, counters) = (&mut bench.rings, &bench.counters);
    let progress = bench.transmit.discard(rings, counters, 8);
    assert_eq!(progress, Ok(Progress::Idle));
    assert_eq!(bench.driver.take_used(), Some((head.into(), 0)));
    bench.drain();
    assert_eq!((bench.peer.take(), bench.totals()), (None, (0, 0, 1)));
}

#[test]
fn no_more_than_the_budget_is_done_bad_frames_included() {
    let mut bench = Bench::new();
    for len in [60, 5, 60, 5, 60] {
        bench.offer(AT, &frame(15, len));
    }
    assert_eq!(bench.run(0).unwrap(), Progress::More);
    assert_eq!(bench.driver.used_index(), 0);
    assert_eq!(bench.run(2).unwrap(), Progress::More);
    assert_eq!(bench.driver.used_index(), 2);
    assert_eq!(bench.run(3).unwrap(), Progress::More);
    assert_eq!(bench.run(1).unwrap(), Progress::Idle);
    assert_eq!(bench.totals(), (3, 180, 2));
}

#[test]
fn the_limit_holds_frames_back_and_counts_their_bytes() {
    let mut bench = Bench::new();
    let rate = |per_second, burst| Rate {
        per_second: NonZeroU64::new(per_second).unwrap(),
        burst: NonZeroU64::new(burst).unwrap(),
    };
    // Two frames at once, and then one a second.
    bench.limiter.set_limits(RateLimits {
        operations: Some(rate(1, 2)),
        bytes: None,
    });
    for seed in 0..3 {
        bench.offer(AT + 0x1000 * u64::from(seed), &frame(seed, 100));
    }
    let Progress::Wait(time) = bench.run(8).unwrap() else {
        panic!("no wait");
    };
    assert!(time.as_millis() <= 1000 && !time.is_zero());
    assert_eq!(bench.driver.used_index(), 2);
    // The third is as many bytes as may come at once, and the fourth has to wait.
    bench.limiter.set_limits(RateLimits {
        operations: None,
        bytes: Some(rate(1, 100)),
    });
    bench.offer(AT + 0x4000, &frame(9, 100));
    let Progress::Wait(time) = bench.run(8).unwrap() else {
        panic!("no wait");
    };
    assert!(time.as_millis() <= 1000 && !time.is_zero());
    assert_eq!(bench.driver.used_index(), 3);
    bench.limiter.set_limits(RateLimits::default());
    bench.drain();
    let sent: Vec<_> = std::iter::from_fn(|| bench.peer.take()).collect();
    assert!(sent == [frame(0, 100), frame(1, 100), frame(2, 100), frame(9, 100)]);
}

#[test]
fn bad_frames_are_not_charged() {
    let mut bench = Bench::new();
    let once = NonZeroU64::MIN;
    bench.limiter.set_limits(RateLimits {
        operations: Some(Rate {
            per_second: once,
            burst: once,
        }),
        bytes: None,
    });
    for _ in 0..10 {
        bench.offer(AT, &frame(1, 3));
    }
    bench.drain();
    bench.offer(AT, &frame(1, 60));
    bench.drain();
    assert_eq!(bench.totals(), (1, 60, 10));
}

#[test]
fn a_frame_that_waits_goes_back_into_the_ring() {
    let mut bench = Bench::new();
    bench.offer(AT, &frame(1, 60));
    bench.offer(AT + 0x1000, &frame(2, 60));
    bench.transmit.give_back(&mut bench.rings);
    assert_eq!(bench.rings.state().next_available, 0);
    assert_eq!(bench.run(1).unwrap(), Progress::More);
    bench.peer.answer(Answer::Later);
    assert_eq!(bench.run(8).unwrap(), Progress::Blocked);
    assert_eq!(bench.rings.state().next_available, 2);
    bench.transmit.give_back(&mut bench.rings);
    let state = bench.rings.state();
    assert_eq!((state.next_available, state.next_used), (1, 1));
    bench.drain();
    let sent: Vec<_> = std::iter::from_fn(|| bench.peer.take()).collect();
    assert!(sent == [frame(1, 60), frame(2, 60)]);
    assert_eq!(bench.driver.used_index(), 2);
}

#[test]
fn after_a_reset_nothing_of_the_old_queue_is_sent() {
    let mut bench = Bench::new();
    bench.offer(AT, &frame(1, 60));
    bench.peer.answer(Answer::Later);
    assert_eq!(bench.run(8).unwrap(), Progress::Blocked);
    bench.transmit.reset();
    bench.driver = Driver::new(&bench.ram, 0x3_0000, SIZE);
    bench.rings = bench.driver.queue(0);
    bench.drain();
    assert_eq!((bench.peer.take(), bench.driver.used_index()), (None, 0));
}

#[test]
fn a_broken_chain_ends_the_queue() {
    let mut bench = Bench::new();
    let head = bench.driver.add(&[writable(AT, 12), readable(AT, 60)]);
    let failed = bench.run(8);
    let Err(Failed::Queue(QueueError::Chain { head: named })) = failed else {
        panic!("it is broken");
    };
    assert_eq!(named, head);
}

#[test]
fn nothing_is_allocated_for_a_frame() {
    let mut bench = Bench::new();
    let place = bench.transmit.frame.iovecs().as_ptr();
    let pieces: Vec<_> = (0..u64::from(SIZE))
        .map(|at| readable(AT + at, 1))
        .collect();
    bench.driver.add(&pieces);
    bench.peer.answer(Answer::Later);
    assert_eq!(bench.run(8).unwrap(), Progress::Blocked);
    assert_eq!(bench.transmit.frame.iovecs().len(), SIZE as usize - 12);
    assert_eq!(bench.transmit.frame.iovecs().as_ptr(), place);
}
