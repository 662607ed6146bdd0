//! A port of the host that leads to one of the guest.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NetConfigError;

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What reaches a port of the host goes to a port of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The host's address; the loopback address if none is given.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

/// Reads `tcp:[ADDRESS:]HOST:GUEST`, or the same with `udp`; an IPv6 address stands in
/// brackets.
impl FromStr for Forward {
    type Err = NetConfigError;

    fn from_str(text: &str) -> Result<Self, NetConfigError> {
        parse(text).ok_or_else(|| NetConfigError::Forward {
            given: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Forward> {
    let (protocol, rest) = text.split_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let (rest, guest) = rest.rsplit_once(':')?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (Some(parse_address(address)?), host),
        None => (None, rest),
    };
    Some(Forward {
        protocol,
        address,
        host: port(host)?,
        guest: port(guest)?,
    })
}

fn parse_address(text: &str) -> Option<IpAddr> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match inner {
        Some(inner) => Some(IpAddr::V6(inner.parse().ok()?)),
        None => Some(IpAddr::V4(text.parse().ok()?)),
    }
}

/// A port; 0 is none.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(text: &str) -> Forward {
        text.parse().unwrap()
    }

    #[test]
    fn ports_with_and_without_an_address() {
        assert_eq!(
            forward("tcp:8080:80"),
            Forward {
                protocol: Protocol::Tcp,
                address: None,
                host: 8080,
                guest: 80,
            }
        );
        let all = forward("udp:0.0.0.0:53:5353");
        assert_eq!(all.protocol, Protocol::Udp);
        assert_eq!(all.address, Some("0.0.0.0".parse().unwrap()));
        assert_eq!((all.host, all.guest), (53, 5353));
        let six = forward("tcp:[::1]:1:65535");
        assert_eq!(six.address, Some("::1".parse().unwrap()));
        assert_eq!((six.host, six.guest), (1, 65535));
    }

    #[test]
    fn what_is_no_forward() {
        for text in [
            "",
            "tcp",
            "tcp:",
            "tcp:80",
            "sctp:1:2",
            "tcp:0:80",
            "tcp:80:0",
            "tcp:65536:1",
            "tcp:+1:2",
            "tcp:::1:1:2",
            "tcp:[::1:1:2",
            "tcp:x:1:2",
            "tcp:1.2.3:1:2",
            "tcp:1:2:",
        ] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }
}
