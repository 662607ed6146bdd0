//! Frames for drivers with buffers of all sizes, too few of them, and broken ones.

mod driver;
mod room;

use std::collections::HashMap;

use super::super::direction::DirectionTotals;
use super::super::testing::{Answer, Peer, TestPort, link, pattern, plain};
use super::*;
use crate::devices::virtio::rate_limiter::RateLimits;
use crate::devices::virtio::testing::{Driver, writable};

const RAM: u64 = 8 << 20;
const SIZE: u16 = 64;
/// Where buffers are, the next behind the last.
const BUFFERS: u64 = 0x10_0000;

/// The header a driver sees before a frame in so many chains, from a link that leaves
/// nothing to do.
fn seen(frame: &[u8], chains: u8) -> Vec<u8> {
    let mut bytes = plain(frame);
    bytes[10] = chains;
    bytes
}

struct Bench {
    ram: GuestRam,
    driver: Driver,
    rings: VirtQueue,
    receive: Receive,
    port: TestPort,
    peer: Peer,
    limiter: RateLimiter,
    counters: DirectionCounters,
    /// Where the chains are that the device has, by their head.
    chains: HashMap<u32, Vec<(u64, u32)>>,
    next: u64,
}

impl Bench {
    fn new(mergeable: bool, longest: usize) -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        let driver = Driver::new(&ram, 0x1_0000, SIZE);
        let (port, peer) = link();
        let mut receive = Receive::new(ram.clone(), SIZE);
        receive.activate(mergeable, longest);
        Self {
            rings: driver.queue(1 << 28),
            receive,
            driver,
            port,
            peer,
            limiter: RateLimiter::new(RateLimits::default()),
            counters: DirectionCounters::default(),
            chains: HashMap::new(),
            next: BUFFERS,
            ram,
        }
    }

    fn run(&mut self, budget: usize) -> Result<Progress, Failed> {
        let (rings, port) = (&mut self.rings, &mut self.port);
        self.receive
            .run(rings, port, &self.limiter, &self.counters, budget)
    }

    fn expect(&mut self, progress: Progress) {
        assert_eq!(self.run(1000).unwrap(), progress);
    }

    /// Offers a chain of pieces of these lengths.
    fn offer(&mut self, lens: &[u32]) {
        let mut pieces = Vec::new();
        let mut places = Vec::new();
        for len in lens {
            let fill = vec![0xee; *len as usize];
            self.ram.write(self.next, &fill).unwrap();
            pieces.push(writable(self.next, *len));
            places.push((self.next, *len));
            self.next += u64::from(*len) + 8;
        }
        let head = self.driver.add(&pieces);
        self.chains.insert(head.into(), places);
    }

    /// What the next chain that came back holds, of the length that it says.
    fn take_chain(&mut self) -> Option<Vec<u8>> {
        let (head, written) = self.driver.take_used()?;
        let mut bytes = Vec::new();
        for (at, len) in self.chains.remove(&head).expect("it was offered") {
            let mut piece = vec![0; len as usize];
            self.ram.read(at, &mut piece).unwrap();
            bytes.extend(piece);
        }
        bytes.truncate(written as usize);
        assert_eq!(bytes.len(), written as usize, "more than the chain has");
        Some(bytes)
    }

    /// The next frame as a driver reads it, in how many chains its header says.
    fn take_frame(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.take_chain()?;
        for _ in 1..bytes[10] {
            bytes.extend(self.take_chain().expect("num_buffers says so"));
        }
        Some(bytes)
    }

    fn totals(&self) -> (u64, u64, u64) {
        let DirectionTotals {
            frames,
            bytes,
            dropped,
        } = self.counters.totals();
        (frames, bytes, dropped)
    }
}

/// Sends one frame to a driver that offers `chains`, and gives what it sees.
fn once(chains: &[&[u32]], len: usize) -> Vec<Vec<u8>> {
    let mut bench = Bench::new(true, LONGEST);
    for lens in chains {
        bench.offer(lens);
    }
    let frame = pattern(3, len);
    bench.peer.send(&plain(&frame));
    bench.run(2).unwrap();
    assert_eq!(bench.totals(), (1, len as u64, 0));
    let got: Vec<_> = std::iter::from_fn(|| bench.take_chain()).collect();
    assert!(got.concat() == seen(&frame, got.len() as u8), "{chains:?}");
    got
}

fn lens(chains: &[Vec<u8>]) -> Vec<usize> {
    chains.iter().map(Vec::len).collect()
}

#[test]
fn a_frame_reaches_the_driver() {
    for mergeable in [false, true] {
        let mut bench = Bench::new(mergeable, LONGEST);
        bench.offer(&[1536]);
        bench.expect(Progress::Idle);
        let frame = pattern(1, 60);
        bench.peer.send(&plain(&frame));
        bench.expect(Progress::Blocked);
        assert_eq!(bench.take_chain(), Some(seen(&frame, 1)));
        assert_eq!(bench.take_chain(), None);
        assert_eq!(bench.totals(), (1, 60, 0));
    }
}

