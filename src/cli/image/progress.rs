//! How far a long piece of work is.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::say;

/// Between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

/// A bar on a terminal, now and then a line elsewhere.
pub(super) struct Bar {
    doing: String,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Bar {
    /// For what is being done, such as `converting 'x.img'`.
    pub(super) fn new(doing: &str) -> Self {
        Self {
            doing: doing.to_owned(),
            bar: stderr().is_terminal().then(|| new_bar(doing)),
            last_line: Instant::now(),
        }
    }

    /// `done` of `all` is done.
    pub(super) fn show(&mut self, done: u64, all: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done);
        } else if self.last_line.elapsed() >= BETWEEN_LINES {
            self.last_line = Instant::now();
            let percent = u128::from(done) * 100 / u128::from(all.max(1));
            say::on_stderr(&format!("mayfly: {}: {percent}%\n", self.doing));
        }
    }

    /// It is over.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(doing: &str) -> ProgressBar {
    let template = "mayfly: {msg} {bar:20} {percent:>3}% {elapsed}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style);
    bar.set_message(doing.to_owned());
    bar
}
