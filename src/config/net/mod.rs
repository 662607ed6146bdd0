//! A network interface as the user asks for it.

mod error;
mod forward;
mod mac;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, number, size};
pub use error::NetConfigError;
pub use forward::{Forward, Protocol};
pub use mac::MacAddress;

/// Characters of an interface's name at most (Linux: IFNAMSIZ less the NUL).
const TAP_NAME_LEN: usize = 15;
/// The smallest MTU that IPv4 allows (RFC 791).
const SMALLEST_MTU: u16 = 68;

choice!(
    /// Whether checksums and segmentation are left to the other side.
    Offload, "--net offload=", "on or off", {
        /// As far as host and guest can.
        #[default]
        On = "on",
        /// Every frame is as it goes over a wire.
        Off = "off",
    }
);

/// What an interface leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetBackend {
    /// A tap interface that is there already.
    Tap(String),
    /// A tap interface that is made for the VM and goes with it.
    NewTap,
    /// Queues of a tap interface that whoever started Mayfly has opened.
    Descriptors(Vec<RawFd>),
    /// The host's own sockets, by passt.
    User {
        /// Ports of the host that lead to the guest.
        #[serde(default)]
        forwards: Vec<Forward>,
    },
}

/// The guest's address, for its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// How many of its bits are the network's, 0 to 32.
    pub prefix: u8,
}

/// One network interface of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// What it leads to.
    pub backend: NetBackend,
    /// Its hardware address; without one it has one by its name.
    #[serde(default)]
    pub mac: Option<MacAddress>,
    /// Number of queue pairs; without one a tap that can has one a vCPU.
    #[serde(default)]
    pub queues: Option<u16>,
    /// The largest packet, in bytes.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// What may be left to the other side.
    #[serde(default)]
    pub offload: Offload,
    /// Bytes a second at most, in each direction.
    #[serde(default)]
    pub bandwidth: Option<NonZeroU64>,
    /// Packets a second at most, in each direction.
    #[serde(default)]
    pub packets: Option<NonZeroU64>,
    /// The guest's address.
    #[serde(default)]
    pub ip: Option<StaticAddress>,
    /// The guest's way to other networks.
    #[serde(default)]
    pub gw: Option<Ipv4Addr>,
}

impl NetConfig {
    /// The default interface to `backend`.
    pub fn new(backend: NetBackend) -> Self {
        Self {
            backend,
            mac: None,
            queues: None,
            mtu: None,
            offload: Offload::default(),
            bandwidth: None,
            packets: None,
            ip: None,
            gw: None,
        }
    }

    /// Reads `tap=NAME`, `tap=new`, `fd=N[:N…]` or `user`, and options, after commas.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut net = Self::new(NetBackend::NewTap);
        let mut backend = None;
        let mut forwards = Vec::new();
        let mut seen: Vec<&'static str> = Vec::new();
        for part in text.split(',') {
            if let Some(named) = backend_named(part)? {
                if backend.replace(named).is_some() {
                    return Err(NetConfigError::TwoBackends.into());
                }
            } else if let Some(forward) = part.strip_prefix("forward=") {
                forwards.push(forward.parse()?);
            } else {
                let option = net.set(part)?;
                if seen.contains(&option) {
                    return Err(NetConfigError::Twice { option }.into());
                }
                seen.push(option);
            }
        }
        net.backend = backend.ok_or(NetConfigError::NoBackend)?;
        match &mut net.backend {
            NetBackend::User { forwards: wanted } => *wanted = forwards,
            _ if forwards.is_empty() => {}
            _ => return Err(NetConfigError::ForwardWithoutUser.into()),
        }
        Ok(net)
    }

    /// Takes one part of the text in; gives the name of the option it sets.
    fn set(&mut self, part: &str) -> Result<&'static str, ConfigError> {
        let unknown = || NetConfigError::Option {
            given: part.to_owned(),
        };
        let (key, value) = part.split_once('=').ok_or_else(unknown)?;
        Ok(match key {
            "mac" => {
                self.mac = Some(value.parse()?);
                "mac="
            }
            "queues" => {
                self.queues = Some(number("--net queues=", value)?);
                "queues="
            }
            "mtu" => {
                self.mtu = Some(number("--net mtu=", value)?);
                "mtu="
            }
            "offload" => {
                self.offload = value.parse()?;
                "offload="
            }
            "bandwidth" => {
                self.bandwidth = Some(limit("bandwidth", size::parse(value)?)?);
                "bandwidth="
            }
            "packets" => {
                self.packets = Some(limit("packets", number("--net packets=", value)?)?);
                "packets="
            }
            "ip" => {
                self.ip = Some(address(value)?);
                "ip="
            }
            "gw" => {
                self.gw = Some(value.parse().map_err(|_| NetConfigError::Gateway {
                    given: value.to_owned(),
                })?);
                "gw="
            }
            _ => return Err(unknown().into()),
        })
    }

    /// Checks what does not depend on the host, for a VM with `cpus` vCPUs.
    ///
    /// # Errors
    /// The first [`NetConfigError`] found.
    pub fn check(&self, cpus: u32) -> Result<(), NetConfigError> {
        if let NetBackend::Tap(name) = &self.backend {
            check_tap_name(name)?;
        }
        self.check_queues(cpus)?;
        if let Some(mtu) = self.mtu
            && mtu < SMALLEST_MTU
        {
            return Err(NetConfigError::Mtu { mtu });
        }
        if let Some(ip) = self.ip
            && ip.prefix > 32
        {
            return Err(NetConfigError::Address {
                given: format!("{}/{}", ip.address, ip.prefix),
            });
        }
        if self.gw.is_some() && self.ip.is_none() {
            return Err(NetConfigError::GatewayWithoutAddress);
        }
        Ok(())
    }

    fn check_queues(&self, cpus: u32) -> Result<(), NetConfigError> {
        let (queues, what, most) = match &self.backend {
            NetBackend::User { .. } => (self.queues, "the user-mode network", 1),
            NetBackend::Descriptors(fds) => {
                let given = u16::try_from(fds.len()).unwrap_or(u16::MAX);
                if given == 0 || self.queues.is_some_and(|queues| queues != given) {
                    return Err(NetConfigError::Descriptors {
                        given: descriptor_list(fds),
                    });
                }
                (Some(given), "a tap", cpus)
            }
            NetBackend::Tap(_) | NetBackend::NewTap => (self.queues, "a tap", cpus),
        };
        match queues {
            Some(queues) if queues == 0 || u32::from(queues) > most => {
                Err(NetConfigError::Queues {
                    queues,
                    what,
                    cpus,
                    most,
                })
            }
            _ => Ok(()),
        }
    }
}

