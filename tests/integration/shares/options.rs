//! What is refused, and who is told what.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use tempfile::TempDir;

use super::allowed;
use crate::common::run::MAYFLY;
use crate::common::{Mayfly, bare};

#[test]
fn a_wrong_option_is_one_line() {
    let here = allowed("/proc/self/status");
    let not_allowed = format!("host lets Mayfly run on {here};");
    for (options, words) in [
        (&["--cpu-pin", "0"][..], "as in 0:2,1:3"),
        (&["--cpu-pin", "0:0,0:0"], "vCPU 0 twice"),
        (&["--cpu-pin", "2:0", "--cpus", "2"], "the VM has 2 CPUs"),
        (&["--cpu-pin", "0:1023"], &not_allowed),
        (&["--cpu-weight", "0"], "1 to 10000"),
        (&["--cpu-weight", "10001"], "1 to 10000"),
        (&["--cpu-limit", "150"], "as in 150%"),
        (&["--cpu-limit", "0%"], "from 1%"),
    ] {
        let outcome = Mayfly::new(["run", "--kernel"])
            .arg(bare("hello"))
            .args(options)
            .outcome();
        assert_eq!(outcome.code, 245, "{options:?}: {outcome}");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert!(
            matches!(lines[..], [line] if line.starts_with("mayfly: ") && line.contains(words)),
            "{options:?}: {outcome}"
        );
    }
}

#[test]
fn without_privileges_the_vm_goes_on_and_the_user_is_told_how_to_get_it() {
    // Where another user can reach it.
    let folder = TempDir::with_prefix("mayfly-nobody-").expect("create a temporary directory");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("open it");
    let program = folder.path().join("mayfly");
    fs::copy(MAYFLY, &program).expect("copy the program");
    let mut command = std::process::Command::new(&program);
    command.args(["run", "--cpu-weight", "200", "--cpu-limit", "50%"]);
    command.args(["--kernel", "/no/such/kernel"]);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output().expect("start mayfly as nobody");
    let told = String::from_utf8_lossy(&output.stderr);
    let [warning, error] = told.lines().collect::<Vec<_>>()[..] else {
        panic!("not two lines: {told}");
    };
    let start = "mayfly: warning: --cpu-weight and --cpu-limit have no effect: ";
    let end = "'systemd-run --user --scope -p CPUWeight=200 -p CPUQuota=50% mayfly run …'";
    assert!(
        warning.starts_with(start) && warning.ends_with(end),
        "{told}"
    );
    // It went on as far as to look for the kernel.
    assert!(error.contains("/no/such/kernel"), "{told}");
}
