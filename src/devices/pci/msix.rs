//! MSI-X (PCI 3.0 §6.8.2): the table of messages, and what masks them.
//!
//! ```text
//!  guest ─ table, control ─► Msix ─ route, mask ─► MsixVectors ◄─ raise ─ device's thread
//!                                                       └─► descriptor to write, or pending
//! ```
//!
//! A vector's message is handed to KVM when the vector is unmasked, and stays there
//! while it is masked: the mask decides whether the device's thread may write the
//! descriptor. So a mask costs no system call, and raising takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::ioapic::Msi;
use crate::interrupts::MsiVector;

/// The most vectors a function can have.
pub const VECTORS_MAX: usize = 2048;

/// Message control: MSI-X instead of INTx.
pub const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub const CONTROL_FUNCTION_MASK: u16 = 1 << 14;

/// Bytes of a table entry: address, data, vector control.
const ENTRY: usize = 16;
const DATA: usize = 8;
const VECTOR_CONTROL: usize = 12;
/// Vector control: masked.
const MASKED: u8 = 1;
/// Bits of an entry that can be written: all but the reserved ones of vector control.
const VECTOR_CONTROL_BITS: [u8; 4] = [MASKED, 0, 0, 0];

/// Everything the table remembers; of what is here the guest can have written all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    /// The table, 16 bytes an entry.
    pub table: Vec<u8>,
    /// Vectors that are pending.
    pub pending: Vec<u16>,
    /// Message control: enable and function mask.
    pub control: u16,
}

/// What the device's threads need to interrupt.
pub struct MsixVectors {
    enabled: AtomicBool,
    vectors: Box<[Vector]>,
}

struct Vector {
    msi: MsiVector,
    /// By its own mask, the function's, or because MSI-X is off.
    masked: AtomicBool,
    pending: AtomicBool,
}

impl MsixVectors {
    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Whether there is no vector.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Whether MSI-X is on; if not, the function interrupts by INTx.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// The descriptor to write for an interrupt by vector `vector`; none if it is
    /// masked, and pending from now on, or if there is no such vector.
    pub fn raise(&self, vector: u16) -> Option<&EventFd> {
        let vector = self.vectors.get(usize::from(vector))?;
        if vector.masked.load(Ordering::SeqCst) {
            vector.pending.store(true, Ordering::SeqCst);
            // Unmasked meanwhile: whoever clears the bit sends the message.
            let unmasked = !vector.masked.load(Ordering::SeqCst);
            if !(unmasked && vector.pending.swap(false, Ordering::SeqCst)) {
                return None;
            }
        }
        Some(vector.msi.fd())
    }

    /// Nothing is pending any more: the device was reset.
    pub fn forget_pending(&self) {
        for vector in &self.vectors {
            vector.pending.store(false, Ordering::SeqCst);
        }
    }
}

/// The table, as the guest sees it.
pub struct Msix {
    entries: Vec<[u8; ENTRY]>,
    /// What KVM knows of each entry.
    routes: Vec<Option<Msi>>,
    control: u16,
    shared: Arc<MsixVectors>,
}

impl Msix {
    /// A table of all `vectors`, of which there must be no more than [`VECTORS_MAX`]:
    /// those beyond are dropped. Every entry is masked, and MSI-X off.
    pub fn new(mut vectors: Vec<MsiVector>) -> Self {
        vectors.truncate(VECTORS_MAX);
        let mut reset = [0; ENTRY];
        reset[VECTOR_CONTROL] = MASKED;
        let entries = vec![reset; vectors.len()];
        let routes = vec![None; vectors.len()];
        let vectors = vectors.into_iter().map(|msi| Vector {
            msi,
            masked: AtomicBool::new(true),
            pending: AtomicBool::new(false),
        });
        let shared = Arc::new(MsixVectors {
            enabled: AtomicBool::new(false),
            vectors: vectors.collect(),
        });
        Self {
            entries,
            routes,
            control: 0,
            shared,
        }
    }

