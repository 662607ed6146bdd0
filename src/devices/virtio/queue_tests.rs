//! Queues as drivers set them up, and hostile ones.

use super::*;
use crate::devices::virtio::testing::{Driver, F_EVENT_IDX, readable, writable};

const RAM: u64 = 1 << 20;
const RINGS: u64 = 0x1_0000;
const SIZE: u16 = 8;

fn driver() -> Driver {
    Driver::new(&GuestRam::new(RAM).unwrap(), RINGS, SIZE)
}

/// Takes all there is, checks their number, and returns it in the order taken.
fn serve(queue: &mut VirtQueue, expected: usize) {
    let mut chain = Chain::with_capacity(SIZE);
    let mut heads = Vec::new();
    while queue.pop(&mut chain).unwrap() {
        heads.push(chain.head);
    }
    assert_eq!(heads.len(), expected);
    for head in heads {
        queue.push_used(head, 0).unwrap();
    }
}

#[test]
fn a_chain_goes_to_the_device_and_back() {
    let mut driver = driver();
    let mut queue = driver.queue(0);
    let mut chain = Chain::with_capacity(SIZE);
    assert_eq!(queue.pop(&mut chain), Ok(false));
    let head = driver.add(&[readable(0x1000, 16), writable(0x2000, 512)]);
    assert_eq!(queue.pop(&mut chain), Ok(true));
    assert_eq!(chain.head, head);
    let buffer = |addr, len| Buffer { addr, len };
    assert_eq!(chain.readable, [buffer(0x1000, 16)]);
    assert_eq!(chain.writable, [buffer(0x2000, 512)]);
    assert_eq!(queue.pop(&mut chain), Ok(false));
    assert!(chain.readable.is_empty() && chain.writable.is_empty());
    queue.push_used(head, 512).unwrap();
    assert_eq!(driver.take_used(), Some((u32::from(head), 512)));
    assert_eq!(driver.take_used(), None);
}

#[test]
fn indexes_wrap_round() {
    let mut driver = driver();
    let mut queue = driver.queue(0);
    for round in 0..3 * 65536 / 5 {
        for _ in 0..5 {
            driver.add(&[writable(0x1000, 1)]);
        }
        serve(&mut queue, 5);
        for _ in 0..5 {
            assert!(driver.take_used().is_some(), "{round}");
        }
    }
}

#[test]
fn a_queue_goes_on_where_its_state_says() {
    let mut driver = driver();
    let mut queue = driver.queue(0);
    for _ in 0..3 {
        driver.add(&[writable(0x1000, 1)]);
    }
    serve(&mut queue, 3);
    let state = queue.state();
    assert_eq!((state.next_available, state.next_used), (3, 3));
    let fresh = driver.state();
    assert_eq!(state.descriptors, fresh.descriptors);
    assert_eq!((state.available, state.used), (fresh.available, fresh.used));
    let mut restored = VirtQueue::new(queue.ram().clone(), &state, SIZE, 0).unwrap();
    driver.add(&[writable(0x1000, 1)]);
    serve(&mut restored, 1);
    assert_eq!(driver.used_index(), 4);
}

#[test]
fn sizes_that_were_not_offered_are_refused() {
    let ram = GuestRam::new(RAM).unwrap();
    for size in [0, 3, 6, 16, 32768, 65535] {
        let mut state = driver().state();
        state.size = size;
        let refused = VirtQueue::new(ram.clone(), &state, SIZE, 0).err();
        assert_eq!(refused, Some(QueueError::Size(size)));
    }
}

#[test]
fn rings_lie_aligned_in_ram() {
    let ram = GuestRam::new(RAM).unwrap();
    type Address = fn(&mut QueueState) -> &mut u64;
    // (alignment, length in bytes) of each for 8 descriptors, by §2.7.
    let parts: [(u64, u64, Address); 3] = [
        (16, 128, |state| &mut state.descriptors),
        (2, 22, |state| &mut state.available),
        (4, 70, |state| &mut state.used),
    ];
    for (align, len, part) in parts {
        let try_at = |addr| {
            let mut state = driver().state();
            *part(&mut state) = addr;
            VirtQueue::new(ram.clone(), &state, SIZE, 0).map(|_| ())
        };
        let last = (RAM - len) / align * align;
        assert_eq!(try_at(last), Ok(()));
        let at_zero = if align == 2 {
            Err(QueueError::Rings)
        } else {
            Ok(())
        };
        assert_eq!(try_at(0), at_zero);
        for addr in [
            last + align,
            RAM,
            last + align / 2,
            u64::MAX - align + 1,
            1 << 63,
        ] {
            assert_eq!(try_at(addr), Err(QueueError::Rings), "{addr:#x}");
        }
    }
}

