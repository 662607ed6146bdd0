//! Bad input: one clear line, the right exit code, and nothing left behind.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, test_kill_process_group};
use tempfile::TempDir;

use crate::common::image::{BzImage, PACKERS, Segment, elf, zstd_bomb};
use crate::common::run::{LIMIT, wait_limited};
use crate::common::{Mayfly, bare};

const USAGE: i32 = 245;
const HOST: i32 = 244;

/// A directory for the files of one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::with_prefix("mayfly-bad-").expect("create a temporary directory"))
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("write a file");
        path
    }

    /// A file that is all hole.
    fn sparse(&self, name: &str, length: u64) -> PathBuf {
        let path = self.0.path().join(name);
        let file = File::create(&path).expect("create a file");
        file.set_len(length).expect("extend a file");
        path
    }
}

/// `mayfly` refuses this with exit code `code` and one line that contains all
/// `words`, and leaves neither a file nor a process.
#[track_caller]
fn refuses(code: i32, words: &[&str], command: Mayfly) {
    let empty = TempDir::with_prefix("mayfly-left-").expect("create a temporary directory");
    let mut command = command
        .env("TMPDIR", empty.path())
        .env("MAYFLY_CACHE", empty.path().join("cache"))
        .into_command();
    command.current_dir(empty.path()).process_group(0);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start mayfly");
    let status = wait_limited(&mut child, LIMIT);
    let group = Pid::from_child(&child);
    let output = child.wait_with_output().expect("read the output");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let all = format!("stdout: {stdout}\nstderr: {stderr}");
    assert!(status.is_some(), "not refused in {LIMIT:?}: {all}");
    assert_eq!(status.and_then(|status| status.code()), Some(code), "{all}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "not one line: {all}");
    assert!(lines[0].starts_with("mayfly: "), "{all}");
    for word in words {
        assert!(lines[0].contains(word), "no '{word}' in: {all}");
    }
    assert!(
        test_kill_process_group(group).is_err(),
        "a process is left: {all}"
    );
    let mut left = files_below(empty.path());
    // A slow host may take so long that the kernel's hash is worth remembering.
    left.retain(|path| !path.starts_with(empty.path().join("cache/by-file")));
    assert!(left.is_empty(), "{left:?} left: {all}");
}

/// All regular files below `directory`.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("list a directory").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn run(kernel: &Path) -> Mayfly {
    Mayfly::new(["run", "--kernel"]).arg(kernel)
}

fn hello() -> Mayfly {
    run(&bare("hello"))
}

#[test]
fn kernel_that_is_missing() {
    let words = [
        "cannot open kernel '/no/such/kernel'",
        "No such file or directory",
    ];
    refuses(USAGE, &words, run(Path::new("/no/such/kernel")));
}

#[test]
fn kernel_that_is_no_regular_file() {
    refuses(
        USAGE,
        &["'/dev/null'", "not a regular file"],
        run(Path::new("/dev/null")),
    );
    refuses(
        USAGE,
        &["'/usr'", "not a regular file"],
        run(Path::new("/usr")),
    );
}

#[test]
fn kernel_that_is_empty() {
    let files = Files::new();
    let kernel = files.file("kernel", b"");
    refuses(USAGE, &["kernel", "is empty"], run(&kernel));
}

#[test]
fn kernel_that_is_truncated() {
    let files = Files::new();
    let guest = fs::read(bare("hello")).expect("read the guest");
    for length in [20, 70, 0x1100, guest.len() / 2] {
        let kernel = files.file("kernel", &guest[..length]);
        refuses(USAGE, &["truncated"], run(&kernel));
    }
    let image = BzImage::with_payload(PACKERS[0].1(&guest), guest.len());
    for length in [0x210, 1030, image.len() * 9 / 10] {
        let kernel = files.file("bzImage", &image[..length]);
        refuses(USAGE, &["truncated"], run(&kernel));
    }
}

