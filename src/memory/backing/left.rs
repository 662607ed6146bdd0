//! How much memory the host has left for who takes all of it at once.

use std::fs;

use crate::host::cgroup::memory_left;
use crate::memory::error::MemoryError;
use crate::memory::options::NumaNodes;

/// Checks that `size` bytes can be taken from the host now: taking what is not there
/// would have the kernel end this process, or another.
#[cold]
pub(super) fn check(size: u64, nodes: Option<NumaNodes>) -> Result<(), MemoryError> {
    let too_much = |left, holder| MemoryError::TooMuchAtOnce { size, left, holder };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let left = kib(&read("/proc/meminfo"), "MemAvailable:");
    if let Some(left) = left.filter(|left| *left < size) {
        return Err(too_much(left, "this host".to_owned()));
    }
    if let Some(nodes) = nodes {
        let place = |node| format!("/sys/devices/system/node/node{node}/meminfo");
        let left = nodes.iter().map(|node| of_node(&read(&place(node)))).sum();
        if left < size {
            return Err(too_much(left, format!("NUMA node {nodes}")));
        }
    }
    match memory_left().filter(|left| *left < size) {
        Some(left) => Err(too_much(left, "this process's cgroup".to_owned())),
        None => Ok(()),
    }
}

/// Whether the host promises no more memory than it has, however little is used of it
/// (Linux, Documentation/mm/overcommit-accounting.rst, mode 2).
pub(super) fn host_keeps_promises() -> bool {
    let mode = fs::read_to_string("/proc/sys/vm/overcommit_memory");
    mode.is_ok_and(|mode| mode.trim() == "2")
}

/// Bytes that such a host can still promise.
pub(super) fn promises_left() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |name| kib(&meminfo, name).unwrap_or(0);
    bytes("CommitLimit:").saturating_sub(bytes("Committed_AS:"))
}

/// The bytes on the line of `text` that has `name` and a number of KiB.
#[cold]
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once(name))?.1;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// What a node has left: free pages, and those of files, which can be read again.
fn of_node(meminfo: &str) -> u64 {
    let bytes = |name| kib(meminfo, name).unwrap_or(0);
    let files = bytes(" FilePages:").saturating_sub(bytes(" Shmem:"));
    bytes(" MemFree:").saturating_add(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_meminfo() {
        let host = "MemTotal:  8 kB\nMemFree:    5 kB\nMemAvailable:    6 kB\n";
        assert_eq!(kib(host, "MemAvailable:"), Some(6 << 10));
        assert_eq!(kib(host, "CommitLimit:"), None);
        let node = "Node 0 MemTotal: 9 kB\nNode 0 MemFree: 5 kB\n\
                    Node 0 FilePages: 3 kB\nNode 0 Shmem: 1 kB\n";
        assert_eq!(of_node(node), 7 << 10);
        assert_eq!(of_node(""), 0);
    }
}
