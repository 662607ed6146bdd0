//! The registers that every virtio device has, whatever its transport: features,
//! status, queues, configuration space (virtio 1.2 §2.1, §2.2, §2.5, §3.1).
//!
//! ```text
//!              FEATURES_OK           DRIVER_OK
//!  Negotiating ───────────► Configuring ─────► Running
//!       ▲                                         │ device_broken(), or
//!       │ 0                                       ▼ a queue that is no queue
//!       └──────────── from everywhere ───────── Broken
//! ```
//!
//! A driver that does things out of order is not obeyed: features are chosen while
//! negotiating only, queues set up before DRIVER_OK only, and status bits go by a
//! reset only. No register access allocates, but for DRIVER_OK.

mod status;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

pub use status::{
    ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, FrontShared, Stage,
};

use super::device::{ActivateError, Activation, ActiveQueue, DeviceType};
use super::device::{VirtioDevice, VirtioInterrupt};
use super::queue::{QueueError, QueueState, VirtQueue};
use crate::memory::GuestRam;
use crate::one_line::one_line;

/// VIRTIO_F_INDIRECT_DESC (§6).
pub const INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1: no legacy interface.
pub const VERSION_1: u64 = 1 << 32;

/// What the ring and the transports offer for every device.
const TRANSPORT_FEATURES: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
/// Bits that are a device's own (§2.2).
const DEVICE_FEATURES: u64 = ((1 << 24) - 1) | (u64::MAX << 50);

/// Offset of `idx` in the used ring (§2.7.8).
const USED_INDEX: u64 = 2;

/// What the registers remember. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontState {
    /// The status register.
    pub status: u8,
    /// Features the driver has chosen.
    pub driver_features: u64,
    /// The configuration space's generation.
    pub generation: u32,
    /// The queues in order; those missing are as after reset.
    pub queues: Vec<QueueState>,
}

/// Why a device was not activated.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("queue {index}")]
    Queue {
        index: u16,
        #[source]
        source: QueueError,
    },
    #[error(transparent)]
    Device(#[from] ActivateError),
}

/// What a driver has been told off for; once each in a machine, however often it does it
/// again.
#[derive(Default)]
struct Told {
    features: bool,
    order: bool,
    start: bool,
}

/// A device with its registers.
pub struct Front {
    device: Box<dyn VirtioDevice>,
    ram: GuestRam,
    shared: Arc<FrontShared>,
    /// What driver and device can agree on.
    offered: u64,
    driver_features: u64,
    queues: Vec<QueueState>,
    kicks: Vec<Arc<EventFd>>,
    /// Whether the device was handed queues since it was last reset.
    activated: bool,
    told: Told,
}

impl Front {
    /// The registers as after reset.
    ///
    /// # Errors
    /// The system's, if it gives no event descriptors for the kicks.
    pub fn new(device: Box<dyn VirtioDevice>, ram: GuestRam) -> io::Result<Self> {
        Self::from_state(device, ram, FrontState::default())
    }

    /// The registers in `state`. The device, if `state` has it running, is handed its
    /// queues by [`Front::reactivate`], when there is a way to the driver.
    ///
    /// # Errors
    /// As [`Front::new`].
    pub fn from_state(
        device: Box<dyn VirtioDevice>,
        ram: GuestRam,
        state: FrontState,
    ) -> io::Result<Self> {
        let offered = device.features() & DEVICE_FEATURES | TRANSPORT_FEATURES;
        let sizes = device.queue_sizes();
        // Blocking ones: an io_uring that reads them must not be told to try again.
        // A write waits only behind 2^64 kicks.
        let kicks = sizes
            .iter()
            .map(|_| EventFd::new(libc::EFD_CLOEXEC).map(Arc::new))
            .collect::<io::Result<Vec<_>>>()?;
        let mut queues = reset_queues(sizes);
        for (queue, saved) in queues.iter_mut().zip(state.queues) {
            *queue = saved;
        }
        let agreed = acceptable(state.driver_features, offered);
        let status = possible(state.status & status::ALL, agreed);
        Ok(Self {
            device,
            ram,
            shared: Arc::new(FrontShared::new(status, state.generation)),
            offered,
            driver_features: state.driver_features,
            queues,
            kicks,
            activated: false,
            told: Told::default(),
        })
    }

