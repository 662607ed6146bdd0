//! Activation, pause, reset and the end, with requests under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::device::{Block, BlockOptions, Engine};
use super::super::testing::*;
use crate::devices::virtio::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use crate::devices::virtio::rate_limiter::RateLimits;
use crate::devices::virtio::testing::{Driver, TestInterrupt, activation, wait_until};
use crate::memory::GuestRam;

const LOCATED: Ways = Ways {
    located: Some(1),
    in_memory: false,
    panics: false,
};
const CALLED: Ways = Ways {
    located: None,
    ..LOCATED
};
const PANICS: Ways = Ways {
    panics: true,
    ..LOCATED
};

#[test]
fn the_device_says_what_it_is() {
    let disk = TestDisk::new(1 << 20, LOCATED);
    let guest = Guest::with(disk, ENGINES[0], F_FLUSH, 3, RateLimits::default());
    assert_eq!(guest.block.device_type(), DeviceType::Block);
    assert_eq!(guest.block.queue_sizes(), [256; 3]);
    // FLUSH, MQ, DISCARD, WRITE_ZEROES, and not RO.
    let features = guest.block.features();
    assert_eq!(
        features & (1 << 9 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 5),
        0x7200
    );
    let mut capacity = [0; 8];
    guest.block.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 2048);
}

#[test]
fn a_device_needs_a_queue() {
    let disk = TestDisk::new(1 << 20, LOCATED);
    let mut guest = Guest::new(disk, ENGINES[0], F_FLUSH);
    guest.block.reset();
    let none = Activation {
        queues: Vec::new(),
        ..activation(F_FLUSH, &[], &guest.interrupt)
    };
    let refused = guest.block.activate(none);
    assert!(matches!(refused, Err(ActivateError::Queues { .. })));
}

#[test]
fn each_queue_is_served() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, LOCATED);
        let mut guest = Guest::with(disk, engine, F_FLUSH, 4, RateLimits::default());
        for queue in [3, 0, 2, 1] {
            let sent = guest.send_on(queue, IN, 0, 4096);
            guest.drivers[queue].kick();
            assert_eq!(guest.drivers[queue].wait_used().1, 4097);
            assert_eq!(guest.status(sent), OK);
        }
    }
}

#[test]
fn a_reset_waits_for_what_is_under_way_and_nothing_comes_after() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, CALLED);
        let mut guest = Guest::new(disk.clone(), engine, F_FLUSH);
        disk.close(true);
        let sent = guest.begin(IN, 0, 4096);
        Guest::wait_for_call(&disk);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                assert!(!done.load(Ordering::SeqCst), "the reset has not waited");
                disk.close(false);
            });
            guest.block.reset();
            done.store(true, Ordering::SeqCst);
        });
        // It is over: what is in memory now stays.
        guest.ram.write(sent.status, &[NONE]).unwrap();
        guest.ram.write(sent.data, &[NONE; 4096]).unwrap();
        guest.drivers[0].kick();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(guest.status(sent), NONE);
        assert_eq!(guest.bytes(sent.data, 4096), [NONE; 4096]);
        guest.activate(F_FLUSH);
        assert_eq!(guest.request(IN, 0, 512), (OK, 513));
    }
}

#[test]
fn thousands_of_resets_leave_nothing_behind() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, LOCATED);
        let mut guest = Guest::new(disk, engine, F_FLUSH);
        for round in 0..2000 {
            for sector in 0..round % 5 {
                guest.send(IN, sector * 8, 4096);
            }
            guest.drivers[0].kick();
            guest.block.reset();
            guest.block.reset();
            guest.activate(F_FLUSH);
        }
        assert_eq!(guest.request(IN, 0, 512), (OK, 513));
        assert!(!guest.interrupt.is_broken());
    }
}

#[test]
fn a_pause_finishes_what_is_under_way_and_takes_nothing_new() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, LOCATED);
        let mut guest = Guest::new(disk, engine, F_FLUSH);
        for sector in 0..32 {
            guest.send(IN, sector, 512);
        }
        guest.drivers[0].kick();
        guest.block.pause();
        let served = guest.drivers[0].used_index();
        let late = guest.begin(IN, 0, 512);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(guest.drivers[0].used_index(), served);
        assert_eq!(guest.status(late), NONE);
        guest.block.resume();
        for _ in 0..33 {
            guest.drivers[0].wait_used();
        }
        assert_eq!(guest.status(late), OK);
        // What was told of before the pause was told by an interrupt too.
        assert!(guest.interrupt.take() > 0);
        guest.block.pause();
        guest.block.reset();
        guest.activate(F_FLUSH);
        assert_eq!(guest.request(IN, 0, 512), (OK, 513));
    }
}

#[test]
fn the_end_waits_for_what_is_under_way() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, CALLED);
        let mut guest = Guest::new(disk.clone(), engine, F_FLUSH);
        disk.close(true);
        let sent = guest.begin(OUT, 0, 4096);
        Guest::wait_for_call(&disk);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                disk.close(false);
            });
            drop(guest);
        });
        assert_eq!(disk.asked(), [Asked::Write(0)]);
        let _ = sent;
    }
}

#[test]
fn code_that_fails_in_the_pool_fails_the_request() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, PANICS);
        let mut guest = Guest::new(disk, engine, F_FLUSH);
        assert_eq!(guest.request(FLUSH, 0, 0), (IOERR, 1));
        assert_eq!(guest.request(FLUSH, 0, 0), (IOERR, 1));
    }
}

#[test]
fn code_that_fails_on_the_queues_thread_breaks_the_device_and_hangs_nobody() {
    let disk = TestDisk::new(1 << 20, PANICS);
    let mut guest = Guest::new(disk, Engine::IoUring, F_FLUSH);
    // Two, so that the ring makes them and the thread tells the disk.
    guest.send(OUT, 0, 4096);
    guest.begin(OUT, 8, 4096);
    wait_until("the device gives up", || guest.interrupt.is_broken());
    guest.block.pause();
    guest.block.resume();
    guest.block.reset();
    let again = activation(F_FLUSH, &[&guest.drivers[0]], &guest.interrupt);
    let refused = guest.block.activate(again);
    assert!(matches!(refused, Err(ActivateError::NoThread)));
}

#[test]
fn a_device_that_was_never_used_ends() {
    for engine in ENGINES {
        let options = BlockOptions {
            queues: 2,
            engine,
            serial: [0; 20],
            limits: RateLimits::default(),
        };
        let disk = TestDisk::new(1 << 20, LOCATED);
        let ram = GuestRam::new(1 << 20).unwrap();
        let mut block = Block::start(disk, ram.clone(), options, "vdz").unwrap();
        block.reset();
        block.pause();
        let driver = Driver::new(&ram, 0x1000, 256);
        let interrupt = TestInterrupt::new();
        block.resume();
        block
            .activate(activation(F_FLUSH, &[&driver], &interrupt))
            .unwrap();
        drop(block);
    }
}
