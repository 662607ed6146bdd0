//! Disks whose writes are thrown away, many of them on one file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::{bare_on, disk};
use crate::common::disk::{image_folder, sparse_file};
use crate::common::pattern::{BLOCK, block};

#[test]
fn ten_ephemeral_disks_share_one_file_that_never_changes() {
    const BLOCKS: u64 = 256;
    let folder = image_folder();
    let image = folder.path().join("shared.raw");
    let content: Vec<u8> = (0..BLOCKS)
        .flat_map(|number| block(number, BLOCKS))
        .collect();
    fs::write(&image, &content).expect("write an image");
    // One holds the file all the while, and writes.
    let mut first = bare_on("pci", "blk_pattern", "bare.depth=2 bare.flush=16")
        .args(disk(&image, ",format=raw,ephemeral"))
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start mayfly");
    let mut lines = BufReader::new(first.stdout.take().expect("a pipe")).lines();
    while !lines
        .next()
        .expect("a line")
        .expect("a line")
        .starts_with('F')
    {}
    let others: Vec<_> = (1..10)
        .map(|index| {
            let transport = if index % 2 == 0 { "pci" } else { "mmio" };
            let aio = if index % 3 == 0 {
                "threads"
            } else {
                "io_uring"
            };
            let options = format!(",format=raw,ephemeral,aio={aio}");
            let other = bare_on(transport, "blk_rw", "").args(disk(&image, &options));
            std::thread::spawn(|| other.outcome())
        })
        .collect();
    // Nobody may change what they read.
    let writer = bare_on("pci", "blk_rw", "")
        .args(disk(&image, ",format=raw"))
        .outcome();
    for other in others {
        let outcome = other.join().expect("a run");
        outcome.all_held().printed("written and read");
    }
    assert!(first.try_wait().expect("look").is_none(), "it ended early");
    writer.ended(245, "usage");
    // Any of them may be the one that is named.
    let line = writer.stderr.lines().next().unwrap_or_default();
    assert!(
        line.contains("shared.raw") && line.contains("mayfly (pid "),
        "{writer}"
    );
    first.kill().expect("kill mayfly");
    first.wait().expect("wait for mayfly");
    let after = fs::read(&image).expect("read the image");
    assert!(after == content, "the file has changed");
    assert_eq!(content.len(), BLOCKS as usize * BLOCK);

    // With them gone a writer gets it.
    let writer = bare_on("pci", "blk_rw", "")
        .args(disk(&image, ",format=raw"))
        .outcome();
    writer.all_held();
    let after = fs::read(&image).expect("read the image");
    assert!(after != content, "the file has not changed");
}

#[test]
fn ephemeral_writes_need_room_for_no_copy() {
    // A disk that no file system here has room for.
    let folder = image_folder();
    let image = folder.path().join("large.raw");
    sparse_file(&image, 1 << 40);
    let outcome = bare_on("pci", "blk_rw", "")
        .args(disk(&image, ",format=raw,ephemeral"))
        .outcome();
    outcome.all_held().printed("written and read");
}