    /// Hands the device of a restored machine its queues, if it had them, and kicks
    /// them: a kick that the device had not seen is not part of the state.
    pub fn reactivate(&mut self, interrupt: &Arc<dyn VirtioInterrupt>) {
        if self.stage() != Stage::Running || self.activated {
            return;
        }
        self.start(interrupt);
        for index in (0..self.queue_count()).filter(|index| self.is_ready(*index)) {
            self.notify(index);
        }
    }

    fn is_ready(&self, index: u16) -> bool {
        self.queue(index).is_some_and(|queue| queue.ready)
    }

    /// The state to save. The device must be paused: what it has taken from its
    /// queues it has returned, so that the used ring says how far it has come.
    pub fn state(&self) -> FrontState {
        let mut queues = self.queues.clone();
        if self.activated {
            for queue in queues.iter_mut().filter(|queue| queue.ready) {
                let mut index = [0; 2];
                let place = queue.used.saturating_add(USED_INDEX);
                if self.ram.read(place, &mut index).is_ok() {
                    queue.next_used = u16::from_le_bytes(index);
                    queue.next_available = queue.next_used;
                }
            }
        }
        FrontState {
            status: self.status(),
            driver_features: self.driver_features,
            generation: self.config_generation(),
            queues,
        }
    }

    /// What the device is.
    pub fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }

    /// Number of queues.
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// What a kick of `queue` writes to; the same for the device's whole life.
    pub fn kick(&self, queue: u16) -> Option<&Arc<EventFd>> {
        self.kicks.get(usize::from(queue))
    }

    /// A kick that came as an exit.
    pub fn notify(&self, queue: u16) {
        if let Some(kick) = self.kick(queue) {
            // A counter that is full has a kick in it already.
            let _ = kick.write(1);
        }
    }

    /// Bits `32 * select` and up of the features offered.
    pub fn features_half(&self, select: u32) -> u32 {
        half(self.offered, select)
    }

    /// Bits `32 * select` and up of the features the driver has chosen.
    pub fn driver_features_half(&self, select: u32) -> u32 {
        half(self.driver_features, select)
    }

    /// The driver chooses features; ignored once that is over.
    pub fn set_driver_features_half(&mut self, select: u32, value: u32) {
        if self.stage() != Stage::Negotiating {
            return;
        }
        let value = u64::from(value);
        self.driver_features = match select {
            0 => self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features & 0xffff_ffff | value << 32,
            // Bits from 64 on: the device offers none.
            _ => return,
        };
    }

    /// What the driver has told of queue `index`; none if there is no such queue.
    pub fn queue(&self, index: u16) -> Option<&QueueState> {
        self.queues.get(usize::from(index))
    }

    /// The same to be changed; none while the queue is fixed: it is ready, or the
    /// device runs (or is broken).
    pub fn queue_mut(&mut self, index: u16) -> Option<&mut QueueState> {
        self.open_queue(index).filter(|queue| !queue.ready)
    }

    /// The driver enables queue `index`, or takes that back before DRIVER_OK.
    pub fn set_queue_ready(&mut self, index: u16, ready: bool) {
        if let Some(queue) = self.open_queue(index) {
            queue.ready = ready;
        }
    }

    fn open_queue(&mut self, index: u16) -> Option<&mut QueueState> {
        match self.stage() {
            Stage::Negotiating | Stage::Configuring => self.queues.get_mut(usize::from(index)),
            Stage::Running | Stage::Broken => None,
        }
    }

    /// The largest size of queue `index`; 0 if there is no such queue.
    pub fn queue_max_size(&self, index: u16) -> u16 {
        let size = self.device.queue_sizes().get(usize::from(index));
        size.copied().unwrap_or(0)
    }

    /// The status register.
    pub fn status(&self) -> u8 {
        self.shared.status()
    }

    /// How far driver and device have come.
    pub fn stage(&self) -> Stage {
        Stage::of(self.status())
    }

    /// What the transport's interrupt handle changes.
    pub fn shared(&self) -> Arc<FrontShared> {
        self.shared.clone()
    }

    /// The driver writes the status register. 0 resets the device; otherwise bits
    /// are only added: FEATURES_OK if the features will do (§3.1.1 step 5, §6.2),
    /// DRIVER_OK after it. With DRIVER_OK `interrupt` is handed to the device.
    ///
    /// A device that cannot be activated, because a queue is none, sets
    /// DEVICE_NEEDS_RESET.
    pub fn set_status(&mut self, value: u8, interrupt: &Arc<dyn VirtioInterrupt>) {
        if value == 0 {
            self.reset();
            return;
        }
        let added = value & !self.status();
        self.shared.set(added & (ACKNOWLEDGE | DRIVER | FAILED));
        if added & FEATURES_OK != 0 && self.stage() == Stage::Negotiating {
            self.agree();
        }
        if added & DRIVER_OK != 0 {
            match self.stage() {
                Stage::Configuring => {
                    // Before the device starts: it may find itself broken at once.
                    self.shared.set(DRIVER_OK);
                    self.start(interrupt);
                }
                Stage::Negotiating => self.tell_of_order(),
                Stage::Running | Stage::Broken => {}
            }
        }
    }

    /// The configuration space's generation (§2.5).
    pub fn config_generation(&self) -> u32 {
        self.shared.config_generation()
    }

    /// The driver reads the configuration space; zeros lie beyond its end.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.device.read_config(offset, data);
    }

    /// The driver writes to the configuration space; ignored until the features are
    /// agreed on (§3.1.1 step 4), and once the device is broken.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if matches!(self.stage(), Stage::Configuring | Stage::Running) {
            self.device.write_config(offset, data);
        }
    }

    /// See [`VirtioDevice::pause`].
    pub fn pause(&mut self) {
        self.device.pause();
    }

    /// See [`VirtioDevice::resume`].
    pub fn resume(&mut self) {
        self.device.resume();
    }

    /// Everything as in the beginning. The status goes last: the device's threads
    /// set DEVICE_NEEDS_RESET, if they do, before the device says that it is reset.
    fn reset(&mut self) {
        if self.activated {
            self.device.reset();
            self.activated = false;
        }
        self.driver_features = 0;
        for (queue, size) in self.queues.iter_mut().zip(self.device.queue_sizes()) {
            *queue = reset_queue(*size);
        }
        self.shared.clear();
    }

    /// FEATURES_OK, which reads back as 0 if the device does not agree.
    fn agree(&mut self) {
        if acceptable(self.driver_features, self.offered) {
            self.shared.set(FEATURES_OK);
        } else if !self.told.features {
            self.told.features = true;
            log::warn!(
                "{:?} device: the driver has chosen features {:#x} of {:#x}, which are refused",
                self.device_type(),
                self.driver_features,
                self.offered
            );
        }
    }

    fn tell_of_order(&mut self) {
        if !self.told.order {
            self.told.order = true;
            log::warn!(
                "{:?} device: DRIVER_OK without FEATURES_OK is ignored",
                self.device_type()
            );
        }
    }

    fn start(&mut self, interrupt: &Arc<dyn VirtioInterrupt>) {
        let Err(error) = self.activate(interrupt) else {
            return;
        };
        if !self.told.start {
            self.told.start = true;
            log::warn!(
                "{:?} device: cannot start, and needs a reset: {}",
                self.device_type(),
                one_line(&error)
            );
        }
        interrupt.device_broken();
    }

    fn activate(&mut self, interrupt: &Arc<dyn VirtioInterrupt>) -> Result<(), StartError> {
        let features = self.driver_features;
        let sizes = self.device.queue_sizes();
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, ((state, kick), max)) in
            (0u16..).zip(self.queues.iter().zip(&self.kicks).zip(sizes))
        {
            if state.ready {
                let rings = VirtQueue::new(self.ram.clone(), state, *max, features)
                    .map_err(|source| StartError::Queue { index, source })?;
                queues.push(ActiveQueue {
                    index,
                    rings,
                    kick: kick.clone(),
                });
            }
        }
        self.activated = true;
        self.device.activate(Activation {
            features,
            queues,
            interrupt: interrupt.clone(),
        })?;
        Ok(())
    }
}

/// The status that can be, of one that a broken snapshot may have.
fn possible(status: u8, agreed: bool) -> u8 {
    match (status & FEATURES_OK != 0, status & DRIVER_OK != 0) {
        (false, false) => status,
        (true, _) if agreed => status,
        _ => status & !(FEATURES_OK | DRIVER_OK) | DEVICE_NEEDS_RESET,
    }
}

fn acceptable(driver_features: u64, offered: u64) -> bool {
    driver_features & !offered == 0 && driver_features & VERSION_1 != 0
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn reset_queues(sizes: &[u16]) -> Vec<QueueState> {
    sizes.iter().map(|size| reset_queue(*size)).collect()
}

fn reset_queue(size: u16) -> QueueState {
    QueueState {
        size,
        ..QueueState::default()
    }
}
