//! An overlay's data goes into its backing file.

use std::time::Duration;

use super::{MIB, Place, USAGE, assert_holds};
use crate::common::trace::trace_calls;

#[test]
fn what_the_overlay_has_the_backing_file_gets() {
    for (base, format) in [("a.img", "raw"), ("a.qcow2", "qcow2")] {
        let place = Place::new();
        let mut data = place.sparse("first.img");
        place.done(&["convert", "first.img", base]);
        place.done(&["create", "o.qcow2", "80M", "--backing", base]);
        let writes = ["write -z 5M 64k", "write -P 3 10M 3M", "write -P 4 79M 64k"];
        place.qemu_io("o.qcow2", &writes);
        let outcome = place.done(&["commit", "o.qcow2"]);
        assert!(
            outcome.stdout.contains("written to its backing file"),
            "{outcome}"
        );
        place.done(&["convert", base, "after.img"]);
        let (offset, bytes) = data.remove(1);
        // The zeros end 64 KiB after 5 MiB, the data began 512 bytes after it.
        data.push((offset + 65536 - 512, bytes[65536 - 512..].to_vec()));
        data.push((10 * MIB, vec![3; 3 << 20]));
        data.push((79 * MIB, vec![4; 65536]));
        assert_holds(&place.path("after.img"), 80 * MIB, &data);
        place.qemu_img(&["compare", "-F", format, "o.qcow2", base]);
        let map = place.qemu_img(&["map", "--output=json", "o.qcow2"]);
        assert!(!map.contains("\"depth\": 0, \"present\": true"), "{map}");
        for image in ["o.qcow2", base] {
            place.done(&["check", image]);
        }
        place.qemu_img(&["check", "o.qcow2"]);
        let info = place.qemu_info("o.qcow2");
        assert_eq!(info["backing-filename"], base);
        assert_eq!(place.names().len(), 4);
    }
}

#[test]
fn the_backing_file_is_stable_before_the_overlay_changes() {
    let place = Place::new();
    place.sparse("a.img");
    place.done(&["create", "o.qcow2", "--backing", "a.img"]);
    place.qemu_io("o.qcow2", &["write -P 3 10M 1M"]);
    let mut command = std::process::Command::new(crate::common::run::MAYFLY);
    command
        .args(["image", "commit", "o.qcow2"])
        .current_dir(place.0.path());
    // What was done to the backing file, and when the overlay was replaced, in order.
    let mut steps = Vec::new();
    let traced = trace_calls(command, &mut |call| {
        let backing = || {
            let link = format!("/proc/{}/fd/{}", call.process, call.arguments[0]);
            std::fs::read_link(link).is_ok_and(|file| file.ends_with("a.img"))
        };
        if call.result.is_none() {
            match call.number as i64 {
                libc::SYS_pwrite64 | libc::SYS_pwritev | libc::SYS_pwritev2 if backing() => {
                    steps.push("write");
                }
                libc::SYS_fsync | libc::SYS_fdatasync if backing() => steps.push("sync"),
                libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => {
                    steps.push("replace");
                }
                _ => {}
            }
        }
        Duration::ZERO
    })
    .expect("trace mayfly");
    assert_eq!(traced.code, Some(0));
    let last = |what: &str| {
        let found = steps.iter().rposition(|step| *step == what);
        found.unwrap_or_else(|| panic!("no {what} in {steps:?}"))
    };
    assert!(last("write") < last("sync"), "{steps:?}");
    assert!(last("sync") < last("replace"), "{steps:?}");
}

#[test]
fn what_cannot_be_committed_says_why() {
    let place = Place::new();
    place.sparse("a.img");
    let line = place.refused(USAGE, &["commit", "a.img"]);
    assert_eq!(
        line,
        "mayfly: cannot commit image 'a.img': it has no backing file"
    );
    place.done(&["create", "o.qcow2", "--backing", "a.img"]);
    place.qemu_img(&["snapshot", "-c", "one", "o.qcow2"]);
    let line = place.refused(USAGE, &["commit", "o.qcow2"]);
    assert!(
        line.contains("snapshots or bitmaps would be lost"),
        "{line}"
    );
}
