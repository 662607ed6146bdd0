//! What is refused, and that nothing is left of what was broken off.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use mayfly::devices::virtio::block::disk::lock::{Lock, lock};

use super::{HOST, MIB, Place, USAGE, noise};

#[test]
fn nothing_is_overwritten_unasked() {
    let place = Place::new();
    place.sparse("a.img");
    fs::write(place.path("b.img"), b"mine").expect("a file");
    for arguments in [
        &["create", "b.img", "1M"][..],
        &["convert", "a.img", "b.img"],
    ] {
        let line = place.refused(USAGE, arguments);
        let says = "mayfly: cannot create image 'b.img': it exists; add --force to replace it";
        assert_eq!(line, says);
        assert_eq!(fs::read(place.path("b.img")).expect("a file"), b"mine");
    }
    place.done(&["create", "b.img", "1M", "--force"]);
    assert_eq!(
        fs::metadata(place.path("b.img")).expect("a file").len(),
        MIB
    );
    let line = place.refused(HOST, &["convert", "a.img", "a.img", "--force"]);
    assert!(line.contains("named twice"), "{line}");
}

#[test]
fn each_mistake_has_one_line() {
    let place = Place::new();
    place.sparse("a.img");
    fs::write(place.path("odd.img"), [1; 1000]).expect("a file");
    fs::write(place.path("fake.img"), b"QFI\xfb and more").expect("a file");
    fs::write(place.path("fake.qcow2"), b"not a qcow2 file").expect("a file");
    for (code, arguments, says) in [
        (
            USAGE,
            &["info", "none.img"][..],
            "cannot open image 'none.img': No such file",
        ),
        (
            USAGE,
            &["info", "."],
            "neither a regular file nor a block device",
        ),
        (
            USAGE,
            &["check", "/dev/null"],
            "neither a regular file nor a block device",
        ),
        (USAGE, &["create", "x.img"], "give its size"),
        (
            USAGE,
            &["create", "x.img", "1000"],
            "multiple of 512 bytes, which 1000 is not",
        ),
        (
            USAGE,
            &["create", "x.qcow2", "5000T"],
            "at most 2251799813685248 bytes",
        ),
        (USAGE, &["create", "x.img", "lots"], "'lots' is not a size"),
        (
            USAGE,
            &["create", "x.img", "1M", "--format", "vmdk"],
            "possible values: raw, qcow2",
        ),
        (
            USAGE,
            &["create", "x.img", "--format", "raw", "--backing", "a.img"],
            "only qcow2",
        ),
        (
            HOST,
            &["create", "none/x.img", "1M"],
            "cannot create image 'none/x.img'",
        ),
        (
            USAGE,
            &["convert", "odd.img", "x.img"],
            "multiple of 512 bytes, which 1000 is not",
        ),
        (
            USAGE,
            &["convert", "fake.img", "x.img"],
            "say --source-format qcow2",
        ),
        (USAGE, &["info", "fake.img"], "say --format qcow2"),
        (USAGE, &["info", "fake.qcow2"], "is not a qcow2 image"),
        (USAGE, &["frobnicate"], "try 'mayfly image --help'"),
        (
            USAGE,
            &[],
            "a command is missing; try 'mayfly image --help'",
        ),
    ] {
        let line = place.refused(code, arguments);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    let names = ["a.img", "fake.img", "fake.qcow2", "odd.img"];
    assert_eq!(place.names(), names, "nothing is left");
}

#[test]
fn backing_files_elsewhere_need_trust() {
    let place = Place::new();
    fs::create_dir(place.path("inner")).expect("a directory");
    place.sparse("a.img");
    let absolute = place.path("a.img").display().to_string();
    let link = place.path("inner/link.img");
    std::os::unix::fs::symlink("../a.img", link).expect("a link");
    for (name, kind) in [
        ("/etc/passwd", "raw"),
        ("/none", "raw"),
        ("../a.img", "raw"),
        ("link.img", "raw"),
        (&absolute, "raw"),
    ] {
        let image = "inner/o.qcow2";
        let base = [
            "create", "-f", "qcow2", "-u", "-F", kind, "-b", name, image, "64M",
        ];
        place.qemu_img(&base);
        for command in ["convert", "commit", "check", "info"] {
            let mut arguments = vec![command, image];
            if command == "convert" {
                arguments.push("x.img");
            }
            let outcome = place.image(&arguments).outcome();
            let says = format!("needs '{name}', which is not in its directory");
            let text = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(text.contains(&says), "{arguments:?}: {outcome}");
            let code = match command {
                "info" => 0,
                "check" => 2,
                _ => USAGE,
            };
            assert_eq!(outcome.code, code, "{arguments:?}: {outcome}");
        }
    }
    place.done(&["convert", "inner/o.qcow2", "x.img", "--backing-any"]);
    place.qemu_img(&["compare", "-f", "raw", "-F", "raw", "a.img", "x.img"]);
    let line = place.refused(USAGE, &["create", "inner/p.qcow2", "--backing", "a.img"]);
    assert!(line.contains("not in its directory"), "{line}");
    place.done(&[
        "create",
        "inner/p.qcow2",
        "--backing",
        "a.img",
        "--backing-any",
    ]);
}

#[test]
fn hostile_headers_and_loops_have_one_line() {
    let place = Place::new();
    for (at, bytes, says) in [
        (
            20,
            &[0, 0, 0, 60][..],
            "the cluster size's power of two is 0x3c",
        ),
        (
            36,
            &[0x7f, 0xff, 0xff, 0xff],
            "the number of L1 entries is 0x7fffffff",
        ),
        (
            56,
            &[0x7f, 0xff, 0xff, 0xff],
            "the number of the refcount table's clusters",
        ),
        (60, &[0x7f, 0xff, 0xff, 0xff], "the number of snapshots"),
        (72, &[0x80], "the set of unknown features"),
        (4, &[0, 0, 0, 9], "qcow2 version 9 is not supported"),
    ] {
        place.done(&["create", "x.qcow2", "64M", "--force"]);
        place
            .open("x.qcow2")
            .write_all_at(bytes, at)
            .expect("a write");
        for arguments in [
            &["info", "x.qcow2"][..],
            &["check", "x.qcow2"],
            &["convert", "x.qcow2", "y.img"],
            &["commit", "x.qcow2"],
        ] {
            let line = place.refused(USAGE, arguments);
            assert!(line.contains(says), "{arguments:?}: {line}");
        }
    }
    for (name, base) in [("l.qcow2", "m.qcow2"), ("m.qcow2", "l.qcow2")] {
        let options = ["create", "-f", "qcow2", "-u", "-F", "qcow2", "-b", base];
        place.qemu_img(&[&options[..], &[name, "1M"]].concat());
    }
    let line = place.refused(USAGE, &["convert", "l.qcow2", "y.img"]);
    assert!(line.contains("they form a loop"), "{line}");
    assert_eq!(place.names(), ["l.qcow2", "m.qcow2", "x.qcow2"]);
}

#[test]
fn an_image_that_is_cut_off_does_not_turn_into_zeros() {
    let place = Place::new();
    place.sparse("a.img");
    place.done(&["convert", "a.img", "b.qcow2"]);
    let file = place.open("b.qcow2");
    let len = file.metadata().expect("a length").len();
    for shorter in [len - MIB, 320 << 10, 200 << 10] {
        file.set_len(shorter).expect("a length");
        let outcome = place.image(["convert", "b.qcow2", "c.img"]).outcome();
        assert!(outcome.code == USAGE || outcome.code == HOST, "{outcome}");
        let line = outcome.stderr.trim_end();
        assert!(
            line.contains("outside the file") && !line.contains('\n'),
            "{line}"
        );
        assert_eq!(place.names(), ["a.img", "b.qcow2"]);
    }
}

#[test]
fn a_conversion_that_is_killed_leaves_nothing() {
    let place = Place::new();
    let file = File::create(place.path("a.img")).expect("a file");
    for piece in 0..256 {
        file.write_all_at(&noise(piece + 1, 1 << 20), piece * MIB)
            .expect("data");
    }
    for target in ["b.qcow2", "b.img"] {
        let mut command = place.image(["convert", "a.img", target]).into_command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("mayfly");
        let end = Instant::now() + Duration::from_secs(60);
        while written_by(child.id()) < 8 * MIB && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("a kill");
        let status = child.wait().expect("an end");
        assert_eq!(status.signal(), Some(9), "it was over too soon: {status}");
        assert_eq!(place.names(), ["a.img"]);
    }
}

/// Bytes that a process has given to write calls (proc(5)).
fn written_by(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|count| count.parse().ok())
        .unwrap_or_default()
}

