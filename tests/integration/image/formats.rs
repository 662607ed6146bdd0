//! Making, showing and converting, as QEMU sees it too.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::{MIB, Place, USAGE, allocated, assert_holds, noise};

#[test]
fn to_qcow2_and_back_nothing_changes_and_holes_stay() {
    let place = Place::new();
    let data = place.sparse("a.img");
    place.done(&["convert", "a.img", "b.qcow2"]);
    place.qemu_img(&["check", "b.qcow2"]);
    place.qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "a.img", "b.qcow2"]);
    place.done(&["check", "b.qcow2"]);
    place.done(&["convert", "b.qcow2", "c.img"]);
    assert_holds(&place.path("c.img"), 64 * MIB, &data);
    place.done(&["convert", "b.qcow2", "d.qcow2"]);
    place.qemu_img(&["compare", "b.qcow2", "d.qcow2"]);
    // 3.1 MiB of data, in clusters of 64 KiB, and a few of tables.
    assert!(allocated(&place.path("b.qcow2")) < 4 * MIB);
    assert!(allocated(&place.path("c.img")) < 3_200_000);
    assert_eq!(place.names(), ["a.img", "b.qcow2", "c.img", "d.qcow2"]);
}

#[test]
fn holes_cost_nothing() {
    let place = Place::new();
    let size = 1 << 40;
    let file = File::create(place.path("a.img")).expect("a file");
    file.set_len(size).expect("a length");
    file.write_all_at(&noise(1, 4096), size - 4096)
        .expect("data");
    let there = place.done(&["convert", "a.img", "b.qcow2"]);
    let back = place.done(&["convert", "b.qcow2", "c.img"]);
    let check = place.done(&["check", "a.img"]);
    // Reading a tebibyte takes minutes.
    for outcome in [there, back, check] {
        assert!(outcome.elapsed < Duration::from_secs(30), "{outcome}");
    }
    let mut end = vec![0; 4096];
    let file = File::open(place.path("c.img")).expect("a file");
    assert_eq!(file.metadata().expect("a length").len(), size);
    file.read_exact_at(&mut end, size - 4096).expect("data");
    assert_eq!(end, noise(1, 4096));
    assert!(allocated(&place.path("c.img")) <= 64 << 10);
    assert!(allocated(&place.path("b.qcow2")) < 2 * MIB);
}

#[test]
fn qemu_sees_in_our_images_what_we_say() {
    let place = Place::new();
    place.done(&["create", "a.qcow2", "10G"]);
    place.done(&["create", "a.img", "1M"]);
    let info = place.qemu_info("a.qcow2");
    assert_eq!(info["virtual-size"], 10_u64 << 30);
    assert_eq!(info["format"], "qcow2");
    assert_eq!(info["cluster-size"], 65536);
    assert_eq!(place.qemu_info("a.img")["virtual-size"], 1 << 20);
    assert_eq!(allocated(&place.path("a.img")), 0);
    place.done(&["create", "b.qcow2", "--backing", "a.qcow2"]);
    place.done(&[
        "create",
        "c.qcow2",
        "20G",
        "--backing",
        "a.img",
        "--backing-format",
        "raw",
    ]);
    let info = place.qemu_info("b.qcow2");
    assert_eq!(info["virtual-size"], 10_u64 << 30);
    assert_eq!(info["backing-filename"], "a.qcow2");
    assert_eq!(info["backing-filename-format"], "qcow2");
    let info = place.qemu_info("c.qcow2");
    assert_eq!(info["virtual-size"], 20_u64 << 30);
    assert_eq!(info["backing-filename-format"], "raw");
    for name in ["a.qcow2", "b.qcow2", "c.qcow2"] {
        place.qemu_img(&["check", name]);
        place.done(&["check", name]);
    }
}

/// Every option of `qemu-img create` that changes the format.
const VARIANTS: &[&str] = &[
    "compat=0.10",
    "compat=1.1",
    "cluster_size=512",
    "cluster_size=2M",
    "refcount_bits=1",
    "refcount_bits=64",
    "lazy_refcounts=on",
    "preallocation=metadata",
    "extended_l2=on,cluster_size=64k",
    "compression_type=zstd",
];

