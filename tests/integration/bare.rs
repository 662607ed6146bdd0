//! The bare guests: each tests one part of the machine from inside.

use crate::common::Mayfly;

#[test]
fn hello_prints_and_resets() {
    let outcome = Mayfly::bare("hello").outcome();
    outcome.all_held().printed("hello from a bare guest\n");
}

#[test]
fn triple_fault_is_reported() {
    let outcome = Mayfly::bare("triple_fault").outcome();
    outcome.printed("about to fault").ended(241, "triple-fault");
}

#[test]
fn timeout_ends_a_loop_in_kernel_mode() {
    let outcome = Mayfly::bare("spin").args(["--timeout", "1s"]).outcome();
    outcome.ended(242, "timeout").printed("spinning");
}

#[test]
fn timeout_ends_a_loop_in_user_mode() {
    let outcome = Mayfly::bare("spin_user")
        .args(["--timeout", "1s"])
        .outcome();
    outcome.ended(242, "timeout").printed("spinning");
}

#[test]
fn linux_boot_protocol_keeps_its_promises() {
    let outcome = Mayfly::bare("boot_linux64")
        .args(["--boot-protocol", "linux64", "--cmdline", "bare.word=1"])
        .outcome();
    outcome.all_held();
    let command_line = outcome.line("cmdline: ");
    assert!(command_line.contains("console=ttyS0"), "{outcome}");
    assert!(command_line.ends_with("bare.word=1"), "{outcome}");
}
