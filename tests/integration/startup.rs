//! What a start takes, in numbers that repeat: system calls, memory, the program's
//! size. `cargo bench --bench startup` adds the time.

use crate::common::startup::{
    EXTRA_CALLS, PROGRAM_SIZE, best_trace, floor_program, mayfly, peak_bound, program_size,
};

#[test]
fn a_start_makes_few_system_calls_beyond_the_floor() {
    let floor = best_trace(floor_program).unwrap();
    let mayfly = best_trace(mayfly).unwrap();
    println!("system calls: {} (floor: {})", mayfly.calls, floor.calls);
    assert!(
        mayfly.calls <= floor.calls + EXTRA_CALLS,
        "{} system calls, more than the floor's {} and {EXTRA_CALLS}",
        mayfly.calls,
        floor.calls
    );
}

#[test]
fn nothing_becomes_executable_at_run_time() {
    let run = best_trace(mayfly).unwrap();
    assert!(
        run.made_executable.is_empty(),
        "made executable: {:?}",
        run.made_executable
    );
}

/// A debug build is neither small nor stripped.
#[test]
fn a_release_build_is_small_in_memory_and_on_disk() {
    if cfg!(debug_assertions) {
        println!("not a release build: nothing to check");
        return;
    }
    let size = program_size();
    assert!(size <= PROGRAM_SIZE, "the program has {size} bytes");
    let run = best_trace(mayfly).unwrap();
    println!("{size} bytes, {} KiB resident at most", run.peak_kib);
    assert!(run.peak_kib > 500, "{run:?}");
    assert!(
        run.peak_kib <= peak_bound(),
        "{} KiB were resident",
        run.peak_kib
    );
}
