//! The VM's network interfaces: opened with everything the user can mend, then made
//! into devices.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::error::BuildError;
use super::report::NetReport;
use crate::config::net::{self, MacAddress, NetBackend, Offload};
use crate::config::{NetConfig, VmConfig};
use crate::devices::virtio::net::link::Link;
use crate::devices::virtio::net::tap::{self, TapOptions, TapSource};
use crate::devices::virtio::net::user::{self, Forward, Passt, Protocol, UserOptions};
use crate::devices::virtio::net::{Net, NetCounters, NetOptions};
use crate::devices::virtio::rate_limiter::{Rate, RateLimits};
use crate::memory::GuestRam;

/// What names are hashed with for MAC addresses if the VM has none.
const UNNAMED: &str = "mayfly";

/// An interface whose way out is open; no thread serves it yet.
pub struct OpenNet {
    link: Link,
    options: NetOptions,
    tap: Option<String>,
    passt: Option<Passt>,
}

/// What outlives the device until the VM has ended.
pub struct RunningNet {
    name: String,
    tap: Option<String>,
    counters: Arc<NetCounters>,
    /// Ends when this goes.
    _passt: Option<Passt>,
}

/// Opens the taps of all interfaces and starts what else they need.
///
/// # Errors
/// [`BuildError::Tap`] or [`BuildError::UserNet`] says what to do.
pub fn open(config: &VmConfig) -> Result<Vec<OpenNet>, BuildError> {
    let nets = config.nets.iter().enumerate();
    nets.map(|(number, net)| open_one(net, number, config))
        .collect()
}

fn open_one(net: &NetConfig, number: usize, config: &VmConfig) -> Result<OpenNet, BuildError> {
    let name = format!("eth{number}");
    let at_tap = |source| {
        tap::open(&TapOptions {
            source,
            pairs: net.queues,
            vcpus: u16::try_from(config.cpus.count()).unwrap_or(u16::MAX),
            mtu: net.mtu,
            offload: net.offload == Offload::On,
        })
        .map(|tap| (tap.link, Some(tap.name), None))
    };
    let (link, tap, passt) = match &net.backend {
        NetBackend::Tap(name) => at_tap(TapSource::Existing(name.clone()))?,
        NetBackend::NewTap => at_tap(TapSource::New)?,
        NetBackend::Descriptors(fds) => at_tap(TapSource::Inherited(fds.clone()))?,
        NetBackend::User { forwards } => {
            let (link, passt) = user::start(&UserOptions {
                forwards: forwards.iter().map(forward).collect(),
                mtu: net.mtu,
            })?;
            (link, None, Some(passt))
        }
    };
    // VMs without names are told apart by their taps.
    let derived = match (&config.name, &tap) {
        (None, Some(tap)) => MacAddress::derived(UNNAMED, tap),
        (vm, _) => MacAddress::derived(vm.as_deref().unwrap_or(UNNAMED), &name),
    };
    Ok(OpenNet {
        link,
        options: NetOptions {
            mac: net.mac.unwrap_or(derived).bytes(),
            limits: limits(net),
            name,
        },
        tap,
        passt,
    })
}

impl OpenNet {
    /// The tap that was made or found, if it is one.
    pub fn tap(&self) -> Option<&str> {
        self.tap.as_deref()
    }

    /// Starts the threads that serve the interface.
    ///
    /// # Errors
    /// [`BuildError::Net`] if the host gives none.
    pub fn start(self, ram: &GuestRam) -> Result<(Net, RunningNet), BuildError> {
        let name = self.options.name.clone();
        let net = Net::start(self.link, ram.clone(), self.options)?;
        let running = RunningNet {
            name,
            tap: self.tap,
            counters: net.counters(),
            _passt: self.passt,
        };
        Ok((net, running))
    }
}

impl RunningNet {
    /// What was counted so far.
    pub fn report(&self) -> NetReport {
        NetReport {
            name: self.name.clone(),
            tap: self.tap.clone(),
            totals: self.counters.totals(),
        }
    }
}

fn forward(forward: &net::Forward) -> Forward {
    Forward {
        protocol: match forward.protocol {
            net::Protocol::Tcp => Protocol::Tcp,
            net::Protocol::Udp => Protocol::Udp,
        },
        address: forward.address,
        host: forward.host,
        guest: forward.guest,
    }
}

fn limits(net: &NetConfig) -> RateLimits {
    RateLimits {
        operations: net.packets.map(Rate::per_second),
        bytes: net.bandwidth.map(Rate::per_second),
    }
}

/// What tells a kernel the address of the interface that has one, as a word of its
/// command line (Linux: admin-guide/nfs/nfsroot, `ip=`).
pub fn address_word(nets: &[NetConfig]) -> Option<String> {
    let mut nets = nets.iter().enumerate();
    let (number, ip, gw) = nets.find_map(|(number, net)| Some((number, net.ip?, net.gw)))?;
    let mask = Ipv4Addr::from_bits(mask(ip.prefix));
    let gateway = gw.map(|gw| gw.to_string()).unwrap_or_default();
    Some(format!(
        "ip={}::{gateway}:{mask}::eth{number}:off",
        ip.address
    ))
}

/// As many ones in front.
fn mask(prefix: u8) -> u32 {
    let zeros = 32_u32.saturating_sub(prefix.into());
    u32::MAX.checked_shl(zeros).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_learns_its_address() {
        let nets = |texts: &[&str]| -> Vec<NetConfig> {
            let nets = texts.iter().map(|text| NetConfig::parse(text));
            nets.collect::<Result<_, _>>().unwrap()
        };
        let word = |texts| address_word(&nets(texts));
        assert_eq!(word(&[]), None);
        assert_eq!(word(&["user"]), None);
        assert_eq!(
            word(&["user", "tap=new,ip=10.0.0.2/24,gw=10.0.0.1"]).as_deref(),
            Some("ip=10.0.0.2::10.0.0.1:255.255.255.0::eth1:off")
        );
        assert_eq!(
            word(&["tap=new,ip=192.168.7.1/32"]).as_deref(),
            Some("ip=192.168.7.1:::255.255.255.255::eth0:off")
        );
        assert_eq!(
            word(&["tap=new,ip=1.2.3.4/0"]).as_deref(),
            Some("ip=1.2.3.4:::0.0.0.0::eth0:off")
        );
    }

    #[test]
    fn limits_reach_the_device() {
        let net = NetConfig::parse("user,packets=100").unwrap();
        let limits = limits(&net);
        assert_eq!(limits.operations.unwrap().per_second.get(), 100);
        assert_eq!(limits.bytes, None);
    }
}
