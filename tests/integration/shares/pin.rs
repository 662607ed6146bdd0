//! `--cpu-pin`: what the kernel says of each vCPU's thread.

use std::fs;
use std::path::PathBuf;

use super::{allowed, last_cpu};
use crate::common::Mayfly;
use crate::common::running::Running;

/// The thread of a process that has this name.
fn thread(vm: &Running, name: &str) -> PathBuf {
    let tasks = format!("/proc/{}/task", vm.id());
    let mut tasks = fs::read_dir(tasks)
        .expect("list the threads")
        .map(|task| task.expect("list the threads").path());
    let is_it = |task: &PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    tasks
        .find(is_it)
        .unwrap_or_else(|| panic!("no thread {name}"))
}

fn allowed_of(vm: &Running, name: &str) -> String {
    let status = thread(vm, name).join("status");
    allowed(status.to_str().expect("a path in UTF-8"))
}

#[test]
fn a_pinned_vcpu_runs_on_its_host_cpu_and_the_rest_anywhere() {
    let (all, last) = (allowed("/proc/self/status"), last_cpu());
    let mut vm = Mayfly::bare("spin")
        .args(["--cpus", "3", "--cpu-pin"])
        .arg(format!("2:{last},0:{last}"))
        .start();
    vm.wait_for("spinning");
    assert_eq!(allowed_of(&vm, "vcpu0"), last);
    assert_eq!(allowed_of(&vm, "vcpu2"), last);
    assert_eq!(allowed_of(&vm, "vcpu1"), all);
    assert_eq!(allowed_of(&vm, "mayfly"), all);
}

#[test]
fn a_vcpu_may_have_several_host_cpus() {
    let all = allowed("/proc/self/status");
    let ranges = all.replace(',', "+");
    let mut vm = Mayfly::bare("spin")
        .arg("--cpu-pin")
        .arg(format!("0:{ranges}"))
        .start();
    vm.wait_for("spinning");
    assert_eq!(allowed_of(&vm, "vcpu0"), all);
}
