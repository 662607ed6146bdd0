//! The I/O APIC: an Intel 82093AA with 24 pins and an EOI register.
//!
//! It turns lines into messages to local APICs, which are KVM's: what KVM does
//! with a message is behind [`MsiSink`].
//!
//! | offset | register                                                |
//! |--------|---------------------------------------------------------|
//! | 0x00   | `IOREGSEL`: index of the register behind `IOWIN`        |
//! | 0x10   | `IOWIN`: the selected register, 32 bits                 |
//! | 0x40   | EOI: a vector whose level interrupts are done (v. 0x20) |
//!
//! Lines are logical: asserted is asserted, whatever polarity the guest
//! programs. Edges on a masked pin are ignored, not held (82093AA §3.2.4,
//! "Interrupt Mask"; KVM's own IOAPIC does the same). A level pin whose line is
//! asserted delivers when it is unmasked, and again at each EOI.

mod redirection;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{BusDevice, IrqLine, LevelLine};
use crate::memory::layout::IOAPIC_PINS;

pub use redirection::{Msi, RedirectionEntry};

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const EOI: u64 = 0x40;

const INDEX_ID: u8 = 0;
const INDEX_VERSION: u8 = 1;
const INDEX_ARBITRATION: u8 = 2;
const INDEX_TABLE: u8 = 0x10;

const ID_BITS: u32 = 0x0f00_0000;
/// Version 0x20: the first with an EOI register.
const VERSION: u32 = 0x20;
const PINS: usize = IOAPIC_PINS as usize;
const ALL_LINES: u32 = (1 << IOAPIC_PINS) - 1;

/// Where the IOAPIC's messages go. Called with the IOAPIC locked; it must not
/// call back into it.
pub trait MsiSink: Send + Sync {
    /// Sends `msi` to the local APICs it names.
    fn deliver(&self, msi: Msi);

    /// An edge on `pin` that does not pass through [`Ioapic`] (an irqfd) is
    /// from now on the message `route`, or nothing.
    ///
    /// A level-triggered pin keeps its route while it is masked: from the
    /// routes KVM takes which EOIs it must report, and a guest may mask a pin
    /// before it ends the interrupt. No irqfd may serve a level-triggered pin.
    fn route_changed(&self, pin: u32, route: Option<Msi>);
}

/// Everything the IOAPIC remembers. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoapicState {
    /// `IOREGSEL`.
    pub select: u8,
    /// ID register, bits 27:24.
    pub id: u32,
    /// The redirection table.
    pub entries: [RedirectionEntry; PINS],
    /// Lines that are asserted, bit n for pin n.
    pub lines: u32,
}

/// The IOAPIC.
pub struct Ioapic {
    state: IoapicState,
    sink: Arc<dyn MsiSink>,
}

impl Ioapic {
    /// Builds the IOAPIC in `state` and tells `sink` the routes it has.
    pub fn from_state(mut state: IoapicState, sink: Arc<dyn MsiSink>) -> Self {
        state.id &= ID_BITS;
        state.lines &= ALL_LINES;
        for (pin, entry) in (0..).zip(&mut state.entries) {
            *entry = entry.sanitized();
            if let Some(route) = route(*entry) {
                sink.route_changed(pin, Some(route));
            }
        }
        Self { state, sink }
    }

    /// The state to save.
    pub fn state(&self) -> IoapicState {
        self.state.clone()
    }

    /// An edge: the line of `pin` goes up and down again.
    pub fn pulse(&mut self, pin: u32) {
        self.set_level(pin, true);
        self.set_level(pin, false);
    }

    /// Asserts or negates the line of `pin`. Pins that do not exist are ignored.
    pub fn set_level(&mut self, pin: u32, asserted: bool) {
        let Some(entry) = self.entry(pin) else {
            return;
        };
        let rises = asserted && !self.is_asserted(pin);
        self.state.lines = (self.state.lines & !(1 << pin)) | (u32::from(asserted) << pin);
        if entry.is_level() {
            self.service_level(pin);
        } else if rises && !entry.is_masked() {
            self.deliver(entry);
        }
    }

