//! A FLUSH is answered when the host has said that what was written is on stable
//! storage: seen in Mayfly's own system calls.
//!
//! An io_uring may take its writes from memory and show no calls for them; the power
//! cuts of `emulated_host::power_cut` prove the same from the disk's side.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use libc::pid_t;

use super::{bare_on, disk};
use crate::common::disk::{image_folder, sparse_file};
use crate::common::pattern::BLOCK;
use crate::common::trace::{Call, trace_calls};

/// For so long each fdatasync is held where it begins: time enough for a FLUSH that
/// does not wait for it to be answered and told.
const HELD: Duration = Duration::from_millis(150);
/// Writes between two FLUSHes.
const BATCH: u64 = 5;
const BATCHES: u64 = 4;

/// What happens to the image and on the console, in order.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// So many bytes have been written.
    Written(u64),
    SyncBegins,
    SyncDone,
    /// The guest says that a FLUSH was answered, with the number of writes before it.
    Flushed(u64),
}

/// Makes events of calls.
struct Watch<'a> {
    image: &'a Path,
    /// The calls about the image that threads are in.
    calls: HashMap<pid_t, u64>,
    printed: String,
    events: Vec<Event>,
}

const WRITES: [i64; 4] = [
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
];
const SYNCS: [i64; 2] = [libc::SYS_fdatasync, libc::SYS_fsync];

impl Watch<'_> {
    fn look(&mut self, call: &Call) -> Duration {
        match call.result {
            Some(result) => {
                if let Some(number) = self.calls.remove(&call.thread) {
                    self.ends(number as i64, result);
                }
                Duration::ZERO
            }
            None => self.begins(call),
        }
    }

    fn begins(&mut self, call: &Call) -> Duration {
        let number = call.number as i64;
        if !WRITES.contains(&number) && !SYNCS.contains(&number) {
            return Duration::ZERO;
        }
        let descriptor = format!("/proc/{}/fd/{}", call.process, call.arguments[0]);
        if fs::read_link(descriptor).is_ok_and(|path| path == self.image) {
            self.calls.insert(call.thread, call.number);
            if SYNCS.contains(&number) {
                self.events.push(Event::SyncBegins);
                return HELD;
            }
        } else if number == libc::SYS_write && call.arguments[0] == 1 {
            self.print(call);
        }
        Duration::ZERO
    }

    fn ends(&mut self, number: i64, result: i64) {
        assert!(result >= 0, "call {number} about the image gave {result}");
        if SYNCS.contains(&number) {
            self.events.push(Event::SyncDone);
        } else {
            self.events.push(Event::Written(result as u64));
        }
    }

    /// What is written to standard output, as it is about to be.
    fn print(&mut self, call: &Call) {
        let length = usize::try_from(call.arguments[2]).expect("a length");
        let mut bytes = vec![0; length];
        let memory = File::open(format!("/proc/{}/mem", call.process)).expect("its memory");
        memory
            .read_exact_at(&mut bytes, call.arguments[1])
            .expect("read what is printed");
        self.printed.push_str(&String::from_utf8_lossy(&bytes));
        while let Some((line, rest)) = self.printed.split_once('\n') {
            if let Some(digits) = line.trim_end().strip_prefix('F') {
                let number = u64::from_str_radix(digits, 16).expect("a number");
                self.events.push(Event::Flushed(number));
            }
            self.printed = rest.to_string();
        }
    }
}

/// The events of a run of the pattern with these options of the disk.
fn watched(options: &str) -> Vec<Event> {
    let folder = image_folder();
    let image = folder.path().join("image.raw");
    sparse_file(&image, 64 * BLOCK as u64);
    let image = image.canonicalize().expect("the image's path");
    let count = BATCH * BATCHES;
    let words = format!("bare.depth=1 bare.flush={BATCH} bare.count={count}");
    let command = bare_on("pci", "blk_pattern", &words)
        .args(disk(&image, options))
        .into_command();
    let mut watch = Watch {
        image: &image,
        calls: HashMap::new(),
        printed: String::new(),
        events: Vec::new(),
    };
    let run = trace_calls(command, &mut |call| watch.look(call)).expect("trace mayfly");
    assert_eq!(run.code, Some(0), "{:?}", watch.events);
    watch.events
}

/// Checks that each FLUSH was told after an fdatasync that began where `covered` says.
fn synced_before_told(events: &[Event], covered: impl Fn(u64) -> Option<usize>) {
    for batch in 1..=BATCHES {
        let told = place(events, &Event::Flushed(batch * BATCH));
        let covered = covered(batch).expect("all was written");
        let between = events.get(covered..told).unwrap_or_default();
        let begins = between.iter().position(|event| *event == Event::SyncBegins);
        let done = begins.and_then(|begins| {
            let after = between.get(begins..).unwrap_or_default();
            after.iter().position(|event| *event == Event::SyncDone)
        });
        assert!(
            done.is_some(),
            "no fdatasync began after write {} and ended before its FLUSH was told: {events:?}",
            batch * BATCH
        );
    }
}

fn place(events: &[Event], event: &Event) -> usize {
    let found = events.iter().position(|found| found == event);
    found.unwrap_or_else(|| panic!("no {event:?} in {events:?}"))
}

#[test]
fn flush_is_answered_after_fdatasync_of_all_writes_before_it() {
    let events = watched(",format=raw,aio=threads");
    // Where the writes that it covers have all come back.
    synced_before_told(&events, |batch| {
        let mut bytes = 0;
        events.iter().position(|event| {
            if let Event::Written(count) = event {
                bytes += count;
            }
            bytes == batch * BATCH * BLOCK as u64
        })
    });
}

#[test]
fn flush_is_answered_after_its_fdatasync_with_io_uring() {
    // The writes need not be seen, but each FLUSH has an fdatasync of its own.
    let events = watched(",format=raw,aio=io_uring");
    let told = place(&events, &Event::Flushed(BATCHES * BATCH));
    let begun = events[..told]
        .iter()
        .filter(|event| **event == Event::SyncBegins);
    assert_eq!(begun.count() as u64, BATCHES, "{events:?}");
    for batch in 1..=BATCHES {
        let told = place(&events, &Event::Flushed(batch * BATCH));
        let done = events[..told]
            .iter()
            .filter(|event| **event == Event::SyncDone);
        assert!(done.count() as u64 >= batch, "FLUSH {batch}: {events:?}");
    }
}

#[test]
fn cache_unsafe_never_asks_for_stable_storage() {
    let events = watched(",format=raw,aio=threads,cache=unsafe");
    let flushed = events
        .iter()
        .filter(|event| matches!(event, Event::Flushed(_)));
    assert_eq!(flushed.count() as u64, BATCHES, "{events:?}");
    assert!(!events.contains(&Event::SyncBegins), "{events:?}");
}
