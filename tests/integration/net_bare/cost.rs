//! What a frame costs: system calls and exits to userspace.

use serde_json::Value;

use super::{guest, transports, with_peer};

/// Frames for Ethernet that a big segment stands for.
const PIECES: f64 = 45.0;

/// All exits of a run, and what its device passed on and cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    exits: u64,
    sent: u64,
    received: u64,
    calls: u64,
}

/// What `count` frames cost.
fn cost(transport: &str, words: &str, count: u64) -> Cost {
    with_peer(|peer| {
        peer.goes_first();
        let words = format!("bare.count={count} {words}");
        let outcome = guest("net_bench", transport, "", &words).outcome();
        outcome.all_held();
        let json = outcome.json();
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{outcome}"));
        let exits = json["exits"].as_object().expect("a map");
        let net = &json["nets"][0];
        Cost {
            exits: exits.values().map(number).sum(),
            sent: number(&net["frames_sent"]),
            received: number(&net["frames_received"]),
            calls: number(&net["system_calls"]),
        }
    })
}

/// Frames as the guest is told of them, which way, how many system calls a packet, how
/// many packets a frame.
const BOUNDS: [(&str, bool, f64, f64); 4] = [
    ("bare.mode=0 bare.size=64", true, 1.2, 1.0),
    ("bare.mode=1 bare.size=64", false, 1.2, 1.0),
    ("bare.mode=0 bare.gso=1 bare.buffer=4096", true, 0.2, PIECES),
    (
        "bare.mode=1 bare.gso=1 bare.buffer=4096",
        false,
        0.2,
        PIECES,
    ),
];

/// What a frame more costs in system calls; whatever disturbs adds some.
fn calls_a_frame(transport: &str, words: &str, sends: bool) -> f64 {
    const FEW: u64 = 200;
    const MORE: u64 = 1000;
    let few = cost(transport, words, FEW);
    let many = cost(transport, words, FEW + MORE);
    let passed = match sends {
        true => many.sent - few.sent,
        false => many.received - few.received,
    };
    assert_eq!(passed, MORE, "{words}: {few:?} {many:?}");
    // What the guest prints takes exits, and its numbers differ by some digits.
    assert!(many.exits <= few.exits + 100, "{words}: {few:?} {many:?}");
    (many.calls as f64 - few.calls as f64) / MORE as f64
}

#[test]
fn a_kick_is_no_exit_and_a_frame_few_system_calls() {
    const TRIES: usize = 4;
    for transport in transports() {
        for (words, sends, bound, packets) in BOUNDS {
            let mut tries = (0..TRIES).map(|_| {
                let calls = calls_a_frame(transport, words, sends) / packets;
                println!("{transport}, {words}: {calls:.3} system calls a packet");
                calls
            });
            assert!(
                tries.any(|calls| calls < bound),
                "{transport}, {words}: {bound} system calls a packet or more, {TRIES} times"
            );
        }
    }
}
