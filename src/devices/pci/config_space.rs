//! The 256 bytes of configuration space of one function, header type 0
//! (PCI 3.0 §6.1): what is in them, and which bits the guest can write.

use std::ops::Range;

use super::{
    BAR0, COMMAND, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, COMMAND_MEMORY, INTERRUPT_LINE,
    STATUS, STATUS_CAPABILITIES,
};
use crate::memory::layout::{PCI_BAR_SIZE, PCI_BAR_START};

const SIZE: usize = 256;
const VENDOR_ID: usize = 0x00;
const DEVICE_ID: usize = 0x02;
const REVISION: usize = 0x08;
/// Programming interface, subclass, base class.
const CLASS: usize = 0x09;
const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
const SUBSYSTEM_ID: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_PIN: usize = 0x3d;
/// Where the first capability goes.
const FIRST_CAPABILITY: usize = 0x40;
/// Parity error response, SERR#: no device here does anything about them.
const COMMAND_ERRORS: u16 = 1 << 6 | 1 << 8;
/// The smallest memory BAR: its lower bits are flags.
const BAR_MIN: u32 = 16;

/// What a function is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// Vendor.
    pub vendor: u16,
    /// Device, in the vendor's numbering.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass and programming interface, in bits 23:0.
    pub class: u32,
    /// Vendor of the board.
    pub subsystem_vendor: u16,
    /// Board, in its vendor's numbering.
    pub subsystem: u16,
    /// Whether it has INTA.
    pub intx: bool,
}

/// The configuration space of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// Bits that the guest can write.
    writable: [u8; SIZE],
    /// Where the next capability goes.
    next: usize,
    /// The byte that is to point to it.
    link: usize,
}

