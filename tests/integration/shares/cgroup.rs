//! The cgroup of a VM: where it is, what is in it, and that nothing is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::id;

use rustix::process::{Pid, Signal, kill_process};

use super::{Cgroups, cgroups};
use crate::common::Mayfly;

/// The only one of some.
#[track_caller]
fn only(mut paths: Vec<PathBuf>) -> PathBuf {
    assert_eq!(paths.len(), 1, "not one cgroup: {paths:?}");
    paths.remove(0)
}

/// Ends the VM whose cgroup has this name.
fn interrupt(group: &str) {
    let (_, process) = group.rsplit_once('-').expect("a number at the end");
    let process = process.parse().ok().and_then(Pid::from_raw);
    kill_process(process.expect("a process"), Signal::INT).expect("interrupt the VM");
}

fn read(group: &Path, file: &str) -> String {
    let text = fs::read_to_string(group.join(file));
    text.unwrap_or_else(|error| panic!("{}: {error}", group.join(file).display()))
        .trim()
        .to_owned()
}

/// Whether a process is in the group. A VM may have others in it: KVM's own thread for a VM
/// joins the cgroup of its process.
fn has_process(group: &Path, process: u32) -> bool {
    let process = process.to_string();
    read(group, "cgroup.procs")
        .lines()
        .any(|line| line == process)
}

impl Cgroups {
    /// A weight of 300 and a limit of 250 % are in effect.
    #[track_caller]
    fn has_300_and_250(&self, group: &Path) {
        match self.version_1 {
            true => {
                assert_eq!(read(group, "cpu.shares"), "3072");
                assert_eq!(read(group, "cpu.cfs_quota_us"), "250000");
                assert_eq!(read(group, "cpu.cfs_period_us"), "100000");
            }
            false => {
                assert_eq!(read(group, "cpu.weight"), "300");
                assert_eq!(read(group, "cpu.max"), "250000 100000");
            }
        }
    }
}

const SHARE: [&str; 4] = ["--cpu-weight", "300", "--cpu-limit", "250%"];

#[test]
fn a_vm_with_a_share_is_in_a_cgroup_of_its_own_until_it_ends() {
    let Some(cgroups) = cgroups() else { return };
    let name = format!("own-{}", id());
    let mut vm = Mayfly::bare("spin")
        .args(SHARE)
        .args(["--name", &name])
        .start();
    vm.wait_for("spinning");
    let own = fs::read_to_string(format!("/proc/{}/cgroup", vm.id())).expect("a process");
    let group = format!("mayfly-{name}-{}", vm.id());
    assert!(
        own.lines().any(|line| line.ends_with(&format!("/{group}"))),
        "{own}"
    );
    interrupt(&group);
    vm.outcome().ended(243, "user-quit");
    assert_eq!(cgroups.of_vm("", &name), [] as [PathBuf; 0]);
}

#[test]
fn what_a_killed_vm_leaves_the_next_one_removes() {
    let Some(cgroups) = cgroups() else { return };
    let name = format!("killed-{}", id());
    let mut vm = Mayfly::bare("spin")
        .args(SHARE)
        .args(["--name", &name])
        .start();
    vm.wait_for("spinning");
    // SIGKILL.
    drop(vm);
    // Unless a VM of another test has done so already.
    assert!(cgroups.of_vm("", &name).len() <= 1);
    Mayfly::bare("hello").args(SHARE).outcome().all_held();
    assert_eq!(cgroups.of_vm("", &name), [] as [PathBuf; 0]);
}

/// A cgroup for some processes, as a service manager makes one.
struct Scope<'a> {
    cgroups: &'a Cgroups,
    name: String,
}

impl<'a> Scope<'a> {
    fn new(cgroups: &'a Cgroups, name: &str) -> Self {
        if !cgroups.version_1 {
            let control = cgroups.mount.join("cgroup.subtree_control");
            fs::write(control, "+cpu").expect("give cgroups the controller");
        }
        let name = format!("scope-{name}-{}", id());
        fs::create_dir(cgroups.mount.join(&name)).expect("make a cgroup");
        Self { cgroups, name }
    }

    fn path(&self) -> PathBuf {
        self.cgroups.mount.join(&self.name)
    }

    /// A shell in the scope that ends with `script`, where `"$@"` runs the spinning VM.
    fn spin(&self, name: &str, script: &str) -> crate::common::running::Running {
        let enter = format!("echo $$ >{}/cgroup.procs; {script}", self.path().display());
        Mayfly::bare("spin")
            .args(SHARE)
            .args(["--name", name])
            .under("sh", ["-c", &enter, "sh"])
            .start()
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let removed = fs::remove_dir(self.path());
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

/// As with `systemd-run --scope -p Delegate=yes mayfly run …`.
#[test]
fn alone_in_a_scope_a_vm_goes_below_it_and_leaves_it_as_it_was() {
    let Some(cgroups) = cgroups() else { return };
    let name = format!("alone-{}", id());
    let scope = Scope::new(&cgroups, &name);
    let mut vm = scope.spin(&name, "exec \"$@\"");
    vm.wait_for("spinning");
    let group = only(cgroups.of_vm(&scope.name, &name));
    assert!(has_process(&group, vm.id()));
    cgroups.has_300_and_250(&group);
    interrupt(&group.to_string_lossy());
    let outcome = vm.outcome();
    outcome.ended(243, "user-quit");
    let compared = outcome.stderr.contains("nothing to be compared with");
    assert_eq!(compared, !cgroups.version_1, "{outcome}");
    assert!(!group.exists());
    if !cgroups.version_1 {
        assert_eq!(read(&scope.path(), "cgroup.subtree_control"), "");
    }
}

/// As from a login shell.
#[test]
fn beside_other_processes_a_vm_goes_where_it_can_be_told_from_them() {
    let Some(cgroups) = cgroups() else { return };
    let name = format!("beside-{}", id());
    let scope = Scope::new(&cgroups, &name);
    // The shell stays.
    let mut vm = scope.spin(&name, "\"$@\"; exit $?");
    vm.wait_for("spinning");
    let parent = match cgroups.version_1 {
        true => &*scope.name,
        false => "",
    };
    let group = only(cgroups.of_vm(parent, &name));
    assert!(!has_process(&group, vm.id()), "the shell is in it");
    assert!(!read(&group, "cgroup.procs").is_empty());
    cgroups.has_300_and_250(&group);
    interrupt(&group.to_string_lossy());
    let outcome = vm.outcome();
    outcome.ended(243, "user-quit");
    assert_eq!(outcome.stderr, "", "{outcome}");
    assert!(!group.exists());
}
