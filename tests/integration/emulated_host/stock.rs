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
use super::{MAYFLY, host_files, warnings};
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

/// Debian's releases of which there are kernels.
const VERSIONS: [&str; 2] = ["6.1", "6.12"];

/// A line between the boots.
const END: &str = "end of the boot, status ";

/// Boots them in turn in one host, whose own start takes as long as one of theirs.
#[test]
fn debian_6_1_and_6_12_boot_unmodified() {
    let init = kernels().join("init.cpio");
    let mut root = RootTree::new(host_files());
    root.add_program(Path::new(MAYFLY));
    root.add(&init);
    let mut script = String::new();
    for version in VERSIONS {
        let kernel = kernels().join(version).join("vmlinuz");
        root.add(&kernel);
        script.push_str(&format!(
            "{MAYFLY} run --json --timeout 3m --kernel {} --initrd {} --cmdline 'quiet mayfly.kernel-warnings'
             echo {END}$?\n",
            kernel.display(),
            init.display()
        ));
    }
    let mut host = EmulatedHost::new(host_files());
    host.timeout = Duration::from_secs(400);
    let outcome = host.run(root, &["sh", "-c", &script]).unwrap();
    println!("{:?} with the host's own start", outcome.elapsed);
    let output = outcome.output.replace('\r', "");
    let boots: Vec<&str> = output.split_inclusive(END).collect();
    assert_eq!(boots.len(), VERSIONS.len() + 1, "{output}");
    for (index, version) in VERSIONS.into_iter().enumerate() {
        // What follows the line's words is the status.
        assert!(boots[index + 1].starts_with("0\n"), "{version}: {output}");
        booted_unmodified(version, boots[index]);
    }
}

/// What a boot of the kernel must have printed: the guest's facts, and JSON in the last
/// line before the one that ends it.
fn booted_unmodified(version: &str, output: &str) {
    let facts = format!("mayfly-guest: kernel={} ", release(version));
    assert!(output.contains(&facts), "no '{facts}' in: {output}");
    let boot = warnings::Boot {
        kernel: version,
        has_device: false,
    };
    warnings::are_explained(boot, &warnings::told_by_init(output));
    let json = output.lines().rev().nth(1).unwrap_or_default();
    let json: Value = serde_json::from_str(json)
        .unwrap_or_else(|error| panic!("the last line is not JSON ({error}): {output}"));
    assert_eq!(json["reason"], "power-off", "{output}");
    let userspace = &json["ms"]["userspace"];
    println!("{version}: userspace after {userspace} ms");
    assert!(userspace.is_number(), "{output}");
    // Nothing is done to a guest that its processor runs.
    assert_eq!(json["emulated"], serde_json::json!({}), "{output}");
    assert_eq!(json["hooks_planted"], 0, "{output}");
}
