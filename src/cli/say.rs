//! What the program says, to readers that may have stopped reading.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::console::{Patience, patient};

/// A stalled reader must not keep the program from ending.
const PATIENCE: Patience = Patience {
    stall: Duration::from_millis(500),
    total: Duration::from_secs(2),
};

/// Writes `text` to stdout.
pub(super) fn on_stdout(text: &str) {
    say(io::stdout(), text.as_bytes());
}

/// Writes `text` to stderr.
pub(super) fn on_stderr(text: &str) {
    say(io::stderr(), text.as_bytes());
}

/// Where nobody listens there is nobody to tell that nobody listens.
pub(super) fn say(target: impl AsFd, text: &[u8]) {
    let _ = patient::write_all(target, text, PATIENCE);
}
