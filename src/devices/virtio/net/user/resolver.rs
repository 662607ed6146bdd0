//! Which name servers the guest can ask.
//!
//! passt offers the guest those of the host's `resolv.conf`, but no guest gets at a
//! server on the host's loopback. systemd-resolved is one, and leaves a list of the
//! servers behind it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

const CONFIGURED: &str = "/etc/resolv.conf";
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The most servers that a resolver looks at (`MAXNS`, resolv.conf(5)).
const MOST: usize = 3;

/// The servers that passt is to be told of, as it would find none that is of use.
pub(super) fn servers_to_tell() -> Vec<IpAddr> {
    let servers = instead(Path::new(CONFIGURED), Path::new(BEHIND_RESOLVED));
    if servers.as_ref().is_some_and(Vec::is_empty) {
        log::warn!(
            "the name servers in {CONFIGURED} are on loopback, where no guest gets: a guest with --net user has none"
        );
    }
    servers.unwrap_or_default()
}

/// The servers in `behind` that are not on loopback, if all that `configured` names are.
fn instead(configured: &Path, behind: &Path) -> Option<Vec<IpAddr>> {
    let named = servers_in(configured);
    if named.is_empty() || !named.iter().all(IpAddr::is_loopback) {
        return None;
    }
    let mut servers = servers_in(behind);
    servers.retain(|server| !server.is_loopback());
    servers.truncate(MOST);
    Some(servers)
}

/// None for a file that cannot be read; a server with a zone (`fe80::1%eth0`) is of no
/// use to a guest and left out.
fn servers_in(path: &Path) -> Vec<IpAddr> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(configured: Option<&str>, behind: Option<&str>) -> Option<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let files = [("configured", configured), ("behind", behind)].map(|(name, text)| {
            let path = folder.path().join(name);
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            path
        });
        let [configured, behind] = files;
        let servers = instead(&configured, &behind)?;
        Some(servers.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn servers_that_a_guest_can_reach_are_left_to_passt() {
        let behind = Some("nameserver 192.0.2.53\n");
        assert_eq!(answer(Some("nameserver 10.0.0.1\n"), behind), None);
        let one_of_two = "nameserver 127.0.0.1\nnameserver 10.0.0.1\n";
        assert_eq!(answer(Some(one_of_two), behind), None);
        assert_eq!(answer(Some("search example.com\n"), behind), None);
        assert_eq!(answer(None, behind), None);
    }

    #[test]
    fn servers_behind_one_on_loopback_are_found() {
        let stub = Some("# local\nnameserver 127.0.0.53\noptions edns0\n");
        let behind = "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver ::1\n\
            nameserver\t2001:db8::53\nnameserver 192.0.2.54\nnameserver 192.0.2.55\n";
        let found = ["192.0.2.53", "2001:db8::53", "192.0.2.54"];
        assert_eq!(answer(stub, Some(behind)).unwrap(), found);
        assert_eq!(answer(stub, None).unwrap(), [""; 0]);
    }
}
