//! A tap that Mayfly makes, and large frames.

use std::net::Ipv4Addr;

use super::traffic::{exchange_by_udp, stop};
use crate::common::netns::{give_address, in_namespace, ip, ping};
use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{HostKind, Mayfly, host_kind};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORT: u16 = 7;

/// What fits in a packet of 9000 bytes behind the headers of IP and ICMP or UDP.
const LARGE: usize = 9000 - 28;

#[test]
fn a_new_tap_carries_large_frames_and_goes_with_its_guest() {
    if host_kind() == HostKind::Pvm {
        println!("a boot takes many seconds here; this runs on the emulated host");
        return;
    }
    let _turn = turn_to_boot();
    tiny("vmlinux");
    in_namespace(|| {
        let mut guest = Mayfly::new(["run", "--json", "--net"])
            .arg(format!("tap=new,mtu=9000,ip={GUEST}/24,gw=10.0.0.1"))
            .args(["--cmdline", "quiet mayfly.link=eth0 mayfly.udp-serve=7"])
            .start();
        guest.wait_for_error("mayfly: tap mayfly0\n");
        give_address("mayfly0", "10.0.0.1/24");
        guest.wait_for(&format!("udp-serve {PORT}: ready"));
        ping(GUEST, 2, LARGE);
        exchange_by_udp(GUEST, PORT, &[9; LARGE]);
        stop(GUEST, PORT);
        let outcome = guest.outcome();
        outcome
            .ended(0, "power-off")
            .printed(" mtu=9000 link=up address=10.0.0.2/24 gateway=10.0.0.1\n");
        let left = ip(&["-brief", "link"]);
        assert!(!left.contains("mayfly0"), "{left}\n{outcome}");
    });
}
