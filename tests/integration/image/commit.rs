//! An overlay's data goes into its backing file.

use super::{MIB, Place, USAGE, assert_holds};

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
    let trace = place.path("trace");
    let calls = "trace=openat,pwritev,pwrite64,fsync,fdatasync,linkat,rename";
    let options = ["-f", "-y", "-e", calls, "-o"].map(str::to_owned);
    let traced = [&options[..], &[trace.display().to_string()]].concat();
    let mut command = std::process::Command::new("strace");
    command.args(traced).arg(crate::common::run::MAYFLY);
    command
        .args(["image", "commit", "o.qcow2"])
        .current_dir(place.0.path());
    let output = command.output().expect("strace");
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(trace).expect("the trace");
    let last = |what: &str, of: &str| {
        let matches = |line: &str| line.contains(what) && line.contains(of);
        let found = text.lines().enumerate().filter(|(_, line)| matches(line));
        let found = found.map(|(number, _)| number).last();
        found.unwrap_or_else(|| panic!("no {what} of {of} in: {text}"))
    };
    let (write, sync) = (last("pwrite", "a.img>"), last("sync(", "a.img>"));
    let replace = last("rename(", "o.qcow2\"");
    assert!(write < sync && sync < replace, "{text}");
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