#[test]
fn an_available_index_that_ran_away_ends_the_queue() {
    let mut chain = Chain::with_capacity(SIZE);
    for (index, expected) in [(8, Ok(true)), (9, Err(QueueError::Available))] {
        let mut driver = driver();
        let mut queue = driver.queue(0);
        driver.put(0, 0x1000, 1, 0, 0);
        driver.set_available_index(index);
        assert_eq!(queue.pop(&mut chain), expected, "{index}");
    }
    // Backwards, with chains in flight and without.
    let mut driver = driver();
    let mut queue = driver.queue(0);
    for _ in 0..3 {
        driver.add(&[writable(0x1000, 1)]);
        assert_eq!(queue.pop(&mut chain), Ok(true));
    }
    driver.set_available_index(2);
    assert_eq!(queue.pop(&mut chain), Err(QueueError::Available));
    for head in 0..3 {
        queue.push_used(head, 0).unwrap();
    }
    assert_eq!(queue.pop(&mut chain), Err(QueueError::Available));
}

#[test]
fn no_more_chains_are_in_flight_than_there_are_descriptors() {
    let mut driver = driver();
    let mut queue = driver.queue(0);
    let mut chain = Chain::with_capacity(SIZE);
    for _ in 0..SIZE {
        driver.add(&[writable(0x1000, 1)]);
        assert_eq!(queue.pop(&mut chain), Ok(true));
    }
    assert_eq!(queue.pop(&mut chain), Ok(false));
    driver.offer(0);
    assert_eq!(queue.pop(&mut chain), Err(QueueError::Available));
}

#[test]
fn a_broken_chain_is_named() {
    let mut driver = driver();
    let mut queue = driver.queue(0);
    driver.put(5, 0x1000, 1, 1, 5);
    driver.offer(5);
    let mut chain = Chain::with_capacity(SIZE);
    let broken = queue.pop(&mut chain);
    assert_eq!(broken, Err(QueueError::Chain { head: 5 }));
    driver.offer(SIZE);
    let broken = queue.pop(&mut chain);
    assert_eq!(broken, Err(QueueError::Chain { head: SIZE }));
}

/// §2.7.7.2 without EVENT_IDX.
#[test]
fn a_driver_that_polls_gets_no_interrupts() {
    let driver = driver();
    let mut queue = driver.queue(0);
    assert!(!queue.needs_interrupt().unwrap());
    queue.push_used(0, 0).unwrap();
    assert!(queue.needs_interrupt().unwrap());
    driver.set_available_flags(1);
    queue.push_used(0, 0).unwrap();
    assert!(!queue.needs_interrupt().unwrap());
    driver.set_available_flags(0);
    assert!(!queue.needs_interrupt().unwrap());
    queue.push_used(0, 0).unwrap();
    assert!(queue.needs_interrupt().unwrap());
}

/// §2.7.7.2 with EVENT_IDX: an interrupt when the index goes past `used_event`,
/// however many chains come back at once; the flags mean nothing.
#[test]
fn an_interrupt_comes_when_the_event_is_passed() {
    let driver = driver();
    let mut queue = driver.queue(F_EVENT_IDX);
    driver.set_available_flags(1);
    let mut push = |count, event| {
        driver.set_used_event(event);
        for _ in 0..count {
            queue.push_used(0, 0).unwrap();
        }
        queue.needs_interrupt().unwrap()
    };
    // The index: 1, 2, 5, 5, 6, 13.
    assert!(push(1, 0));
    assert!(!push(1, 2));
    assert!(push(3, 2));
    assert!(!push(0, 4));
    assert!(!push(1, 4));
    assert!(push(7, 12));
    // Through the wrap of the index: from 13 on to 65535, to 1.
    assert!(!push(65535 - 13, 65535));
    assert!(push(2, 65535));
    assert!(!push(1, 65535));
}

