//! Virtio network devices, driven by bare guests at a tap: what is served, what a driver
//! that breaks the rules gets, what a link that goes away does, and what a frame costs.
//!
//! Each test has a network namespace of its own, with one tap, and a peer on it that
//! does what the guest asks for.

mod cost;
mod hostile;
mod link;
mod options;

use crate::common::netns::{Queues, in_namespace, tap};
use crate::common::peer::Peer;
use crate::common::{Mayfly, is_emulated};

const TAP: &str = "tap0";
/// The bytes of net_load.inc's big segments.
const BIG: u64 = 65_214;

/// On the emulated host one transport will do, where boots are slow and all that the
/// other does otherwise is not the host's to find out.
fn transports() -> impl Iterator<Item = &'static str> {
    let both = ["pci", "mmio"];
    both.into_iter().take(if is_emulated() { 1 } else { 2 })
}

/// The bare guest `name` at the tap; `options` follow the tap's name, `words` are for
/// the guest.
fn guest(name: &str, transport: &str, options: &str, words: &str) -> Mayfly {
    guest_at(name, transport, &format!("tap={TAP}{options}"), words)
}

/// The bare guest `name` with `--net NET`.
fn guest_at(name: &str, transport: &str, net: &str, words: &str) -> Mayfly {
    let window = mayfly::memory::layout::VIRTIO_MMIO_START;
    let line = match transport {
        "mmio" => format!("bare.mmio={window} bare.irq=5 {words}"),
        _ => words.to_string(),
    };
    Mayfly::bare(name)
        .args(["--memory", "64M", "--transport", transport])
        .args(["--net", net])
        .args(["--cmdline", &line])
}

/// Runs `body` with a tap and the peer at it.
#[track_caller]
fn with_peer<T: Send>(body: impl FnOnce(&Peer) -> T + Send) -> T {
    with_peer_at(Queues::One, body)
}

/// The same with a tap made for that many.
#[track_caller]
fn with_peer_at<T: Send>(queues: Queues, body: impl FnOnce(&Peer) -> T + Send) -> T {
    in_namespace(|| {
        tap(TAP, queues);
        body(&Peer::start(TAP))
    })
}

#[test]
fn frames_of_all_lengths_go_there_and_back() {
    // Buffers that hold a frame, buffers of which a frame takes many, and those of
    // drivers that do not know of merging or of event indices.
    let drivers = [
        "",
        "bare.buffer=100",
        "bare.mrg=0",
        "bare.event_idx=0",
        "bare.mrg=0 bare.event_idx=0 bare.ctrl=1",
    ];
    for transport in transports() {
        for words in drivers {
            with_peer(|peer| {
                let options = ",mac=02:0a:0b:0c:0d:0e";
                let outcome = guest("net_echo", transport, options, words).outcome();
                outcome.all_held().printed("echoed");
                assert_eq!(outcome.fact("mac"), 0x0c0b_0a02, "{outcome}");
                assert_eq!(outcome.fact("status"), 1, "the link is up: {outcome}");
                assert_eq!(peer.pings(), 14, "{outcome}");
                let net = &outcome.json()["nets"][0];
                assert_eq!(net["frames_sent"], 14, "{outcome}");
                assert_eq!(net["frames_received"], 14, "{outcome}");
                assert_eq!(net["bytes_sent"], net["bytes_received"], "{outcome}");
            });
        }
    }
}

#[test]
fn big_segments_pass_whole_both_ways() {
    for transport in transports() {
        for words in ["bare.gso=1", "bare.gso=1 bare.mrg=0"] {
            with_peer(|peer| {
                let outcome = guest("net_echo", transport, "", words).outcome();
                outcome.all_held().printed("segments");
                assert!(peer.has_got(1), "the segment: {outcome}");
                assert_eq!((peer.frames(), peer.bytes()), (1, BIG), "{outcome}");
            });
        }
    }
}

#[test]
fn a_link_without_offloads_offers_none() {
    with_peer(|_| {
        let words = "bare.gso=1";
        let outcome = guest("net_echo", "pci", ",offload=off", words).outcome();
        outcome.all_held().printed("echoed");
        // CSUM, GUEST_CSUM, GUEST_TSO4 and HOST_TSO4.
        let gso = 1 | 1 << 1 | 1 << 7 | 1 << 11;
        assert_eq!(outcome.fact("agreed") & gso, 0, "{outcome}");
    });
}

#[test]
fn interrupts_tell_a_halted_guest_of_frames() {
    for transport in transports() {
        for event_idx in [0, 1] {
            with_peer(|peer| {
                for mode in 0..3 {
                    let words = format!(
                        "bare.mode={mode} bare.count=60 bare.depth=3 bare.event_idx={event_idx}"
                    );
                    let outcome = guest("net_irq", transport, "", &words).outcome();
                    outcome.all_held().printed("frames=60 ");
                }
                assert!(peer.has_got(60), "{} frames", peer.frames());
            });
        }
    }
}
