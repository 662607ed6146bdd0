//! What a network device needs of the host: a way out for its frames.
//!
//! A link knows no queue: it is handed guest memory to read a frame from or to write
//! one to, and the device does the rest.

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::IoBuffers;

/// Bytes of `struct virtio_net_hdr_v1`, which precedes each frame (virtio 1.2 §5.1.6).
pub const HEADER_LEN: usize = 12;

/// The longest frame that there is, without the header before it: 65535 bytes behind an
/// Ethernet header with a VLAN tag.
pub const LONGEST_FRAME: usize = 65_535 + 14 + 4;

/// What one side leaves to the other: checksums and cutting big segments up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be missing (VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM).
    pub checksum: bool,
    /// TCP segments over IPv4 may be big (TSO4).
    pub tso4: bool,
    /// TCP segments over IPv6 may be big (TSO6).
    pub tso6: bool,
    /// Big TCP segments may carry ECN bits (ECN).
    pub ecn: bool,
    /// UDP segments may be big (USO), over IPv4 and IPv6.
    pub uso: bool,
}

impl Offloads {
    /// What both leave to the other side.
    pub fn and(self, other: Self) -> Self {
        Self {
            checksum: self.checksum && other.checksum,
            tso4: self.tso4 && other.tso4,
            tso6: self.tso6 && other.tso6,
            ecn: self.ecn && other.ecn,
            uso: self.uso && other.uso,
        }
    }
}

/// What became of a frame that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Whole,
    /// Not now: it is to be sent again, the same frame, once the descriptor is writable.
    Later,
    /// The link would not have it, and it is gone.
    Dropped,
}

/// A frame that was received, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// None waits; the descriptor is readable when one does.
    Nothing,
    /// One of so many bytes, header included. What did not fit in the buffers lies at
    /// the front of the spill.
    Frame(usize),
}

/// The link is gone for good: the other side has ended, or the interface was removed.
#[derive(Debug)]
pub struct Gone(pub io::Error);

/// The host's end of one queue pair. Served by one thread; never blocks.
pub trait Port: Send {
    /// Readable when a frame waits, writable when one may be sent again after
    /// [`Sent::Later`].
    fn fd(&self) -> BorrowedFd<'_>;

    /// Sends the frame in `frame`, described by `header`.
    ///
    /// # Errors
    /// [`Gone`]
    fn send(&mut self, header: &[u8; HEADER_LEN], frame: &IoBuffers) -> Result<Sent, Gone>;

    /// Receives one frame, header first, into `buffers`, and what does not fit there into
    /// `spill`, which has room for the rest of the longest. Neither marks the memory
    /// as written nor sets the header's `num_buffers`: the caller does.
    ///
    /// # Errors
    /// [`Gone`]
    fn receive(&mut self, buffers: &IoBuffers, spill: &mut [u8]) -> Result<Received, Gone>;

    /// The other side may send what the guest can take; called before the first frame.
    fn set_offloads(&mut self, guest: Offloads) -> io::Result<()>;

    /// Whether the driver uses this queue pair; the other side sends nothing here if not.
    fn set_enabled(&mut self, enabled: bool) -> io::Result<()>;

    /// System calls made so far.
    fn system_calls(&self) -> u64;
}

/// Tells when the link goes down or comes up, for as long as it is there.
pub trait LinkWatch: Send {
    /// Readable when there may be news.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Takes the news in; whether the link is up. Never blocks.
    fn is_up(&mut self) -> bool;

    /// Frames that the host has dropped because nobody read them, if it counts them.
    fn overruns(&mut self) -> Option<u64>;
}

/// A way to the network, opened, with nothing yet sent or received.
pub struct Link {
    /// One end for each queue pair, at least one.
    pub ports: Vec<Box<dyn Port>>,
    /// Where links can go down and come up again.
    pub watch: Option<Box<dyn LinkWatch>>,
    /// What the host can leave to the guest, and the guest to the host.
    pub offloads: Offloads,
    /// The largest packet behind an Ethernet header, in bytes.
    pub mtu: u16,
}
