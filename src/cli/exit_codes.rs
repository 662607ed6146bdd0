//! The table of exit codes, made from the reasons themselves.

use std::fmt::Write;

use crate::vm::exit::{ExitReason, GUEST_STATUS_MAX};

/// Every reason once, with the words that explain it.
fn rows() -> Vec<(ExitReason, &'static str)> {
    let message = String::new;
    vec![
        (ExitReason::PowerOff, "the guest powered itself off"),
        (ExitReason::Reset, "the guest reset itself"),
        (
            ExitReason::GuestStatus { status: 1 },
            "the guest's own status, through the debug-exit port",
        ),
        (ExitReason::KernelPanic, "the guest kernel panicked"),
        (ExitReason::TripleFault, "a virtual CPU met a triple fault"),
        (ExitReason::Timeout, "--timeout ran out"),
        (
            ExitReason::UserQuit,
            "the user ended the VM (Ctrl-a x, SIGINT, SIGTERM, SIGHUP, SIGQUIT)",
        ),
        (
            ExitReason::HostError { message: message() },
            "Mayfly or the host failed",
        ),
        (
            ExitReason::Usage { message: message() },
            "bad usage or configuration",
        ),
    ]
}

/// The exit codes of one reason, as a range where it has several.
fn codes(reason: &ExitReason) -> String {
    match reason {
        ExitReason::GuestStatus { .. } => format!("1-{GUEST_STATUS_MAX}"),
        other => other.code().to_string(),
    }
}

/// The table for `--help`: code, reason, words.
pub(super) fn table() -> String {
    let mut text = String::from("Exit codes (and the reason in --json):\n");
    for (reason, words) in rows() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {:<6} {:<13} {words}",
            codes(&reason),
            reason.name()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/exit-codes.md");

    #[test]
    fn the_document_has_the_same_table() {
        for (reason, words) in rows() {
            let row = format!("| {} | `{}` | {words} |", codes(&reason), reason.name());
            assert!(DOCUMENT.contains(&row), "docs/exit-codes.md lacks: {row}");
        }
        let in_document = DOCUMENT
            .lines()
            .filter(|line| line.starts_with("| "))
            .count();
        assert_eq!(in_document, rows().len() + 1);
    }
}
