//! What the limits of this process's cgroups leave of the host's memory.
//!
//! Version 2: Linux `Documentation/admin-guide/cgroup-v2.rst`, "Memory Interface Files".
//! Version 1: `Documentation/admin-guide/cgroup-v1/memory.rst`, sections 2.2 and 6.

use std::fs;
use std::path::Path;

use super::hierarchies;
use super::hierarchy::{Hierarchy, Version};

/// Bytes that this process can still take before a limit of its cgroup, or of one above
/// it, has the kernel end a process; none where there is no limit in sight.
#[cold]
pub fn memory_left() -> Option<u64> {
    // Where the cgroups cannot be told, nothing is known of a limit.
    let hierarchies = hierarchies("memory").unwrap_or_default();
    hierarchies.iter().filter_map(left).min()
}

/// The files of a version, and the lines of `memory.stat` that count pages of files with
/// those of the cgroups below: they can be read again, and make room.
struct Files {
    limit: &'static str,
    used: &'static str,
    files: [&'static str; 2],
}

const VERSION_2: Files = Files {
    limit: "memory.max",
    used: "memory.current",
    files: ["inactive_file", "active_file"],
};
const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    files: ["total_inactive_file", "total_active_file"],
};

/// The tightest of a cgroup and those above it.
#[cold]
fn left(hierarchy: &Hierarchy) -> Option<u64> {
    let Hierarchy {
        version,
        mount,
        own,
    } = hierarchy;
    let names = match version {
        Version::V2 => VERSION_2,
        Version::V1 => VERSION_1,
    };
    let groups = own.ancestors().take_while(|group| group.starts_with(mount));
    // Version 1 before Linux 5.11: such a cgroup does not count what is below it.
    let counts = |group: &Path| {
        let below = fs::read_to_string(group.join("memory.use_hierarchy"));
        group == own || below.is_ok_and(|text| text.trim() == "1") || *version == Version::V2
    };
    groups
        .filter(|group| counts(group))
        .filter_map(|group| names.left_in(group))
        .min()
}

impl Files {
    fn left_in(&self, group: &Path) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(group.join(file)).ok();
        // `max`, where there is none.
        let limit: u64 = read(self.limit)?.trim().parse().ok()?;
        let used: u64 = read(self.used)?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let files = self.files.map(|name| counted(&stat, name));
        let files = files.into_iter().fold(0, u64::saturating_add);
        Some(limit.saturating_sub(used.saturating_sub(files)))
    }
}

/// The number on the line `name NUMBER`.
fn counted(stat: &str, name: &str) -> u64 {
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    let number = lines.find(|(first, _)| *first == name);
    number.and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A mounted hierarchy, of files that stand still.
    struct Mounted(TempDir);

    impl Mounted {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, group: &str, file: &str, text: &str) {
            let folder = self.0.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), text).unwrap();
        }

        fn left(&self, version: Version, own: &str) -> Option<u64> {
            left(&Hierarchy {
                version,
                mount: self.0.path().into(),
                own: self.0.path().join(own),
            })
        }
    }

    #[test]
    fn the_tightest_cgroup_counts() {
        let mounted = Mounted::new();
        let left = |own| mounted.left(Version::V2, own);
        assert_eq!(left("a/b"), None);
        mounted.write("a/b", "memory.max", "max\n");
        mounted.write("a/b", "memory.current", "10\n");
        assert_eq!(left("a/b"), None);
        mounted.write("a", "memory.max", "5000\n");
        mounted.write("a", "memory.current", "3000\n");
        assert_eq!(left("a/b"), Some(2000));
        let stat = "anon 2500\ninactive_file 300\nactive_file 200\n";
        mounted.write("a", "memory.stat", stat);
        assert_eq!(left("a/b"), Some(2500));
        mounted.write("a/b", "memory.max", "1000\n");
        assert_eq!(left("a/b"), Some(990));
        assert_eq!(left(""), None);
    }

    #[test]
    fn version_1_has_other_files() {
        let mounted = Mounted::new();
        let left = |own| mounted.left(Version::V1, own);
        // What version 1 says where there is no limit.
        const NONE: &str = "9223372036854771712\n";
        for (group, limit, used) in [
            ("", NONE, "9000"),
            ("a", "5000", "3000"),
            ("a/b", NONE, "0"),
        ] {
            mounted.write(group, "memory.limit_in_bytes", limit);
            mounted.write(group, "memory.usage_in_bytes", used);
            mounted.write(group, "memory.use_hierarchy", "1\n");
        }
        assert_eq!(left("a/b"), Some(2000));
        let stat = "cache 50\ninactive_file 7\nactive_file 7\n\
                    total_inactive_file 300\ntotal_active_file 200\n";
        mounted.write("a", "memory.stat", stat);
        assert_eq!(left("a/b"), Some(2500));
        mounted.write("", "memory.limit_in_bytes", "9100");
        assert_eq!(left("a/b"), Some(100));
        // A limit of its own always counts, one above it only if it counts what is below.
        mounted.write("a", "memory.use_hierarchy", "0\n");
        mounted.write("", "memory.use_hierarchy", "0\n");
        assert!(left("a/b").is_some_and(|left| left > 1 << 60));
        assert_eq!(left("a"), Some(2500));
    }

    #[test]
    fn more_is_never_used_than_there_is() {
        let mounted = Mounted::new();
        mounted.write("", "memory.max", "1000");
        mounted.write("", "memory.current", "1200");
        assert_eq!(mounted.left(Version::V2, ""), Some(0));
        let stat = format!("inactive_file {0}\nactive_file {0}\n", u64::MAX);
        mounted.write("", "memory.stat", &stat);
        assert_eq!(mounted.left(Version::V2, ""), Some(1000));
    }
}
