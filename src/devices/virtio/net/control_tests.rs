//! The control queue and the link's state, through the device's threads.

use std::time::Duration;

use super::super::device_testing::*;
use super::super::link::Offloads;
use super::super::testing::{ALL, Answer, plain};
use crate::devices::virtio::device::VirtioDevice;
use crate::devices::virtio::testing::{Driver, readable, wait_until, writable};

const OK: u8 = 0;
const ERR: u8 = 1;

const ANNOUNCE_ACK: [u8; 2] = [3, 0];
const FOUR: Making = Making { pairs: 4, ..PLAIN };

/// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET.
fn use_pairs(pairs: u16) -> [u8; 4] {
    let [low, high] = pairs.to_le_bytes();
    [4, 0, low, high]
}

/// VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET.
fn use_offloads(bits: u64) -> Vec<u8> {
    [&[5, 0], bits.to_le_bytes().as_slice()].concat()
}

#[test]
fn pairs_are_used_when_the_driver_says_so() {
    let mut guest = Guest::with(FOUR, USUAL | F_MQ);
    wait_until("one pair is in use", || {
        guest.enabled() == [Some(true), Some(false), Some(false), Some(false)]
    });
    assert_eq!(guest.command(&use_pairs(4)), OK);
    // It was answered when it was so.
    assert_eq!(guest.enabled(), [Some(true); 4]);
    for pair in [3, 1, 2, 0] {
        guest.offer(pair, 1);
        guest.receiveq(pair).kick();
        guest.peers[pair].send(&plain(&frame(pair as u8, 77)));
        assert_eq!(guest.receiveq(pair).wait_used().1, 12 + 77);
        guest.send(pair, &frame(pair as u8, 99));
        guest.transmitq(pair).kick();
        guest.transmitq(pair).wait_used();
        let sent = guest.peers[pair].take();
        assert_eq!(sent, Some(plain(&frame(pair as u8, 99))));
    }
    assert_eq!(guest.command(&use_pairs(2)), OK);
    let two = [Some(true), Some(true), Some(false), Some(false)];
    assert_eq!(guest.enabled(), two);
    for wrong in [0, 5, 0x8000, 0xffff] {
        assert_eq!(guest.command(&use_pairs(wrong)), ERR);
        assert_eq!(guest.enabled(), two);
    }
    // Nothing is received on a pair that is out of use.
    guest.offer(3, 1);
    guest.receiveq(3).kick();
    guest.peers[3].send(&plain(&frame(8, 77)));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.received(3), None);
    assert_eq!(guest.command(&use_pairs(4)), OK);
    assert_eq!(guest.receiveq(3).wait_used().1, 12 + 77);
    guest.net.reset();
    assert_eq!(
        guest.enabled(),
        [Some(true), Some(false), Some(false), Some(false)]
    );
}

/// §5.1.2: the control queue comes after the pairs that the driver knows of.
#[test]
fn a_driver_that_knows_of_one_pair_has_its_control_queue_behind_it() {
    let mut guest = Guest::with(FOUR, USUAL);
    assert_eq!(guest.command(&ANNOUNCE_ACK), OK);
    assert_eq!(guest.command(&use_pairs(2)), ERR);
    assert_eq!(guest.command(&use_pairs(1)), ERR);
    let one = [Some(true), Some(false), Some(false), Some(false)];
    wait_until("one pair is in use", || guest.enabled() == one);
}

#[test]
fn a_driver_without_all_queues_cannot_use_all_pairs() {
    let mut guest = Guest::inactive(FOUR);
    let mut activation = guest.activation(USUAL | F_MQ);
    // The fourth queue is the second pair's transmitq.
    activation.queues.remove(3);
    guest.net.activate(activation).unwrap();
    assert_eq!(guest.command(&use_pairs(1)), OK);
    assert_eq!(guest.command(&use_pairs(2)), ERR);
}

/// The answer waits for all threads, and a paused device's for its going on.
#[test]
fn a_command_outlives_a_pause() {
    let mut guest = Guest::with(FOUR, USUAL | F_MQ);
    for pairs in (1..=4).cycle().take(200) {
        guest.begin_command(&use_pairs(pairs));
        guest.net.pause();
        guest.net.resume();
        assert_eq!(guest.control.wait_used().1, 1);
        assert_eq!(guest.answer(), OK);
        let enabled = guest.enabled().into_iter().filter(|on| *on == Some(true));
        assert_eq!(enabled.count(), usize::from(pairs));
    }
}

