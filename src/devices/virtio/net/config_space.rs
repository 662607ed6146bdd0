//! The network device's configuration space (virtio 1.2 §5.1.4), of which the link's
//! status changes while the driver looks.

use std::sync::atomic::{AtomicU16, Ordering};

use virtio_bindings::virtio_net::{VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP};

/// VIRTIO_NET_S_LINK_UP: frames go through.
const LINK_UP: u16 = VIRTIO_NET_S_LINK_UP as u16;
/// VIRTIO_NET_S_ANNOUNCE: the driver is to announce itself to the network.
const ANNOUNCE: u16 = VIRTIO_NET_S_ANNOUNCE as u16;
/// Not for the driver to see: the link does not come up again.
const GONE: u16 = 1 << 15;

/// Bytes up to the end of `mtu`; what follows belongs to features not offered.
const LEN: usize = 12;

/// What the link's status is, for all threads. Each change says whether the driver has
/// something new to read, and so is to be told that the configuration has changed.
#[derive(Debug)]
pub struct LinkStatus(AtomicU16);

impl LinkStatus {
    /// A link that is there.
    pub fn new(up: bool) -> Self {
        Self(AtomicU16::new(if up { LINK_UP } else { 0 }))
    }

    /// What the driver reads.
    pub fn bits(&self) -> u16 {
        self.0.load(Ordering::Acquire) & (LINK_UP | ANNOUNCE)
    }

    /// The link is up or down. One that comes up asks the driver for an announcement if
    /// it makes such. One that is gone stays so.
    pub fn set_up(&self, up: bool, announces: bool) -> bool {
        self.change(|bits| match (up, bits & LINK_UP != 0) {
            (true, false) if announces => bits | LINK_UP | ANNOUNCE,
            (true, _) => bits | LINK_UP,
            (false, _) => bits & !(LINK_UP | ANNOUNCE),
        })
    }

    /// The link is gone for good; true the first time.
    pub fn lose(&self) -> bool {
        self.0.swap(GONE, Ordering::AcqRel) & GONE == 0
    }

    /// The driver has announced itself (§5.1.6.5.4), or is reset and knows nothing of it.
    pub fn announced(&self) {
        self.change(|bits| bits & !ANNOUNCE);
    }

    /// True if it makes a difference.
    fn change(&self, to: impl Fn(u16) -> u16) -> bool {
        let change = |bits: u16| (bits & GONE == 0).then(|| to(bits));
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        before.is_ok_and(|bits| to(bits) != bits)
    }
}

/// What the driver reads of the device's configuration; it can write none of it.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    /// The device's address.
    pub mac: [u8; 6],
    /// Queue pairs there are.
    pub pairs: u16,
    /// The largest packet behind an Ethernet header, in bytes.
    pub mtu: u16,
}

impl ConfigSpace {
    /// Reads at `offset` while the link's status is `status`; what lies beyond the end
    /// stays as it is in `data`.
    pub fn read(&self, status: u16, offset: u64, data: &mut [u8]) {
        let mut bytes = [0; LEN];
        let fields = [status, self.pairs, self.mtu].map(u16::to_le_bytes);
        let all = self.mac.iter().chain(fields.iter().flatten());
        for (byte, field) in bytes.iter_mut().zip(all) {
            *byte = *field;
        }
        let from = usize::try_from(offset).unwrap_or(LEN);
        for (byte, field) in data.iter_mut().zip(bytes.get(from..).unwrap_or_default()) {
            *byte = *field;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: ConfigSpace = ConfigSpace {
        mac: [2, 0x11, 0x22, 0x33, 0x44, 0x55],
        pairs: 4,
        mtu: 9000,
    };

    /// §5.1.4: mac[6], status, max_virtqueue_pairs, mtu, little-endian.
    #[test]
    fn the_fields_are_where_the_specification_has_them() {
        let mut bytes = [0xaa; 16];
        CONFIG.read(3, 0, &mut bytes);
        assert_eq!(
            bytes,
            [
                2, 0x11, 0x22, 0x33, 0x44, 0x55, 3, 0, 4, 0, 0x28, 0x23, 0xaa, 0xaa, 0xaa, 0xaa
            ]
        );
    }

    #[test]
    fn any_part_can_be_read_and_nothing_lies_beyond_the_end() {
        let read = |offset| {
            let mut bytes = [0; 2];
            CONFIG.read(1, offset, &mut bytes);
            bytes
        };
        assert_eq!(read(5), [0x55, 1]);
        assert_eq!(read(11), [0x23, 0]);
        for offset in [12, 13, 1 << 32, u64::MAX] {
            assert_eq!(read(offset), [0, 0]);
        }
    }

    #[test]
    fn a_link_that_comes_up_again_is_announced_by_drivers_that_can() {
        let link = LinkStatus::new(true);
        assert_eq!(link.bits(), 1);
        assert!(!link.set_up(true, true));
        assert_eq!(link.bits(), 1);
        assert!(link.set_up(false, true));
        assert_eq!(link.bits(), 0);
        assert!(!link.set_up(false, true));
        assert!(link.set_up(true, true));
        assert_eq!(link.bits(), 3);
        link.announced();
        assert_eq!(link.bits(), 1);
        link.set_up(false, false);
        assert!(link.set_up(true, false));
        assert_eq!(link.bits(), 1);
    }

    #[test]
    fn a_link_that_is_gone_does_not_come_back() {
        let link = LinkStatus::new(true);
        assert!(link.lose());
        assert!(!link.lose());
        assert_eq!(link.bits(), 0);
        assert!(!link.set_up(true, true));
        link.announced();
        assert_eq!(link.bits(), 0);
        assert!(!link.lose());
    }
}
