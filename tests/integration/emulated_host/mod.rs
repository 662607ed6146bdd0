//! The second kind of host: hardware KVM. QEMU's emulated SVM runs a Debian kernel
//! with kvm-amd, and this very test binary runs in it.

mod debian_root;
mod disk_errors;
pub mod machine;
mod nbd;
mod power_cut;
pub mod root;
mod shares;
mod stock;
mod warnings;

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use machine::EmulatedHost;
use root::RootTree;

use crate::common::built::built_by;
use crate::common::tools::need;

const MAYFLY: &str = env!("CARGO_BIN_EXE_mayfly");

/// The emulated host's files, built on the first call.
pub fn host_files() -> &'static Path {
    static FILES: OnceLock<PathBuf> = OnceLock::new();
    FILES.get_or_init(|| built_by("host/build.sh"))
}

/// This process's PATH and the system directories that a user's may lack.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

/// Where a program of this machine is.
fn found(program: &str) -> PathBuf {
    let path = path_with_sbin();
    let mut places = path
        .split(':')
        .map(|folder| Path::new(folder).join(program));
    let place = places.find(|place| place.is_file());
    place.unwrap_or_else(|| panic!("there is no {program} in {path}"))
}

/// A root disk with everything that a test or a user's command needs: mayfly, the
/// guests, the build scripts (which find their guests in the cache) and a shell.
pub fn mayfly_root() -> RootTree {
    need(&["ip", "passt"]);
    let mut root = RootTree::new(host_files());
    root.add_program(Path::new(MAYFLY));
    for program in [
        "bash", "flock", "qemu-img", "e2fsck", "debugfs", "ip", "passt", "unshare",
    ] {
        root.add_program(&found(program));
    }
    // What passt becomes, by its own choice, on a processor that has AVX2.
    let faster = found("passt").with_extension("avx2");
    if faster.is_file() {
        root.add_program(&faster);
    }
    // The user that passt is if root starts it.
    let nobody = "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
    root.write(Path::new("/etc/passwd"), nobody);
    // Where a test puts its own in.
    root.write(Path::new("/etc/resolv.conf"), "");
    root.add(&crate::common::disk::root_image());
    root.add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-images"));
    root.add(crate::common::guests::bare_dir());
    root.add_program(crate::common::floor::floor());
    for entry in fs::read_dir(tiny_guest()).expect("list the tiny guest") {
        let path = entry.expect("list the tiny guest").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if ["vmlinux", "bzImage", "System.map"].contains(&&*name) || name.ends_with(".cpio") {
            root.add(&path);
        }
    }
    root
}

/// The tiny guest's directory, built on the first call.
fn tiny_guest() -> &'static Path {
    static FILES: OnceLock<PathBuf> = OnceLock::new();
    FILES.get_or_init(|| built_by("tiny/build.sh"))
}

/// The variables with which the binaries find there what they find here.
pub fn environment() -> Vec<(String, String)> {
    let cache = host_files().ancestors().nth(2).expect("CACHE/hosts/NAME");
    let mut environment: Vec<_> = std::env::vars()
        .filter(|(name, _)| name.starts_with("CARGO_") || name.starts_with("RUST_"))
        .collect();
    environment.push(("MAYFLY_CACHE".into(), cache.display().to_string()));
    environment.push(("MAYFLY_EMULATED_HOST".into(), "1".into()));
    environment
}

