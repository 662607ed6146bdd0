//! Every way to boot: protocols, bzImages in every compression, initrds.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::image::{BzImage, PACKERS, flat, gzip};
use crate::common::tiny::tiny;
use crate::common::{HostKind, Mayfly, bare, host_kind};

/// A file in `directory`.
fn file(directory: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, bytes).expect("write a file");
    path
}

fn directory() -> TempDir {
    TempDir::with_prefix("mayfly-boot-").expect("create a temporary directory")
}

#[test]
fn linux_boot_protocol_keeps_its_promises() {
    let outcome = Mayfly::bare("boot_linux64")
        .args(["--boot-protocol", "linux64", "--cmdline", "bare.word=1"])
        .outcome();
    outcome.all_held();
    let command_line = outcome.line("cmdline: ");
    assert!(command_line.contains("console=ttyS0"), "{outcome}");
    assert!(command_line.ends_with("bare.word=1"), "{outcome}");
    // Another one each time.
    let next = Mayfly::bare("boot_linux64").outcome();
    assert_ne!(outcome.fact("seed"), next.fact("seed"), "{outcome}");
}

#[test]
fn pvh_keeps_its_promises() {
    let outcome = Mayfly::bare("boot_pvh")
        .args(["--boot-protocol", "pvh", "--cmdline", "bare.word=1"])
        .outcome();
    outcome.all_held();
    let command_line = outcome.line("cmdline: ");
    assert!(command_line.contains("console=ttyS0"), "{outcome}");
    assert!(command_line.ends_with("bare.word=1"), "{outcome}");
}

#[test]
fn cmdline_only_replaces_the_default() {
    let outcome = Mayfly::bare("boot_linux64")
        .args(["--boot-protocol", "linux64", "--cmdline-only", "only this"])
        .outcome();
    outcome.all_held();
    assert_eq!(outcome.line("cmdline: "), "only this", "{outcome}");
}

#[test]
fn verbose_prints_the_final_command_line() {
    let outcome = Mayfly::bare("hello").args(["-v", "--cmdline", "bare.word=7"]);
    let outcome = outcome.outcome();
    outcome.all_held();
    let line = outcome
        .stderr
        .lines()
        .find(|line| line.contains("bare.word=7"));
    assert!(
        line.is_some_and(|line| line.contains("console=ttyS0")),
        "{outcome}"
    );
}

#[test]
fn payloads_of_every_compression_start_and_start_again_from_the_cache() {
    let guest = fs::read(bare("hello")).expect("read the guest");
    for (name, pack) in PACKERS {
        let directory = directory();
        let image = BzImage::with_payload(pack(&guest), guest.len());
        let kernel = file(&directory, "bzImage", &image);
        let cache = directory.path().join("cache");
        for state in ["cold", "cached"] {
            let outcome = Mayfly::run(&kernel).env("MAYFLY_CACHE", &cache).outcome();
            println!("{name}, {state}: {:?}", outcome.elapsed);
            outcome.all_held().printed("hello from a bare guest");
        }
        assert!(!files_below(&cache).is_empty(), "{name}: nothing is cached");
    }
}

#[test]
fn payload_starts_without_a_usable_cache() {
    let guest = fs::read(bare("hello")).expect("read the guest");
    let directory = directory();
    let image = BzImage::with_payload(gzip(&guest), guest.len());
    let kernel = file(&directory, "bzImage", &image);
    let outcome = Mayfly::run(&kernel).env("MAYFLY_CACHE", "/dev/null/no");
    outcome.outcome().all_held();
}

#[test]
fn a_spoilt_cache_is_not_believed() {
    let guest = fs::read(bare("hello")).expect("read the guest");
    let directory = directory();
    let image = BzImage::with_payload(gzip(&guest), guest.len());
    let kernel = file(&directory, "bzImage", &image);
    let cache = directory.path().join("cache");
    let run = || Mayfly::run(&kernel).env("MAYFLY_CACHE", &cache).outcome();
    run().all_held();
    for path in files_below(&cache) {
        fs::write(path, b"not a kernel any more").expect("spoil the cache");
    }
    run().all_held();
}

