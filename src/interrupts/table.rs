//! What KVM's routing table is to hold, as a value.
//!
//! KVM_SET_GSI_ROUTING replaces the whole table, so that there is one place that
//! knows all of it:
//!
//! | GSI     | split                                     | kernel                  |
//! |---------|-------------------------------------------|-------------------------|
//! | 0..16   | the pin's message, where KVM must know it | IOAPIC pin and PIC line |
//! | 16..24  | the pin's message, where KVM must know it | IOAPIC pin              |
//! | 24..    | messages (MSI-X)                          | messages (MSI-X)        |
//!
//! KVM must know a pin's message if an irqfd serves the pin, or if it is
//! level-triggered: its end-of-interrupt has to come back as an exit.

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};

use super::IrqchipMode;
use crate::devices::ioapic::Msi;
use crate::memory::layout::IOAPIC_PINS;

/// MSI data bit 15: level-triggered.
const MSI_LEVEL: u32 = 1 << 15;
/// Inputs of one 8259A.
const PIC_INPUTS: u32 = 8;
/// With 32-bit APIC ids KVM refuses a message whose upper address has any of these
/// bits, and with it the whole table; without, it ignores them (`KVM_CAP_X2APIC_API`
/// in KVM's api.rst).
const ADDRESS_HI_RESERVED: u32 = 0xff;

/// Messages that there can be. KVM takes 4096 entries; the pins are some of them.
pub const MAX_MESSAGES: usize = 4000;

/// A pin of the IOAPIC (split mode).
#[derive(Clone, Copy, Default)]
struct Pin {
    message: Option<Msi>,
    by_irqfd: bool,
}

impl Pin {
    fn entry(&self) -> Option<Msi> {
        self.message
            .filter(|msi| self.by_irqfd || msi.data & MSI_LEVEL != 0)
    }
}

/// The routing table.
pub struct Table {
    mode: IrqchipMode,
    pins: [Pin; IOAPIC_PINS as usize],
    messages: Vec<Option<Msi>>,
}

impl Table {
    /// The table of a machine without MSIs, whose IOAPIC is masked.
    pub fn new(mode: IrqchipMode) -> Self {
        Self {
            mode,
            pins: Default::default(),
            messages: Vec::new(),
        }
    }

    /// A new GSI for a message; none if there are as many as there can be.
    pub fn add_message(&mut self) -> Option<u32> {
        if self.messages.len() >= MAX_MESSAGES {
            return None;
        }
        let index = u32::try_from(self.messages.len()).ok()?;
        self.messages.push(None);
        index.checked_add(IOAPIC_PINS)
    }

    /// An irqfd serves `pin`. Whether KVM has to be told of the table.
    pub fn serve_pin_by_irqfd(&mut self, pin: u32) -> bool {
        self.change_pin(pin, |pin| pin.by_irqfd = true)
    }

    /// `pin` stands for `message`. Whether KVM has to be told of the table.
    pub fn set_pin(&mut self, pin: u32, message: Option<Msi>) -> bool {
        self.change_pin(pin, |pin| pin.message = message)
    }

    fn change_pin(&mut self, pin: u32, change: impl FnOnce(&mut Pin)) -> bool {
        let pin = usize::try_from(pin)
            .ok()
            .and_then(|pin| self.pins.get_mut(pin));
        let Some(pin) = pin else {
            return false;
        };
        let before = pin.entry();
        change(pin);
        pin.entry() != before
    }

    /// GSI `gsi` stands for `message`. Whether KVM has to be told of the table.
    pub fn set_message(&mut self, gsi: u32, message: Option<Msi>) -> bool {
        let slot = gsi
            .checked_sub(IOAPIC_PINS)
            .and_then(|index| self.messages.get_mut(usize::try_from(index).ok()?));
        match slot {
            Some(slot) if *slot != message => {
                *slot = message;
                true
            }
            _ => false,
        }
    }

    /// The table as KVM takes it.
    pub fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let mut entries = Vec::with_capacity(2 * self.pins.len() + self.messages.len());
        match self.mode {
            IrqchipMode::Kernel => entries.extend((0..IOAPIC_PINS).flat_map(kernel_pin)),
            IrqchipMode::Split => {
                let pins = (0..).zip(&self.pins);
                entries.extend(pins.filter_map(|(gsi, pin)| Some(message(gsi, pin.entry()?))));
            }
        }
        let messages = (IOAPIC_PINS..).zip(&self.messages);
        entries.extend(messages.filter_map(|(gsi, msi)| Some(message(gsi, (*msi)?))));
        entries
    }
}

/// The entries KVM itself starts with: an IOAPIC pin, and a PIC's input for ISA's interrupts.
fn kernel_pin(gsi: u32) -> impl Iterator<Item = kvm_irq_routing_entry> {
    let pic = match gsi / PIC_INPUTS {
        0 => Some(KVM_IRQCHIP_PIC_MASTER),
        1 => Some(KVM_IRQCHIP_PIC_SLAVE),
        _ => None,
    };
    let pic = pic.map(|pic| chip_input(gsi, pic, gsi % PIC_INPUTS));
    [Some(chip_input(gsi, KVM_IRQCHIP_IOAPIC, gsi)), pic]
        .into_iter()
        .flatten()
}