#[test]
fn kernel_that_is_something_else() {
    let files = Files::new();
    for bytes in [&b"#!/bin/sh\necho hello\n"[..], &[0x5a; 100_000], b"x"] {
        let kernel = files.file("kernel", bytes);
        refuses(USAGE, &["is not a kernel"], run(&kernel));
    }
}

#[test]
fn kernel_for_another_machine() {
    let files = Files::new();
    let guest = fs::read(bare("hello")).expect("read the guest");
    let mut narrow = guest.clone();
    narrow[4] = 1; // ELFCLASS32
    narrow[18] = 3; // EM_386
    refuses(USAGE, &["32-bit"], run(&files.file("narrow", &narrow)));
    let mut foreign = guest.clone();
    foreign[18] = 183; // EM_AARCH64
    let foreign = files.file("foreign", &foreign);
    refuses(USAGE, &["is for", "x86-64"], run(&foreign));
    let mut reversed = guest;
    reversed[5] = 2; // big-endian
    reversed[18..20].copy_from_slice(&[0, 22]); // EM_S390
    refuses(USAGE, &["x86-64"], run(&files.file("reversed", &reversed)));
}

#[test]
fn kernel_that_is_too_large() {
    let files = Files::new();
    let kernel = files.sparse("kernel", 5 << 30);
    refuses(USAGE, &["too large"], run(&kernel));
}

#[test]
fn segments_where_no_memory_is() {
    let files = Files::new();
    let segment = |address, memory_size| Segment {
        address,
        file_size: 16,
        memory_size,
    };
    for (name, segments) in [
        ("beyond", vec![segment(64 << 30, 16)]),
        ("end", vec![segment(0x10_0000, 1 << 40)]),
        ("hole", vec![segment(0xd000_0000, 16)]),
        ("wrap", vec![segment(u64::MAX - 0xfff, 0x2000)]),
        ("loader", vec![segment(0x7000, 0x1000)]),
        ("tables", vec![segment(0xe_0000, 0x1000)]),
    ] {
        let kernel = files.file(name, &elf(&segments));
        refuses(USAGE, &["kernel", name], run(&kernel));
    }
    let shrinking = Segment {
        address: 0x10_0000,
        file_size: 4096,
        memory_size: 16,
    };
    refuses(
        USAGE,
        &["malformed"],
        run(&files.file("shrinking", &elf(&[shrinking]))),
    );
    refuses(USAGE, &["kernel"], run(&files.file("none", &elf(&[]))));
}

#[test]
fn payload_that_is_corrupt() {
    let files = Files::new();
    let guest = fs::read(bare("hello")).expect("read the guest");
    for (name, pack) in PACKERS {
        let mut packed = pack(&guest);
        let middle = packed.len() / 2;
        for byte in &mut packed[middle..middle + 64] {
            *byte = !*byte;
        }
        let image = BzImage::with_payload(packed, guest.len());
        let kernel = files.file(name, &image);
        refuses(USAGE, &["cannot unpack kernel", name], run(&kernel));
    }
}

#[test]
fn payload_without_end() {
    let files = Files::new();
    let image = BzImage::with_payload(zstd_bomb(64 << 30), 0);
    let kernel = files.file("bomb", &image);
    refuses(USAGE, &["unpacks to more than"], run(&kernel));
}

#[test]
fn kernel_without_the_entry_asked_for() {
    let files = Files::new();
    let segment = Segment {
        address: 0x10_0000,
        file_size: 4096,
        memory_size: 4096,
    };
    let kernel = files.file("kernel", &elf(&[segment]));
    let command = run(&kernel).args(["--boot-protocol", "pvh"]);
    refuses(USAGE, &["PVH"], command);
}

