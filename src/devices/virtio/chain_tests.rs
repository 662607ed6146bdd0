//! Chains sound and broken, each as a driver would put it into memory.

use super::*;
use crate::devices::virtio::queue::{QueueError, VirtQueue};
use crate::devices::virtio::testing::{
    Driver, F_INDIRECT, INDIRECT, NEXT, Piece, WRITE, readable, writable,
};

const RAM: u64 = 1 << 20;
const RINGS: u64 = 0x1_0000;
const TABLE: u64 = 0x2_0000;
const DATA: u64 = 0x3_0000;
/// What the driver chose, and the largest that the device offers.
const SIZE: u16 = 8;
const LONGEST: u16 = 16;

struct Bench {
    driver: Driver,
    queue: VirtQueue,
    chain: Chain,
}

impl Bench {
    fn new(features: u64) -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        let driver = Driver::new(&ram, RINGS, SIZE);
        Self {
            queue: VirtQueue::new(ram, &driver.state(), LONGEST, features).unwrap(),
            driver,
            chain: Chain::with_capacity(LONGEST),
        }
    }

    /// Whether the next chain is sound; it leaves the storage as large as it was.
    fn is_sound(&mut self) -> bool {
        let sound = match self.queue.pop(&mut self.chain) {
            Ok(true) => true,
            Err(QueueError::Chain { .. }) => false,
            other => panic!("{other:?}"),
        };
        let room = usize::from(LONGEST);
        assert_eq!(self.chain.readable.capacity(), room);
        assert_eq!(self.chain.writable.capacity(), room);
        // Whatever came: so that the next one may.
        self.queue.push_used(0, 0).unwrap();
        sound
    }

    fn lengths(&self) -> (Vec<u32>, Vec<u32>) {
        let of = |buffers: &[Buffer]| buffers.iter().map(|buffer| buffer.len).collect();
        (of(&self.chain.readable), of(&self.chain.writable))
    }
}

fn bytes(lens: &[u32]) -> Vec<Piece> {
    lens.iter().map(|len| readable(DATA, *len)).collect()
}

#[test]
fn buffers_keep_their_order() {
    let mut bench = Bench::new(0);
    let pieces = [
        readable(DATA, 1),
        readable(DATA, 0),
        readable(u64::MAX, 3),
        writable(DATA, 0),
        writable(DATA, 5),
    ];
    bench.driver.add(&pieces);
    assert!(bench.is_sound());
    assert_eq!(bench.lengths(), (vec![1, 0, 3], vec![0, 5]));
    assert_eq!(bench.chain.readable[2].addr, u64::MAX);
}

#[test]
fn a_chain_may_use_the_whole_table_but_not_loop() {
    let mut bench = Bench::new(0);
    bench.driver.add(&bytes(&[1, 2, 3, 4, 5, 6, 7, 8]));
    assert!(bench.is_sound());
    assert_eq!(bench.chain.readable.len(), 8);
    bench.driver.put(7, DATA, 8, NEXT, 0);
    bench.driver.offer(0);
    assert!(!bench.is_sound());
    bench.driver.put(3, DATA, 1, NEXT, 3);
    bench.driver.offer(3);
    assert!(!bench.is_sound());
}

#[test]
fn indexes_stay_within_the_table() {
    let mut bench = Bench::new(0);
    for (head, next) in [(SIZE, 0), (u16::MAX, 0), (0, SIZE), (0, u16::MAX)] {
        bench.driver.put(0, DATA, 1, NEXT, next);
        bench.driver.offer(head);
        assert!(!bench.is_sound(), "{head} {next}");
    }
    // What follows the last descriptor is not looked at.
    bench.driver.put(0, DATA, 1, 0, u16::MAX);
    bench.driver.offer(0);
    assert!(bench.is_sound());
}

/// §2.7.4.2.
#[test]
fn readable_buffers_come_first() {
    let mut bench = Bench::new(0);
    bench.driver.add(&[writable(DATA, 1), readable(DATA, 1)]);
    assert!(!bench.is_sound());
    bench.driver.add(&[writable(DATA, 0), readable(DATA, 0)]);
    assert!(!bench.is_sound());
}

/// §2.7.5.2: 2^32 bytes are allowed, more are not.
#[test]
fn a_chain_has_at_most_four_gib() {
    let mut bench = Bench::new(0);
    bench.driver.add(&bytes(&[u32::MAX, 1]));
    assert!(bench.is_sound());
    bench.driver.add(&bytes(&[u32::MAX, 2]));
    assert!(!bench.is_sound());
    bench.driver.add(&bytes(&[1 << 31, 1 << 31, 0, 0]));
    assert!(bench.is_sound());
    bench
        .driver
        .add(&[readable(DATA, u32::MAX), writable(DATA, u32::MAX)]);
    assert!(!bench.is_sound());
}

#[test]
fn indirect_tables_are_walked() {
    let mut bench = Bench::new(F_INDIRECT);
    let pieces = [readable(DATA, 16), writable(DATA, 512), writable(DATA, 1)];
    let head = bench.driver.add_indirect(TABLE, &pieces);
    assert!(bench.is_sound());
    assert_eq!(bench.chain.head, head);
    assert_eq!(bench.lengths(), (vec![16], vec![512, 1]));
}

