//! Shares of the host's processors, with both versions of cgroups: this machine's own may
//! not be ours to make, and are of one version.

use std::path::PathBuf;
use std::time::Duration;

use super::machine::EmulatedHost;
use super::{environment, host_files, mayfly_root};

/// The tests of shares with version 2, as the host has it mounted, then with version 1,
/// for which version 2 must have let go of the controller. Weights are measured over 30 s with
/// version 2, and with version 1 for as long as it takes to tell them.
const SCRIPT: &str = r#"
    set -e
    suite=$1
    MAYFLY_CGROUPS=2 MAYFLY_SHARES_SECONDS=${MAYFLY_SHARES_SECONDS:-30} "$suite" shares:: --skip emulated_host --nocapture
    for left in /sys/fs/cgroup/mayfly-*/; do
        [ ! -d "$left" ] || rmdir "$left"
    done
    echo -cpu >/sys/fs/cgroup/cgroup.subtree_control
    umount /sys/fs/cgroup
    mount -t tmpfs cgroups /sys/fs/cgroup
    mkdir /sys/fs/cgroup/cpu
    tries=0
    until mount -t cgroup -o cpu cpu /sys/fs/cgroup/cpu; do
        tries=$((tries + 1))
        [ $tries -lt 50 ]
        sleep 0.1
    done
    MAYFLY_CGROUPS=1 "$suite" shares:: --skip emulated_host --nocapture
"#;

#[test]
fn shares_are_kept_with_both_versions_of_cgroups() {
    let suite = std::env::current_exe().expect("this program's path");
    let mut root = mayfly_root();
    root.add_program(&suite);
    let mut host = EmulatedHost::new(host_files());
    host.timeout = Duration::from_secs(300);
    host.directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    host.environment = environment();
    let seconds = std::env::var("MAYFLY_SHARES_SECONDS").ok();
    let seconds = seconds.map(|seconds| ("MAYFLY_SHARES_SECONDS".to_owned(), seconds));
    host.environment.extend(seconds);
    let program = suite.to_str().expect("a path in UTF-8");
    let outcome = host
        .run(root, &["sh", "-c", SCRIPT, "sh", program])
        .unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    println!("it took {:?} there", outcome.elapsed);
}