#[test]
fn initrd_that_cannot_be_used() {
    let files = Files::new();
    let with = |initrd: &Path| hello().arg("--initrd").arg(initrd);
    let words = ["cannot open initrd '/no/such/initrd'", "No such file"];
    refuses(USAGE, &words, with(Path::new("/no/such/initrd")));
    refuses(USAGE, &["not a regular file"], with(Path::new("/usr")));
    let large = files.sparse("large", 300 << 20);
    refuses(
        USAGE,
        &["does not fit"],
        with(&large).args(["--memory", "256M"]),
    );
}

#[test]
fn command_line_that_is_too_long() {
    let long = "x".repeat(70_000);
    for option in ["--cmdline", "--cmdline-only"] {
        refuses(
            USAGE,
            &["command line is too long"],
            hello().args([option, &long]),
        );
    }
    let both = hello().args(["--cmdline", "a", "--cmdline-only", "b"]);
    refuses(USAGE, &["--cmdline"], both);
}

#[test]
fn memory_that_cannot_be() {
    let with = |size: &str| hello().args(["--memory", size]);
    refuses(USAGE, &["memory"], with("0"));
    refuses(USAGE, &["memory"], with("4096"));
    refuses(USAGE, &["multiple of 4096"], with("134217729"));
    refuses(USAGE, &["physical address bits"], with("8388608T"));
    refuses(USAGE, &["too large"], with("99999999999999999999G"));
    refuses(USAGE, &["'12Q'", "not a size"], with("12Q"));
    refuses(USAGE, &["not a size"], with(""));
    refuses(USAGE, &["not a size"], with("-1"));
}

#[test]
fn memory_too_small_for_the_kernel() {
    let command = hello().args(["--memory", "1M"]);
    refuses(USAGE, &["guest memory", "raise --memory"], command);
}

#[test]
fn memory_that_mmap_refuses() {
    let script = "ulimit -v 4000000; exec \"$@\"";
    let limited = hello()
        .args(["--memory", "64G"])
        .under("sh", ["-c", script, "sh"]);
    refuses(HOST, &["memory", "Cannot allocate memory"], limited);
}

#[test]
fn processors_that_cannot_be() {
    let with = |cpus: &str| hello().args(["--cpus", cpus]);
    refuses(USAGE, &["at least 1 CPU"], with("0"));
    refuses(USAGE, &["100000", "more than"], with("100000"));
    refuses(USAGE, &["--cpus"], with("two"));
    refuses(USAGE, &["make 8 CPUs, not 4"], with("4,sockets=2,cores=4"));
    refuses(USAGE, &["cores=2 or cores=4"], with("6,sockets=2"));
}

#[test]
fn serial_that_cannot_be_written() {
    let with = |serial: &str| hello().args(["--serial", serial]);
    let words = ["'/no/such/directory/file'", "No such file or directory"];
    refuses(USAGE, &words, with("file=/no/such/directory/file"));
    refuses(USAGE, &["'/usr'"], with("file=/usr"));
    refuses(USAGE, &["path"], with("file="));
    refuses(USAGE, &["--serial", "'tape'"], with("tape"));
}

#[test]
fn words_that_mean_nothing() {
    refuses(
        USAGE,
        &["--no-such-option"],
        hello().arg("--no-such-option"),
    );
    refuses(USAGE, &["'fly'"], Mayfly::new(["fly"]));
    let with = |option: &str, value: &str| hello().args([option, value]);
    refuses(
        USAGE,
        &["'soon'", "not a duration"],
        with("--timeout", "soon"),
    );
    refuses(USAGE, &["timeout"], with("--timeout", "0s"));
    refuses(
        USAGE,
        &["'multiboot'"],
        with("--boot-protocol", "multiboot"),
    );
    refuses(USAGE, &["'8259'"], with("--irqchip", "8259"));
    refuses(USAGE, &["--kernel"], Mayfly::new(["run", "--kernel"]));
}

