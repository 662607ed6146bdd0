//! Ports of the host that lead to the guest.

use std::net::{IpAddr, Ipv4Addr};

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP connections.
    Tcp,
    /// UDP datagrams.
    Udp,
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// What is forwarded.
    pub protocol: Protocol,
    /// The host's address that is listened at; [`Forward::DEFAULT_ADDRESS`] if not given.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

impl Forward {
    /// Where forwards listen if no address is given: for this host's own users only.
    pub const DEFAULT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// passt's option and its value.
    pub(super) fn arguments(&self) -> [String; 2] {
        let option = match self.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        let address = self.address.unwrap_or(Self::DEFAULT_ADDRESS);
        let value = format!("{address}/{}:{}", self.host, self.guest);
        [option.to_owned(), value]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_listen_on_loopback_unless_told_otherwise() {
        let mut forward = Forward {
            protocol: Protocol::Tcp,
            address: None,
            host: 8080,
            guest: 80,
        };
        assert_eq!(forward.arguments(), ["--tcp-ports", "127.0.0.1/8080:80"]);
        forward.protocol = Protocol::Udp;
        forward.address = Some("192.0.2.7".parse().unwrap());
        assert_eq!(forward.arguments(), ["--udp-ports", "192.0.2.7/8080:80"]);
        forward.address = Some("::1".parse().unwrap());
        assert_eq!(forward.arguments(), ["--udp-ports", "::1/8080:80"]);
    }
}
