//! Where cgroups are mounted, and which of them this process is in.
//!
//! Read from `/proc/self/mountinfo` (proc(5)) and `/proc/self/cgroup` (cgroups(7)). With
//! a cgroup namespace the paths of both are as seen from its root.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// Of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy with all of them.
    V2,
}

/// A mounted hierarchy in which there is, or may be, the controller that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Of its interface.
    pub version: Version,
    /// Its uppermost cgroup in sight.
    pub mount: PathBuf,
    /// The cgroup that this process is in.
    pub own: PathBuf,
}

/// The hierarchies for `controller` (`cpu`, `memory`), version 2 first.
pub(super) fn find(mountinfo: &str, own: &str, controller: &str) -> Vec<Hierarchy> {
    let mounts = || {
        let lines = mountinfo.lines();
        lines.filter_map(|line| Mount::parse(line, controller))
    };
    [Version::V2, Version::V1]
        .into_iter()
        .filter_map(|version| {
            let own = own_path(own, version, controller)?;
            mounts()
                .filter(|mount| mount.version == version)
                .find_map(|mount| mount.hierarchy(own))
        })
        .collect()
}

/// The path after `ID:CONTROLLERS:` on the line that is `version`'s.
fn own_path<'a>(text: &'a str, version: Version, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match version {
            Version::V2 => id == "0" && controllers.is_empty(),
            Version::V1 => controllers.split(',').any(|name| name == controller),
        };
        is_it.then_some(path)
    })
}

/// A line of mountinfo that is of interest.
struct Mount {
    version: Version,
    /// What of the hierarchy is mounted.
    root: PathBuf,
    place: PathBuf,
}

impl Mount {
    /// `36 35 98:0 ROOT PLACE OPTIONS TAG… - TYPE SOURCE SUPER-OPTIONS`.
    fn parse(line: &str, controller: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let mut fields = file_system.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let version = match kind {
            "cgroup2" => Version::V2,
            "cgroup" if options.split(',').any(|option| option == controller) => Version::V1,
            _ => return None,
        };
        Some(Self {
            version,
            root: unescape(root),
            place: unescape(place),
        })
    }

    /// Where the cgroup `own` is seen in this mount.
    fn hierarchy(self, own: &str) -> Option<Hierarchy> {
        let below = Path::new(own).strip_prefix(&self.root).ok()?;
        // A process that is outside of its namespace's root has `/..` in front.
        let plain = below
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        plain.then(|| Hierarchy {
            version: self.version,
            own: match below.as_os_str().is_empty() {
                true => self.place.clone(),
                false => self.place.join(below),
            },
            mount: self.place,
        })
    }
}

/// Blanks and the like are `\040` in mountinfo.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after.first_chunk::<3>()) {
            (b'\\', Some(digits)) => octal(digits),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(first));
        rest = match escaped {
            Some(_) => after.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    OsString::from_vec(bytes).into()
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
        super::find(mountinfo, own, "cpu")
    }

    const UNIFIED: &str =
        "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn hierarchy(version: Version, mount: &str, own: &str) -> Hierarchy {
        Hierarchy {
            version,
            mount: mount.into(),
            own: own.into(),
        }
    }

    #[test]
    fn a_host_of_today_has_one_hierarchy() {
        let own = "0::/user.slice/user-1000.slice/session-3.scope\n";
        assert_eq!(
            find(UNIFIED, own),
            [hierarchy(
                Version::V2,
                "/sys/fs/cgroup",
                "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope"
            )]
        );
        let root = hierarchy(Version::V2, "/sys/fs/cgroup", "/sys/fs/cgroup");
        assert_eq!(find(UNIFIED, "0::/\n"), [root]);
    }

    #[test]
    fn a_host_of_both_versions_has_two() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "4:cpuset:/s\n2:cpu,cpuacct:/vms/a\n1:name=systemd:/x\n0::/u\n";
        assert_eq!(
            find(mounts, own),
            [
                hierarchy(
                    Version::V2,
                    "/sys/fs/cgroup/unified",
                    "/sys/fs/cgroup/unified/u"
                ),
                hierarchy(
                    Version::V1,
                    "/sys/fs/cgroup/cpu,cpuacct",
                    "/sys/fs/cgroup/cpu,cpuacct/vms/a"
                ),
            ]
        );
    }

    #[test]
    fn each_controller_of_version_1_has_its_own() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let own = "4:memory:/limited\n2:cpu,cpuacct:/vms/a\n";
        assert_eq!(
            super::find(mounts, own, "memory"),
            [hierarchy(
                Version::V1,
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/memory/limited"
            )]
        );
        assert_eq!(super::find(mounts, own, "pids"), []);
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let mounts = "9 8 0:3 /docker/a\\040b /sys/fs/c\\134g ro - cgroup cgroup rw,cpu\n";
        let own = "3:cpu:/docker/a b/c\n";
        assert_eq!(
            find(mounts, own),
            [hierarchy(Version::V1, "/sys/fs/c\\g", "/sys/fs/c\\g/c")]
        );
        // Outside of what is mounted, and outside of the namespace.
        assert_eq!(find(mounts, "3:cpu:/docker/b\n"), []);
        assert_eq!(find(UNIFIED, "0::/../sibling\n"), []);
    }

    #[test]
    fn a_second_mount_does_where_the_first_does_not_reach() {
        let mounts = format!("1 1 0:3 /else /mnt rw - cgroup2 none rw\n{UNIFIED}");
        let own = hierarchy(Version::V2, "/sys/fs/cgroup", "/sys/fs/cgroup/a");
        assert_eq!(find(&mounts, "0::/a\n"), [own]);
    }

    #[test]
    fn a_colon_may_be_in_a_path() {
        let own = hierarchy(Version::V2, "/sys/fs/cgroup", "/sys/fs/cgroup/a:b");
        assert_eq!(find(UNIFIED, "0::/a:b\n"), [own]);
    }

    #[test]
    fn odd_texts_are_no_cgroups() {
        for text in ["", "-", " - ", "a - cgroup2", "1 2 3 - cgroup2 x y", "\\0"] {
            assert_eq!(find(text, "0::/\n"), [], "{text}");
            assert_eq!(find(UNIFIED, text), [], "{text}");
        }
        assert_eq!(unescape("a\\04"), Path::new("a\\04"));
        assert_eq!(unescape("\\999\\"), Path::new("\\999\\"));
        assert_eq!(unescape("\\400"), Path::new("\\400"));
    }

    proptest! {
        #[test]
        fn no_text_panics(mounts in "(\\PC{0,20} |cgroup2? |rw,cpu |- |/\\\\[0-9]{0,3}){0,12}", own in "\\PC*") {
            find(&mounts, &own);
            find(UNIFIED, &format!("0::{own}"));
        }
    }
}
