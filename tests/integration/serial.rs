//! Where the serial port leads, and who may be slow at its other end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::common::run::{LIMIT, wait_limited};
use crate::common::{Mayfly, bare};

fn directory() -> TempDir {
    TempDir::with_prefix("mayfly-serial-").expect("create a temporary directory")
}

#[test]
fn null_swallows_the_output() {
    let outcome = Mayfly::bare("hello").args(["--serial", "null"]).outcome();
    outcome.ended(0, "reset");
    assert_eq!(outcome.guest(), "", "{outcome}");
}

#[test]
fn file_takes_the_output() {
    let directory = directory();
    let path = directory.path().join("serial.log");
    fs::write(
        &path,
        "what was there before, which is longer than the guest's output",
    )
    .expect("write a file");
    let option = format!("file={}", path.display());
    let outcome = Mayfly::bare("hello").args(["--serial", &option]).outcome();
    outcome.ended(0, "reset");
    assert_eq!(outcome.guest(), "", "{outcome}");
    let written = fs::read_to_string(&path).expect("read the file");
    assert_eq!(written, "hello from a bare guest\ndone\n");
}

#[test]
fn file_that_is_full_ends_nothing() {
    let outcome = Mayfly::bare("hello").args(["--serial", "file=/dev/full"]);
    outcome.outcome().ended(0, "reset");
}

#[test]
fn pty_carries_both_directions() {
    let mut child = Mayfly::bare("serial_irq")
        .args(["--serial", "pty"])
        .into_command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start mayfly");
    let mut messages = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let line = messages
        .next()
        .expect("a line with the name")
        .expect("read");
    let start = line.find("/dev/pts/").expect("the name of the terminal");
    let name = line[start..].split_whitespace().next().expect("a word");
    let name = name.trim_end_matches(|c: char| !c.is_ascii_digit());
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, Mode::empty()).expect("open the terminal");
    let mut terminal = File::from(terminal);
    terminal.write_all(b"typed\nquit\n").expect("type");
    let mut seen = Vec::new();
    let mut buffer = [0; 256];
    // The terminal is gone when mayfly is: reading then fails.
    while let Ok(length @ 1..) = terminal.read(&mut buffer) {
        seen.extend(&buffer[..length]);
        if seen.ends_with(b"done\n") {
            break;
        }
    }
    let seen = String::from_utf8_lossy(&seen);
    let status = wait_limited(&mut child, LIMIT).expect("mayfly ends");
    assert_eq!(status.code(), Some(0), "{seen}");
    assert_eq!(seen, "ready\necho: typed\necho: quit\ndone\n");
}

#[test]
fn input_comes_from_a_file() {
    let directory = directory();
    let path = directory.path().join("input");
    fs::write(&path, "from a file\nquit\n").expect("write a file");
    let outcome = Mayfly::bare("serial_irq")
        .stdin(File::open(&path).expect("open the file"))
        .outcome();
    outcome.all_held().printed("echo: from a file\n");
}

#[test]
fn long_input_arrives_complete() {
    let lines: Vec<String> = (0..100)
        .map(|line| format!("{line:04} {}\n", "y".repeat(40)))
        .collect();
    let input = lines.concat() + "quit\n";
    let outcome = Mayfly::bare("serial_irq").input(input).outcome();
    outcome.all_held();
    let echoed: String = lines.iter().map(|line| format!("echo: {line}")).collect();
    assert!(outcome.guest().contains(&echoed), "{outcome}");
}

#[test]
fn input_that_ends_at_once_ends_nothing() {
    let empty = Mayfly::bare("hello").input("").outcome();
    empty.all_held();
    let null = File::open("/dev/null").expect("open /dev/null");
    Mayfly::bare("hello").stdin(null).outcome().all_held();
}

#[test]
fn input_that_nobody_reads_ends_nothing() {
    let outcome = Mayfly::bare("pause_load")
        .args(["--cmdline", "bare.lines=50"])
        .input("z".repeat(1 << 20));
    outcome.outcome().all_held();
}

#[test]
fn closed_input_and_output_end_nothing() {
    for redirection in ["<&-", ">&-", "<&- >&- 2>&-"] {
        let script = format!("exec \"$@\" {redirection}");
        let hello = Mayfly::new(["run", "--kernel"]).arg(bare("hello"));
        let outcome = hello.under("sh", ["-c", &script, "sh"]).outcome();
        assert_eq!(outcome.code, 0, "{redirection}: {outcome}");
    }
}

#[test]
fn stalled_reader_cannot_hold_up_the_timeout() {
    let mut child = Mayfly::bare("pause_load")
        .args(["--timeout", "2s"])
        .into_command()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start mayfly");
    // Nobody reads the pipe, which the guest fills many times over.
    let stalled = child.stdout.take();
    let status = wait_limited(&mut child, Duration::from_secs(60));
    drop(stalled);
    let status = status.expect("mayfly ends although nobody reads");
    assert_eq!(status.code(), Some(242));
}

#[test]
fn reader_that_goes_away_ends_nothing() {
    let script = "\"$@\" | head -n 3; exit ${PIPESTATUS[0]}";
    let outcome = Mayfly::new(["run", "--kernel"])
        .arg(bare("pause_load"))
        .args(["--cmdline", "bare.lines=300"])
        .under("bash", ["-c", script, "bash"])
        .outcome();
    assert_eq!(outcome.code, 0, "{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
}