#[test]
fn images_in_use_are_left_alone() {
    let place = Place::new();
    place.sparse("a.img");
    place.done(&["create", "o.qcow2", "--backing", "a.img"]);
    let own = format!("(pid {})", std::process::id());

    let writer = place.open("a.img");
    lock(&writer, Lock::Exclusive).expect("a lock");
    for arguments in [
        &["convert", "a.img", "b.img"][..],
        &["convert", "o.qcow2", "b.img"],
        &["check", "a.img"],
        &["commit", "o.qcow2"],
        &["create", "p.qcow2", "--backing", "a.img"],
        &["create", "a.img", "1M", "--force"],
    ] {
        let line = place.refused(HOST, arguments);
        assert!(
            line.contains("cannot lock image") && line.contains(&own),
            "{line}"
        );
    }
    let info = place.done(&["info", "--json", "a.img"]).json();
    let holder = info["locked_by"].as_str().unwrap_or_default();
    assert!(holder.contains(&own), "{info}");
    drop(writer);

    let reader = place.open("a.img");
    lock(&reader, Lock::Shared).expect("a lock");
    place.done(&["check", "a.img"]);
    place.done(&["convert", "a.img", "b.img"]);
    place.refused(HOST, &["commit", "o.qcow2"]);
    place.refused(HOST, &["convert", "b.img", "a.img", "--force"]);
    drop(reader);
    // Children that tests beside this one start at the moment have the lock until exec.
    let end = Instant::now() + Duration::from_secs(10);
    let holder = || place.done(&["info", "--json", "a.img"]).json()["locked_by"].take();
    while !holder().is_null() {
        assert!(Instant::now() < end, "still locked by {}", holder());
    }
    place.done(&["commit", "o.qcow2"]);
}