#[test]
fn the_link_goes_down_and_comes_up_and_is_announced() {
    let mut guest = Guest::new(USUAL);
    let mut changes = 0;
    for _ in 0..3 {
        guest.news.send(&[0]).unwrap();
        changes += 1;
        wait_until("the driver is told", || {
            guest.interrupt.config_changes() == changes
        });
        assert_eq!(guest.status(), 0);
        guest.news.send(&[1]).unwrap();
        changes += 1;
        wait_until("the driver is told", || {
            guest.interrupt.config_changes() == changes
        });
        // LINK_UP and ANNOUNCE.
        assert_eq!(guest.status(), 3);
        assert_eq!(guest.command(&ANNOUNCE_ACK), OK);
        assert_eq!(guest.status(), 1);
    }
    guest.restart(USUAL & !F_ANNOUNCE);
    guest.news.send(&[0]).unwrap();
    guest.news.send(&[1]).unwrap();
    guest.news.send(&[0]).unwrap();
    wait_until("the link is down", || guest.status() == 0);
    guest.news.send(&[1]).unwrap();
    wait_until("the link is up", || guest.status() == 1);
    assert_eq!(guest.command(&ANNOUNCE_ACK), ERR);
}

#[test]
fn what_happens_to_the_link_during_a_pause_is_told_after_it() {
    let mut guest = Guest::new(USUAL);
    guest.net.pause();
    guest.news.send(&[0]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((guest.status(), guest.interrupt.config_changes()), (1, 0));
    guest.net.resume();
    wait_until("the driver is told", || {
        guest.interrupt.config_changes() == 1
    });
    assert_eq!(guest.status(), 0);
    // Nor is it forgotten while there is no driver.
    guest.net.reset();
    guest.news.send(&[1]).unwrap();
    guest.restart(USUAL);
    wait_until("the link is up", || guest.status() & 1 == 1);
}

#[test]
fn the_driver_chooses_what_the_host_may_leave_to_it() {
    const CSUM: u64 = 1 << 1 | 1 << 2;
    let making = Making {
        offloads: ALL,
        ..FOUR
    };
    let mut guest = Guest::with(making, USUAL | F_MQ | CSUM | 1 << 7);
    let told = |guest: &Guest, pair: usize| guest.peers[pair].shared().offloads;
    let both = Offloads {
        checksum: true,
        tso4: true,
        ..Offloads::default()
    };
    wait_until("all ports are told", || {
        (0..4).all(|pair| told(&guest, pair) == Some(both))
    });
    assert_eq!(guest.command(&use_offloads(1 << 1)), OK);
    let checksum = Offloads {
        tso4: false,
        ..both
    };
    for pair in 0..4 {
        assert_eq!(told(&guest, pair), Some(checksum));
    }
    assert_eq!(guest.command(&use_offloads(1 << 8)), ERR);
    assert_eq!(guest.command(&use_offloads(0)), OK);
    assert_eq!(told(&guest, 3), Some(Offloads::default()));
    // The next driver begins with what it agrees to.
    guest.restart(USUAL | F_MQ | CSUM);
    wait_until("all ports are told", || {
        (0..4).all(|pair| told(&guest, pair) == Some(checksum))
    });
}

/// What waits on the link was made for a driver that takes more.
#[test]
fn frames_of_a_kind_that_is_not_taken_any_more_are_dropped() {
    let making = Making {
        offloads: ALL,
        ..PLAIN
    };
    let mut guest = Guest::with(making, USUAL | 1 << 1 | 1 << 2);
    assert_eq!(guest.command(&use_offloads(1 << 1)), OK);
    for number in 0..5 {
        guest.peers[0].send(&plain(&frame(number, 60)));
    }
    assert_eq!(guest.command(&use_offloads(0)), OK);
    assert_eq!(guest.net.counters().totals().dropped_received, 5);
    guest.peers[0].send(&plain(&frame(9, 61)));
    guest.offer(0, 2);
    guest.receiveq(0).kick();
    assert_eq!(guest.receiveq(0).wait_used().1, 12 + 61);
}

#[test]
fn a_driver_whose_link_is_gone_is_obeyed_still() {
    let making = Making {
        offloads: ALL,
        ..FOUR
    };
    let mut guest = Guest::with(making, USUAL | F_MQ | 1 << 1 | 1 << 2);
    guest.peers[0].answer(Answer::Gone);
    guest.send(0, &frame(1, 60));
    guest.transmitq(0).kick();
    guest.transmitq(0).wait_used();
    wait_until("the link is down", || guest.status() == 0);
    assert_eq!(guest.command(&use_pairs(4)), OK);
    assert_eq!(guest.command(&use_offloads(0)), OK);
    assert_eq!(guest.command(&use_pairs(1)), OK);
    assert_eq!(guest.interrupt.config_changes(), 1);
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let mut guest = Guest::with(FOUR, USUAL | F_MQ);
    let long = [[3, 0].as_slice(), &[0; 4000]].concat();
    let mut garbage: Vec<Vec<u8>> = vec![
        vec![],
        vec![3],
        vec![4],
        vec![4, 0],
        vec![4, 0, 1],
        vec![4, 0, 1, 0, 0],
        vec![4, 1, 1, 0],
        vec![3, 0, 0],
        vec![3, 1],
        vec![5, 0],
        use_offloads(0),
        vec![0, 0, 1],
        vec![1, 1, 2, 2, 2, 2, 2, 2],
        vec![255, 255],
        long,
    ];
    garbage.extend((0..=255).map(|class| vec![class, 7, 1, 0]));
    for command in garbage {
        assert_eq!(guest.command(&command), ERR, "{command:?}");
    }
    let interrupts = guest.interrupt.take();
    assert!(interrupts > 0);
    // Cut into pieces, of which some are empty, it is a command still.
    guest.ram.write(COMMANDS, &use_pairs(3)).unwrap();
    guest.control.add(&[
        readable(COMMANDS, 1),
        readable(COMMANDS, 0),
        readable(COMMANDS + 1, 2),
        readable(COMMANDS + 3, 1),
        writable(COMMANDS + 0x1000, 0),
        writable(COMMANDS + 0x2000, 4),
    ]);
    guest.control.kick();
    assert_eq!(guest.control.wait_used().1, 1);
    let mut answer = [9; 4];
    guest.ram.read(COMMANDS + 0x2000, &mut answer).unwrap();
    assert_eq!(answer, [OK, 0, 0, 0]);
    assert!(!guest.interrupt.is_broken());
}

/// Neither is carried out.
#[test]
fn a_command_without_a_place_for_the_answer_is_returned() {
    let mut guest = Guest::with(FOUR, USUAL | F_MQ);
    assert_eq!(guest.command(&use_pairs(2)), OK);
    guest.ram.write(COMMANDS, &use_pairs(4)).unwrap();
    let command = readable(COMMANDS, 4);
    for pieces in [
        vec![command],
        vec![command, writable(COMMANDS + 0x1000, 0)],
        vec![command, writable(1 << 40, 1)],
        vec![command, writable(u64::MAX, 1)],
    ] {
        guest.control.add(&pieces);
        guest.control.kick();
        assert_eq!(guest.control.wait_used().1, 0);
    }
    // Nor is one that is not in RAM.
    guest
        .control
        .add(&[readable(1 << 40, 4), writable(COMMANDS + 0x1000, 1)]);
    guest.control.kick();
    assert_eq!(guest.control.wait_used().1, 1);
    assert_eq!(guest.answer(), ERR);
    let enabled = guest.enabled().into_iter().filter(|on| *on == Some(true));
    assert_eq!(enabled.count(), 2);
}

#[test]
fn a_loop_breaks_the_device_and_a_full_ring_does_not() {
    let mut guest = Guest::new(USUAL);
    let fill = |control: &mut Driver| {
        for _ in 0..85 {
            control.add(&[
                readable(COMMANDS, 1),
                readable(COMMANDS + 1, 1),
                writable(COMMANDS + 0x1000, 1),
            ]);
        }
    };
    guest.ram.write(COMMANDS, &ANNOUNCE_ACK).unwrap();
    fill(&mut guest.control);
    guest.control.kick();
    for _ in 0..85 {
        assert_eq!(guest.control.wait_used().1, 1);
    }
    assert!(!guest.interrupt.is_broken());
    // Descriptor 10 leads to itself.
    guest.control.put(10, COMMANDS, 1, 1, 10);
    guest.control.offer(10);
    guest.control.kick();
    let interrupt = guest.interrupt.clone();
    wait_until("the device gives up", || interrupt.is_broken());
    guest.restart(USUAL);
    assert_eq!(guest.command(&ANNOUNCE_ACK), OK);
}
