//! Ways to a network for VMs. Every probe leaves things as they were.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::checkup::Finding;
use crate::devices::virtio::net::link::Offloads;
use crate::devices::virtio::net::tap::{self, TapError};
use crate::one_line::one_line;

const TUN: &str = "/dev/net/tun";
const NEW_TAP: &str = "new taps";
const UDP_SEGMENTATION: &str = "UDP segmentation (USO)";
const PASST: &str = "passt (--net user)";
const PING: &str = "ping from --net user";

/// The group of `nobody`, as which `passt` runs when root starts it.
const NOBODY: u32 = 65534;

/// Everything about networks.
pub(super) fn findings() -> Vec<Finding> {
    let tried = tap::try_new();
    vec![
        tun(),
        new_tap(&tried),
        udp_segmentation(&tried, kernel_release().as_deref()),
        passt(env::var_os("PATH").as_deref()),
        ping(),
    ]
}

/// Taps that were made before.
fn tun() -> Finding {
    match fs::File::options().read(true).write(true).open(TUN) {
        Ok(_) => Finding::good(TUN, "usable: taps that are yours can be opened"),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Finding::lacking(TUN, "absent", "run 'sudo modprobe tun'"),
            Some(libc::ENODEV | libc::ENXIO) => {
                Finding::lacking(TUN, "no driver", "run 'sudo modprobe tun'")
            }
            Some(libc::EACCES | libc::EPERM) => {
                Finding::lacking(TUN, "no permission", "run 'sudo chmod 666 /dev/net/tun'")
            }
            _ => Finding::lacking(TUN, error.to_string(), "see the kernel log"),
        },
    }
}

/// Taps that come and go with a VM.
fn new_tap(tried: &Result<Offloads, TapError>) -> Finding {
    match tried {
        Ok(_) => Finding::good(NEW_TAP, "permitted: --net tap=new"),
        Err(TapError::NewNotPermitted(_)) => Finding::lacking(
            NEW_TAP,
            "no permission (CAP_NET_ADMIN)",
            "run 'sudo ip tuntap add tap0 mode tap user $USER' once for --net tap=tap0, or use --net user",
        ),
        Err(TapError::NoDriver(_) | TapError::DeviceNotPermitted(_) | TapError::Device(_)) => {
            Finding::lacking(
                NEW_TAP,
                "not without /dev/net/tun",
                "mend /dev/net/tun first",
            )
        }
        Err(error) => Finding::lacking(NEW_TAP, one_line(error), "see the kernel log"),
    }
}

/// Big UDP segments between guest and host. Who may not make a tap to try it goes by
/// the kernel's version.
fn udp_segmentation(tried: &Result<Offloads, TapError>, release: Option<&str>) -> Finding {
    let lacks =
        |detail: String| Finding::lacking(UDP_SEGMENTATION, detail, "use Linux 6.2 or newer");
    match (tried, release.and_then(version)) {
        (Ok(offloads), _) if offloads.uso => Finding::good(UDP_SEGMENTATION, "accepted by taps"),
        (Ok(_), _) => lacks("not accepted by taps".to_owned()),
        (Err(_), Some(version)) if version >= (6, 2) => {
            Finding::good(UDP_SEGMENTATION, "to be expected of this kernel; not tried")
        }
        (Err(_), _) => lacks("not to be expected of this kernel; not tried".to_owned()),
    }
}

fn kernel_release() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/osrelease").ok()
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The network for people who are not root.
fn passt(path: Option<&OsStr>) -> Finding {
    match find_program("passt", path) {
        Some(place) => Finding::good(PASST, place.display().to_string()),
        None => Finding::lacking(PASST, "not found", "run 'sudo apt install passt'"),
    }
}

