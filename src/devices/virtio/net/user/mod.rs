//! A network for people who are not root: `passt`, a program of its own, is the router,
//! the DHCP server and the resolver of one guest, and opens ordinary sockets on its behalf.
//!
//! ```text
//!  Port (stream) ─ outbox ──► socket ──► passt ──► sockets of the host
//!                  inbox  ◄──        ◄──
//! ```
//!
//! The socket carries frames, each behind its length (4 bytes, big-endian), as QEMU's
//! `-netdev stream` does; there is no virtio header and there are no offloads.
//! `process` starts passt and ends it, `guard` keeps the guest from the host's loopback.

mod error;
mod forward;
mod guard;
mod inbox;
mod outbox;
mod process;
mod resolver;
mod stream;
mod words;

use std::os::unix::net::UnixStream;

pub use error::UserError;
pub use forward::{Forward, Protocol};
pub use process::Passt;

use super::link::{Link, Offloads};
use stream::StreamPort;

/// The largest packet behind an Ethernet header that passt passes on, which is also the
/// MTU that it offers by DHCP: 65535 bytes less the Ethernet header, in whole words.
pub const LARGEST_MTU: u16 = 65_520;

/// What the user wants of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserOptions {
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<Forward>,
    /// The largest packet behind an Ethernet header, in bytes; [`LARGEST_MTU`] if not given.
    pub mtu: Option<u16>,
}

/// Starts passt and waits until it serves.
///
/// To be called by a thread that lives as long as the VM, before there are many and
/// before the guest has memory (passt starts as a copy of this process). The
/// [`Passt`] is to be dropped after the device that has the link.
///
/// # Errors
/// [`UserError`]; passt's own words where it has refused something.
pub fn start(options: &UserOptions) -> Result<(Link, Passt), UserError> {
    let (ours, theirs) = UnixStream::pair().map_err(UserError::Socket)?;
    let port = StreamPort::new(ours)?;
    stream::enlarge_buffer(&theirs).map_err(UserError::Socket)?;
    let passt = Passt::start(options, theirs)?;
    let link = Link {
        ports: vec![Box::new(port.told_by(passt.words()))],
        watch: None,
        offloads: Offloads::default(),
        mtu: options.mtu.unwrap_or(LARGEST_MTU),
    };
    Ok((link, passt))
}
