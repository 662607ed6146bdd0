//! Each request is carried out, answered once, and told of as it went.

use std::sync::atomic::Ordering;

use super::super::testing::*;
use crate::devices::virtio::device::VirtioDevice;
use crate::devices::virtio::testing::{readable, wait_until, writable};

/// The ways a transfer may go.
const WAYS: [Ways; 4] = [
    Ways {
        located: None,
        in_memory: false,
        panics: false,
    },
    Ways {
        located: Some(1),
        in_memory: false,
        panics: false,
    },
    Ways {
        located: Some(1),
        in_memory: true,
        panics: false,
    },
    Ways {
        located: Some(512),
        in_memory: false,
        panics: false,
    },
];

const LOCATED: Ways = WAYS[1];

#[test]
fn what_is_written_is_in_the_file_and_read_again() {
    use std::os::unix::fs::FileExt;
    for engine in ENGINES {
        for ways in WAYS {
            let disk = TestDisk::new(1 << 20, ways);
            let mut guest = Guest::new(disk.clone(), engine, F_FLUSH);
            guest.fill(&pattern(12288, 7));
            assert_eq!(guest.request(OUT, 16, 12288), (OK, 1));
            let mut there = vec![0; 12288];
            disk.file.read_exact_at(&mut there, 8192).unwrap();
            assert!(there == pattern(12288, 7), "{engine:?} {ways:?}");
            disk.file.write_all_at(&pattern(4096, 9), 0).unwrap();
            let sent = guest.begin(IN, 0, 20480);
            assert_eq!(guest.end(sent), (OK, 20481));
            let back = guest.bytes(sent.data, 20480);
            assert!(back[..4096] == pattern(4096, 9));
            assert!(back[8192..] == pattern(12288, 7));
        }
    }
}

#[test]
fn data_may_come_in_pieces_of_any_size() {
    for engine in ENGINES {
        for ways in WAYS {
            let disk = TestDisk::new(1 << 20, ways);
            let mut guest = Guest::new(disk, engine, F_FLUSH);
            // A header to be used for either direction, and a status.
            let (header, status) = (0x8_0000, 0x9_0000);
            let data = pattern(4096, 3);
            guest.ram.write(DATA + 1, &data[..100]).unwrap();
            guest.ram.write(DATA + 0x3003, &data[100..3000]).unwrap();
            guest.ram.write(DATA + 0x8000, &data[3000..]).unwrap();
            guest.ram.write(header, &[OUT as u8, 0, 0, 0]).unwrap();
            guest.drivers[0].add(&[
                readable(header, 16),
                readable(DATA + 1, 100),
                readable(DATA + 0x3003, 2900),
                readable(DATA + 0x8000, 1096),
                writable(status, 1),
            ]);
            guest.drivers[0].kick();
            assert_eq!(guest.drivers[0].wait_used().1, 1);
            guest.ram.write(header, &[IN as u8, 0, 0, 0]).unwrap();
            guest.drivers[0].add(&[
                readable(header, 16),
                writable(DATA + 0x1_0007, 4000),
                writable(DATA + 0x2_0000, 96),
                writable(status, 1),
            ]);
            guest.drivers[0].kick();
            assert_eq!(guest.drivers[0].wait_used().1, 4097);
            let mut back = guest.bytes(DATA + 0x1_0007, 4000);
            back.extend(guest.bytes(DATA + 0x2_0000, 96));
            assert!(back == data, "{engine:?} {ways:?}");
        }
    }
}

#[test]
fn many_at_once_are_all_answered_once() {
    use std::os::unix::fs::FileExt;
    let content = pattern(4 << 20, 1);
    for engine in ENGINES {
        for ways in WAYS {
            let disk = TestDisk::new(4 << 20, ways);
            disk.file.write_all_at(&content, 0).unwrap();
            let mut guest = Guest::new(disk, engine, F_FLUSH);
            for round in 0..20u64 {
                let mut sent: Vec<_> = (0..32u64)
                    .map(|n| {
                        let sector = (n * 8 + round * 11) % 4000;
                        (sector, guest.send(IN, sector, 4096))
                    })
                    .collect();
                guest.drivers[0].kick();
                while !sent.is_empty() {
                    let (head, len) = guest.drivers[0].wait_used();
                    assert_eq!(len, 4097);
                    let known = |(_, sent): &(u64, Sent)| u32::from(sent.head) == head;
                    let at = sent.iter().position(known).expect("answered once");
                    let (sector, sent) = sent.swap_remove(at);
                    assert_eq!(guest.status(sent), OK);
                    let expected = &content[sector as usize * 512..][..4096];
                    assert!(guest.bytes(sent.data, 4096) == expected);
                }
                assert_eq!(guest.drivers[0].take_used(), None);
            }
            assert_eq!(guest.block.counters().totals().requests, 640);
            assert_eq!(guest.block.counters().totals().bytes_read, 640 * 4096);
        }
    }
}

#[test]
fn one_chain_made_available_twice_is_answered_twice() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, WAYS[0]);
        let mut guest = Guest::new(disk.clone(), engine, F_FLUSH);
        disk.close(true);
        let sent = guest.send(IN, 0, 4096);
        guest.drivers[0].offer(sent.head);
        guest.drivers[0].kick();
        Guest::wait_for_call(&disk);
        disk.close(false);
        assert_eq!(guest.end(sent), (OK, 4097));
        assert_eq!(guest.end(sent), (OK, 4097));
    }
}

