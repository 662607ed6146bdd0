//! Damage planted in a whole image is found, each with its line.

use std::os::unix::fs::FileExt;

use super::{MIB, Place};

const CLUSTER: u64 = 64 << 10;
const COPIED: u64 = 1 << 63;

/// An image with a few MiB of data, and where its parts are.
struct Victim {
    place: Place,
    refcount_block: u64,
    l1: u64,
    l2: u64,
}

impl Victim {
    fn new() -> Self {
        let place = Place::new();
        place.qemu_img(&["create", "-f", "qcow2", "v.qcow2", "1G"]);
        place.qemu_io("v.qcow2", &["write -P 1 0 1M"]);
        let mut victim = Self {
            place,
            refcount_block: 0,
            l1: 0,
            l2: 0,
        };
        // By the specification: the tables' offsets are at 40 and 48 of the header.
        victim.l1 = victim.get(40);
        victim.refcount_block = victim.get(victim.get(48));
        victim.l2 = victim.get(victim.l1) & !COPIED;
        victim
    }

    fn get(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        let file = self.place.open("v.qcow2");
        file.read_exact_at(&mut bytes, at).expect("a number");
        u64::from_be_bytes(bytes)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let file = self.place.open("v.qcow2");
        file.write_all_at(bytes, at).expect("a number");
    }

    /// The cluster of the disk's first data.
    fn data(&self) -> u64 {
        self.get(self.l2) & !COPIED
    }

    fn refcount_of(&self, offset: u64) -> u64 {
        self.refcount_block + offset / CLUSTER * 2
    }

    /// The check ends with `code`, as qemu-img's does, and has a line with `words`.
    #[track_caller]
    fn found(&self, code: i32, words: &str) {
        let outcome = self.place.image(["check", "v.qcow2"]).outcome();
        assert_eq!(outcome.code, code, "{outcome}");
        assert!(outcome.stdout.contains(words), "no '{words}': {outcome}");
        let json = self.place.image(["check", "--json", "v.qcow2"]).outcome();
        assert_eq!(json.code, code, "{json}");
        let errors = json.json()["errors"].as_u64().expect("a number");
        assert_eq!(errors > 0, code == 2, "{json}");
        let theirs = self.place.qemu("qemu-img", &["check", "v.qcow2"]);
        assert_eq!(theirs.status.code(), Some(code), "{theirs:?}");
    }
}

#[test]
fn a_refcount_too_high_is_a_leak() {
    let victim = Victim::new();
    let end = victim
        .place
        .open("v.qcow2")
        .metadata()
        .expect("a length")
        .len();
    victim
        .place
        .open("v.qcow2")
        .set_len(end + CLUSTER)
        .expect("a length");
    let free = end.next_multiple_of(CLUSTER);
    victim.put(victim.refcount_of(free), &[0, 1]);
    victim.found(3, &format!("leak: cluster {free:#x} is in use by nothing"));
}

#[test]
fn a_refcount_of_zero_is_an_error() {
    let victim = Victim::new();
    let data = victim.data();
    victim.put(victim.refcount_of(data), &[0, 0]);
    victim.found(
        2,
        &format!("error: cluster {data:#x} is in use, but has refcount 0"),
    );
}

#[test]
fn clusters_linked_twice_are_errors() {
    let victim = Victim::new();
    let data = victim.data();
    victim.put(victim.l2 + 8, &(data | COPIED).to_be_bytes());
    victim.found(
        2,
        &format!("error: cluster {data:#x} is in use 2 times, but has refcount 1"),
    );
}

#[test]
fn entries_out_of_the_file_are_errors() {
    let victim = Victim::new();
    victim.put(victim.l2 + 16, &(COPIED | 1 << 40).to_be_bytes());
    victim.found(
        2,
        "error: the data of 0x20000 at 0x10000000000 lies outside the file",
    );
}

#[test]
fn a_misaligned_table_is_an_error() {
    let victim = Victim::new();
    victim.put(victim.l1, &(COPIED | (victim.l2 + 512)).to_be_bytes());
    victim.found(2, "is not aligned to the cluster size");
}

#[test]
fn a_truncated_file_has_errors() {
    let victim = Victim::new();
    let end = victim
        .place
        .open("v.qcow2")
        .metadata()
        .expect("a length")
        .len();
    let shorter = victim.place.open("v.qcow2").set_len(end - MIB / 2);
    shorter.expect("a length");
    victim.found(2, "lies outside the file");
}

#[test]
fn a_backing_file_that_is_gone_is_an_error() {
    let place = Place::new();
    place.qemu_img(&[
        "create", "-f", "qcow2", "-u", "-F", "raw", "-b", "none.img", "v.qcow2", "1M",
    ]);
    let outcome = place.image(["check", "v.qcow2"]).outcome();
    assert_eq!(outcome.code, 2, "{outcome}");
    assert!(
        outcome.stdout.contains("none.img': No such file"),
        "{outcome}"
    );
}
