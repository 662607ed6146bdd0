//! What `-v` shows, on stderr.

use std::io::Write;

use log::{Level, LevelFilter};

/// Starts logging: warnings always, what Mayfly decides with one `-v`, details with two.
pub(super) fn init(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    let started = env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("mayfly", level)
        .format(|out, record| {
            let prefix = match record.level() {
                Level::Warn => "warning: ",
                _ => "",
            };
            writeln!(out, "mayfly: {prefix}{}", record.args())
        })
        .try_init();
    // Only a second logger is refused, and the first one does as well.
    drop(started);
}
