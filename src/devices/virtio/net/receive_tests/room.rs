//! How much is taken of the ring, and what happens where that is not enough.

use super::*;

#[test]
fn without_mergeable_buffers_a_frame_has_one_chain_or_none() {
    let mut bench = Bench::new(false, LONGEST);
    bench.offer(&[100]);
    bench.offer(&[2000]);
    bench.peer.send(&plain(&pattern(7, 89)));
    bench.expect(Progress::Idle);
    assert_eq!((bench.driver.used_index(), bench.totals()), (0, (0, 0, 1)));
    let (first, second) = (pattern(8, 88), pattern(9, 89));
    bench.peer.send(&plain(&first));
    bench.peer.send(&plain(&second));
    bench.expect(Progress::Blocked);
    assert_eq!(bench.take_chain(), Some(seen(&first, 1)));
    assert_eq!(bench.take_chain(), Some(seen(&second, 1)));
    assert_eq!(bench.totals(), (2, 177, 1));
}

#[test]
fn tiny_buffers_without_mergeable_ones_only_lose_frames() {
    let mut bench = Bench::new(false, LONGEST);
    for _ in 0..SIZE {
        bench.offer(&[1]);
    }
    for seed in 0..20 {
        bench.peer.send(&plain(&pattern(seed, 60)));
        bench.expect(Progress::Idle);
    }
    assert_eq!((bench.driver.used_index(), bench.totals()), (0, (0, 0, 20)));
}

#[test]
fn where_there_are_no_buffers_the_link_is_not_read() {
    for mergeable in [false, true] {
        let mut bench = Bench::new(mergeable, LONGEST);
        let frame = pattern(10, 60);
        bench.peer.send(&plain(&frame));
        bench.expect(Progress::Blocked);
        assert_eq!(bench.peer.shared().calls, 0);
        bench.offer(&[200]);
        bench.expect(Progress::Blocked);
        assert_eq!(bench.peer.shared().calls, 1);
        assert_eq!(bench.take_frame(), Some(seen(&frame, 1)));
    }
}

/// `num_buffers` would have no place.
#[test]
fn buffers_without_room_for_a_header_wait_for_more() {
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..11 {
        bench.offer(&[1]);
    }
    let frame = pattern(11, 14);
    bench.peer.send(&plain(&frame));
    bench.expect(Progress::Blocked);
    assert_eq!(bench.peer.shared().calls, 0);
    bench.offer(&[1]);
    bench.expect(Progress::Blocked);
    assert_eq!(bench.driver.used_index(), 0);
    bench.offer(&[13]);
    bench.expect(Progress::Blocked);
    assert_eq!(bench.driver.used_index(), 0);
    bench.offer(&[13]);
    bench.expect(Progress::Blocked);
    let got: Vec<_> = std::iter::from_fn(|| bench.take_chain()).collect();
    assert_eq!(got.len(), 14);
    assert_eq!(got.concat(), seen(&frame, 14));
    assert_eq!(bench.totals(), (1, 14, 0));
}

#[test]
fn a_frame_waits_for_the_chains_that_it_needs() {
    let mut bench = Bench::new(true, LONGEST);
    bench.offer(&[1530]);
    let (first, second) = (pattern(12, 5000), pattern(13, 60));
    bench.peer.send(&plain(&first));
    bench.peer.send(&plain(&second));
    for _ in 0..3 {
        bench.expect(Progress::Blocked);
    }
    assert_eq!(bench.peer.shared().calls, 1, "the next waits in the link");
    for len in [1000, 1024, 1457] {
        assert_eq!(bench.take_chain(), None, "no part of it is seen");
        bench.offer(&[len]);
        bench.expect(Progress::Blocked);
    }
    assert_eq!(bench.peer.shared().calls, 1);
    bench.offer(&[1, 4000]);
    bench.expect(Progress::Blocked);
    // 5012 = 1530 + 1000 + 1024 + 1457 + 1.
    assert!(bench.take_frame().unwrap() == seen(&first, 5));
    bench.offer(&[100]);
    bench.expect(Progress::Blocked);
    assert_eq!(bench.take_frame(), Some(seen(&second, 1)));
    assert_eq!(bench.totals(), (2, 5060, 0));
}

#[test]
fn a_frame_that_all_descriptors_could_not_hold_is_dropped() {
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..SIZE {
        bench.offer(&[100]);
    }
    let frame = pattern(14, 60);
    // 6401 bytes with the header, and 64 chains of 100.
    bench.peer.send(&plain(&pattern(14, 6389)));
    bench.peer.send(&plain(&frame));
    bench.expect(Progress::Idle);
    assert_eq!(bench.take_frame(), Some(seen(&frame, 1)));
    assert_eq!(bench.take_frame(), None);
    assert_eq!(bench.totals(), (1, 60, 1));
    bench.offer(&[100]);
    let frame = pattern(15, 6388);
    bench.peer.send(&plain(&frame));
    bench.expect(Progress::Blocked);
    assert!(bench.take_frame().unwrap() == seen(&frame, 64));
}

