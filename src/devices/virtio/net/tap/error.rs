//! Why a tap cannot be had, in words for the user.

use std::io;
use std::os::fd::RawFd;

use thiserror::Error;

use super::MOST_PAIRS;

/// Why a tap cannot be had. Every variant is one line for the user; the operating
/// system's own words, where there are any, are the source.
#[derive(Debug, Error)]
pub enum TapError {
    /// The device node does not exist, or nothing is behind it.
    #[error("cannot open /dev/net/tun; load its driver with 'sudo modprobe tun'")]
    NoDriver(#[source] io::Error),
    /// The device node is not for us.
    #[error("cannot open /dev/net/tun; allow it with 'sudo chmod 666 /dev/net/tun'")]
    DeviceNotPermitted(#[source] io::Error),
    /// The device node cannot be opened for another reason.
    #[error("cannot open /dev/net/tun")]
    Device(#[source] io::Error),
    /// The kernel does not talk about its interfaces.
    #[error("cannot ask the kernel about network interfaces (rtnetlink)")]
    Netlink(#[source] io::Error),
    /// No interface can be called that.
    #[error(
        "'{0}' cannot be the name of a tap; a name has 1 to 15 bytes, with no '/', ':', '%' or space in it"
    )]
    Name(String),
    /// No interface is called that.
    #[error(
        "there is no tap '{0}'; make one with 'sudo ip tuntap add {0} mode tap user $USER', or use tap=new"
    )]
    Absent(String),
    /// The interface is something else.
    #[error(
        "'{0}' is a network interface, but not a tap; make one with 'sudo ip tuntap add NAME mode tap user $USER'"
    )]
    NotATap(String),
    /// Another program has the tap open.
    #[error("tap '{0}' is in use; end the program that has it, or make another tap")]
    Busy(String),
    /// The tap belongs to somebody else.
    #[error(
        "tap '{name}' is not yours; make it so with 'sudo ip tuntap add {name} mode tap{} user $USER'",
        if *multi_queue { " multi_queue" } else { "" }
    )]
    NotYours {
        /// The tap.
        name: String,
        /// Whether it was made with several queues.
        multi_queue: bool,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Making interfaces is a privilege.
    #[error(
        "cannot make a tap without CAP_NET_ADMIN; have one made with 'sudo ip tuntap add tap0 mode tap user $USER' and use tap=tap0, or use --net user"
    )]
    NewNotPermitted(#[source] io::Error),
    /// More queue pairs than the tap can have.
    #[error(
        "tap '{name}' was made with one queue, so it cannot have {asked}; leave queues= out, or make it anew with 'sudo ip tuntap add {name} mode tap multi_queue user $USER'"
    )]
    SingleQueue {
        /// The tap.
        name: String,
        /// Queue pairs asked for.
        asked: u16,
    },
    /// No queue pair, or more than there are.
    #[error("a network device has 1 to {MOST_PAIRS} queue pairs, not {0}")]
    Pairs(usize),
    /// The tap takes no packets as long as asked for.
    #[error(
        "tap '{name}' has an MTU of {mtu}, less than {asked}; raise it with 'sudo ip link set {name} mtu {asked}', or ask for less"
    )]
    Mtu {
        /// The tap.
        name: String,
        /// What it has.
        mtu: u16,
        /// What was asked for.
        asked: u16,
    },
    /// The new tap does not come up.
    #[error(
        "cannot bring the new tap '{name}' up{}",
        mtu.map(|mtu| format!(" with an MTU of {mtu}")).unwrap_or_default()
    )]
    Up {
        /// The tap.
        name: String,
        /// The MTU that it was to have.
        mtu: Option<u16>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses what the device needs.
    #[error("cannot {action} tap '{name}'")]
    Setup {
        /// What was to be done.
        action: &'static str,
        /// The tap.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no such descriptor, or it is not one of a tap.
    #[error(
        "descriptor {fd} is not that of a tap; pass one of /dev/net/tun after TUNSETIFF with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
    )]
    Descriptor {
        /// The number given.
        fd: RawFd,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The descriptor is of a tap of another sort.
    #[error(
        "descriptor {fd} is of '{name}', which was opened {what}; open it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
    )]
    DescriptorKind {
        /// The number given.
        fd: RawFd,
        /// The interface.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A number stands twice.
    #[error("descriptor {0} is given twice; each queue pair needs one of its own")]
    DescriptorTwice(RawFd),
    /// The descriptors are not of one tap.
    #[error(
        "descriptor {fd} is of tap '{name}', those before it of '{first}'; give each tap its own --net"
    )]
    DescriptorsDiffer {
        /// The number given.
        fd: RawFd,
        /// Its tap.
        name: String,
        /// The tap of the first.
        first: String,
    },
    /// As many descriptors as queue pairs are needed.
    #[error("{asked} queue pairs were asked for, but {given} descriptors given; leave queues= out")]
    DescriptorCount {
        /// Queue pairs asked for.
        asked: u16,
        /// Descriptors given.
        given: usize,
    },
}
