//! virtio-pci, the modern interface only (virtio 1.2 §4.1): one function, one BAR.
//!
//! | BAR 0            | structure (§4.1.4)                                          |
//! |------------------|-------------------------------------------------------------|
//! | `0x0000..0x0038` | common configuration: features, status, queues, vectors     |
//! | `0x1000`         | ISR: why INTx was asserted; reading clears it               |
//! | `0x2000..0x3000` | the device's configuration space                            |
//! | `0x3000..0x7000` | notifications: queue n is kicked by a write at 4 n          |
//! | `0x7000..0x8000` | MSI-X pending bits                                          |
//! | `0x8000..`       | MSI-X table                                                 |
//!
//! Kicks are ioeventfds that follow the BAR. Interrupts are MSI-X vectors, as many as
//! there are queues and one for changes of the configuration; without MSI-X they are
//! INTx, which the device's thread asserts by a call.

mod capabilities;
mod common;
mod interrupt;
mod kicks;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Doorbells;
use crate::devices::LevelLine;
use crate::devices::pci::{
    COMMAND_INTX_DISABLE, ConfigSpace, Msix, MsixState, PciFunction, STATUS, STATUS_INTERRUPT,
    VECTORS_MAX,
};
use crate::devices::virtio::front::{Front, FrontState};
use crate::interrupts::MsiVector;
use capabilities::{Capabilities, capabilities};
use common::Selects;
use interrupt::PciInterrupt;
use kicks::Kicks;

pub use common::CommonState;

/// Bytes of BAR 0.
pub const BAR_SIZE: u64 = 0x1_0000;
/// The common configuration structure.
pub const COMMON: u64 = 0x0000;
/// The ISR status byte.
pub const ISR: u64 = 0x1000;
/// The device's configuration space.
pub const DEVICE: u64 = 0x2000;
/// Notifications, [`NOTIFY_MULTIPLIER`] bytes a queue.
pub const NOTIFY: u64 = 0x3000;
/// MSI-X pending bits.
pub const PENDING: u64 = 0x7000;
/// MSI-X table.
pub const TABLE: u64 = 0x8000;
/// `notify_off_multiplier`.
pub const NOTIFY_MULTIPLIER: u32 = 4;

/// What the registers remember. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioPciState {
    /// The registers common to all transports.
    pub front: FrontState,
    /// The configuration space's bytes, of which only those count that a guest can write.
    pub config: Vec<u8>,
    /// MSI-X table and pending bits.
    pub msix: MsixState,
    /// The rest of the common configuration structure, and ISR.
    pub common: CommonState,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    config: ConfigSpace,
    capabilities: Capabilities,
    front: Front,
    selects: Selects,
    msix: Msix,
    interrupt: Arc<PciInterrupt>,
    kicks: Kicks,
}

impl VirtioPci {
    /// Vectors that the device behind `front` has use for: one a queue, and one for
    /// changes of its configuration.
    pub fn vector_count(front: &Front) -> usize {
        usize::from(front.queue_count())
            .saturating_add(1)
            .min(VECTORS_MAX)
    }

    /// The function as after reset. `vectors` are its MSI-X vectors
    /// ([`vector_count`](Self::vector_count) of them), `line` its share in INTx, and
    /// `doorbells` take its kicks: those that they refuse are exits.
    pub fn new(
        front: Front,
        vectors: Vec<MsiVector>,
        line: Arc<dyn LevelLine>,
        doorbells: Arc<dyn Doorbells>,
    ) -> Self {
        let msix = Msix::new(vectors);
        let interrupt = Arc::new(PciInterrupt::new(&front, msix.vectors().clone(), line));
        let (config, capabilities) = capabilities(&front, msix.len());
        Self {
            config,
            capabilities,
            selects: Selects::default(),
            msix,
            interrupt,
            kicks: Kicks::new(doorbells, front.queue_count()),
            front,
        }
    }

    /// The function in `state`; `front` is made from `state.front` already. A device
    /// that was running is handed its queues.
    pub fn from_state(
        front: Front,
        state: &VirtioPciState,
        vectors: Vec<MsiVector>,
        line: Arc<dyn LevelLine>,
        doorbells: Arc<dyn Doorbells>,
    ) -> Self {
        let mut function = Self::new(front, vectors, line, doorbells);
        function.config.restore(&state.config);
        function.msix.restore(&state.msix);
        function.restore_common(&state.common);
        function.config_written();
        let interrupt = function.interrupt.handle();
        function.front.reactivate(&interrupt);
        function
    }

