//! What a start takes: the machine that is started, and the bounds it must keep.

use std::io;
use std::path::Path;
use std::process::Command;

use super::floor::floor;
use super::guests::bare;
use super::trace::{Trace, trace};

/// System calls of a start beyond the floor's, at most.
pub const EXTRA_CALLS: usize = 60;
/// Resident memory at its peak, in KiB, at most.
const PEAK_KIB: u64 = 3584;
/// A huge page, in KiB.
const HUGE_PAGE_KIB: u64 = 2048;
/// The stripped program's size in bytes, at most.
pub const PROGRAM_SIZE: u64 = 5_000_000;

const MAYFLY: &str = env!("CARGO_BIN_EXE_mayfly");
/// Guest memory in MiB.
const MEMORY: &str = "128";
/// A run whose guest takes unusually long starts a thread more: what is judged is
/// the best of this many.
const RUNS: usize = 10;

/// What may be resident here: hosts that give huge pages unasked take one for the
/// first byte of guest memory.
pub fn peak_bound() -> u64 {
    let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if mode.is_ok_and(|mode| mode.contains("[always]")) {
        PEAK_KIB + HUGE_PAGE_KIB
    } else {
        PEAK_KIB
    }
}

/// `mayfly` with the bare guest that prints and resets.
pub fn mayfly() -> Command {
    let mut command = Command::new(MAYFLY);
    command
        .args(["run", "--memory", &format!("{MEMORY}M"), "--kernel"])
        .arg(bare("hello"));
    command
}

/// The floor program with the same guest.
pub fn floor_program() -> Command {
    let mut command = Command::new(floor());
    command.arg(bare("hello")).arg(MEMORY);
    command
}

/// The run of `command` that made the fewest system calls, with the lowest peak of all:
/// how many neighbours of a touched page the host maps depends on where the program lies.
pub fn best_trace(command: impl Fn() -> Command) -> io::Result<Trace> {
    let mut best: Option<Trace> = None;
    let mut peak_kib = u64::MAX;
    for _ in 0..RUNS {
        let run = trace(command())?;
        assert_eq!(run.code, Some(0), "{:?} failed", command());
        peak_kib = peak_kib.min(run.peak_kib);
        if best.as_ref().is_none_or(|best| run.calls < best.calls) {
            best = Some(run);
        }
    }
    let best = best.expect("at least one run");
    Ok(Trace { peak_kib, ..best })
}

/// The program's size in bytes, as it was built: stripped in a release build.
pub fn program_size() -> u64 {
    std::fs::metadata(Path::new(MAYFLY))
        .expect("the program's size")
        .len()
}
