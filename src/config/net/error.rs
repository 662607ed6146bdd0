//! What can be wrong with a network interface that was asked for, one sentence each.

use thiserror::Error;

/// Why a `--net` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetConfigError {
    /// A part that is none of its options.
    #[error(
        "'{given}' is not an option of --net; it takes tap=NAME, tap=new, fd=N or user, and after it forward=, mac=, queues=, mtu=, offload=, bandwidth=, packets=, ip= and gw="
    )]
    Option {
        /// What was given.
        given: String,
    },
    /// An option twice.
    #[error("--net has {option} twice; leave one of them out")]
    Twice {
        /// The option.
        option: &'static str,
    },
    /// Nothing says what the interface leads to.
    #[error(
        "a network interface needs a way out; write --net user, --net tap=new or --net tap=NAME"
    )]
    NoBackend,
    /// Two ways out.
    #[error("--net has two of tap=, fd= and user; use one --net for each interface")]
    TwoBackends,
    /// A name that no interface can have.
    #[error(
        "'{given}' cannot be the name of a tap; use 1 to 15 characters without spaces, '/' and ':'"
    )]
    TapName {
        /// What was given.
        given: String,
    },
    /// Not a descriptor's number.
    #[error(
        "'{given}' is no list of descriptors; write for example fd=3, or fd=3:4 for two queue pairs"
    )]
    Descriptors {
        /// What was given.
        given: String,
    },
    /// Not an address that an interface can have.
    #[error(
        "'{given}' cannot be the MAC address of an interface; write for example mac=02:00:00:00:00:01"
    )]
    Mac {
        /// What was given.
        given: String,
    },
    /// Not a way in.
    #[error(
        "'{given}' is not a port forward; write for example forward=tcp:8080:80 (a port of this host, then the guest's), or forward=tcp:0.0.0.0:8080:80 to let other hosts in"
    )]
    Forward {
        /// What was given.
        given: String,
    },
    /// A forward for an interface that has addresses of its own.
    #[error("forward= is for --net user; a guest behind a tap is reached at its own address")]
    ForwardWithoutUser,
    /// Several queue pairs to one socket, or none.
    #[error(
        "{queues} queue pairs do not suit {what} of a VM with {cpus} CPUs; use queues=1 to {most}"
    )]
    Queues {
        /// Number asked for.
        queues: u16,
        /// What kind of interface.
        what: &'static str,
        /// vCPUs of the VM.
        cpus: u32,
        /// How many it may have.
        most: u32,
    },
    /// Too small for IPv4, or too large for anything.
    #[error("an MTU of {mtu} bytes is not possible; use 68 to 65535")]
    Mtu {
        /// What was given.
        mtu: u16,
    },
    /// A limit at which nothing would ever pass.
    #[error("a network interface with {limit}=0 would pass nothing; leave it out for no limit")]
    ZeroLimit {
        /// Which limit.
        limit: &'static str,
    },
    /// Not an address with its prefix length.
    #[error(
        "'{given}' is not an IPv4 address with its prefix length; write for example ip=10.0.0.2/24"
    )]
    Address {
        /// What was given.
        given: String,
    },
    /// Not an address.
    #[error("'{given}' is not an IPv4 address; write for example gw=10.0.0.1")]
    Gateway {
        /// What was given.
        given: String,
    },
    /// A gateway for an interface without an address.
    #[error("gw= needs ip=: the guest's kernel is told both at once")]
    GatewayWithoutAddress,
    /// More than the kernel's `ip=` can say.
    #[error(
        "only one --net can have ip=, because the guest's kernel takes one such parameter; configure the others in the guest"
    )]
    TwoAddresses,
    /// The kernel would be told twice.
    #[error("both --net and the kernel command line have ip=; leave one of them out")]
    AddressInCmdline,
}
