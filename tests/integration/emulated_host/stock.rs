//! Stock kernels: Debian's, as they come, to our init and to power-off.
//!
//! Only on hardware KVM, where a boot takes seconds. A kvm-pvm host interprets
//! such a kernel for minutes; tests/bench/stock_kernels.sh measures that.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::machine::EmulatedHost;
use super::root::RootTree;
use super::{MAYFLY, host_files};
use crate::common::built::built_by;

/// Debian's kernels and the initramfs, fetched on the first call.
fn kernels() -> &'static Path {
    static FILES: OnceLock<std::path::PathBuf> = OnceLock::new();
    FILES.get_or_init(|| built_by("debian/build.sh"))
}

/// The release that `uname` must tell, by the name of the package it is from:
/// `linux-image-6.1.0-56-cloud-amd64` and a version, separated by a tab.
fn release(version: &str) -> String {
    let stamp = fs::read_to_string(kernels().join("stamp")).expect("read the stamp");
    let release = stamp.lines().find_map(|line| {
        let release = line.strip_prefix("linux-image-")?.split('\t').next()?;
        release
            .starts_with(&format!("{version}."))
            .then(|| release.to_string())
    });
    release.unwrap_or_else(|| panic!("no kernel {version} in the stamp: {stamp}"))
}

/// Boots the kernel in a host of its own.
fn boots_unmodified(version: &str) {
    let kernel = kernels().join(version).join("vmlinuz");
    let init = kernels().join("init.cpio");
    let mut root = RootTree::new(host_files());
    root.add_program(Path::new(MAYFLY));
    root.add(&kernel).add(&init);
    let mut host = EmulatedHost::new(host_files());
    host.timeout = Duration::from_secs(240);
    let command = [
        MAYFLY,
        "run",
        "--json",
        "--timeout",
        "3m",
        "--kernel",
        kernel.to_str().expect("a path in UTF-8"),
        "--initrd",
        init.to_str().expect("a path in UTF-8"),
        "--cmdline",
        "quiet",
    ];
    let outcome = host.run(root, &command).unwrap();
    let output = outcome.output.replace('\r', "");
    println!("{version}: {:?} with the host's own start", outcome.elapsed);
    assert_eq!(outcome.status, 0, "{output}");

    let facts = format!("mayfly-guest: kernel={} ", release(version));
    assert!(output.contains(&facts), "no '{facts}' in: {output}");
    let json: Value = serde_json::from_str(output.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("the last line is not JSON ({error}): {output}"));
    assert_eq!(json["reason"], "power-off", "{output}");
    assert!(json["ms"]["userspace"].is_number(), "{output}");
    // Nothing is done to a guest that its processor runs.
    assert_eq!(json["emulated"], serde_json::json!({}), "{output}");
    assert_eq!(json["hooks_planted"], 0, "{output}");
}

#[test]
fn debian_6_1_boots_unmodified() {
    boots_unmodified("6.1");
}

#[test]
fn debian_6_12_boots_unmodified() {
    boots_unmodified("6.12");
}
