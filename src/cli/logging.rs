//! What `-v` shows, on stderr.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use env_logger::Target;
use log::{Level, LevelFilter};

use super::flood::Flood;
use super::say;

/// Starts logging: warnings always, what Mayfly decides with one `-v`, details with two.
pub(super) fn init(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    let flood = Flood::default();
    let started = env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("mayfly", level)
        .target(Target::Pipe(Box::new(Patient(io::stderr()))))
        .format(move |out, record| {
            if record.level() > Level::Warn {
                return writeln!(out, "mayfly: {}", record.args());
            }
            let place = (record.module_path_static(), record.line());
            match flood.admit(place, Instant::now()) {
                None => Ok(()),
                Some(0) => writeln!(out, "mayfly: warning: {}", record.args()),
                Some(more) => writeln!(
                    out,
                    "mayfly: warning: {} (and {more} more like it before)",
                    record.args()
                ),
            }
        })
        .try_init();
    // Only a second logger is refused, and the first one does as well.
    drop(started);
}

/// Takes a line for a reader that may stall: vCPU threads log too, and one that
/// waited for ever would keep the VM from pausing and from ending.
struct Patient<T>(T);

impl<T: AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say::say(&self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_reader_that_stalls_is_not_waited_for() {
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let started = Instant::now();
        // A pipe holds 64 KiB.
        let line = [b'x'; 1 << 17];
        assert_eq!(Patient(&writer).write(&line).unwrap(), line.len());
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
