//! What the function tells of itself in its configuration space: ids, and where the
//! structures lie (virtio 1.2 §4.1.2, §4.1.4).

use super::{
    BAR_SIZE, COMMON, DEVICE, ISR, NOTIFY, NOTIFY_MULTIPLIER, PENDING, TABLE, common::COMMON_SIZE,
};
use crate::devices::pci::{ConfigSpace, Header};
use crate::devices::virtio::device::DeviceType;
use crate::devices::virtio::front::Front;

/// Of every virtio device (§4.1.2).
const VENDOR: u16 = 0x1af4;
/// A device's id is this and its type.
const DEVICE_BASE: u16 = 0x1040;
/// Not a transitional device.
const REVISION: u8 = 1;
/// The smallest id that a device without a legacy interface should have.
const SUBSYSTEM: u16 = 0x40;
/// Class code: an Ethernet controller.
const CLASS_NETWORK: u32 = 0x02_0000;
/// Mass storage, other.
const CLASS_STORAGE: u32 = 0x01_80_00;
/// Fits no class.
const CLASS_OTHER: u32 = 0xff_00_00;

const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;

/// `cfg_type` (§4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Bytes of `struct virtio_pci_cap`.
const CAP_LEN: u8 = 16;
/// Offsets into it.
const CAP_BAR: usize = 4;
const CAP_OFFSET: usize = 8;
const CAP_LENGTH: usize = 12;
const CAP_DATA: usize = 16;

/// Where the registers are that mean more than their value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capabilities {
    /// Message control of MSI-X.
    pub msix_control: Option<usize>,
    /// The PCI configuration access capability.
    pub access: Option<Access>,
}

/// The registers of the PCI configuration access capability (§4.1.4.9).
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Which BAR, 8 bits.
    pub bar: usize,
    /// Offset into it.
    pub offset: usize,
    /// Width of the access in bytes.
    pub length: usize,
    /// What is read or written there.
    pub data: usize,
}

/// The configuration space of the device behind `front`, which has `vectors` MSI-X
/// vectors. The capabilities fit: they are 108 of 192 bytes.
pub fn capabilities(front: &Front, vectors: usize) -> (ConfigSpace, Capabilities) {
    let device = front.device_type();
    let mut space = ConfigSpace::new(&Header {
        vendor: VENDOR,
        device: DEVICE_BASE.saturating_add(device as u16),
        revision: REVISION,
        class: match device {
            DeviceType::Net => CLASS_NETWORK,
            DeviceType::Block => CLASS_STORAGE,
            DeviceType::Entropy => CLASS_OTHER,
        },
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
        intx: true,
    });
    space.add_memory_bar(BAR_SIZE as u32);

    let notify_len = u32::from(front.queue_count()).saturating_mul(NOTIFY_MULTIPLIER);
    let device_len = (NOTIFY - DEVICE) as u32;
    let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
    add(&mut space, COMMON_CFG, COMMON, COMMON_SIZE as u32, &[]);
    add(&mut space, NOTIFY_CFG, NOTIFY, notify_len, &multiplier);
    add(&mut space, ISR_CFG, ISR, 1, &[]);
    add(&mut space, DEVICE_CFG, DEVICE, device_len, &[]);
    let capabilities = Capabilities {
        access: add_access(&mut space),
        msix_control: add_msix(&mut space, vectors),
    };
    (space, capabilities)
}

/// `struct virtio_pci_cap` behind its first two bytes; everything is in BAR 0.
fn body(kind: u8, offset: u64, length: u32, extra: &[u8]) -> Vec<u8> {
    let mut body = vec![CAP_LEN.saturating_add(extra.len() as u8), kind, 0, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra);
    body
}

fn add(space: &mut ConfigSpace, kind: u8, offset: u64, length: u32, extra: &[u8]) {
    space.add_capability(CAP_VENDOR, &body(kind, offset, length, extra), &[]);
}

fn add_access(space: &mut ConfigSpace) -> Option<Access> {
    let mut writable = [0; CAP_DATA - 2];
    let fields = [
        CAP_BAR..CAP_BAR + 1,
        CAP_OFFSET..CAP_LENGTH,
        CAP_LENGTH..CAP_DATA,
    ];
    for at in fields.into_iter().flatten() {
        writable[at - 2] = 0xff;
    }
    let at = space.add_capability(CAP_VENDOR, &body(PCI_CFG, 0, 0, &[0; 4]), &writable)?;
    Some(Access {
        bar: at.checked_add(CAP_BAR)?,
        offset: at.checked_add(CAP_OFFSET)?,
        length: at.checked_add(CAP_LENGTH)?,
        data: at.checked_add(CAP_DATA)?,
    })
}

/// MSI-X (PCI 3.0 §6.8.2), table and pending bits in BAR 0.
fn add_msix(space: &mut ConfigSpace, vectors: usize) -> Option<usize> {
    let last = u16::try_from(vectors.checked_sub(1)?).ok()?;
    let mut body = Vec::with_capacity(10);
    body.extend(last.to_le_bytes());
    body.extend((TABLE as u32).to_le_bytes());
    body.extend((PENDING as u32).to_le_bytes());
    let at = space.add_capability(CAP_MSIX, &body, &[0, 0xc0])?;
    at.checked_add(2)
}
