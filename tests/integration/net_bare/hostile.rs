//! Drivers that break the rules: nothing but their own traffic suffers.

use super::{guest, with_peer_at};
use crate::common::netns::Queues;

/// `CASE` lines of net_hostile.S, net_buffers.S and net_floods.S.
const FRAME_CASES: usize = 11;
const BUFFER_CASES: usize = 6;
const FLOOD_CASES: usize = 15;

/// Runs all cases of a hostile guest, after each of which frames must pass; none may
/// that no driver is to send.
#[track_caller]
fn survives(name: &str, transport: &str, words: &str, cases: usize) {
    survives_at(Queues::One, name, transport, words, cases);
}

/// The same with a device of one or of two queue pairs, of which the guest uses one.
#[track_caller]
fn survives_at(queues: Queues, name: &str, transport: &str, words: &str, cases: usize) {
    let (options, cpus) = match queues {
        Queues::One => ("", "1"),
        Queues::Many => (",queues=2", "2"),
    };
    with_peer_at(queues, |peer| {
        let words = format!("bare.ram={} {words}", 64 << 20);
        let outcome = guest(name, transport, options, &words);
        let outcome = outcome.args(["--cpus", cpus]).outcome();
        outcome.all_held();
        let alive = outcome.guest().matches(" alive").count();
        assert_eq!(alive, cases, "cases survived: {outcome}");
        assert_eq!(peer.forbidden(), 0, "frames that break rules: {outcome}");
        assert!(peer.pings() >= 2 * cases as u64, "{outcome}");
    });
}

#[test]
fn hostile_frames_harm_nothing_on_pci() {
    survives("net_hostile", "pci", "", FRAME_CASES);
}

#[test]
fn hostile_frames_harm_nothing_on_mmio() {
    survives("net_hostile", "mmio", "bare.event_idx=0", FRAME_CASES);
}

#[test]
fn hostile_buffers_and_commands_harm_nothing_on_pci() {
    survives("net_buffers", "pci", "", BUFFER_CASES);
}

#[test]
fn hostile_buffers_and_commands_harm_nothing_on_mmio() {
    survives("net_buffers", "mmio", "", BUFFER_CASES);
}

#[test]
fn hostile_buffers_harm_nothing_that_merges_none() {
    survives("net_buffers", "pci", "bare.mrg=0", BUFFER_CASES);
}

#[test]
fn floods_and_resets_harm_nothing_on_pci() {
    survives("net_floods", "pci", "", FLOOD_CASES);
}

#[test]
fn floods_and_resets_harm_nothing_on_mmio() {
    survives("net_floods", "mmio", "", FLOOD_CASES);
}

#[test]
fn floods_and_resets_harm_no_second_queue_pair() {
    survives_at(Queues::Many, "net_floods", "pci", "", FLOOD_CASES);
}