#[test]
fn serial_file_that_is_the_kernel_is_spared() {
    let files = Files::new();
    let guest = fs::read(bare("hello")).expect("read the guest");
    let kernel = files.file("kernel", &guest);
    let serial = format!("file={}", kernel.display());
    refuses(
        USAGE,
        &["serial output", "it is the kernel"],
        run(&kernel).args(["--serial", &serial]),
    );
    assert_eq!(fs::read(&kernel).expect("read the kernel"), guest);
}

#[test]
fn usage_errors_have_their_json() {
    let outcome = Mayfly::run(Path::new("/no/such/kernel")).outcome();
    outcome.ended(USAGE, "usage");
    let message = outcome.json()["message"].clone();
    let message = message.as_str().unwrap_or_default();
    assert!(message.contains("/no/such/kernel"), "{outcome}");
    assert_eq!(outcome.stderr.trim_end(), format!("mayfly: {message}"));
}

/// `command` where `script` has changed the view of /dev first. The script may
/// mount: it has a mount namespace of its own.
fn with_dev(script: &str, command: Mayfly) -> Mayfly {
    let script = format!("set -e; {script}; exec \"$@\"");
    let namespaces: &[&str] = if rustix::process::geteuid().is_root() {
        &["--mount"]
    } else {
        &["--mount", "--map-root-user"]
    };
    let arguments = [namespaces, &["sh", "-c", &script, "sh"]].concat();
    command.under("unshare", arguments)
}

#[test]
fn host_without_kvm() {
    refuses(
        HOST,
        &["/dev/kvm"],
        with_dev("mount -t tmpfs none /dev", hello()),
    );
    let doctor = with_dev(
        "mount -t tmpfs none /dev",
        Mayfly::new(["doctor", "--json"]),
    );
    let outcome = doctor.outcome();
    assert_eq!(outcome.code, HOST, "{outcome}");
    assert_eq!(outcome.json()["can_run"], false, "{outcome}");
}

#[test]
fn kvm_that_is_something_else() {
    let script = "mount --bind /dev/zero /dev/kvm";
    refuses(HOST, &["/dev/kvm"], with_dev(script, hello()));
}

#[test]
fn kvm_without_permission() {
    // Root may open anything: what root cannot is be somebody else.
    let directory = TempDir::with_prefix("mayfly-user-").expect("create a temporary directory");
    let mut command = hello_as_nobody(directory.path());
    let output = command.output().expect("start mayfly");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(HOST), "{stderr}");
    assert!(
        stderr.starts_with("mayfly: no permission to use /dev/kvm"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// `mayfly run` by somebody who may not open /dev/kvm. As the binary may lie
/// where nobody else can read, it and the guest are copied.
fn hello_as_nobody(directory: &Path) -> std::process::Command {
    use std::os::unix::fs::PermissionsExt;
    let copy = |from: &Path, name: &str| {
        let to = directory.join(name);
        fs::copy(from, &to).expect("copy a file");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("chmod");
        to
    };
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mayfly = copy(Path::new(crate::common::run::MAYFLY), "mayfly");
    let kernel = copy(&bare("hello"), "kernel");
    if rustix::process::geteuid().is_root() {
        let mut command = std::process::Command::new(mayfly);
        command
            .args(["run", "--kernel"])
            .arg(kernel)
            .uid(65534)
            .gid(65534);
        return command;
    }
    // A file of root's, which no one else may open, in the device's place.
    let mut command = std::process::Command::new("unshare");
    let script = "mount --bind /etc/shadow /dev/kvm; exec \"$@\"";
    command.args(["--mount", "--map-root-user", "sh", "-ec", script, "sh"]);
    command.arg(mayfly).args(["run", "--kernel"]).arg(kernel);
    command
}

#[test]
fn output_that_nobody_can_take_is_no_panic() {
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("open /dev/full");
    let mut command = hello().arg("--json").into_command();
    let mut child = command
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .expect("start mayfly");
    let status = wait_limited(&mut child, LIMIT);
    let output = child.wait_with_output().expect("read the output");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(status.is_some(), "did not end: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}