#[test]
fn the_links_header_is_passed_on() {
    let mut bench = Bench::new(true, LONGEST);
    bench.offer(&[2048]);
    let header = [1, 0x81, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0x55, 0x55];
    let frame = pattern(2, 1500);
    bench.peer.send(&[&header[..], &frame].concat());
    bench.expect(Progress::Blocked);
    let got = bench.take_chain().unwrap();
    assert_eq!(got[..10], header[..10]);
    assert_eq!(got[10..12], [1, 0]);
    assert!(got[12..] == frame);
}

#[test]
fn a_frame_fills_chains_up_to_the_boundary_and_goes_on_in_the_next() {
    assert_eq!(lens(&once(&[&[100], &[100]], 87)), [99]);
    assert_eq!(lens(&once(&[&[100], &[100]], 88)), [100]);
    assert_eq!(lens(&once(&[&[100], &[100]], 89)), [100, 1]);
    assert_eq!(lens(&once(&[&[100], &[1], &[100]], 89)), [100, 1]);
    assert_eq!(lens(&once(&[&[100], &[1], &[100]], 90)), [100, 1, 1]);
    assert_eq!(lens(&once(&[&[100], &[100]], 188)), [100, 100]);
}

#[test]
fn the_header_may_be_cut_anywhere() {
    assert_eq!(lens(&once(&[&[1; 12], &[100]], 60)), [12, 60]);
    assert_eq!(lens(&once(&[&[0, 5, 0, 6, 0, 1, 0], &[100]], 60)), [12, 60]);
    assert_eq!(lens(&once(&[&[11, 1, 30], &[100]], 60)), [42, 30]);
    assert_eq!(lens(&once(&[&[10], &[1], &[1], &[90]], 60)), [10, 1, 1, 60]);
    let ones: [&[u32]; 40] = [&[1]; 40];
    assert_eq!(lens(&once(&ones, 28)), [1; 40]);
}

/// The first readv is offered what a standard frame needs: 1530 bytes.
#[test]
fn what_spills_goes_on_where_the_offered_chains_end() {
    let spilling: [&[u32]; 3] = [&[1530], &[1000, 530], &[1, 1529]];
    for first in spilling {
        assert_eq!(lens(&once(&[first, &[4000]], 1518)), [1530]);
        assert_eq!(lens(&once(&[first, &[4000]], 1519)), [1530, 1]);
        assert_eq!(lens(&once(&[first, &[4000]], 1520)), [1530, 2]);
        let more = |len| lens(&once(&[first, &[300, 700], &[1], &[9]], len));
        assert_eq!(more(2518), [1530, 1000]);
        assert_eq!(more(2519), [1530, 1000, 1]);
        assert_eq!(more(2521), [1530, 1000, 1, 2]);
    }
}

#[test]
fn the_longest_frame_fits_and_no_longer_one() {
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..SIZE {
        bench.offer(&[1536]);
    }
    let frame = pattern(4, 65553);
    bench.peer.send(&plain(&frame));
    bench.expect(Progress::Idle);
    // 65565 bytes by 1536.
    assert!(bench.take_frame().unwrap() == seen(&frame, 43));
    bench.peer.send(&plain(&pattern(4, 65554)));
    bench.expect(Progress::Idle);
    assert_eq!(bench.take_frame(), None);
    assert_eq!(bench.totals(), (1, 65553, 1));
}

#[test]
fn what_is_no_frame_is_dropped() {
    for mergeable in [false, true] {
        let mut bench = Bench::new(mergeable, LONGEST);
        bench.offer(&[2048]);
        for len in [0, 1, 13] {
            bench.peer.send(&plain(&pattern(5, len)));
        }
        bench.peer.send(&[0; 11]);
        bench.peer.send(&[]);
        bench.expect(Progress::Idle);
        assert_eq!((bench.driver.used_index(), bench.totals()), (0, (0, 0, 5)));
        let frame = pattern(6, 14);
        bench.peer.send(&plain(&frame));
        bench.run(2).unwrap();
        assert_eq!(bench.take_frame(), Some(seen(&frame, 1)));
    }
}

/// More than the link was given room for.
#[test]
fn a_link_that_claims_nonsense_costs_a_frame() {
    for claim in [LONGEST + 1, 1 << 40, usize::MAX] {
        let mut bench = Bench::new(true, LONGEST);
        bench.offer(&[2048]);
        bench.peer.answer(Answer::Claim(claim));
        bench.peer.send(&plain(&pattern(5, 60)));
        bench.expect(Progress::Idle);
        assert_eq!((bench.driver.used_index(), bench.totals()), (0, (0, 0, 1)));
    }
}