#[test]
fn kicks_are_asked_for_by_flag() {
    let mut driver = driver();
    let mut queue = driver.queue(0);
    queue.disable_kicks().unwrap();
    assert_eq!(driver.used_flags(), 1);
    assert!(!queue.enable_kicks().unwrap());
    assert_eq!(driver.used_flags(), 0);
    queue.disable_kicks().unwrap();
    driver.add(&[writable(0x1000, 1)]);
    assert!(queue.enable_kicks().unwrap());
    assert_eq!((driver.used_flags(), driver.available_event()), (0, 0));
}

#[test]
fn kicks_are_asked_for_by_event() {
    let mut driver = driver();
    let mut queue = driver.queue(F_EVENT_IDX);
    for _ in 0..3 {
        driver.add(&[writable(0x1000, 1)]);
    }
    serve(&mut queue, 3);
    queue.disable_kicks().unwrap();
    assert!(!queue.enable_kicks().unwrap());
    assert_eq!((driver.used_flags(), driver.available_event()), (0, 3));
    driver.add(&[writable(0x1000, 1)]);
    assert!(queue.enable_kicks().unwrap());
}

#[test]
fn chains_are_returned_together() {
    let mut driver = driver();
    let mut queue = driver.queue(0);
    for round in 0..7 {
        for _ in 0..5 {
            driver.add(&[writable(0x1000, 1)]);
        }
        let mut chain = Chain::with_capacity(SIZE);
        let mut heads = Vec::new();
        while queue.pop(&mut chain).unwrap() {
            heads.push(chain.head);
        }
        let index = driver.used_index();
        let all = heads.iter().enumerate().map(|(nth, head)| {
            assert_eq!(driver.used_index(), index, "none is seen before the last");
            (*head, 100 + nth as u32)
        });
        queue.push_used_together(all).unwrap();
        assert_eq!(driver.used_index(), 5 * (round + 1));
        assert_eq!(queue.state().next_used, 5 * (round + 1));
        for (nth, head) in heads.iter().enumerate() {
            let expected = (u32::from(*head), 100 + nth as u32);
            assert_eq!(driver.take_used(), Some(expected));
        }
        assert_eq!(driver.take_used(), None);
    }
    queue.push_used_together([]).unwrap();
    assert_eq!(driver.used_index(), 35);
}

/// The event may be any of those returned together.
#[test]
fn one_interrupt_is_for_all_that_were_returned_together() {
    for (event, wanted) in [(0, true), (3, true), (4, true), (5, false), (65535, false)] {
        let mut driver = driver();
        let mut queue = driver.queue(F_EVENT_IDX);
        driver.set_used_event(event);
        let mut chain = Chain::with_capacity(SIZE);
        for _ in 0..5 {
            driver.add(&[writable(0x1000, 1)]);
            assert_eq!(queue.pop(&mut chain), Ok(true));
        }
        queue.push_used(0, 1).unwrap();
        queue
            .push_used_together((1..5).map(|head| (head, 1)))
            .unwrap();
        assert_eq!(queue.needs_interrupt(), Ok(wanted), "{event}");
        assert_eq!(queue.needs_interrupt(), Ok(false));
    }
}

#[test]
fn chains_that_are_put_back_are_taken_again() {
    let mut driver = driver();
    let mut queue = driver.queue(0);
    let heads: Vec<_> = (0..6)
        .map(|nth| driver.add(&[writable(0x1000 * nth, 1)]))
        .collect();
    let mut chain = Chain::with_capacity(SIZE);
    for _ in 0..4 {
        assert_eq!(queue.pop(&mut chain), Ok(true));
    }
    queue.push_used(heads[0], 1).unwrap();
    queue.untake(2);
    assert_eq!(queue.state().next_available, 2);
    assert_eq!(queue.has_more(), Ok(true));
    for head in &heads[2..] {
        assert_eq!(queue.pop(&mut chain), Ok(true));
        assert_eq!(chain.head, *head);
    }
    // What was returned cannot be put back.
    queue.untake(100);
    assert_eq!(queue.state().next_available, 1);
}