fn chip_input(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    }
}

fn message(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: msi.address as u32,
                address_hi: (msi.address >> 32) as u32 & !ADDRESS_HI_RESERVED,
                data: msi.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: Msi = Msi {
        address: 0xfee0_1000,
        data: 0x31,
    };
    const LEVEL: Msi = Msi {
        address: 0xfee0_0000,
        data: 0xc041,
    };

    /// GSI and data of the messages in the table.
    fn messages(table: &Table) -> Vec<(u32, u32)> {
        let entries = table.entries().into_iter();
        entries
            .filter(|entry| entry.type_ == KVM_IRQ_ROUTING_MSI)
            // SAFETY: the type says which member of the union was written.
            .map(|entry| (entry.gsi, unsafe { entry.u.msi }.data))
            .collect()
    }

    #[test]
    fn kvm_is_told_of_level_pins_and_of_pins_with_an_irqfd() {
        let mut table = Table::new(IrqchipMode::Split);
        assert!(table.entries().is_empty());
        assert!(!table.set_pin(4, Some(EDGE)));
        assert!(table.set_pin(9, Some(LEVEL)));
        assert_eq!(messages(&table), [(9, 0xc041)]);
        assert!(!table.serve_pin_by_irqfd(5));
        assert!(table.serve_pin_by_irqfd(4));
        assert!(table.set_pin(5, Some(EDGE)));
        assert_eq!(messages(&table), [(4, 0x31), (5, 0x31), (9, 0xc041)]);
        assert!(!table.set_pin(5, Some(EDGE)));
        assert!(table.set_pin(5, None));
        assert_eq!(messages(&table), [(4, 0x31), (9, 0xc041)]);
    }

    #[test]
    fn messages_have_gsis_behind_the_pins() {
        let mut table = Table::new(IrqchipMode::Split);
        assert_eq!(table.add_message(), Some(24));
        assert_eq!(table.add_message(), Some(25));
        assert!(table.entries().is_empty());
        assert!(table.set_message(25, Some(EDGE)));
        assert!(!table.set_message(25, Some(EDGE)));
        assert_eq!(messages(&table), [(25, 0x31)]);
        for gsi in [0, 23, 26, u32::MAX] {
            assert!(!table.set_message(gsi, Some(EDGE)), "{gsi}");
            assert!(!table.set_pin(gsi.max(24), Some(EDGE)), "{gsi}");
        }
        assert!(table.set_message(25, None));
        assert!(table.entries().is_empty());
    }

    #[test]
    fn messages_end_where_kvms_table_does() {
        let mut table = Table::new(IrqchipMode::Kernel);
        for _ in 0..MAX_MESSAGES {
            let gsi = table.add_message().unwrap();
            table.set_message(gsi, Some(EDGE));
        }
        assert_eq!(table.add_message(), None);
        assert!(table.entries().len() <= 4096);
    }

    #[test]
    fn kvms_own_pins_are_kept_beside_messages() {
        let mut table = Table::new(IrqchipMode::Kernel);
        let gsi = table.add_message().unwrap();
        table.set_message(gsi, Some(EDGE));
        let mut chips: Vec<(u32, u32, u32)> = Vec::new();
        for entry in table.entries() {
            if entry.type_ == KVM_IRQ_ROUTING_IRQCHIP {
                // SAFETY: the type says which member of the union was written.
                let input = unsafe { entry.u.irqchip };
                chips.push((entry.gsi, input.irqchip, input.pin));
            }
        }
        assert_eq!(chips.len(), 24 + 16);
        for gsi in 0..24 {
            assert!(chips.contains(&(gsi, 2, gsi)), "IOAPIC {gsi}");
        }
        for gsi in 0..8 {
            assert!(chips.contains(&(gsi, 0, gsi)), "first PIC {gsi}");
            assert!(chips.contains(&(8 + gsi, 1, gsi)), "second PIC {gsi}");
        }
        assert_eq!(messages(&table), [(24, 0x31)]);
    }

    #[test]
    fn an_address_that_kvm_refuses_is_not_handed_to_it() {
        let mut table = Table::new(IrqchipMode::Split);
        let gsi = table.add_message().unwrap();
        let hostile = Msi {
            address: u64::MAX,
            data: u32::MAX,
        };
        table.set_message(gsi, Some(hostile));
        // SAFETY: the only entry is a message.
        let msi = unsafe { table.entries()[0].u.msi };
        assert_eq!(msi.address_hi, 0xffff_ff00);
        assert_eq!((msi.address_lo, msi.data), (u32::MAX, u32::MAX));
    }
}
