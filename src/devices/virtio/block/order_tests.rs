//! What is stable when, what a request costs, and how fast they may come.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::testing::*;
use crate::devices::virtio::device::VirtioDevice;
use crate::devices::virtio::rate_limiter::{Rate, RateLimits};
use crate::devices::virtio::testing::F_EVENT_IDX;

const LOCATED: Ways = Ways {
    located: Some(1),
    in_memory: false,
    panics: false,
};
const CALLED: Ways = Ways {
    located: None,
    ..LOCATED
};

#[test]
fn a_flush_comes_after_the_writes_answered_before_it() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, CALLED);
        let mut guest = Guest::new(disk.clone(), engine, F_FLUSH);
        for sector in [0, 8, 16] {
            assert_eq!(guest.request(OUT, sector, 4096).0, OK);
        }
        disk.close(true);
        let sent = guest.begin(FLUSH, 0, 0);
        Guest::wait_for_call(&disk);
        // It is not answered before the disk has done it.
        assert_eq!(guest.drivers[0].take_used(), None);
        assert_eq!(guest.status(sent), NONE);
        disk.close(false);
        assert_eq!(guest.end(sent), (OK, 1));
        let writes = [0, 4096, 8192].map(Asked::Write);
        assert_eq!(disk.asked(), [&writes[..], &[Asked::Flush]].concat());
    }
}

#[test]
fn without_flush_each_write_is_stable_before_it_is_answered() {
    for (engine, ways) in ENGINES.iter().flat_map(|e| [(*e, LOCATED), (*e, CALLED)]) {
        let disk = TestDisk::new(1 << 20, ways);
        let mut guest = Guest::new(disk.clone(), engine, 0);
        assert_eq!(guest.request(OUT, 8, 4096), (OK, 1));
        assert_eq!(disk.asked(), [Asked::Write(4096), Asked::Flush]);
        // A flush that fails is a write that has failed.
        disk.fails.store(libc::EIO, Ordering::SeqCst);
        assert_eq!(guest.request(OUT, 8, 4096), (IOERR, 1));
    }
}

#[test]
fn the_driver_may_give_its_write_cache_up() {
    let disk = TestDisk::new(1 << 20, LOCATED);
    let mut guest = Guest::new(disk.clone(), ENGINES[0], F_FLUSH | F_CONFIG_WCE);
    assert_eq!(guest.request(OUT, 8, 4096), (OK, 1));
    assert_eq!(disk.asked(), [Asked::Write(4096)]);
    // `writeback` (virtio 1.2 §5.2.4): what was answered before is made stable.
    guest.block.write_config(32, &[0]);
    assert_eq!(disk.asked(), [Asked::Flush]);
    assert_eq!(guest.request(OUT, 16, 4096), (OK, 1));
    assert_eq!(disk.asked(), [Asked::Write(8192), Asked::Flush]);
    guest.block.write_config(32, &[1]);
    assert_eq!(guest.request(OUT, 8, 4096), (OK, 1));
    assert_eq!(disk.asked(), [Asked::Write(4096)]);
}

#[test]
fn writes_by_the_ring_are_told_to_the_disk_before_they_are_answered() {
    let disk = TestDisk::new(1 << 20, LOCATED);
    let mut guest = Guest::new(disk.clone(), ENGINES[0], F_FLUSH);
    guest.send(OUT, 8, 4096);
    guest.begin(OUT, 64, 512);
    guest.drivers[0].wait_used();
    guest.drivers[0].wait_used();
    let mut asked = disk.asked();
    asked.sort_by_key(|asked| format!("{asked:?}"));
    assert_eq!(
        asked,
        [Asked::Written(32768, 512), Asked::Written(4096, 4096)]
    );
}

fn calls(guest: &Guest) -> u64 {
    guest.block.counters().totals().system_calls
}

#[test]
fn a_request_alone_costs_two_system_calls_with_its_interrupt() {
    for (features, kind) in [(0, IN), (0, OUT), (F_EVENT_IDX, IN), (F_EVENT_IDX, OUT)] {
        let disk = TestDisk::new(1 << 20, LOCATED);
        let mut guest = Guest::new(disk, ENGINES[0], F_FLUSH | features);
        for _ in 0..100 {
            guest.request(kind, 8, 4096);
        }
        let before = calls(&guest);
        for number in 0..1000u16 {
            guest.drivers[0].set_used_event(number.wrapping_add(100));
            let sent = guest.begin(kind, 8 * u64::from(number % 100), 4096);
            assert!(guest.interrupt.wait() > 0);
            assert_eq!(guest.end(sent).0, OK);
        }
        let calls = calls(&guest) - before;
        assert!(
            calls <= 2 * 1000 + 20,
            "{calls} calls, {kind} {features:#x}"
        );
    }
}

#[test]
fn thirty_two_at_once_cost_less_than_half_a_system_call_each() {
    for kind in [IN, OUT] {
        let disk = TestDisk::new(4 << 20, LOCATED);
        let mut guest = Guest::new(disk, ENGINES[0], F_FLUSH);
        let before = calls(&guest);
        for _ in 0..100 {
            for number in 0..32 {
                guest.send(kind, number * 8, 4096);
            }
            guest.drivers[0].kick();
            for _ in 0..32 {
                guest.drivers[0].wait_used();
            }
        }
        let calls = calls(&guest) - before;
        assert!(calls < 3200 / 2, "{calls} calls, {kind}");
    }
}

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate {
        per_second: NonZeroU64::new(per_second).unwrap(),
        burst: NonZeroU64::new(burst).unwrap(),
    })
}

#[test]
fn requests_come_no_faster_than_allowed_and_faster_once_they_may() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, LOCATED);
        let limits = RateLimits {
            operations: rate(200, 10),
            bytes: None,
        };
        let mut guest = Guest::with(disk, engine, F_FLUSH, 1, limits);
        let start = Instant::now();
        for _ in 0..50 {
            guest.send(IN, 0, 512);
        }
        guest.drivers[0].kick();
        for _ in 0..50 {
            guest.drivers[0].wait_used();
        }
        // 10 at once, 40 at 200 a second.
        assert!(start.elapsed() >= Duration::from_millis(195));
        let limits = guest.block.limits();
        limits.set_limits(RateLimits {
            operations: rate(1, 1),
            bytes: None,
        });
        guest.request(IN, 0, 512);
        for _ in 0..50 {
            guest.send(IN, 0, 512);
        }
        guest.drivers[0].kick();
        // At one a second these would take most of a minute.
        limits.set_limits(RateLimits::default());
        let start = Instant::now();
        for _ in 0..50 {
            guest.drivers[0].wait_used();
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn bytes_come_no_faster_than_allowed() {
    let disk = TestDisk::new(1 << 20, LOCATED);
    let limits = RateLimits {
        operations: None,
        bytes: rate(1 << 20, 64 << 10),
    };
    let mut guest = Guest::with(disk, ENGINES[0], F_FLUSH, 1, limits);
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(guest.request(IN, 0, 32 << 10).0, OK);
    }
    // 320 KiB, of which 64 at once; the last one may owe its 32.
    assert!(start.elapsed() >= Duration::from_millis(215));
}
