//! Keeps guests away from the host's loopback.
//!
//! Services that listen on loopback often trust whoever reaches them. passt opens the
//! connections that the guest asks for as a process of this host, and versions before
//! 2024 do so for loopback destinations too.

/// Bytes at the front of a frame that tell where it goes: the Ethernet header and an
/// IPv6 header without options. All that is looked at, so it has to be a copy.
pub(super) const HEAD_LEN: usize = 14 + 40;

const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV4_DESTINATION: usize = 14 + 16;
const IPV6_DESTINATION: usize = 14 + 24;

/// Whether the frame that begins with `head` goes to an address that the host takes for
/// its own loopback: 127.0.0.0/8, 0.0.0.0/8, and in IPv6 `::`, `::1` and all addresses
/// in which an IPv4 one is embedded at the end (`::/96`, `::ffff:0:0/96`).
///
/// A frame too short to have a destination goes nowhere. passt takes no VLAN tags.
pub(super) fn goes_to_loopback(head: &[u8]) -> bool {
    let at = |start: usize, len: usize| head.get(start..start.saturating_add(len));
    match at(ETHERTYPE, 2) {
        Some(kind) if kind == IPV4 => {
            at(IPV4_DESTINATION, 1).is_some_and(|first| matches!(first, [0 | 127]))
        }
        Some(kind) if kind == IPV6 => {
            at(IPV6_DESTINATION, 10).is_some_and(|front| front.iter().all(|&byte| byte == 0))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn frame_to_v4(address: &str) -> Vec<u8> {
        let mut frame = vec![0x11; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[30..34].copy_from_slice(&address.parse::<Ipv4Addr>().unwrap().octets());
        frame
    }

    fn frame_to_v6(address: &str) -> Vec<u8> {
        let mut frame = vec![0x11; 60];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[38..54].copy_from_slice(&address.parse::<Ipv6Addr>().unwrap().octets());
        frame
    }

    #[test]
    fn loopback_is_known_by_all_its_names() {
        for address in ["127.0.0.1", "127.255.255.255", "0.0.0.0", "0.1.2.3"] {
            assert!(goes_to_loopback(&frame_to_v4(address)), "{address}");
        }
        for address in ["::1", "::", "::ffff:127.0.0.1", "::127.0.0.1"] {
            assert!(goes_to_loopback(&frame_to_v6(address)), "{address}");
        }
    }

    #[test]
    fn other_destinations_are_let_through() {
        for address in ["10.0.0.1", "128.0.0.1", "126.9.9.9", "255.255.255.255"] {
            assert!(!goes_to_loopback(&frame_to_v4(address)), "{address}");
        }
        for address in ["fe80::1", "2001:db8::1", "ff02::1", "64:ff9b::7f00:1"] {
            assert!(!goes_to_loopback(&frame_to_v6(address)), "{address}");
        }
        let mut arp = frame_to_v4("127.0.0.1");
        arp[13] = 6;
        assert!(!goes_to_loopback(&arp));
    }

    #[test]
    fn frames_of_every_length_are_looked_at() {
        for frame in [frame_to_v4("127.0.0.1"), frame_to_v6("::1")] {
            let addressed = (0..=HEAD_LEN).filter(|&len| goes_to_loopback(&frame[..len]));
            assert!(addressed.count() > 0);
            assert!(goes_to_loopback(&frame[..HEAD_LEN]));
            assert!(!goes_to_loopback(&frame[..30]));
        }
    }
}
