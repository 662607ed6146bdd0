use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::pipe;

use super::*;

const SHORT: Patience = Patience {
    stall: Duration::from_millis(300),
    total: Duration::from_secs(10),
};

fn to(target: OwnedFd, capacity: usize) -> (OutputWriter, Output) {
    let output = Output::to(target, capacity);
    (output.writer(), output)
}

/// Output with its writer at work.
fn start(target: OwnedFd, capacity: usize) -> io::Result<(OutputWriter, Output)> {
    let (guest, output) = to(target, capacity);
    output.start_writer()?;
    Ok((guest, output))
}

fn reader_of(fd: OwnedFd) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        File::from(fd).read_to_end(&mut all).unwrap();
        all
    })
}

#[test]
fn a_stalled_reader_holds_nobody_up() {
    let (_reader, target) = pipe().unwrap();
    let (mut guest, output) = start(target, RING_SIZE).unwrap();
    let total = 10_000_000_u64;
    let started = Instant::now();
    for _ in 0..total / 1000 {
        guest.push(&[b'x'; 1000]);
    }
    let finished = output.finish(SHORT);
    assert!(started.elapsed() < Duration::from_secs(60));
    // The ring, the pipe (64 KiB) and the piece in hand hold the rest.
    let held = (RING_SIZE + (64 << 10) + patient::PIECE_MAX) as u64;
    assert!(finished.lost >= total - held, "lost {}", finished.lost);
    // Half the pipe at least: small pieces may leave pages of it half empty.
    assert!(
        finished.lost <= total - (32 << 10),
        "lost {}",
        finished.lost
    );
    assert!(finished.line_open);
}

#[test]
fn a_reader_that_keeps_up_gets_everything() {
    let (source, target) = pipe().unwrap();
    let reader = reader_of(source);
    let (mut guest, output) = start(target, 64 << 10).unwrap();
    let mut sent = Vec::new();
    for line in 0..40_000_u32 {
        let text = format!("line {line}\n");
        sent.extend_from_slice(text.as_bytes());
        while guest.shared.ring.len() > 32 << 10 {
            thread::yield_now();
        }
        guest.push(text.as_bytes());
    }
    let finished = output.finish(Patience::default());
    drop(guest);
    assert_eq!(finished.lost, 0);
    assert!(!finished.line_open);
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn a_slow_reader_is_waited_for_while_it_makes_progress() {
    let (source, target) = pipe().unwrap();
    let reader = thread::spawn(move || {
        let mut source = File::from(source);
        let mut buffer = [0; 16 << 10];
        let mut total = 0;
        loop {
            match source.read(&mut buffer).unwrap() {
                0 => return total,
                count => total += count,
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let (mut guest, output) = start(target, RING_SIZE).unwrap();
    guest.push(&vec![b'y'; 512 << 10]);
    let finished = output.finish(Patience {
        stall: Duration::from_secs(2),
        total: Duration::from_secs(60),
    });
    assert_eq!(finished.lost, 0);
    assert!(finished.line_open);
    assert_eq!(reader.join().unwrap(), 512 << 10);
}

#[test]
fn a_trickling_reader_is_left_in_the_end() {
    let (source, target) = pipe().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reader = thread::spawn(move || {
        let mut source = File::from(source);
        let mut page = [0; 4096];
        while !stopped.load(Ordering::Acquire) {
            let _ = source.read(&mut page);
            thread::sleep(Duration::from_millis(50));
        }
    });
    let (mut guest, output) = start(target, RING_SIZE).unwrap();
    guest.push(&vec![b'z'; 1 << 20]);
    let started = Instant::now();
    let finished = output.finish(Patience {
        stall: Duration::from_secs(2),
        total: Duration::from_millis(300),
    });
    assert!(finished.lost > 0);
    assert!(started.elapsed() < Duration::from_secs(60));
    stop.store(true, Ordering::Release);
    reader.join().unwrap();
}

#[test]
fn a_reader_that_leaves_costs_its_bytes_only() {
    let (source, target) = pipe().unwrap();
    drop(source);
    let (mut guest, output) = start(target, RING_SIZE).unwrap();
    guest.push(b"nobody hears this");
    let started = Instant::now();
    let finished = output.finish(Patience {
        stall: Duration::from_secs(30),
        total: Duration::from_secs(60),
    });
    assert_eq!(finished.lost, 17);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_sleeping_writer_wakes() {
    let (source, target) = pipe().unwrap();
    let (mut guest, output) = start(target, RING_SIZE).unwrap();
    let mut source = File::from(source);
    for round in 0..3_u8 {
        while !guest.shared.asleep.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        guest.write_all(&[round]).unwrap();
        let mut byte = [0xff];
        source.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
    }
    assert_eq!(output.finish(SHORT).lost, 0);
}

#[test]
fn a_full_device_is_no_reason_to_stop() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (mut guest, output) = start(full.into(), RING_SIZE).unwrap();
    guest.push(b"12345");
    assert_eq!(output.finish(SHORT).lost, 5);
}

#[test]
fn discarded_output_is_still_watched() {
    let output = Output::discard();
    let mut guest = output.writer();
    assert_eq!(output.first_byte(), None);
    guest.push(b"Kernel panic - no");
    assert!(output.first_byte().is_some());
    assert!(!output.panic_seen());
    guest.push(b"t syncing: x");
    assert!(output.panic_seen());
    let finished = output.finish(SHORT);
    assert_eq!(finished.lost, 0);
    assert!(!finished.line_open);
}

#[test]
fn a_short_life_needs_no_writer() {
    let (source, target) = pipe().unwrap();
    let (mut guest, output) = to(target, RING_SIZE);
    guest.push(b"hello\n");
    let finished = output.finish(SHORT);
    assert!(guest.shared.writer.get().is_none());
    assert_eq!((finished.lost, finished.line_open), (0, false));
    // The target is closed, or this would wait.
    let mut said = Vec::new();
    File::from(source).read_to_end(&mut said).unwrap();
    assert_eq!(said, b"hello\n");
}

#[test]
fn a_talkative_guest_starts_the_writer_itself() {
    let (source, target) = pipe().unwrap();
    let reader = reader_of(source);
    let (mut guest, output) = to(target, 1 << 10);
    guest.push(&[b'x'; 100]);
    assert!(guest.shared.writer.get().is_none());
    guest.push(&[b'x'; 500]);
    assert!(guest.shared.writer.get().is_some());
    assert_eq!(output.finish(Patience::default()).lost, 0);
    assert_eq!(reader.join().unwrap().len(), 600);
}

#[test]
fn without_a_writer_a_stalled_reader_is_left_too() {
    let (_reader, target) = pipe().unwrap();
    let (mut guest, output) = to(target, RING_SIZE);
    let total = (RING_SIZE / 2 - 1) as u64;
    guest.push(&vec![b'x'; RING_SIZE / 2 - 1]);
    let started = Instant::now();
    let finished = output.finish(SHORT);
    assert!(started.elapsed() < Duration::from_secs(60));
    // A pipe takes 64 KiB.
    assert!(
        finished.lost >= total - (64 << 10),
        "lost {}",
        finished.lost
    );
    assert!(finished.line_open);
}

#[test]
fn without_a_writer_a_reader_that_left_costs_its_bytes_only() {
    let (source, target) = pipe().unwrap();
    drop(source);
    let (mut guest, output) = to(target, RING_SIZE);
    guest.push(b"nobody hears this");
    assert_eq!(output.finish(SHORT).lost, 17);
}
