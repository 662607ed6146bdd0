//! What a process holds, as the kernel tells it.

use std::fs;

/// Descriptors, threads, children, mappings and memory of a process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Processes that it has started and that it has not waited for.
    pub children: usize,
    /// Mappings: lines of `/proc/ID/maps`. A vCPU's `kvm_run` is one, and keeps its whole VM
    /// in the host's kernel though no descriptor is left of it.
    pub mappings: usize,
    /// Resident anonymous memory in KiB: pages of files come and go as the host likes.
    pub resident_kib: u64,
}

impl Holdings {
    /// Those of process `id`.
    pub fn of(id: u32) -> Self {
        let entries = |folder: &str| {
            let folder = format!("/proc/{id}/{folder}");
            fs::read_dir(&folder).expect(&folder).count()
        };
        let read = |name: &str| {
            let file = format!("/proc/{id}/{name}");
            fs::read_to_string(&file).expect(&file)
        };
        let status = read("status");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let resident = resident.expect("RssAnon").trim().trim_end_matches(" kB");
        Self {
            descriptors: entries("fd"),
            threads: entries("task"),
            children: children(id),
            mappings: read("maps").lines().count(),
            resident_kib: resident.trim().parse().expect("a number of KiB"),
        }
    }
}

/// Processes whose parent is `id`: the fourth field of their `stat`, after a name in
/// parentheses that may hold anything.
fn children(id: u32) -> usize {
    let processes = fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            let (_, after_name) = stat.rsplit_once(')')?;
            let parent = after_name.split_whitespace().nth(1)?;
            (parent == id.to_string()).then_some(())
        })
        .count()
}
