//! Ways to a tap, and limits on the way, that a bare guest sees nothing of but the effect.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use super::{TAP, guest, guest_at, with_peer};

/// Opens the tap as whoever starts Mayfly does, for a child to have it too.
fn open_tap() -> OwnedFd {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.expect("open /dev/net/tun");
    // SAFETY: a structure of numbers, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(TAP.bytes()) {
        *place = byte as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the call reads and writes the structure it is given, which outlives it.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(set, 0, "TUNSETIFF: {}", io::Error::last_os_error());
    // SAFETY: the call takes numbers.
    let kept = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
    assert_eq!(kept, 0, "F_SETFD: {}", io::Error::last_os_error());
    file.into()
}

#[test]
fn a_tap_that_was_handed_down_serves_like_one_that_was_opened() {
    with_peer(|peer| {
        let tap = open_tap();
        let net = format!("fd={}", tap.as_raw_fd());
        let outcome = guest_at("net_echo", "pci", &net, "").outcome();
        outcome.all_held().printed("echoed");
        assert_eq!(peer.pings(), 14, "{outcome}");
        assert_eq!(outcome.json()["nets"][0]["tap"], TAP, "{outcome}");
    });
}

#[test]
fn a_limit_holds_frames_up_and_loses_none() {
    with_peer(|peer| {
        let outcome = guest("net_echo", "pci", ",packets=20", "").outcome();
        outcome.all_held().printed("echoed");
        assert_eq!(peer.pings(), 14, "{outcome}");
        // Two may come at once, and each other one after a twentieth of a second.
        let least = Duration::from_millis(12 * 50);
        assert!(outcome.elapsed >= least, "{outcome}");
    });
}
