//! `struct virtio_net_hdr`, which a driver puts before each frame (virtio 1.2 §5.1.6).
//!
//! ```text
//!  0 flags u8 │ 1 gso_type u8 │ 2 hdr_len │ 4 gso_size │ 6 csum_start │ 8 csum_offset │ 10 num_buffers
//! ```
//!
//! What it says goes to the host's network stack, which is asked to write a checksum
//! into the frame and to cut it up: offsets are checked against the frame, and work that
//! was not agreed on is refused. Flags the device does not know, and `hdr_len` where it
//! cannot be right, are to be ignored (§5.1.6.2.2): they do not get through.

use thiserror::Error;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
};

use super::direction::SHORTEST_FRAME;
use super::link::{HEADER_LEN, Offloads};

/// Bytes of a checksum.
const CHECKSUM: usize = 2;
/// Where `num_buffers` is.
pub const NUM_BUFFERS_AT: usize = 10;

const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const ECN: u8 = VIRTIO_NET_HDR_GSO_ECN as u8;
const NONE: u8 = VIRTIO_NET_HDR_GSO_NONE as u8;
const TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const UDP_L4: u8 = VIRTIO_NET_HDR_GSO_UDP_L4 as u8;

/// Why a frame is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// A checksum is to be filled in, which was not agreed on.
    #[error("the header asks for a checksum, which was not agreed on")]
    ChecksumNotAgreed,
    /// The checksum, or what it is of, is not behind the Ethernet header in the frame.
    #[error("the header puts a checksum at {start}+{offset}, outside the frame")]
    ChecksumPlace {
        /// `csum_start`, in bytes.
        start: u16,
        /// `csum_offset`, in bytes.
        offset: u16,
    },
    /// A way to cut the frame up that does not exist or was not agreed on.
    #[error("the header asks for segmentation {0:#x}, which was not agreed on")]
    Segmentation(u8),
    /// Segments without checksums of their own, or of no bytes.
    #[error("the header asks for segments without a checksum or of no bytes")]
    Segments,
}

/// The header to send a frame of `frame_len` bytes with, if it may be sent with the one
/// that the driver gave. `agreed` is what the driver may leave to the host.
///
/// # Errors
/// [`HeaderError`]: the frame is to be dropped.
pub fn check(
    header: &[u8; HEADER_LEN],
    frame_len: usize,
    agreed: Offloads,
) -> Result<[u8; HEADER_LEN], HeaderError> {
    let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *header;
    let checksum = flags & NEEDS_CSUM != 0;
    if !checksum {
        return match gso_type {
            NONE => Ok([0; HEADER_LEN]),
            other if !is_agreed(other, agreed) => Err(HeaderError::Segmentation(other)),
            _ => Err(HeaderError::Segments),
        };
    }
    if !agreed.checksum {
        return Err(HeaderError::ChecksumNotAgreed);
    }
    let start = u16::from_le_bytes([s0, s1]);
    let offset = u16::from_le_bytes([o0, o1]);
    let end = usize::from(start).saturating_add(usize::from(offset).saturating_add(CHECKSUM));
    if usize::from(start) < SHORTEST_FRAME || end > frame_len {
        return Err(HeaderError::ChecksumPlace { start, offset });
    }
    let whole = [NEEDS_CSUM, NONE, 0, 0, 0, 0, s0, s1, o0, o1, 0, 0];
    if gso_type == NONE {
        return Ok(whole);
    }
    if !is_agreed(gso_type, agreed) {
        return Err(HeaderError::Segmentation(gso_type));
    }
    if [g0, g1] == [0, 0] {
        return Err(HeaderError::Segments);
    }
    // A hint; with none the host finds the end of the headers itself.
    let hint = usize::from(u16::from_le_bytes([h0, h1]));
    let [h0, h1] = if hint <= frame_len { [h0, h1] } else { [0, 0] };
    Ok([NEEDS_CSUM, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0])
}

/// Whether frames may be cut up that way.
fn is_agreed(gso_type: u8, agreed: Offloads) -> bool {
    let tcp = match gso_type & !ECN {
        TCPV4 => agreed.tso4,
        TCPV6 => agreed.tso6,
        UDP_L4 => return agreed.uso && gso_type & ECN == 0,
        _ => false,
    };
    tcp && (agreed.ecn || gso_type & ECN == 0)
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