/// §2.7.5.3.2: normal descriptors, then the table, whose write flag means nothing.
#[test]
fn a_table_may_follow_descriptors() {
    let mut bench = Bench::new(F_INDIRECT);
    bench.driver.put(0, DATA, 1, NEXT, 1);
    bench.driver.put(1, TABLE, 32, INDIRECT | WRITE, 0);
    bench.driver.put_in(TABLE, 0, DATA, 2, NEXT, 1);
    bench.driver.put_in(TABLE, 1, DATA, 3, WRITE, 0);
    bench.driver.offer(0);
    assert!(bench.is_sound());
    assert_eq!(bench.lengths(), (vec![1, 2], vec![3]));
    // The order of readable and writable spans both.
    bench.driver.put(0, DATA, 1, NEXT | WRITE, 1);
    bench.driver.offer(0);
    assert!(!bench.is_sound());
}

/// §2.7.5.3.1.
#[test]
fn broken_tables_end_the_queue() {
    let mut bench = Bench::new(F_INDIRECT);
    bench.driver.put_in(TABLE, 0, DATA, 1, 0, 0);
    bench.driver.put(1, DATA, 1, 0, 0);
    let cases = [
        ("none", TABLE, 0, INDIRECT),
        ("a part", TABLE, 8, INDIRECT),
        ("one and a part", TABLE, 17, INDIRECT),
        ("one more behind it", TABLE, 16, INDIRECT | NEXT),
        ("outside", RAM, 16, INDIRECT),
        ("half outside", RAM - 8, 16, INDIRECT),
        ("at the end of all", u64::MAX - 7, 16, INDIRECT),
    ];
    for (what, addr, len, flags) in cases {
        bench.driver.put(0, addr, len, flags, 1);
        bench.driver.offer(0);
        assert!(!bench.is_sound(), "{what}");
    }
    bench.driver.put(0, TABLE, 16, INDIRECT, 1);
    bench.driver.offer(0);
    assert!(bench.is_sound());
}

#[test]
fn tables_do_not_nest() {
    let mut bench = Bench::new(F_INDIRECT);
    bench.driver.put(0, TABLE, 16, INDIRECT, 0);
    bench.driver.put_in(TABLE, 0, TABLE, 16, INDIRECT, 0);
    bench.driver.offer(0);
    assert!(!bench.is_sound());
}

#[test]
fn a_table_needs_the_feature() {
    let mut bench = Bench::new(0);
    bench.driver.add_indirect(TABLE, &[readable(DATA, 1)]);
    assert!(!bench.is_sound());
}

/// The device's largest queue size is the limit, whatever size the driver chose.
#[test]
fn an_indirect_chain_is_no_longer_than_the_device_allows() {
    let mut bench = Bench::new(F_INDIRECT);
    let mut pieces = vec![readable(DATA, 1); 16];
    bench.driver.add_indirect(TABLE, &pieces);
    assert!(bench.is_sound());
    pieces.push(readable(DATA, 1));
    bench.driver.add_indirect(TABLE, &pieces);
    assert!(!bench.is_sound());
    // A loop in a table as large as can be.
    bench.driver.put(0, 0, (RAM as u32) & !15, INDIRECT, 0);
    bench.driver.put_in(0, 0, DATA, 0, NEXT, 0);
    bench.driver.offer(0);
    assert!(!bench.is_sound());
}

#[test]
fn indexes_stay_within_an_indirect_table() {
    let mut bench = Bench::new(F_INDIRECT);
    bench.driver.put(0, TABLE, 32, INDIRECT, 0);
    bench.driver.put_in(TABLE, 0, DATA, 1, NEXT, 2);
    bench.driver.put_in(TABLE, 2, DATA, 1, 0, 0);
    bench.driver.offer(0);
    assert!(!bench.is_sound());
    bench.driver.put(0, TABLE, 48, INDIRECT, 0);
    bench.driver.offer(0);
    assert!(bench.is_sound());
}

#[test]
fn flags_without_meaning_are_ignored() {
    let mut bench = Bench::new(F_INDIRECT);
    bench.driver.put(0, DATA, 1, 0xfff8, 0);
    bench.driver.offer(0);
    assert!(bench.is_sound());
    assert_eq!(bench.lengths(), (vec![1], vec![]));
}

/// Those of a table are not the queue's.
#[test]
fn the_queues_own_descriptors_are_counted() {
    let mut bench = Bench::new(F_INDIRECT);
    bench.driver.add(&[readable(DATA, 1); 3]);
    assert!(bench.is_sound());
    assert_eq!(bench.chain.descriptors, 3);
    bench.driver.add_indirect(TABLE, &[readable(DATA, 1); 7]);
    assert!(bench.is_sound());
    assert_eq!(bench.chain.descriptors, 1);
    bench.driver.put(6, DATA, 1, NEXT, 7);
    bench.driver.put(7, TABLE, 7 * 16, INDIRECT, 0);
    bench.driver.offer(6);
    assert!(bench.is_sound());
    assert_eq!(bench.chain.descriptors, 2);
}