/// What concerns all interfaces of a VM together; `cmdline_has_ip` is whether the user
/// has put an `ip=` of his own on the kernel command line.
///
/// # Errors
/// [`NetConfigError::TwoAddresses`], [`NetConfigError::AddressInCmdline`]
pub fn check_together(nets: &[NetConfig], cmdline_has_ip: bool) -> Result<(), NetConfigError> {
    let addresses = nets.iter().filter(|net| net.ip.is_some()).count();
    if addresses > 1 {
        return Err(NetConfigError::TwoAddresses);
    }
    if addresses == 1 && cmdline_has_ip {
        return Err(NetConfigError::AddressInCmdline);
    }
    Ok(())
}

/// The way out that this part of the text names, if it names one.
fn backend_named(part: &str) -> Result<Option<NetBackend>, NetConfigError> {
    if part == "user" {
        return Ok(Some(NetBackend::User {
            forwards: Vec::new(),
        }));
    }
    if let Some(name) = part.strip_prefix("tap=") {
        return Ok(Some(match name {
            "new" => NetBackend::NewTap,
            _ => NetBackend::Tap(name.to_owned()),
        }));
    }
    let Some(list) = part.strip_prefix("fd=") else {
        return Ok(None);
    };
    let fds: Result<Vec<RawFd>, _> = list.split(':').map(str::parse).collect();
    match fds {
        Ok(fds) if fds.iter().all(|fd| *fd >= 0) => Ok(Some(NetBackend::Descriptors(fds))),
        _ => Err(NetConfigError::Descriptors {
            given: list.to_owned(),
        }),
    }
}

fn check_tap_name(name: &str) -> Result<(), NetConfigError> {
    let odd = |byte: u8| !byte.is_ascii_graphic() || byte == b'/' || byte == b':';
    let special = name == "." || name == ".." || name.contains('%');
    if name.is_empty() || name.len() > TAP_NAME_LEN || special || name.bytes().any(odd) {
        return Err(NetConfigError::TapName {
            given: name.to_owned(),
        });
    }
    Ok(())
}

fn descriptor_list(fds: &[RawFd]) -> String {
    let numbers: Vec<String> = fds.iter().map(ToString::to_string).collect();
    numbers.join(":")
}

fn address(text: &str) -> Result<StaticAddress, NetConfigError> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        Some(StaticAddress {
            address: address.parse().ok()?,
            prefix: prefix.parse().ok().filter(|prefix| *prefix <= 32)?,
        })
    });
    parsed.ok_or_else(|| NetConfigError::Address {
        given: text.to_owned(),
    })
}

fn limit(limit: &'static str, value: u64) -> Result<NonZeroU64, NetConfigError> {
    NonZeroU64::new(value).ok_or(NetConfigError::ZeroLimit { limit })
}
