//! `--json`: one object as the last line of standard output.

use serde_json::Value;

use crate::common::{Mayfly, bare};

fn milliseconds(json: &Value, name: &str) -> Option<f64> {
    json["ms"][name].as_f64()
}

#[test]
fn object_tells_what_happened() {
    let outcome = Mayfly::bare("hello").outcome();
    outcome.all_held();
    let json = outcome.json();
    let times: Vec<f64> = ["first_instruction", "first_serial_byte", "userspace", "end"]
        .map(|name| milliseconds(&json, name).unwrap_or_else(|| panic!("no {name}: {outcome}")))
        .to_vec();
    assert!(times.is_sorted(), "times run backwards: {outcome}");
    assert!(times[0] > 0.0, "{outcome}");
    assert!(
        times[3] / 1000.0 <= outcome.elapsed.as_secs_f64(),
        "{outcome}"
    );

    let exits = json["exits"].as_object().expect("a map");
    let total: u64 = exits.values().filter_map(Value::as_u64).sum();
    // Each of the 29 characters takes one exit, and a look at the status another.
    assert!(total >= 58, "too few exits: {outcome}");
    assert_eq!(json["emulated"], serde_json::json!({}), "{outcome}");
    assert_eq!(json["hooks_planted"], 0, "{outcome}");
}

#[test]
fn guest_that_never_says_it_runs_has_no_userspace_time() {
    let outcome = Mayfly::bare("status").outcome();
    outcome.ended(42, "guest-status");
    let json = outcome.json();
    assert_eq!(json["ms"]["userspace"], Value::Null, "{outcome}");
    assert_eq!(json["ms"]["first_serial_byte"], Value::Null, "{outcome}");
}

#[test]
fn object_stands_on_a_line_of_its_own() {
    // The timeout cuts this guest's output anywhere in a line.
    let outcome = Mayfly::bare("pause_load")
        .args(["--timeout", "300ms"])
        .outcome();
    outcome.ended(242, "timeout");
    assert!(outcome.stdout.ends_with("}\n"), "{outcome}");
    assert_eq!(outcome.stdout.matches("\"reason\"").count(), 1, "{outcome}");
}

#[test]
fn without_the_option_there_is_no_object() {
    let hello = bare("hello");
    let outcome = Mayfly::new(["run", "--kernel"]).arg(hello).outcome();
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_eq!(
        outcome.stdout.replace('\r', ""),
        "hello from a bare guest\ndone\n"
    );
    assert_eq!(outcome.stderr, "", "{outcome}");
}