    /// What the device's threads share of it.
    pub fn vectors(&self) -> &Arc<MsixVectors> {
        &self.shared
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no vector.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The guest has written message control.
    pub fn set_control(&mut self, control: u16) {
        let control = control & (CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
        if control == self.control {
            return;
        }
        self.control = control;
        let enabled = control & CONTROL_ENABLE != 0;
        self.shared.enabled.store(enabled, Ordering::SeqCst);
        (0..self.entries.len()).for_each(|index| self.apply(index));
    }

    /// The guest reads at `offset` into the table.
    pub fn read_table(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            if let Some(entry) = self.entries.get(at / ENTRY) {
                *byte = entry.get(at % ENTRY).copied().unwrap_or(0);
            }
        }
    }

    /// The guest writes at `offset` into the table.
    pub fn write_table(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            let Some(entry) = self.entries.get_mut(at / ENTRY) else {
                break;
            };
            let mask = (at % ENTRY).checked_sub(VECTOR_CONTROL);
            let mask = mask.and_then(|at| VECTOR_CONTROL_BITS.get(at));
            if let Some(slot) = entry.get_mut(at % ENTRY) {
                *slot = byte & mask.unwrap_or(&0xff);
            }
        }
        let end = offset.saturating_add(data.len()).div_ceil(ENTRY);
        (offset / ENTRY..end.min(self.entries.len())).for_each(|index| self.apply(index));
    }

    /// The guest reads at `offset` into the pending bits.
    pub fn read_pending(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let first = at.saturating_mul(8);
            let vectors = self.shared.vectors.get(first..).unwrap_or_default();
            *byte = vectors
                .iter()
                .take(8)
                .enumerate()
                .fold(0, |bits, (bit, vector)| {
                    bits | u8::from(vector.pending.load(Ordering::SeqCst)) << bit
                });
        }
    }

    /// What to save of it.
    pub fn state(&self) -> MsixState {
        let vectors = (0u16..).zip(&self.shared.vectors);
        let pending = vectors.filter(|(_, vector)| vector.pending.load(Ordering::SeqCst));
        MsixState {
            table: self.entries.concat(),
            pending: pending.map(|(index, _)| index).collect(),
            control: self.control,
        }
    }

    /// Takes over what was saved, as far as there are vectors for it.
    pub fn restore(&mut self, state: &MsixState) {
        for index in &state.pending {
            if let Some(vector) = self.shared.vectors.get(usize::from(*index)) {
                vector.pending.store(true, Ordering::SeqCst);
            }
        }
        self.write_table(0, &state.table);
        self.set_control(state.control);
    }

    /// Brings what the device's threads and KVM know of a vector in step with its entry.
    fn apply(&mut self, index: usize) {
        let (Some(entry), Some(route), Some(vector)) = (
            self.entries.get(index),
            self.routes.get_mut(index),
            self.shared.vectors.get(index),
        ) else {
            return;
        };
        let deliverable = self.control & (CONTROL_ENABLE | CONTROL_FUNCTION_MASK) == CONTROL_ENABLE;
        if !deliverable || entry[VECTOR_CONTROL] & MASKED != 0 {
            vector.masked.store(true, Ordering::SeqCst);
            return;
        }
        let wanted = Some(message(entry));
        if *route != wanted {
            *route = wanted;
            vector.msi.set_route(wanted);
        }
        vector.masked.store(false, Ordering::SeqCst);
        if vector.pending.swap(false, Ordering::SeqCst) {
            // A counter that is full has an interrupt on its way already.
            let _ = vector.msi.fd().write(1);
        }
    }
}

fn message(entry: &[u8; ENTRY]) -> Msi {
    let [a, b, c, d, e, f, g, h, ..] = *entry;
    let data = entry[DATA..].first_chunk().copied().unwrap_or_default();
    Msi {
        address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        data: u32::from_le_bytes(data),
    }
}

#[cfg(test)]
#[path = "msix_tests.rs"]
mod tests;
