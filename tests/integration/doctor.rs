//! `mayfly doctor`: whether VMs can run here.

use crate::common::{Mayfly, host_kind};

#[test]
fn doctor_says_yes_where_vms_run() {
    let outcome = Mayfly::new(["doctor"]).outcome();
    assert_eq!(outcome.code, 0, "{outcome}");
    assert!(outcome.stdout.contains("/dev/kvm"), "{outcome}");
    Mayfly::bare("hello").outcome().all_held();
}

#[test]
fn doctor_speaks_json() {
    host_kind();
    let outcome = Mayfly::new(["doctor", "--json"]).outcome();
    assert_eq!(outcome.code, 0, "{outcome}");
    let json = outcome.json();
    assert_eq!(json["can_run"], true, "{outcome}");
    assert!(json["backend"].is_string(), "{outcome}");
    let findings = json["findings"].as_array().expect("a list");
    for subject in [
        "kvm",
        "tun",
        "new taps",
        "uso",
        "passt",
        "ping",
        "huge",
        "weights and limits",
        "io_uring",
        "userfaultfd",
    ] {
        let found = findings.iter().any(|finding| {
            let name = finding["name"].as_str().unwrap_or_default();
            name.to_lowercase().contains(subject)
        });
        assert!(found, "nothing about {subject}: {outcome}");
    }
}