#[test]
fn image_whose_payload_is_no_elf_starts_by_its_own_entry() {
    let guest = fs::read(bare("hello")).expect("read the guest");
    let directory = directory();
    for payload in [
        b"packed by nothing that anybody knows".to_vec(),
        gzip(b"unpacked, and yet no kernel that Mayfly could place"),
    ] {
        let (code, init_size) = flat(&guest);
        let image = BzImage {
            code,
            payload,
            init_size,
        };
        let kernel = file(&directory, "bzImage", &image.bytes());
        Mayfly::run(&kernel).outcome().all_held();
    }
}

/// Deterministic bytes that look like a file.
fn sample(length: usize) -> Vec<u8> {
    let byte = |index: usize| (index * index / 7 % 251) as u8;
    (0..length).map(byte).collect()
}

/// What the initrd guest computes.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u32, &byte: &u8| hash.wrapping_mul(31).wrapping_add(u32::from(byte));
    bytes.iter().fold(0, step).into()
}

/// The initrd guest finds `expected` in memory.
fn initrd_arrives(initrd: &Path, options: &[&str], expected: &[u8]) {
    let outcome = Mayfly::bare("initrd").arg("--initrd").arg(initrd);
    let outcome = outcome.args(options).outcome();
    outcome.all_held();
    assert_eq!(outcome.fact("size"), expected.len() as u64, "{outcome}");
    assert_eq!(outcome.fact("hash"), hash(expected), "{outcome}");
    assert_eq!(outcome.fact("initrd") % 4096, 0, "not aligned: {outcome}");
}

#[test]
fn initrd_arrives_by_either_protocol() {
    let directory = directory();
    let bytes = sample(5001);
    let initrd = file(&directory, "initrd", &bytes);
    for protocol in ["linux64", "pvh"] {
        initrd_arrives(&initrd, &["--boot-protocol", protocol], &bytes);
        let high = ["--boot-protocol", protocol, "--memory", "6G"];
        initrd_arrives(&initrd, &high, &bytes);
    }
}

#[test]
fn compressed_initrd_is_unpacked_when_asked() {
    let directory = directory();
    let bytes = sample(6000);
    let cache = directory.path().join("cache");
    let packed = gzip(&bytes);
    let initrd = file(&directory, "initrd.gz", &packed);
    let run = |options: &[&str]| {
        let outcome = Mayfly::bare("initrd").arg("--initrd").arg(&initrd);
        let outcome = outcome.args(options).env("MAYFLY_CACHE", &cache).outcome();
        outcome.all_held();
        (outcome.fact("size"), outcome.fact("hash"))
    };
    let unpacked = (bytes.len() as u64, hash(&bytes));
    assert_eq!(run(&["--unpack-initrd=always"]), unpacked);
    assert_eq!(run(&["--unpack-initrd"]), unpacked);
    let as_it_is = (packed.len() as u64, hash(&packed));
    assert_eq!(run(&["--unpack-initrd=never"]), as_it_is);
}

/// All regular files below `directory`.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return files;
    };
    for entry in entries {
        let path = entry.expect("list a directory").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The command line that `-v` tells of, of a Linux that is ended at once.
fn words(mayfly: Mayfly) -> String {
    let outcome = mayfly.args(["-v", "--timeout", "100ms"]).outcome();
    let lines = outcome.stderr.lines();
    let line = lines.filter_map(|line| Some(line.split_once("kernel command line: ")?.1));
    let line = line.map(str::to_owned).next();
    line.unwrap_or_else(|| panic!("no command line: {outcome}"))
}

#[test]
fn words_are_left_out_that_a_kernel_does_not_know_where_each_costs_time() {
    const NO_PARAMETERS: &str = "initcall_blacklist=param_sysfs_builtin_init";
    let given = words(Mayfly::run(&tiny("vmlinux")));
    let default = words(Mayfly::new(["run", "--json"]));
    match host_kind() {
        HostKind::Hardware => {
            assert!(given.contains("i8042.noaux"), "{given}");
            assert_eq!(given, default);
        }
        HostKind::Pvm => {
            // It has neither an i8042 nor tracing, and knows what read-only data are.
            for useless in ["i8042", "initcall_blacklist", "cryptomgr", "audit"] {
                assert!(!given.contains(useless), "{given}");
            }
            assert!(given.contains("rodata=off"), "{given}");
            assert_eq!(default, format!("{given} {NO_PARAMETERS}"));
        }
    }
}