#[test]
fn qemus_images_are_understood_and_found_consistent() {
    let place = Place::new();
    for options in VARIANTS {
        place.qemu_img(&["create", "-f", "qcow2", "-o", options, "a.qcow2", "64M"]);
        let writes = [
            "write -P 1 1M 3M",
            "write -z 8M 1M",
            "write -P 2 63M 1M",
            "discard 2M 1M",
        ];
        place.qemu_io("a.qcow2", &writes);
        place.done(&["check", "a.qcow2"]);
        let info = place.done(&["info", "--json", "a.qcow2"]).json();
        let theirs = place.qemu_info("a.qcow2");
        assert_eq!(info["virtual_size"], theirs["virtual-size"], "{options}");
        assert_eq!(info["cluster_size"], theirs["cluster-size"], "{options}");
        assert_eq!(info["allocated"], theirs["actual-size"], "{options}");
        let version = if *options == "compat=0.10" { 2 } else { 3 };
        assert_eq!(info["version"], version, "{options}");
        // The library has no subclusters and no zstd; that must be a line.
        if options.contains("extended_l2") {
            place.refused(USAGE, &["convert", "a.qcow2", "a.img", "--force"]);
            continue;
        }
        if !options.contains("zstd") {
            place.done(&["convert", "a.qcow2", "a.img", "--force"]);
            place.qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "a.img", "a.qcow2"]);
        }
    }
}

#[test]
fn compressed_clusters_snapshots_and_bitmaps_are_accounted_for() {
    let place = Place::new();
    place.sparse("a.img");
    place.qemu_img(&[
        "convert", "-f", "raw", "-c", "-O", "qcow2", "a.img", "c.qcow2",
    ]);
    place.done(&["check", "c.qcow2"]);
    place.done(&["convert", "c.qcow2", "c.img"]);
    place.qemu_img(&["compare", "-f", "raw", "-F", "raw", "a.img", "c.img"]);
    place.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "a.img", "s.qcow2"]);
    place.qemu_img(&["snapshot", "-c", "one", "s.qcow2"]);
    place.qemu_io("s.qcow2", &["write -P 9 5M 1M"]);
    place.qemu_img(&["snapshot", "-c", "two", "s.qcow2"]);
    place.qemu_img(&["bitmap", "--add", "s.qcow2", "marks"]);
    place.qemu_io("s.qcow2", &["write -P 8 40M 1M"]);
    place.qemu_img(&["check", "s.qcow2"]);
    place.done(&["check", "s.qcow2"]);
    let info = place.done(&["info", "--json", "s.qcow2"]).json();
    assert_eq!(info["snapshots"], 2);
}

#[test]
fn a_chain_reads_as_one_disk_and_is_shown() {
    let place = Place::new();
    let mut data = place.sparse("a.img");
    place.done(&["create", "b.qcow2", "--backing", "a.img"]);
    place.done(&["create", "c.qcow2", "80M", "--backing", "b.qcow2"]);
    place.qemu_io("b.qcow2", &["write -P 3 10M 64k"]);
    place.qemu_io("c.qcow2", &["write -z 0 64k", "write -P 4 79M 512"]);
    place.done(&["convert", "c.qcow2", "d.img"]);
    data.remove(0);
    data.push((10 * MIB, vec![3; 65536]));
    data.push((79 * MIB, vec![4; 512]));
    assert_holds(&place.path("d.img"), 80 * MIB, &data);
    let info = place.done(&["info", "--json", "c.qcow2"]).json();
    let backing = info["backing"].as_array().expect("a chain");
    assert_eq!(backing.len(), 2);
    assert_eq!(backing[0]["format"], "qcow2");
    assert_eq!(backing[1]["format"], "raw");
    assert_eq!(backing[1]["virtual_size"], 64 * MIB);
    let text = place.done(&["info", "c.qcow2"]).stdout;
    assert!(text.contains("a.img (raw, 64 MiB"), "{text}");
    fs::remove_file(place.path("a.img")).expect("the base goes");
    let info = place.done(&["info", "--json", "c.qcow2"]).json();
    let error = info["backing_error"].as_str().unwrap_or_default();
    assert!(
        error.contains("a.img") && error.contains("No such file"),
        "{info}"
    );
}

#[test]
fn vmdk_is_read_where_its_extents_are_flat() {
    let place = Place::new();
    let data = place.sparse("a.img");
    let flat = [
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
    ];
    place.qemu_img(&[&flat[..], &["a.img", "a.vmdk"]].concat());
    place.done(&["convert", "a.vmdk", "b.img"]);
    assert_holds(&place.path("b.img"), 64 * MIB, &data);
    let info = place.done(&["info", "--json", "a.vmdk"]).json();
    assert_eq!(info["virtual_size"], 64 * MIB);
    place.qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "a.img", "s.vmdk"]);
    let line = place.refused(USAGE, &["convert", "s.vmdk", "c.img"]);
    assert!(line.contains("cannot use vmdk image 's.vmdk'"), "{line}");
    let text = fs::read_to_string(place.path("a.vmdk")).expect("a descriptor");
    let stolen = text.replace("\"a-flat.vmdk\"", "\"/etc/passwd\"");
    assert_ne!(stolen, text);
    fs::write(place.path("x.vmdk"), stolen).expect("a descriptor");
    let line = place.refused(USAGE, &["convert", "x.vmdk", "x.img"]);
    assert!(line.contains("not in its directory"), "{line}");
}
