//! A whole Debian: its own cloud kernel and initramfs, its root on a disk that
//! guest-images/debian/root.sh has installed.
//!
//! Only on hardware KVM; `tests/bench/stock_kernels.sh --debian` boots the
//! same on this machine's, where it takes minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::machine::EmulatedHost;
use super::root::RootTree;
use super::{MAYFLY, host_files};
use crate::common::built::built_by;

/// The disk, the kernel and the initramfs, installed on the first call.
fn debian() -> PathBuf {
    built_by("debian/root.sh")
}

/// The release of the kernel in the stamp: `linux-image-RELEASE` and a version,
/// separated by a tab; the package that stands for the newest has no number.
fn release(stamp: &str) -> Option<&str> {
    stamp.lines().find_map(|line| {
        let release = line.strip_prefix("linux-image-")?.split('\t').next()?;
        release
            .starts_with(|c: char| c.is_ascii_digit())
            .then_some(release)
    })
}

/// A host with the installed Debian as a disk, what is written to which goes to a file
/// of QEMU's, and a script that boots it there with these words.
fn host_with(files: &Path, words: &str) -> (EmulatedHost, RootTree, String) {
    let (kernel, initrd) = (files.join("vmlinuz"), files.join("initrd.img"));
    let mut root = RootTree::new(host_files());
    root.add_program(Path::new(MAYFLY));
    root.add(&kernel).add(&initrd);
    let mut host = EmulatedHost::new(host_files());
    host.memory_mib = 1536;
    host.timeout = Duration::from_secs(300);
    let image = files.join("root.ext4");
    let disk = host.add_disk(&format!("file={},snapshot=on", image.display()));
    let script = format!(
        "exec {MAYFLY} run --json --timeout 4m --memory 512M --kernel {} --initrd {} \
         --disk path={disk},format=raw --cmdline 'quiet root=/dev/vda rw {words}'",
        kernel.display(),
        initrd.display(),
    );
    (host, root, script)
}

#[test]
fn debian_mounts_its_root_disk_and_runs_our_init_from_it() {
    let files = debian();
    let stamp = fs::read_to_string(files.join("stamp")).expect("read the stamp");
    let release = release(&stamp).expect("a kernel in the stamp");
    let words = format!(
        "init=/sbin/mayfly-init mayfly.show=/etc/hostname mayfly.put=/note,written \
         mayfly.sync mayfly.sum=/boot/vmlinuz-{release}"
    );
    let (host, root, script) = host_with(&files, &words);
    let outcome = host.run(root, &["sh", "-c", &script]).unwrap();
    let output = outcome.output.replace('\r', "");
    println!("{:?} with the host's own start", outcome.elapsed);
    assert_eq!(outcome.status, 0, "{output}");
    let kernel = fs::read(files.join("vmlinuz")).expect("read the kernel");
    let sum = crate::common::disk::fnv(&kernel);
    for line in [
        &format!("mayfly-guest: kernel={release} "),
        "mayfly-guest: /etc/hostname: mayfly\n",
        "mayfly-guest: synced\n",
        &format!(
            "mayfly-guest: /boot/vmlinuz-{release}: bytes={} fnv={sum}\n",
            kernel.len()
        ),
    ] {
        assert!(output.contains(line), "no '{line}' in: {output}");
    }
    let json: Value = serde_json::from_str(output.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("the last line is not JSON ({error}): {output}"));
    assert_eq!(json["reason"], "power-off", "{output}");
    assert!(json["disks"][0]["requests"].as_u64() > Some(0), "{output}");
    println!("userspace after {} ms", json["ms"]["userspace"]);
}