    /// The state to save; the device must be paused.
    pub fn state(&self) -> VirtioPciState {
        VirtioPciState {
            front: self.front.state(),
            config: self.config.state(),
            msix: self.msix.state(),
            common: self.common_state(),
        }
    }

    /// The registers common to all transports.
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// What else is to follow the registers of the configuration space.
    fn config_written(&mut self) {
        if let Some(control) = self.capabilities.msix_control {
            self.msix.set_control(self.config.u16(control));
        }
        let disabled = self.config.command(COMMAND_INTX_DISABLE);
        self.interrupt.set_intx_disabled(disabled);
        let bar = self.memory().map(|range| range.start);
        self.kicks.follow(bar, &self.front);
    }

    /// The access that the PCI configuration access capability (§4.1.4.9) describes:
    /// place and width; none if it is not one that can be made.
    fn described_access(&self) -> Option<(u64, usize)> {
        let access = self.capabilities.access?;
        let offset = u64::from(self.config.u32(access.offset));
        let width = self.config.u32(access.length);
        let valid = self.config.u16(access.bar) & 0xff == 0
            && matches!(width, 1 | 2 | 4)
            && offset.is_multiple_of(width.into())
            && offset < BAR_SIZE;
        valid.then_some((offset, usize::try_from(width).ok()?))
    }

    /// Where the data of that access lies within an access at `offset`, if it does.
    fn holds_access_data(&self, offset: usize, len: usize) -> Option<usize> {
        let data = self.capabilities.access?.data;
        let end = offset.checked_add(len)?;
        (offset < data.checked_add(4)? && data < end).then_some(data)
    }
}

impl PciFunction for VirtioPci {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
        if self.interrupt.intx_pending() {
            let status = self.config.u16(STATUS) | STATUS_INTERRUPT;
            overlay(data, offset, STATUS, &status.to_le_bytes());
        }
        if let Some(at) = self.holds_access_data(offset, data.len())
            && let Some((place, width)) = self.described_access()
        {
            let mut value = [0; 4];
            if let Some(value) = value.get_mut(..width) {
                self.read_memory(place, value);
            }
            overlay(data, offset, at, &value);
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let Some(at) = self.holds_access_data(offset, data.len())
            && let Some((place, width)) = self.described_access()
        {
            let mut value = [0; 4];
            overlay(&mut value, at, offset, data);
            if let Some(value) = value.get(..width) {
                self.write_memory(place, value);
            }
        }
        self.config.write(offset, data);
        self.config_written();
    }

    fn memory_size(&self) -> u64 {
        BAR_SIZE
    }

    fn memory(&self) -> Option<Range<u64>> {
        self.config.memory(BAR_SIZE)
    }

    fn read_memory(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            COMMON..ISR => self.read_common(offset, data),
            ISR => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.interrupt.take_isr();
                }
            }
            DEVICE..NOTIFY => self.front.read_config(offset - DEVICE, data),
            PENDING..TABLE => self.msix.read_pending(index(offset - PENDING), data),
            TABLE.. => self.msix.read_table(index(offset - TABLE), data),
            _ => {}
        }
    }

    fn write_memory(&mut self, offset: u64, data: &[u8]) {
        match offset {
            COMMON..ISR => self.write_common(offset, data),
            DEVICE..NOTIFY => self.front.write_config(offset - DEVICE, data),
            NOTIFY..PENDING => {
                let queue = (offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER);
                if let Ok(queue) = u16::try_from(queue) {
                    self.front.notify(queue);
                }
            }
            TABLE.. => self.msix.write_table(index(offset - TABLE), data),
            _ => {}
        }
    }

    fn pause(&mut self) {
        self.front.pause();
    }

    fn resume(&mut self) {
        self.front.resume();
    }
}

/// An offset into the BAR; one that no usize holds is beyond everything.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Puts `bytes`, which lie at `at`, over the part of `data` that lies there; `data`
/// begins at `offset`.
fn overlay(data: &mut [u8], offset: usize, at: usize, bytes: &[u8]) {
    for (place, byte) in (offset..).zip(data) {
        let within = place.checked_sub(at).and_then(|index| bytes.get(index));
        if let Some(new) = within {
            *byte = *new;
        }
    }
}