impl ConfigSpace {
    /// A header without BARs and capabilities.
    pub fn new(header: &Header) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            next: FIRST_CAPABILITY,
            link: CAPABILITIES,
        };
        space.set(VENDOR_ID, &header.vendor.to_le_bytes());
        space.set(DEVICE_ID, &header.device.to_le_bytes());
        space.set(REVISION, &[header.revision]);
        let [interface, subclass, class, _] = header.class.to_le_bytes();
        space.set(CLASS, &[interface, subclass, class]);
        space.set(SUBSYSTEM_VENDOR_ID, &header.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM_ID, &header.subsystem.to_le_bytes());
        space.set(INTERRUPT_PIN, &[u8::from(header.intx)]);
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE | COMMAND_ERRORS;
        space.let_write(COMMAND, &command.to_le_bytes());
        space.let_write(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Makes BAR 0 a 32-bit memory BAR that cannot be prefetched. `size`, a power of
    /// two of at least 16 bytes, is what the guest finds when it sizes the BAR: the
    /// address bits below it cannot be written.
    pub fn add_memory_bar(&mut self, size: u32) {
        let size = size.max(BAR_MIN).next_power_of_two();
        self.let_write(BAR0, &size.wrapping_neg().to_le_bytes());
    }

    /// Appends a capability: `body` follows the header of two bytes, and the bits of
    /// `writable` at the same places can be written. Its offset; none if it does not
    /// fit.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let at = self.next;
        let body_at = at.checked_add(2)?;
        let end = body_at.checked_add(body.len().max(writable.len()))?;
        if end > SIZE {
            return None;
        }
        self.set(at, &[id, 0]);
        self.set(body_at, body);
        self.let_write(body_at, writable);
        self.set(self.link, &[u8::try_from(at).ok()?]);
        let status = self.u16(STATUS) | STATUS_CAPABILITIES;
        self.set(STATUS, &status.to_le_bytes());
        self.link = at.checked_add(1)?;
        self.next = end.next_multiple_of(4);
        Some(at)
    }

    /// The guest reads. What lies beyond the 256 bytes is left as it is.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let bytes = self.bytes.get(offset..).unwrap_or_default();
        for (byte, of_space) in data.iter_mut().zip(bytes) {
            *byte = *of_space;
        }
    }

    /// The guest writes; what cannot be written stays.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let bytes = self.bytes.get_mut(offset..).unwrap_or_default();
        let masks = self.writable.get(offset..).unwrap_or_default();
        for ((byte, mask), new) in bytes.iter_mut().zip(masks).zip(data) {
            *byte = (*byte & !mask) | (new & mask);
        }
    }

    /// The 16-bit register at `offset`.
    pub fn u16(&self, offset: usize) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The 32-bit register at `offset`.
    pub fn u32(&self, offset: usize) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Whether the command register has `bit`.
    pub fn command(&self, bit: u16) -> bool {
        self.u16(COMMAND) & bit != 0
    }

    /// Where BAR 0 with `size` bytes is decoded: nowhere while the command register
    /// forbids it, or outside the window of the host bridge.
    pub fn memory(&self, size: u64) -> Option<Range<u64>> {
        if !self.command(COMMAND_MEMORY) || size == 0 {
            return None;
        }
        let start = u64::from(self.u32(BAR0));
        let end = start.checked_add(size)?;
        let window = PCI_BAR_START..=PCI_BAR_START.checked_add(PCI_BAR_SIZE)?;
        (window.contains(&start) && window.contains(&end)).then_some(start..end)
    }

    /// What to save of it.
    pub fn state(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Takes over what was saved, as far as a guest could have written it.
    pub fn restore(&mut self, state: &[u8]) {
        self.write(0, state);
    }

    fn set(&mut self, offset: usize, data: &[u8]) {
        let bytes = self.bytes.get_mut(offset..).unwrap_or_default();
        for (byte, new) in bytes.iter_mut().zip(data) {
            *byte = *new;
        }
    }

    fn let_write(&mut self, offset: usize, mask: &[u8]) {
        let masks = self.writable.get_mut(offset..).unwrap_or_default();
        for (byte, new) in masks.iter_mut().zip(mask) {
            *byte = *new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: 0x01_80_00,
        subsystem_vendor: 0x1af4,
        subsystem: 0x0040,
        intx: true,
    };

    #[test]
    fn the_header_is_where_pci_has_it() {
        let space = ConfigSpace::new(&HEADER);
        assert_eq!(space.u32(0x00), 0x1042_1af4);
        assert_eq!(space.u32(0x08), 0x0180_0001);
        assert_eq!(space.u32(0x0c), 0, "header type 0, one function");
        assert_eq!(space.u32(0x2c), 0x0040_1af4);
        assert_eq!(space.u16(0x3c), 0x0100, "INTA");
        assert_eq!(space.u16(0x06), 0);
    }

    #[test]
    fn a_guest_sizes_a_bar_and_moves_it() {
        let mut space = ConfigSpace::new(&HEADER);
        space.add_memory_bar(0x1_0000);
        space.write(0x10, &[0xff; 4]);
        assert_eq!(space.u32(0x10), 0xffff_0000);
        space.write(0x14, &[0xff; 4]);
        assert_eq!(space.u32(0x14), 0, "there is no second BAR");
        space.write(0x10, &0xd123_4567u32.to_le_bytes());
        assert_eq!(space.u32(0x10), 0xd123_0000);
        assert_eq!(space.memory(0x1_0000), None);
        space.write(0x04, &[0x02]);
        assert_eq!(space.memory(0x1_0000), Some(0xd123_0000..0xd124_0000));
    }

    #[test]
    fn a_bar_outside_the_window_is_not_decoded() {
        let mut space = ConfigSpace::new(&HEADER);
        space.add_memory_bar(0x1_0000);
        space.write(0x04, &[0x02]);
        let last = PCI_BAR_START + PCI_BAR_SIZE - 0x1_0000;
        for (addr, decoded) in [
            (0, false),
            (0xcfff_0000, false),
            (PCI_BAR_START as u32, true),
            (last as u32, true),
            (last as u32 + 0x1_0000, false),
            (0xfec0_0000, false),
            (0xffff_0000, false),
        ] {
            space.write(0x10, &u32::to_le_bytes(addr));
            assert_eq!(space.memory(0x1_0000).is_some(), decoded, "{addr:#x}");
        }
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut space = ConfigSpace::new(&HEADER);
        assert_eq!(
            space.add_capability(0x09, &[5, 1, 2], &[0, 0xff]),
            Some(0x40)
        );
        assert_eq!(space.add_capability(0x11, &[0; 10], &[]), Some(0x48));
        assert_eq!((space.u16(0x06), space.u16(0x34)), (0x10, 0x40));
        assert_eq!(space.u32(0x40), 0x0105_4809);
        assert_eq!(space.u16(0x48), 0x0011);
        space.write(0x40, &[0xff; 8]);
        assert_eq!(space.u32(0x40), 0xff05_4809);
        assert_eq!(space.u32(0x44), 2);
        assert_eq!(space.add_capability(0x09, &[0; 255], &[]), None);
    }

    #[test]
    fn nothing_lies_beyond_the_end() {
        let mut space = ConfigSpace::new(&HEADER);
        let mut data = [7; 4];
        for offset in [254, 256, 4095, usize::MAX] {
            space.write(offset, &[0xff; 8]);
        }
        space.read(254, &mut data);
        assert_eq!(data, [0, 0, 7, 7]);
        assert_eq!(space, ConfigSpace::new(&HEADER));
    }

    #[test]
    fn what_was_saved_is_taken_over_where_a_guest_could_write() {
        let mut space = ConfigSpace::new(&HEADER);
        space.add_memory_bar(0x1000);
        let mut copy = space.clone();
        space.write(0x10, &0xd000_1000u32.to_le_bytes());
        space.write(0x04, &[0x06, 0x04]);
        copy.restore(&space.state());
        assert_eq!(copy, space);
        copy.restore(&[0xff; 300]);
        assert_eq!(copy.u32(0), 0x1042_1af4);
        copy.restore(&[]);
    }
}
