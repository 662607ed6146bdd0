//! Timer ticks: on kvm-pvm hosts a guest gets no more of them than it can afford,
//! and its clocks stay right; elsewhere nobody looks at them.

use crate::common::{HostKind, Mayfly, Outcome, host_kind};

/// A second of ticks at 250 Hz, whose handler takes `cost` microseconds.
fn ticks_that_cost(cost: u32) -> Outcome {
    let line = format!("bare.cost={cost}");
    let outcome = Mayfly::bare("deadline_ticks").args(["--cmdline", &line]);
    let outcome = outcome.outcome();
    outcome.all_held();
    outcome
}

fn held_back(outcome: &Outcome) -> u64 {
    let count = outcome.json()["ticks_held_back"].as_u64();
    count.expect("a number")
}

#[test]
fn ticks_leave_most_of_the_time_to_the_guest() {
    let dear = ticks_that_cost(2000);
    let ticks = dear.fact("ticks");
    match host_kind() {
        HostKind::Pvm => {
            // A tenth of the time: one in 20 ms, and some in advance.
            assert!((10..=60).contains(&ticks), "{ticks} ticks: {dear}");
            assert!(held_back(&dear) >= 9, "{dear}");
            let cheap = ticks_that_cost(0).fact("ticks");
            assert!(cheap > ticks, "{cheap} ticks: {dear}");
        }
        HostKind::Hardware => {
            assert_eq!(held_back(&dear), 0, "{dear}");
            let exits = dear.json()["exits"].clone();
            assert!(exits.get("wrmsr").is_none(), "a write was filtered: {dear}");
        }
    }
}

#[test]
fn clocks_do_not_notice_the_ticks_held_back() {
    let outcome = ticks_that_cost(2000);
    let clock = outcome.fact("clock_us");
    let tsc = outcome.fact("tsc_us");
    assert!(clock.abs_diff(tsc) < clock / 20, "{outcome}");
    // The ticks that the handler skipped are counted when it runs.
    let elapsed = outcome.fact("due") * 4000;
    assert!(elapsed.abs_diff(clock) < 100_000, "{outcome}");
    let host = outcome.elapsed.as_micros();
    assert!(u128::from(clock) < host, "{outcome}");
}