/// Compiles a small C program of this folder and returns its path.
pub fn compile(source: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.trim_end_matches(".c"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/integration/emulated_host")
        .join(source);
    let output = Command::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-o"])
        .args([&program, &source])
        .stdin(Stdio::null())
        .output()
        .expect("run cc");
    assert!(output.status.success(), "{output:?}");
    program
}

/// The tests of disks, which the rest of the suite does not wait for: two hosts at once.
const DISKS: [&str; 2] = ["disk::", "disk_bare::"];

/// Tests that the suite does without there. What a start takes is counted below, by a
/// clock that does not make it look slow; shares of the processors have a host of their
/// own; the fuzzers' corpora and the image tool need no KVM; hostile guests meet one way
/// to serve a disk there and all others here.
const SKIPPED: [&str; 7] = [
    "emulated_host",
    "startup",
    "shares::",
    "corpora",
    "image::",
    "harm_no_",
    "harm_nothing_on_mmio",
];

/// Runs this very suite there with these arguments.
fn suite_passes(arguments: &[&str]) {
    let suite = std::env::current_exe().expect("this program's path");
    let starts = Cell::new(0);
    let root = || {
        starts.set(starts.get() + 1);
        let mut root = mayfly_root();
        root.add_program(&suite);
        root
    };
    let mut host = EmulatedHost::new(host_files());
    // One processor: with two, in threads of their own, QEMU 10.0 itself ended or
    // a guest met a triple fault in about one of fifty boots beside other guests;
    // with one, none of eighty did. Guests have two vCPUs all the same.
    // A quarter of it is one page of 1 GiB, which there is room for above 4 GiB; this
    // machine gives it only when a guest touches it.
    host.memory_mib = 4096;
    let pages = [
        "hugepagesz=2M",
        "hugepages=16",
        "hugepagesz=1G",
        "hugepages=1",
    ];
    host.kernel_words = pages.map(String::from).to_vec();
    host.timeout = Duration::from_secs(1800);
    host.modules = ["bridge", "veth"].map(String::from).to_vec();
    host.directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    host.environment = environment();
    let program = suite.to_str().expect("a path in UTF-8");
    let skipped = SKIPPED.map(|name| ["--skip", name]);
    let command = [&[program], skipped.as_flattened(), arguments].concat();
    let outcome = host.run_watched(&root, &command);
    if starts.get() > 1 {
        tell_of_repeat(arguments);
    }
    let outcome = outcome.unwrap();
    assert_eq!(outcome.status, 0, "the suite failed on the emulated host");
    println!("it took {:?} there", outcome.elapsed);
}

/// Tells, past the test harness, which keeps what a passing test prints, that a host stood
/// still: if that is not QEMU's doing, it is Mayfly's. `.ci/run` tells it again at its end.
fn tell_of_repeat(arguments: &[&str]) {
    let told = format!(
        "the emulated host stood still and the suite ran once more: {}\n",
        arguments.join(" ")
    );
    std::io::stderr()
        .write_all(told.as_bytes())
        .expect("tell of it");
    if let Some(file) = std::env::var_os("MAYFLY_REPEATS") {
        let mut file = fs::OpenOptions::new().append(true).open(file);
        let file = file.as_mut().expect("open the list of repeats");
        file.write_all(told.as_bytes()).expect("note it");
    }
}

#[test]
fn a_disk_is_served_on_hardware_kvm() {
    suite_passes(&DISKS);
}

#[test]
fn all_but_disks_passes_on_hardware_kvm() {
    let without = DISKS.map(|name| ["--skip", name]);
    suite_passes(without.as_flattened());
}

/// Instructions from a start of the tiny Linux to its power-off, at most.
const TINY_LIMIT: u64 = 250_000_000;
/// A bzImage whose payload is in the cache takes this many times those of the vmlinux, at
/// most: reading it, moving it and relocating it.
const PACKED_LIMIT: f64 = 1.1;

#[test]
fn a_start_and_a_boot_of_tiny_linux_keep_their_bounds_on_hardware_kvm() {
    let suite = std::env::current_exe().expect("this program's path");
    let count = compile("count.c");
    let mut root = mayfly_root();
    root.add_program(&suite).add_program(&count);
    let mut host = EmulatedHost::new(host_files());
    host.icount = true;
    host.timeout = Duration::from_secs(300);
    host.directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    host.environment = environment();
    // What the boot is charged with does not vary, so one boot tells all. The clock
    // itself runs on while the host waits for its disk, as long as this machine's takes.
    let guest = tiny_guest().display();
    let packed = format!("{MAYFLY} run --kernel {guest}/bzImage --initrd {guest}/init.cpio");
    let script = format!(
        "{} startup --nocapture && {count} {MAYFLY} run || exit
         # The first time it is unpacked.
         {packed} --timeout 1ms; {count} {packed} --kaslr=on",
        suite.display(),
        count = count.display()
    );
    let outcome = host.run(root, &["sh", "-c", &script]).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    let instructions: Vec<u64> = outcome
        .output
        .lines()
        .filter_map(|line| line.strip_prefix("charged: ")?.parse().ok())
        .collect();
    println!("instructions of a boot: {instructions:?}");
    let [instructions, packed] = instructions[..] else {
        panic!("not two counts: {}", outcome.output);
    };
    assert!(
        instructions <= TINY_LIMIT,
        "the tiny Linux took {instructions} instructions from start to power-off, more than \
         {TINY_LIMIT}"
    );
    let ratio = packed as f64 / instructions as f64;
    assert!(
        ratio <= PACKED_LIMIT,
        "the tiny bzImage took {packed} instructions, {ratio:.3} times those of the vmlinux"
    );
}

#[test]
fn a_command_reports_its_status_from_a_host_with_hardware_kvm() {
    let root = RootTree::new(host_files());
    let mut host = EmulatedHost::new(host_files());
    host.cpus = 2;
    host.environment = vec![("GREETING".into(), "it's up".into())];
    let script = "test -c /dev/kvm && grep -qw svm /proc/cpuinfo && \
                  test $(nproc) = 2 && echo \"$GREETING\" && exit 42";
    let outcome = host.run(root, &["sh", "-c", script]).unwrap();
    assert_eq!(outcome.output, "it's up\n");
    assert_eq!(outcome.status, 42);
    println!("took {:?}", outcome.elapsed);
}

#[test]
fn a_host_that_hangs_is_killed_and_its_output_shown() {
    let mut host = EmulatedHost::new(host_files());
    let mut failure = String::new();
    // The host has to come up first, however busy the other tests keep this machine.
    for seconds in [12, 80, 320] {
        host.timeout = Duration::from_secs(seconds);
        failure = host
            .run(
                RootTree::new(host_files()),
                &["sh", "-c", "echo before; sleep 1000"],
            )
            .err()
            .expect("a hang is a failure");
        let limit = format!("not done after {seconds}s");
        assert!(failure.contains(&limit), "{failure}");
        if failure.ends_with("before") {
            return;
        }
    }
    panic!("{failure}");
}
