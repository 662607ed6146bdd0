//! What VMs can use beside KVM. Every probe leaves things as they were.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::cgroup::{self, CgroupError, Version};
use super::checkup::Finding;
use crate::one_line::one_line;

/// Pools of huge pages, one finding a size.
pub(super) fn huge_pages() -> Vec<Finding> {
    [("2 MiB huge pages", 2048), ("1 GiB huge pages", 1_048_576)]
        .into_iter()
        .map(|(name, kib)| {
            let pool = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB");
            pool_finding(name, Path::new(&pool))
        })
        .collect()
}

fn pool_finding(name: &'static str, pool: &Path) -> Finding {
    let count = |file: &str| -> Option<u64> {
        fs::read_to_string(pool.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    match (count("nr_hugepages"), count("free_hugepages")) {
        (Some(total), Some(free)) if free > 0 => {
            Finding::good(name, format!("{free} of {total} free"))
        }
        (Some(total), Some(_)) => {
            let more = pool.join("nr_hugepages");
            Finding::lacking(
                name,
                format!("none of {total} free"),
                format!("write the number wanted to {}", more.display()),
            )
        }
        _ => Finding::lacking(name, "not offered", "use a kernel and processor with them"),
    }
}

/// Huge pages that come by themselves.
pub(super) fn transparent_huge_pages() -> Finding {
    let name = "transparent huge pages";
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let text = fs::read_to_string(path).unwrap_or_default();
    match chosen(&text) {
        Some(mode @ ("always" | "madvise")) => Finding::good(name, mode),
        Some(mode) => Finding::lacking(name, mode, format!("run 'echo madvise > {path}'")),
        None => Finding::lacking(name, "not offered", "use a kernel with them"),
    }
}

/// The word in brackets, as sysfs marks the chosen one.
fn chosen(text: &str) -> Option<&str> {
    text.split_once('[')?
        .1
        .split_once(']')
        .map(|(word, _)| word)
}

/// Weights and limits of VMs.
pub(super) fn cpu_shares() -> Finding {
    shares_finding(cgroup::survey())
}

fn shares_finding(place: Result<(Version, PathBuf), CgroupError>) -> Finding {
    let name = "CPU weights and limits";
    let version = |version| match version {
        Version::V1 => "cgroup v1",
        Version::V2 => "cgroup v2",
    };
    match place {
        Ok((kind, path)) => {
            let detail = format!("{}, below {}", version(kind), path.display());
            Finding::good(name, detail)
        }
        Err(error) => Finding::lacking(
            name,
            one_line(&error),
            "run VMs as root, or by 'systemd-run --user --scope -p CPUWeight=N -p CPUQuota=N% mayfly run ...'",
        ),
    }
}

/// Asynchronous input and output for disks.
pub(super) fn io_uring() -> Finding {
    let name = "io_uring";
    // A ring of no entries is refused as invalid where rings are to be had.
    // SAFETY: a null parameter pointer is only looked at by the kernel, which checks it.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, std::ptr::null::<u8>()) };
    let error = io::Error::last_os_error().raw_os_error();
    match (answer, error) {
        (-1, Some(libc::ENOSYS)) => {
            Finding::lacking(name, "not in this kernel", "use a kernel with it")
        }
        (-1, Some(libc::EPERM | libc::EACCES)) => Finding::lacking(
            name,
            "forbidden",
            "run 'sysctl kernel.io_uring_disabled=0'; in a container, allow it in the seccomp profile",
        ),
        _ => Finding::good(name, "usable"),
    }
}

/// Guest RAM that is filled when it is touched.
pub(super) fn userfaultfd() -> Finding {
    let name = "userfaultfd";
    /// Linux, `include/uapi/linux/userfaultfd.h`.
    const UFFD_USER_MODE_ONLY: i32 = 1;
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")
        .is_ok()
    {
        return Finding::good(name, "usable");
    }
    match userfaultfd_call(0) {
        Ok(_) => Finding::good(name, "usable"),
        Err(libc::ENOSYS) => Finding::lacking(name, "not in this kernel", "use a kernel with it"),
        Err(_) => {
            let found = match userfaultfd_call(UFFD_USER_MODE_ONLY) {
                Ok(_) => "only for faults from user mode",
                Err(_) => "forbidden",
            };
            Finding::lacking(
                name,
                found,
                "run 'sysctl vm.unprivileged_userfaultfd=1' or allow access to /dev/userfaultfd",
            )
        }
    }
}

fn userfaultfd_call(flags: i32) -> Result<OwnedFd, i32> {
    // SAFETY: the call takes flags only and returns a descriptor or an error.
    let answer = unsafe { libc::syscall(libc::SYS_userfaultfd, flags | libc::O_CLOEXEC) };
    match i32::try_from(answer) {
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Status;

    #[test]
    fn pools_are_read_and_advice_given() {
        let pool = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(pool.path().join(file), text).unwrap();
        assert_eq!(pool_finding("p", pool.path()).status, Status::Lacking);
        write("nr_hugepages", "4\n");
        write("free_hugepages", "0\n");
        let none = pool_finding("p", pool.path());
        assert!(none.advice.unwrap().contains("nr_hugepages"));
        write("free_hugepages", "3\n");
        let some = pool_finding("p", pool.path());
        assert_eq!(
            (some.status, some.detail.as_str()),
            (Status::Good, "3 of 4 free")
        );
    }

    #[test]
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("always"), None);
        assert_eq!(chosen("[x"), None);
    }

    #[test]
    fn shares_are_had_somewhere_or_asked_of_systemd() {
        let found = shares_finding(Ok((Version::V2, "/sys/fs/cgroup/a".into())));
        let (status, detail) = (found.status, found.detail);
        assert_eq!(
            (status, &*detail),
            (Status::Good, "cgroup v2, below /sys/fs/cgroup/a")
        );
        let none = shares_finding(Err(CgroupError::NoHierarchy));
        assert_eq!(none.status, Status::Lacking);
        assert!(none.advice.unwrap().contains("systemd-run --user"));
    }

    #[test]
    fn whatever_lacks_comes_with_advice() {
        let mut all = huge_pages();
        all.extend([
            transparent_huge_pages(),
            cpu_shares(),
            io_uring(),
            userfaultfd(),
        ]);
        for finding in all {
            assert_eq!(finding.status == Status::Good, finding.advice.is_none());
        }
    }
}
