//! Taps: network interfaces of the host whose other end is a descriptor.
//!
//! | file         | subject                                                    |
//! |--------------|------------------------------------------------------------|
//! | `open.rs`    | an existing tap, a new one, or one that was handed down    |
//! | `port.rs`    | one queue of it: frames in and out                         |
//! | `watch.rs`   | whether the interface is up                                |
//! | `netlink`    | how the kernel tells of interfaces                         |
//! | `ioctl.rs`   | the system calls of `/dev/net/tun`                         |
//! | `error.rs`   | what can go wrong, in words for the user                   |

mod error;
mod ioctl;
mod netlink;
mod open;
mod port;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;

use std::os::fd::RawFd;

pub use error::TapError;
pub use open::{open, try_new};

use super::link::Link;

/// The most queue pairs that a device has: each has a thread and two interrupts.
pub const MOST_PAIRS: u16 = 16;

/// Where the tap comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapSource {
    /// One that was made before and stays, by its name.
    Existing(String),
    /// One that the kernel names (`mayfly0`, …) and that goes with the process.
    New,
    /// Descriptors that the parent has opened and attached, one for each queue pair. They
    /// are duplicated; the numbers stay open, but are not handed down to children.
    Inherited(Vec<RawFd>),
}

/// How to open a tap.
#[derive(Clone, Debug)]
pub struct TapOptions {
    /// Where it comes from.
    pub source: TapSource,
    /// Queue pairs that the user asked for.
    pub pairs: Option<u16>,
    /// How many there are if the user did not ask and the tap can have them.
    pub vcpus: u16,
    /// The largest packet behind an Ethernet header that the user wants, in bytes: a new
    /// tap gets it, another has to have it.
    pub mtu: Option<u16>,
    /// Whether checksums and segmentation may be left to the other side.
    pub offload: bool,
}

/// A tap, opened.
pub struct OpenTap {
    /// What the interface is called.
    pub name: String,
    /// The way to it.
    pub link: Link,
}
