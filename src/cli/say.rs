//! The program's last words, to readers that may have stopped reading.

use std::error::Error;
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
    say(io::stdout(), text);
}

/// Writes `text` to stderr.
pub(super) fn on_stderr(text: &str) {
    say(io::stderr(), text);
}

/// Where nobody listens there is nobody to tell that nobody listens.
fn say(target: impl AsFd, text: &str) {
    let _ = patient::write_all(target, text.as_bytes(), PATIENCE);
}

/// An error and its causes as one line, without the program's name.
pub(super) fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        // Some errors already end with what their source says.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = source.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ConsoleError;

    #[test]
    fn causes_follow_on_the_same_line() {
        let source = io::Error::other("two\nlines");
        let line = one_line(&ConsoleError::Thread(source));
        assert_eq!(
            line,
            "cannot start the thread that writes the serial output: two lines"
        );
    }
}