#[test]
fn errors_of_the_host_are_answered_as_such() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, WAYS[0]);
        let mut guest = Guest::new(disk.clone(), engine, F_FLUSH);
        disk.fails.store(libc::ENOSPC, Ordering::SeqCst);
        assert_eq!(guest.request(OUT, 0, 4096), (IOERR, 1));
        assert_eq!(guest.request(FLUSH, 0, 0), (IOERR, 1));
        assert_eq!(guest.request(IN, 0, 4096), (IOERR, 0));
        disk.fails.store(0, Ordering::SeqCst);
        assert_eq!(guest.request(IN, 0, 4096), (OK, 4097));
        let totals = guest.block.counters().totals();
        assert_eq!((totals.requests, totals.errors), (4, 3));
    }
}

#[test]
fn a_file_that_was_truncated_is_an_error_and_the_rest_can_be_read() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, LOCATED);
        let mut guest = Guest::new(disk.clone(), engine, F_FLUSH);
        disk.file.set_len(8192 + 512).unwrap();
        let (status, len) = guest.request(IN, 16, 4096);
        // The bytes that there are may have been read before the end was found.
        assert!(status == IOERR && len <= 512, "{status} {len}");
        assert_eq!(guest.request(IN, 8, 4096), (OK, 4097));
    }
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().set_len(1 << 20).unwrap();
    let file = std::fs::File::open(path.path()).unwrap();
    for engine in ENGINES {
        let disk = TestDisk::in_file(file.try_clone().unwrap(), 1 << 20, LOCATED);
        let mut guest = Guest::new(disk, engine, F_FLUSH);
        assert_eq!(guest.request(OUT, 0, 512), (IOERR, 1));
        // Two at once go by the ring.
        let first = guest.send(OUT, 0, 512);
        let second = guest.begin(OUT, 8, 512);
        guest.drivers[0].wait_used();
        guest.drivers[0].wait_used();
        assert_eq!((guest.status(first), guest.status(second)), (IOERR, IOERR));
    }
}

#[test]
fn the_identity_is_as_long_as_there_is_room() {
    let disk = TestDisk::new(1 << 20, LOCATED);
    let mut guest = Guest::new(disk, ENGINES[0], F_FLUSH);
    for (len, used) in [(20, 21), (3, 4), (64, 20)] {
        let sent = guest.begin(GET_ID, 0, len);
        assert_eq!(guest.end(sent), (OK, used));
        let id = guest.bytes(sent.data, 20);
        let mut expected = [0; 20];
        let there = len.min(6) as usize;
        expected[..there].copy_from_slice(&b"MAYFLY"[..there]);
        assert_eq!(id, expected);
    }
}

#[test]
fn what_is_wrong_is_refused_and_the_next_one_served() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, LOCATED);
        let mut guest = Guest::new(disk, engine, F_FLUSH);
        assert_eq!(guest.request(IN, 2048, 512).0, IOERR);
        assert_eq!(guest.request(IN, u64::MAX, 512).0, IOERR);
        assert_eq!(guest.request(IN, 0, 511).0, IOERR);
        assert_eq!(guest.request(99, 0, 512).0, UNSUPP);
        // No place for a status: the chain comes back with nothing written.
        guest.drivers[0].add(&[readable(0x8_0000, 16)]);
        guest.drivers[0].kick();
        assert_eq!(guest.drivers[0].wait_used().1, 0);
        assert_eq!(guest.request(IN, 0, 0), (OK, 1));
        assert_eq!(guest.request(IN, 0, 512), (OK, 513));
    }
}

#[test]
fn a_chain_that_cannot_be_followed_breaks_the_device_until_it_is_reset() {
    for engine in ENGINES {
        let disk = TestDisk::new(1 << 20, LOCATED);
        let mut guest = Guest::new(disk, engine, F_FLUSH);
        assert_eq!(guest.request(IN, 0, 512), (OK, 513));
        guest.drivers[0].put(9, 0x8_0000, 16, 1, 9);
        guest.drivers[0].offer(9);
        guest.drivers[0].kick();
        wait_until("the device gives up", || guest.interrupt.is_broken());
        guest.send(IN, 0, 512);
        guest.drivers[0].kick();
        guest.block.reset();
        assert_eq!(guest.drivers[0].take_used(), None);
        guest.activate(F_FLUSH);
        assert_eq!(guest.request(IN, 0, 512), (OK, 513));
    }
}

#[test]
fn ranges_reach_the_disk() {
    const F_DISCARD: u64 = 1 << 13;
    const F_WRITE_ZEROES: u64 = 1 << 14;
    let disk = TestDisk::new(1 << 20, LOCATED);
    let features = F_FLUSH | F_DISCARD | F_WRITE_ZEROES;
    let mut guest = Guest::new(disk.clone(), ENGINES[0], features);
    let segment = |sector: u64, sectors: u32, flags: u32| {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    guest.fill(&[segment(8, 16, 0), segment(0, 0, 0), segment(64, 8, 0)].concat());
    assert_eq!(guest.request(11, 0, 48), (OK, 1));
    guest.fill(&segment(32, 8, 1));
    assert_eq!(guest.request(13, 0, 16), (OK, 1));
    let expected = [
        Asked::Discard(4096, 8192),
        Asked::Discard(32768, 4096),
        Asked::WriteZeroes(16384, 4096, true),
    ];
    assert_eq!(disk.asked(), expected);
    disk.fails.store(libc::EOPNOTSUPP, Ordering::SeqCst);
    guest.fill(&segment(32, 8, 1));
    assert_eq!(guest.request(13, 0, 16), (UNSUPP, 1));
}
