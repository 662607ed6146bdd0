//! Names of VMs' cgroups, and those whose VM was killed before it could remove its own.

use std::process;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::folder::Folder;

const PREFIX: &str = "mayfly-";

/// The cgroup of this process: `mayfly-PID`, or `mayfly-NAME-PID`.
pub fn name_for(vm: Option<&str>) -> String {
    let pid = process::id();
    match vm {
        Some(vm) => format!("{PREFIX}{vm}-{pid}"),
        None => format!("{PREFIX}{pid}"),
    }
}

/// The process in the name of a VM's cgroup.
fn process_of(name: &str) -> Option<i32> {
    let rest = name.strip_prefix(PREFIX)?;
    let number = rest.rsplit_once('-').map_or(rest, |(_, number)| number);
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| number.parse().ok()).flatten()
}

/// Whether there is such a process, in this PID namespace.
pub(super) fn lives(process: i32) -> bool {
    match Pid::from_raw(process) {
        Some(pid) => test_kill_process(pid) != Err(Errno::SRCH),
        None => true,
    }
}

/// Removes the VMs' cgroups in `parent` whose process does not live. One of another PID
/// namespace looks as if it did not: if there are processes in it, the kernel does not
/// remove it, and a VM that has just made its own, and is not in it yet, makes it again.
pub(super) fn remove_from<F: Folder>(parent: &F, lives: impl Fn(i32) -> bool) {
    for name in parent.names().unwrap_or_default() {
        if process_of(&name).is_some_and(|process| !lives(process)) {
            // Refused for one that is in use; the others are gone.
            let _ = parent.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeFolder, put_other_into};
    use super::*;

    #[test]
    fn a_name_tells_its_process() {
        assert_eq!(process_of(&name_for(None)), Some(process::id() as i32));
        assert_eq!(
            process_of(&name_for(Some("my-box.2"))),
            Some(process::id() as i32)
        );
        for (name, process) in [
            ("mayfly-7", Some(7)),
            ("mayfly-3-7", Some(7)),
            ("mayfly-vms", None),
            ("mayfly-vms-", None),
            ("mayfly-", None),
            ("mayfly-+7", None),
            ("mayfly--7", Some(7)),
            ("mayfly-99999999999", None),
            ("other-7", None),
        ] {
            assert_eq!(process_of(name), process, "{name}");
        }
    }

    #[test]
    fn this_process_lives() {
        assert!(lives(process::id() as i32));
        // Larger than any PID (Linux PID_MAX_LIMIT, 4,194,304).
        assert!(!lives(i32::MAX));
        // Not a process, but a process group: never asked.
        assert!(lives(0));
    }

    #[test]
    fn only_empty_ones_of_dead_processes_go() {
        let root = FakeFolder::root();
        for name in ["mayfly-7", "mayfly-8", "mayfly-9", "mayfly-vms", "else-7"] {
            root.make(name).unwrap();
        }
        put_other_into("/cg/mayfly-9");
        remove_from(&root, |process| process == 8);
        let mut left = root.names().unwrap();
        left.sort();
        assert_eq!(left, ["else-7", "mayfly-8", "mayfly-9", "mayfly-vms"]);
    }
}