    /// A local APIC has ended `vector` (`KVM_EXIT_IOAPIC_EOI`, or a write to
    /// the EOI register): its level pins may interrupt again, and those still
    /// asserted do so now.
    pub fn eoi(&mut self, vector: u8) {
        for pin in 0..IOAPIC_PINS {
            let Some(entry) = self.entry(pin) else {
                continue;
            };
            if entry.vector() == vector && entry.remote_irr() {
                self.set_entry(pin, entry.with_remote_irr(false));
                self.service_level(pin);
            }
        }
    }

    /// Delivers a level interrupt if the line, the mask and the EOI allow it.
    fn service_level(&mut self, pin: u32) {
        let Some(entry) = self.entry(pin) else {
            return;
        };
        let ready = entry.is_level() && !entry.is_masked() && !entry.remote_irr();
        if ready && self.is_asserted(pin) {
            self.set_entry(pin, entry.with_remote_irr(true));
            self.deliver(entry);
        }
    }

    fn deliver(&self, entry: RedirectionEntry) {
        if let Some(msi) = entry.msi() {
            self.sink.deliver(msi);
        }
    }

    fn read_register(&self) -> u32 {
        match self.state.select {
            INDEX_ID | INDEX_ARBITRATION => self.state.id,
            INDEX_VERSION => ((IOAPIC_PINS - 1) << 16) | VERSION,
            index => self
                .table_position(index)
                .and_then(|(pin, upper)| Some(self.entry(pin)?.half(upper)))
                .unwrap_or(0),
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.state.select == INDEX_ID {
            self.state.id = value & ID_BITS;
        } else if let Some((pin, upper)) = self.table_position(self.state.select) {
            self.write_entry(pin, upper, value);
        }
    }

    fn write_entry(&mut self, pin: u32, upper: bool, value: u32) {
        let Some(old) = self.entry(pin) else {
            return;
        };
        let new = old.with_half(upper, value);
        self.set_entry(pin, new);
        if route(old) != route(new) {
            self.sink.route_changed(pin, route(new));
        }
        self.service_level(pin);
    }

    /// The pin, and whether the upper half, that register `index` belongs to.
    fn table_position(&self, index: u8) -> Option<(u32, bool)> {
        let position = index.checked_sub(INDEX_TABLE)?;
        Some((u32::from(position / 2), position % 2 == 1))
    }

    fn entry(&self, pin: u32) -> Option<RedirectionEntry> {
        self.state.entries.get(pin as usize).copied()
    }

    fn set_entry(&mut self, pin: u32, entry: RedirectionEntry) {
        if let Some(slot) = self.state.entries.get_mut(pin as usize) {
            *slot = entry;
        }
    }

    fn is_asserted(&self, pin: u32) -> bool {
        self.state.lines >> pin & 1 != 0
    }
}

/// What an irqfd on the pin would send.
fn route(entry: RedirectionEntry) -> Option<Msi> {
    if entry.is_masked() && !entry.is_level() {
        return None;
    }
    entry.msi()
}

/// The registers are 32 bits wide; of wider accesses the low dword counts, the
/// rest reads as zero. Narrower writes reach `IOREGSEL` and EOI, whose
/// registers have 8 bits, but not `IOWIN`.
impl BusDevice for Ioapic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            IOREGSEL => u32::from(self.state.select),
            IOWIN => self.read_register(),
            _ => 0,
        };
        data.fill(0);
        for (byte, of_value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = of_value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let low_byte = data.first().copied();
        let dword = data.first_chunk::<4>().copied().map(u32::from_le_bytes);
        match (offset, low_byte, dword) {
            (IOREGSEL, Some(index), _) => self.state.select = index,
            (IOWIN, _, Some(value)) => self.write_register(value),
            (EOI, Some(vector), _) => self.eoi(vector),
            _ => {}
        }
    }
}

/// One pin, as the device at its line sees it.
pub struct IoapicLine {
    ioapic: Arc<Mutex<Ioapic>>,
    pin: u32,
}

impl IoapicLine {
    /// The line into `pin`.
    pub fn new(ioapic: Arc<Mutex<Ioapic>>, pin: u32) -> Self {
        Self { ioapic, pin }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ioapic> {
        self.ioapic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IrqLine for IoapicLine {
    fn pulse(&self) {
        self.lock().pulse(self.pin);
    }
}

impl LevelLine for IoapicLine {
    fn set_level(&self, asserted: bool) {
        self.lock().set_level(self.pin, asserted);
    }
}
