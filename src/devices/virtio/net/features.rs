//! What driver and device may agree on (virtio 1.2 §5.1.3), and what comes of it.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};

use super::link::Offloads;

/// The smallest MTU that a device may tell (§5.1.4.1).
pub const SMALLEST_MTU: u16 = 68;

/// The bits that say what the device may leave to the driver. By the same bits
/// VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET turns it on and off (§5.1.6.5.6).
const GUEST_OFFLOADS: u64 = bit(VIRTIO_NET_F_GUEST_CSUM)
    | bit(VIRTIO_NET_F_GUEST_TSO4)
    | bit(VIRTIO_NET_F_GUEST_TSO6)
    | bit(VIRTIO_NET_F_GUEST_ECN)
    | bit(VIRTIO_NET_F_GUEST_USO4)
    | bit(VIRTIO_NET_F_GUEST_USO6);

/// Feature number `feature` as a mask.
const fn bit(feature: u32) -> u64 {
    1 << feature
}

/// What the device offers on a link with these offloads, this MTU and that many queue
/// pairs.
pub fn offered(offloads: Offloads, mtu: u16, pairs: u16) -> u64 {
    let mut features = bit(VIRTIO_NET_F_MAC)
        | bit(VIRTIO_NET_F_STATUS)
        | bit(VIRTIO_NET_F_MRG_RXBUF)
        | bit(VIRTIO_NET_F_CTRL_VQ)
        | bit(VIRTIO_NET_F_GUEST_ANNOUNCE);
    let choices = [
        (mtu >= SMALLEST_MTU, bit(VIRTIO_NET_F_MTU)),
        (pairs > 1, bit(VIRTIO_NET_F_MQ)),
        (
            offloads.checksum,
            bit(VIRTIO_NET_F_CSUM)
                | bit(VIRTIO_NET_F_GUEST_CSUM)
                | bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
        ),
        (
            offloads.tso4,
            bit(VIRTIO_NET_F_HOST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO4),
        ),
        (
            offloads.tso6,
            bit(VIRTIO_NET_F_HOST_TSO6) | bit(VIRTIO_NET_F_GUEST_TSO6),
        ),
        (
            offloads.ecn,
            bit(VIRTIO_NET_F_HOST_ECN) | bit(VIRTIO_NET_F_GUEST_ECN),
        ),
        (
            offloads.uso,
            bit(VIRTIO_NET_F_HOST_USO)
                | bit(VIRTIO_NET_F_GUEST_USO4)
                | bit(VIRTIO_NET_F_GUEST_USO6),
        ),
    ];
    for (there, bits) in choices {
        if there {
            features |= bits;
        }
    }
    without_orphans(features)
}

/// `features` without those that lack one that they require (§5.1.3.1). A driver that
/// chooses such goes without them.
fn without_orphans(mut features: u64) -> u64 {
    let csum = bit(VIRTIO_NET_F_CSUM);
    let guest_csum = bit(VIRTIO_NET_F_GUEST_CSUM);
    let control = bit(VIRTIO_NET_F_CTRL_VQ);
    let host_tso = bit(VIRTIO_NET_F_HOST_TSO4) | bit(VIRTIO_NET_F_HOST_TSO6);
    let guest_tso = bit(VIRTIO_NET_F_GUEST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO6);
    // Those that others require come first.
    let requirements = [
        (host_tso | bit(VIRTIO_NET_F_HOST_USO), csum),
        (
            guest_tso | bit(VIRTIO_NET_F_GUEST_USO4) | bit(VIRTIO_NET_F_GUEST_USO6),
            guest_csum,
        ),
        (bit(VIRTIO_NET_F_HOST_ECN), host_tso),
        (bit(VIRTIO_NET_F_GUEST_ECN), guest_tso),
        (bit(VIRTIO_NET_F_GUEST_ANNOUNCE), control),
        (bit(VIRTIO_NET_F_MQ), control),
        (bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS), control),
    ];
    for (needy, one_of) in requirements {
        if features & one_of == 0 {
            features &= !needy;
        }
    }
    features
}

/// What driver and device have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed(u64);

impl Agreed {
    /// What counts of the features that the driver has chosen.
    pub fn new(features: u64) -> Self {
        Self(without_orphans(features))
    }

    fn has(self, feature: u32) -> bool {
        self.0 & bit(feature) != 0
    }

    /// There is a control queue.
    pub fn control_queue(self) -> bool {
        self.has(VIRTIO_NET_F_CTRL_VQ)
    }

    /// There may be more than one queue pair.
    pub fn multiqueue(self) -> bool {
        self.has(VIRTIO_NET_F_MQ)
    }

    /// The driver announces itself to the network when asked to.
    pub fn announce(self) -> bool {
        self.has(VIRTIO_NET_F_GUEST_ANNOUNCE)
    }

    /// A frame may be received into several buffers.
    pub fn mergeable(self) -> bool {
        self.has(VIRTIO_NET_F_MRG_RXBUF)
    }

