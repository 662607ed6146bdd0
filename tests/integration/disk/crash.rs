//! Mayfly is killed (kill -9) in the middle of writing, hundreds of times: every write
//! that the guest was told to be done is there, whole. In a qcow2 image that holds for
//! what a FLUSH came after: where a cluster lies is written down by then.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{bare_on, disk};
use crate::common::disk::{content, image_folder, qemu_img, sparse_file, text};
use crate::common::pattern::{Acknowledged, BLOCK, acknowledged};
use crate::common::{HostKind, host_kind};

/// Places of the image: more than a guest comes to write before it is killed.
const BLOCKS: u64 = 4096;
const SIZE: u64 = BLOCKS * BLOCK as u64;

/// One way to have the disk.
#[derive(Clone, Copy)]
struct Way {
    transport: &'static str,
    options: &'static str,
}

const URING: Way = Way {
    transport: "pci",
    options: ",aio=io_uring",
};
const THREADS: Way = Way {
    transport: "mmio",
    options: ",aio=threads",
};
const DIRECT: Way = Way {
    transport: "pci",
    options: ",cache=none",
};

impl Way {
    /// Runs the pattern from number `first` on and kills Mayfly when the guest has
    /// told of `lines` acknowledgements; what it told until then.
    fn killed(self, image: &Path, format: &str, first: u64, lines: usize) -> Acknowledged {
        let words = format!("bare.first={first} bare.depth=6 bare.flush=9");
        let options = format!("{},format={format}", self.options);
        let mut child = bare_on(self.transport, "blk_pattern", &words)
            .args(disk(image, &options))
            .into_command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start mayfly");
        let mut pipe = child.stdout.take().expect("a pipe");
        let mut printed = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            printed.extend_from_slice(&buffer[..count]);
            // A line `pattern` comes before them.
            if printed.iter().filter(|byte| **byte == b'\n').count() > lines {
                break;
            }
        }
        child.kill().expect("kill mayfly");
        // What had left Mayfly is in the pipe yet.
        let _ = pipe.read_to_end(&mut printed);
        let output = child.wait_with_output().expect("wait for mayfly");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), None, "it was not killed: {errors}");
        let mut told = Acknowledged::default();
        let printed = String::from_utf8_lossy(&printed);
        if let Err(error) = told.add(&printed, BLOCKS) {
            panic!("{error}: {printed}{errors}");
        }
        told
    }

    /// The guest comes to its end on an image that was left behind.
    fn completes(self, image: &Path, format: &str, first: u64) {
        let words = format!("bare.first={first} bare.count=32 bare.flush=8");
        let options = format!("{},format={format}", self.options);
        let outcome = bare_on(self.transport, "blk_pattern", &words)
            .args(disk(image, &options))
            .outcome();
        let told = acknowledged(outcome.all_held(), BLOCKS);
        assert_eq!((told.writes, told.flushes), (32, 4), "{outcome}");
        let verified = told.verify_all(&content(image, format), BLOCKS);
        verified.unwrap_or_else(|error| panic!("{error}: {outcome}"));
    }
}

/// Moments that differ from kill to kill, and are the same in every run of the test.
fn moment(kill: u64) -> usize {
    (kill.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as usize + 1
}

fn kills(on_pvm: u64) -> u64 {
    match host_kind() {
        HostKind::Pvm => on_pvm,
        // A start takes much longer on an emulated processor.
        HostKind::Hardware => on_pvm / 12,
    }
}

/// Kills and verifies on one raw image.
fn kills_on_a_raw_image(way: Way, count: u64) {
    let start = Instant::now();
    let folder = image_folder();
    let image = folder.path().join("pattern.raw");
    sparse_file(&image, SIZE);
    let mut writes = 0;
    for kill in 0..count {
        // Numbers go on, so that what an earlier run wrote is not taken for this one's.
        let told = way.killed(&image, "raw", kill * BLOCKS, moment(kill));
        let found = fs::read(&image).expect("read the image");
        told.verify_all(&found, BLOCKS)
            .unwrap_or_else(|error| panic!("kill {kill} on {}: {error}", way.options));
        writes += told.writes;
    }
    way.completes(&image, "raw", count * BLOCKS);
    println!(
        "{count} kills on {}, {writes} acknowledged writes, {:?}",
        way.options,
        start.elapsed()
    );
    assert!(writes as u64 >= count, "too little was written to tell");
}

#[test]
fn raw_image_has_every_acknowledged_write_after_a_kill() {
    kills_on_a_raw_image(URING, kills(120));
    kills_on_a_raw_image(THREADS, kills(84));
    kills_on_a_raw_image(DIRECT, kills(36));
}

#[test]
fn qcow2_image_has_what_was_flushed_after_a_kill() {
    let start = Instant::now();
    let folder = image_folder();
    let image = folder.path().join("pattern.qcow2");
    let empty = folder.path().join("empty.qcow2");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        text(&empty),
        &SIZE.to_string(),
    ]);
    let (mut flushes, count) = (0, kills(60));
    for kill in 0..count {
        let way = if kill % 2 == 0 { URING } else { THREADS };
        // An empty image, in which every write needs a cluster, one time of two.
        if kill % 4 < 2 {
            fs::copy(&empty, &image).expect("copy an image");
        }
        let told = way.killed(&image, "qcow2", kill * BLOCKS, moment(kill));
        checked(&image);
        told.verify_flushed(&content(&image, "qcow2"), BLOCKS)
            .unwrap_or_else(|error| panic!("kill {kill} on {}: {error}", way.options));
        flushes += told.flushes;
    }
    URING.completes(&image, "qcow2", count * BLOCKS);
    println!(
        "{count} kills on qcow2, {flushes} acknowledged flushes, {:?}",
        start.elapsed()
    );
    assert!(flushes as u64 >= count, "too little was flushed to tell");
}

/// `qemu-img check` finds nothing worse than clusters that nobody uses.
fn checked(image: &Path) {
    const LEAKS: i32 = 3;
    // What was under way when its process was killed keeps a file, and its locks, a moment
    // longer than the process.
    const TRIES: u32 = 50;
    let check = |_| {
        let check = Command::new("qemu-img")
            .args(["check", "-q", "-f", "qcow2"])
            .arg(image)
            .stdin(Stdio::null())
            .output()
            .expect("run qemu-img");
        let locked = String::from_utf8_lossy(&check.stderr).contains("Failed to lock");
        if locked {
            thread::sleep(Duration::from_millis(20));
        }
        (!locked).then_some(check)
    };
    let output = (0..TRIES).find_map(check).expect("a lock that is given up");
    let code = output.status.code();
    assert!([Some(0), Some(LEAKS)].contains(&code), "{output:?}");
}
