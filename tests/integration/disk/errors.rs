//! Errors of the host: the guest gets an I/O error, the user one line, and the VM
//! goes on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use super::{bare_on, disk};
use crate::common::disk::{image_folder, sparse_file, text};
use crate::common::run::{LIMIT, wait_limited};
use crate::common::{Mayfly, Outcome};

/// Bytes a request of `blk_sweep`.
const PIECE: u64 = 0x10000;

/// The guest had `ok` requests done and all others failed, and its disk answered still.
#[track_caller]
fn swept(outcome: &Outcome, ok: std::ops::Range<u64>, all: u64) {
    outcome.all_held();
    assert!(ok.contains(&outcome.fact("ok")), "{outcome}");
    assert_eq!(outcome.fact("ioerr"), all - outcome.fact("ok"), "{outcome}");
    assert_eq!(outcome.fact("other"), 0, "{outcome}");
    assert_eq!(outcome.json()["disks"][0]["errors"], outcome.fact("ioerr"));
}

/// The one line about the disk in what was logged.
#[track_caller]
fn told_once<'a>(log: &'a str, disk: &str) -> &'a str {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(disk)).collect();
    assert_eq!(lines.len(), 1, "not one line about '{disk}': {log}");
    lines[0]
}

/// Runs the command line in a mount namespace of its own, where `script` has run.
fn after_mounting(mayfly: Mayfly, script: &str) -> Mayfly {
    let script = format!("{script} && exec \"$@\"");
    mayfly.under("unshare", ["-r", "-m", "sh", "-c", &script, "sh"])
}

#[test]
fn full_file_system_fails_writes_and_nothing_else() {
    const SIZE: u64 = 4 << 20;
    for (transport, aio) in [("pci", "io_uring"), ("mmio", "threads")] {
        let folder = image_folder();
        let image = folder.path().join("image.raw");
        let mounted = format!(
            "mount -t tmpfs -o size=1M full {0} && truncate -s {SIZE} {0}/image.raw",
            text(folder.path())
        );
        let mayfly = bare_on(transport, "blk_sweep", "bare.type=1")
            .args(disk(&image, &format!(",format=raw,aio={aio}")));
        let outcome = after_mounting(mayfly, &mounted).outcome();
        swept(&outcome, 1..17, SIZE / PIECE);
        let line = told_once(&outcome.stderr, "disk vda");
        assert!(line.contains("No space left on device"), "{outcome}");
    }
}

#[test]
fn scratch_space_that_is_full_fails_writes_to_an_ephemeral_disk() {
    const SIZE: u64 = 4 << 20;
    let folder = image_folder();
    let image = folder.path().join("image.raw");
    let scratch = folder.path().join("scratch");
    sparse_file(&image, SIZE);
    fs::create_dir(&scratch).expect("create a directory");
    let mounted = format!("mount -t tmpfs -o size=1M full {}", text(&scratch));
    let mayfly = bare_on("pci", "blk_sweep", "bare.type=1")
        .args(disk(&image, ",format=raw,ephemeral"))
        .args(["--scratch-dir", text(&scratch)]);
    let outcome = after_mounting(mayfly, &mounted).outcome();
    swept(&outcome, 1..17, SIZE / PIECE);
    let line = told_once(&outcome.stderr, "disk vda");
    assert!(line.contains("No space left on device"), "{outcome}");
}

#[test]
fn file_truncated_underneath_fails_reads_beyond_its_end() {
    const SIZE: u64 = 4 << 20;
    for (transport, aio) in [("pci", "io_uring"), ("mmio", "threads")] {
        let folder = image_folder();
        let image = folder.path().join("image.raw");
        sparse_file(&image, SIZE);
        let mut child = bare_on(transport, "blk_sweep", "bare.type=0 bare.key=1")
            .args(disk(&image, &format!(",format=raw,aio={aio}")))
            .into_command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start mayfly");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut stdout = String::new();
        output.read_line(&mut stdout).expect("read the output");
        assert!(stdout.contains("ready"), "{stdout}");
        let file = File::options().write(true).open(&image);
        file.and_then(|file| file.set_len(SIZE / 2))
            .expect("truncate the image");
        let mut keys = child.stdin.take().expect("a pipe");
        keys.write_all(b"x").expect("type");
        output.read_to_string(&mut stdout).expect("read the output");
        let mut stderr = String::new();
        let mut errors = child.stderr.take().expect("a pipe");
        errors.read_to_string(&mut stderr).expect("read the log");
        let status = wait_limited(&mut child, LIMIT).expect("mayfly ends");
        let outcome = Outcome {
            code: status.code().unwrap_or(-1),
            stdout,
            stderr,
            elapsed: Default::default(),
        };
        let half = SIZE / PIECE / 2;
        swept(&outcome, half..half + 1, SIZE / PIECE);
        assert_eq!(outcome.fact("first"), SIZE / 2 / 512, "{outcome}");
        told_once(&outcome.stderr, "disk vda");
    }
}

#[test]
fn read_only_file_system_takes_read_only_disks_alone() {
    let folder = image_folder();
    let image = folder.path().join("image.raw");
    sparse_file(&image, 1 << 20);
    let mounted = format!(
        "mount --bind {0} {0} && mount -o remount,bind,ro {0}",
        text(folder.path())
    );
    let run = |kind, options: &str| {
        let mayfly = bare_on("pci", "blk_sweep", kind).args(disk(&image, options));
        after_mounting(mayfly, &mounted).outcome()
    };
    let refused = run("bare.type=1", ",format=raw");
    refused.ended(245, "usage");
    let line = told_once(&refused.stderr, "image.raw");
    assert!(line.contains("Read-only file system"), "{refused}");
    // What it may not write fails in the guest, without asking the host.
    let outcome = run("bare.type=1", ",format=raw,readonly");
    outcome.all_held();
    assert_eq!(
        (outcome.fact("ok"), outcome.fact("ioerr")),
        (0, 16),
        "{outcome}"
    );
    run("bare.type=1", ",format=raw,ephemeral").all_held();
    let outcome = run("bare.type=0", ",format=raw,readonly");
    outcome.all_held();
    assert_eq!(outcome.fact("ok"), 16, "{outcome}");
}