/// Three of each chain's descriptors; the last of 64 makes no chain.
#[test]
fn descriptors_that_make_no_chain_are_not_waited_for() {
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..SIZE / 3 {
        bench.offer(&[12, 0, 88]);
    }
    bench.peer.send(&plain(&pattern(14, 2100)));
    bench.expect(Progress::Idle);
    assert_eq!(bench.totals(), (0, 0, 1));
    // Less than all of them is waited for.
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..SIZE / 3 - 1 {
        bench.offer(&[12, 0, 88]);
    }
    let frame = pattern(14, 2000);
    bench.peer.send(&plain(&frame));
    bench.expect(Progress::Blocked);
    assert_eq!(bench.totals(), (0, 0, 0));
    bench.offer(&[12, 0, 88]);
    bench.expect(Progress::Blocked);
    assert!(bench.take_frame().unwrap() == seen(&frame, 21));
}

/// A table takes up one of the queue's descriptors, however long it is.
#[test]
fn tables_count_as_one_descriptor() {
    let mut bench = Bench::new(true, LONGEST);
    let pieces: Vec<_> = (0..SIZE as u64)
        .map(|at| writable(BUFFERS + at, 1))
        .collect();
    let head = bench.driver.add_indirect(0x2_0000, &pieces);
    bench
        .chains
        .insert(head.into(), vec![(BUFFERS, SIZE.into())]);
    bench.next = BUFFERS + 0x1000;
    let frame = pattern(16, 100);
    bench.peer.send(&plain(&frame));
    bench.expect(Progress::Blocked);
    bench.offer(&[100]);
    bench.expect(Progress::Blocked);
    assert_eq!(bench.take_frame(), Some(seen(&frame, 2)));
}

#[test]
fn only_as_much_is_taken_as_the_longest_frame_needs() {
    for (longest, taken) in [(1526, 1), (1530, 1), (0, 1), (9030, 1)] {
        let mut bench = Bench::new(true, longest);
        for _ in 0..SIZE {
            bench.offer(&[1536]);
        }
        for _ in 0..3 {
            bench.expect(Progress::Idle);
            let state = bench.rings.state();
            assert_eq!(state.next_available - state.next_used, taken);
            bench.peer.send(&plain(&pattern(17, 60)));
            bench.expect(Progress::Idle);
        }
    }
}

#[test]
fn big_frames_are_read_straight_into_chains_once_they_come() {
    let mut bench = Bench::new(true, LONGEST);
    for _ in 0..SIZE {
        bench.offer(&[4096]);
    }
    let offered = |bench: &mut Bench, len| {
        let frame = pattern(18, len);
        bench.peer.send(&plain(&frame));
        assert_eq!(bench.run(1).unwrap(), Progress::More);
        let offered = bench.peer.shared().offered;
        let got = bench.take_frame().unwrap();
        assert!(got[12..] == frame && got.len() == len + 12);
        for _ in 0..got[10] {
            bench.offer(&[4096]);
        }
        offered
    };
    assert_eq!(offered(&mut bench, 60), (1, 4096));
    assert_eq!(offered(&mut bench, 9000), (1, 4096));
    for _ in 0..4 {
        // 65565 bytes by 4096.
        assert_eq!(offered(&mut bench, 65000), (17, 17 * 4096));
        assert_eq!(offered(&mut bench, 60), (17, 17 * 4096));
    }
    for _ in 0..64 {
        offered(&mut bench, 60);
    }
    // What was taken is used up, and no more than one is taken instead.
    for _ in 0..20 {
        offered(&mut bench, 1500);
    }
    assert_eq!(offered(&mut bench, 1518), (1, 4096));
}

#[test]
fn the_kernel_gets_no_more_pieces_than_it_takes() {
    let mut bench = Bench::new(true, LONGEST);
    // 64 tables of 64 pieces of 8 bytes.
    for table in 0..u64::from(SIZE) {
        let at = |piece: u64| BUFFERS + (table * 64 + piece) * 8;
        let pieces: Vec<_> = (0..64).map(|piece| writable(at(piece), 8)).collect();
        let head = bench.driver.add_indirect(0x2_0000 + table * 0x400, &pieces);
        bench.chains.insert(head.into(), vec![(at(0), 512)]);
    }
    for len in [9000, 20_000] {
        let frame = pattern(19, len);
        bench.peer.send(&plain(&frame));
        assert_eq!(bench.run(1).unwrap(), Progress::More);
        let offered = bench.peer.shared().offered;
        assert!(offered.0 <= 1023, "{offered:?}");
        let chains = (len + 12).div_ceil(512) as u8;
        assert!(bench.take_frame().unwrap() == seen(&frame, chains));
    }
    assert_eq!(bench.peer.shared().offered, (960, 960 * 8));
}