    /// What the driver may leave to the host.
    pub fn host_offloads(self) -> Offloads {
        Offloads {
            checksum: self.has(VIRTIO_NET_F_CSUM),
            tso4: self.has(VIRTIO_NET_F_HOST_TSO4),
            tso6: self.has(VIRTIO_NET_F_HOST_TSO6),
            ecn: self.has(VIRTIO_NET_F_HOST_ECN),
            uso: self.has(VIRTIO_NET_F_HOST_USO),
        }
    }

    /// What the host may leave to the driver, before the driver says otherwise.
    pub fn guest_offloads(self) -> Offloads {
        Offloads {
            checksum: self.has(VIRTIO_NET_F_GUEST_CSUM),
            tso4: self.has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: self.has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: self.has(VIRTIO_NET_F_GUEST_ECN),
            uso: self.has(VIRTIO_NET_F_GUEST_USO4) && self.has(VIRTIO_NET_F_GUEST_USO6),
        }
    }

    /// What VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET with `bits` asks for; none if it may not
    /// be used, or not with these.
    pub fn choose_guest_offloads(self, bits: u64) -> Option<Offloads> {
        let allowed = self.0 & GUEST_OFFLOADS;
        let agreed = self.has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
        (agreed && bits & !allowed == 0).then(|| Self::new(bits).guest_offloads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Offloads = Offloads {
        checksum: false,
        tso4: false,
        tso6: false,
        ecn: false,
        uso: false,
    };
    const ALL: Offloads = Offloads {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso: true,
    };

    #[test]
    fn a_link_without_offloads_offers_none() {
        // MTU 3, MAC 5, MRG_RXBUF 15, STATUS 16, CTRL_VQ 17, GUEST_ANNOUNCE 21.
        assert_eq!(offered(NONE, 1500, 1), 0x23_8028);
        // The MTU of no Ethernet, and MQ 22.
        assert_eq!(offered(NONE, 67, 2), 0x63_8020);
    }

    #[test]
    fn a_link_with_all_offloads_offers_them_in_both_directions() {
        let features = offered(ALL, 1500, 1);
        // CSUM 0, GUEST_CSUM 1, CTRL_GUEST_OFFLOADS 2, guest TSO4 7, TSO6 8, ECN 9, host
        // TSO4 11, TSO6 12, ECN 13, guest USO 54 and 55, host USO 56.
        assert_eq!(features & !offered(NONE, 1500, 1), 0x01c0_0000_0000_3b87);
        let agreed = Agreed::new(features);
        assert_eq!(agreed.host_offloads(), ALL);
        assert_eq!(agreed.guest_offloads(), ALL);
        assert!(agreed.mergeable() && agreed.announce() && agreed.control_queue());
        assert!(!agreed.multiqueue());
    }

    #[test]
    fn segments_without_checksums_are_not_offered() {
        let odd = Offloads {
            checksum: false,
            ..ALL
        };
        assert_eq!(offered(odd, 1500, 1), offered(NONE, 1500, 1));
    }

    /// §5.1.3.1, one driver for each line of it that concerns this device.
    #[test]
    fn what_lacks_its_requirement_does_not_count() {
        let driver = |features: &[u32]| {
            Agreed::new(features.iter().fold(0, |mask, feature| mask | 1 << feature))
        };
        assert_eq!(driver(&[11, 12, 13, 56]).host_offloads(), NONE);
        assert_eq!(driver(&[7, 8, 9, 54, 55]).guest_offloads(), NONE);
        assert!(!driver(&[0, 13]).host_offloads().ecn);
        assert!(driver(&[0, 12, 13]).host_offloads().ecn);
        assert!(!driver(&[1, 9]).guest_offloads().ecn);
        assert!(driver(&[1, 7, 9]).guest_offloads().ecn);
        // Segments of one kind of UDP only cannot be asked of the host.
        assert!(!driver(&[1, 54]).guest_offloads().uso);
        assert!(!driver(&[22, 21]).multiqueue() && !driver(&[22, 21]).announce());
        assert!(driver(&[17, 22, 21]).multiqueue() && driver(&[17, 21]).announce());
    }

    #[test]
    fn the_driver_turns_off_what_it_has_agreed_to() {
        let agreed = Agreed::new(offered(ALL, 1500, 1) & !(1 << 8));
        let chosen = |bits| agreed.choose_guest_offloads(bits);
        assert_eq!(chosen(0), Some(NONE));
        let checksum_only = Offloads {
            checksum: true,
            ..NONE
        };
        assert_eq!(chosen(1 << 1), Some(checksum_only));
        // Segments without checksums are none.
        assert_eq!(chosen(1 << 7), Some(NONE));
        // TSO6 was not agreed to, and TSO4 of the other direction is not the device's.
        assert_eq!(chosen(1 << 8), None);
        assert_eq!(chosen(1 << 11), None);
        assert_eq!(chosen(u64::MAX), None);
        assert_eq!(Agreed::new(1 << 1 | 1 << 17).choose_guest_offloads(0), None);
    }
}