fn find_program(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let is_program = |place: &PathBuf| {
        fs::metadata(place)
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(path?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(is_program)
}

/// Echo requests that `passt` sends on the guest's behalf (Linux,
/// `Documentation/networking/ip-sysctl.rst`, `ping_group_range`).
fn ping() -> Finding {
    let file = Path::new("/proc/sys/net/ipv4/ping_group_range");
    let range = fs::read_to_string(file).unwrap_or_default();
    ping_finding(&range, &passt_groups())
}

/// The groups that `passt` will have.
fn passt_groups() -> Vec<u32> {
    if rustix::process::geteuid().is_root() {
        return vec![NOBODY];
    }
    let mut groups = vec![rustix::process::getegid().as_raw()];
    let more = rustix::process::getgroups().unwrap_or_default();
    groups.extend(more.into_iter().map(|group| group.as_raw()));
    groups
}

fn ping_finding(range: &str, groups: &[u32]) -> Finding {
    let advice = "run 'sudo sysctl net.ipv4.ping_group_range=\"0 2147483647\"'";
    let mut limits = range.split_whitespace().map(str::parse::<u32>);
    let (Some(Ok(first)), Some(Ok(last))) = (limits.next(), limits.next()) else {
        return Finding::lacking(PING, "net.ipv4.ping_group_range cannot be read", advice);
    };
    if groups.iter().any(|group| (first..=last).contains(group)) {
        return Finding::good(PING, "permitted (net.ipv4.ping_group_range)");
    }
    Finding::lacking(PING, "no permission (net.ipv4.ping_group_range)", advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Status;
    use std::io;

    fn refused() -> Result<Offloads, TapError> {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        Err(TapError::NewNotPermitted(error))
    }

    #[test]
    fn whatever_lacks_comes_with_advice() {
        let all = findings();
        assert_eq!(all.len(), 5);
        for finding in all {
            assert_eq!(finding.status == Status::Good, finding.advice.is_none());
        }
    }

    #[test]
    fn who_may_not_make_taps_is_told_two_ways_out() {
        let advice = new_tap(&refused()).advice.unwrap();
        assert!(
            advice.contains("ip tuntap add") && advice.contains("--net user"),
            "{advice}"
        );
        assert_eq!(new_tap(&Ok(Offloads::default())).status, Status::Good);
        let no_device = Err(TapError::NoDriver(io::Error::from_raw_os_error(
            libc::ENOENT,
        )));
        assert_eq!(new_tap(&no_device).detail, "not without /dev/net/tun");
    }

    #[test]
    fn udp_segmentation_is_what_was_tried_or_else_what_the_version_says() {
        let status = |tried: &_, release| udp_segmentation(tried, Some(release)).status;
        let with = Ok(Offloads {
            uso: true,
            ..Offloads::default()
        });
        assert_eq!(status(&with, "5.10.0"), Status::Good);
        assert_eq!(status(&Ok(Offloads::default()), "6.8.0"), Status::Lacking);
        for (release, expected) in [
            ("6.2.0-1-amd64\n", Status::Good),
            ("7.0", Status::Good),
            ("6.12.3", Status::Good),
            ("6.1.158", Status::Lacking),
            ("5.15-x", Status::Lacking),
            ("odd", Status::Lacking),
        ] {
            assert_eq!(status(&refused(), release), expected, "{release}");
        }
    }

    #[test]
    fn passt_is_looked_for_along_the_path() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let path = env::join_paths(folders.iter().map(|folder| folder.path())).unwrap();
        let none = passt(Some(&path));
        assert_eq!(none.advice.as_deref(), Some("run 'sudo apt install passt'"));
        assert_eq!(passt(None).status, Status::Lacking);
        fs::create_dir(folders[0].path().join("passt")).unwrap();
        let program = folders[1].path().join("passt");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(passt(Some(&path)).status, Status::Lacking);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let found = passt(Some(&path));
        assert_eq!(
            (found.status, found.detail),
            (Status::Good, program.display().to_string())
        );
    }

    #[test]
    fn one_group_in_the_range_is_enough_to_ping() {
        for (range, groups, expected) in [
            ("1\t0\n", &[0, 1][..], Status::Lacking),
            ("0\t2147483647\n", &[1000], Status::Good),
            ("100 200", &[1000, 150], Status::Good),
            ("100 200", &[99, 201], Status::Lacking),
            ("", &[0], Status::Lacking),
        ] {
            assert_eq!(
                ping_finding(range, groups).status,
                expected,
                "{range:?} {groups:?}"
            );
        }
    }
}
