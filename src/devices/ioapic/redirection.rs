//! One entry of the redirection table, and the MSI it stands for.

use serde::{Deserialize, Serialize};

use crate::memory::layout::LAPIC_ADDR;

/// A message-signalled interrupt (Intel SDM vol. 3 §11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Msi {
    /// Message address: destination, destination mode, redirection hint.
    pub address: u64,
    /// Message data: vector, delivery mode, trigger mode.
    pub data: u32,
}

const VECTOR: u64 = 0xff;
const DELIVERY_MODE_SHIFT: u32 = 8;
const DELIVERY_MODE: u64 = 0b111 << DELIVERY_MODE_SHIFT;
const DESTINATION_LOGICAL: u64 = 1 << 11;
const POLARITY_LOW: u64 = 1 << 13;
const REMOTE_IRR: u64 = 1 << 14;
const TRIGGER_LEVEL: u64 = 1 << 15;
const MASK: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;
const DESTINATION: u64 = 0xff << DESTINATION_SHIFT;

/// What a guest can write: all but delivery status (bit 12) and remote IRR.
const WRITABLE: u64 = VECTOR
    | DELIVERY_MODE
    | DESTINATION_LOGICAL
    | POLARITY_LOW
    | TRIGGER_LEVEL
    | MASK
    | DESTINATION;

const MSI_REDIRECTION_HINT: u64 = 1 << 3;
const MSI_DESTINATION_LOGICAL: u64 = 1 << 2;
const MSI_DESTINATION_SHIFT: u32 = 12;
const MSI_LEVEL_ASSERT: u32 = 1 << 14;
const MSI_TRIGGER_LEVEL: u32 = 1 << 15;

/// Delivery modes (82093AA §3.2.4); 3 and 6 are reserved.
const LOWEST_PRIORITY: u64 = 1;
const RESERVED_MODES: [u64; 2] = [3, 6];

/// A redirection table entry (82093AA §3.2.4, `IOREDTBL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RedirectionEntry(u64);

impl Default for RedirectionEntry {
    /// Masked, as after reset.
    fn default() -> Self {
        Self(MASK)
    }
}

impl RedirectionEntry {
    /// The lower or upper 32 bits, as the guest reads them.
    pub fn half(self, upper: bool) -> u32 {
        (if upper { self.0 >> 32 } else { self.0 }) as u32
    }

    /// The entry after the guest has written one half.
    ///
    /// Remote IRR is kept while the entry is level-triggered and dropped when
    /// it becomes edge-triggered: drivers switch to edge and back to end an
    /// interrupt by hand on IOAPICs without an EOI register.
    #[must_use]
    pub fn with_half(self, upper: bool, value: u32) -> Self {
        let (shift, keep) = if upper {
            (32, 0xffff_ffff)
        } else {
            (0, 0xffff_ffff << 32)
        };
        let written = (self.0 & keep) | (u64::from(value) << shift);
        Self((written & WRITABLE) | (self.0 & REMOTE_IRR)).sanitized()
    }

    /// The entry without bits that cannot be set, for one that was stored.
    #[must_use]
    pub fn sanitized(self) -> Self {
        let entry = Self(self.0 & (WRITABLE | REMOTE_IRR));
        if entry.is_level() {
            entry
        } else {
            entry.with_remote_irr(false)
        }
    }

    /// The interrupt vector.
    pub fn vector(self) -> u8 {
        (self.0 & VECTOR) as u8
    }

    /// Whether the pin is masked.
    pub fn is_masked(self) -> bool {
        self.0 & MASK != 0
    }

    /// Whether the pin works level-triggered. SMI, NMI, INIT and ExtINT are
    /// edges whatever the trigger mode says.
    pub fn is_level(self) -> bool {
        self.0 & TRIGGER_LEVEL != 0 && self.delivery_mode() <= LOWEST_PRIORITY
    }

    /// Whether a level interrupt was delivered and awaits its EOI.
    pub fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    /// The entry with remote IRR as given.
    #[must_use]
    pub fn with_remote_irr(self, set: bool) -> Self {
        Self(if set {
            self.0 | REMOTE_IRR
        } else {
            self.0 & !REMOTE_IRR
        })
    }

    /// The message the entry stands for, masked or not; none for the reserved
    /// delivery modes.
    pub fn msi(self) -> Option<Msi> {
        let mode = self.delivery_mode();
        if RESERVED_MODES.contains(&mode) {
            return None;
        }
        let destination = self.0 >> DESTINATION_SHIFT;
        let mut address = LAPIC_ADDR | (destination << MSI_DESTINATION_SHIFT);
        if self.0 & DESTINATION_LOGICAL != 0 {
            address |= MSI_DESTINATION_LOGICAL;
        }
        if mode == LOWEST_PRIORITY {
            address |= MSI_REDIRECTION_HINT;
        }
        let mut data = (self.0 & (VECTOR | DELIVERY_MODE)) as u32;
        if self.is_level() {
            data |= MSI_TRIGGER_LEVEL | MSI_LEVEL_ASSERT;
        }
        Some(Msi { address, data })
    }

    fn delivery_mode(self) -> u64 {
        (self.0 & DELIVERY_MODE) >> DELIVERY_MODE_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: u64) -> RedirectionEntry {
        RedirectionEntry::default()
            .with_half(true, (value >> 32) as u32)
            .with_half(false, value as u32)
    }

    #[test]
    fn a_fixed_edge_interrupt_to_one_apic() {
        let msi = entry(0x0300_0000_0000_0031).msi().unwrap();
        assert_eq!(msi.address, 0xfee0_3000);
        assert_eq!(msi.data, 0x31);
    }

    #[test]
    fn lowest_priority_to_a_logical_set_level_triggered() {
        let msi = entry(0x0f00_0000_0000_8941).msi().unwrap();
        assert_eq!(msi.address, 0xfee0_f00c);
        assert_eq!(msi.data, 0xc141);
    }

    #[test]
    fn an_nmi_is_an_edge_even_if_programmed_level() {
        let nmi = entry(0x8400);
        assert!(!nmi.is_level());
        assert_eq!(nmi.msi().unwrap().data, 0x400);
    }

    #[test]
    fn reserved_delivery_modes_are_no_interrupt() {
        assert_eq!(entry(0x300).msi(), None);
        assert_eq!(entry(0x600).msi(), None);
    }

    #[test]
    fn read_only_bits_cannot_be_written() {
        let all = entry(u64::MAX);
        assert_eq!(all.half(false), 0x1_afff);
        assert_eq!(all.half(true), 0xff00_0000);
    }

    #[test]
    fn becoming_edge_triggered_drops_remote_irr() {
        let pending = entry(0x8031).with_remote_irr(true);
        assert!(pending.with_half(false, 0x1_8031).remote_irr());
        assert!(!pending.with_half(false, 0x1_0031).remote_irr());
    }
}
