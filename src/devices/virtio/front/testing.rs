//! A device that does nothing but remember, and a way to the driver that does too.

use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::EventFd;

use super::super::device::{ActivateError, Activation, DeviceType, VirtioDevice, VirtioInterrupt};
use super::{DRIVER_OK, FrontShared};
use super::{Front, FrontState};
use crate::memory::GuestRam;

/// Bits 0 and 9, and one (24) that is not a device's to offer.
pub const OWN_FEATURES: u64 = 1 | 1 << 9 | 1 << 24;
/// Sizes of the queues.
pub const QUEUE_SIZES: [u16; 2] = [256, 16];

/// What became of a device.
#[derive(Default)]
pub struct Log {
    /// Features, then queue numbers and sizes, of each activation.
    pub activations: Vec<(u64, Vec<(u16, u16)>)>,
    /// Calls of `reset`.
    pub resets: usize,
    /// Whether it is paused.
    pub paused: bool,
    /// The configuration space.
    pub config: [u8; 8],
    /// Whether activation fails.
    pub refuses: bool,
    /// What it was handed last, until it is reset.
    pub active: Option<Activation>,
}

/// A device that keeps a [`Log`].
#[derive(Clone, Default)]
pub struct Probe(Arc<Mutex<Log>>);

impl Probe {
    /// What became of it.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    /// The registers of this device, after reset.
    pub fn front(&self, ram: &GuestRam) -> Front {
        Front::new(Box::new(self.clone()), ram.clone()).unwrap()
    }

    /// The registers of this device in `state`.
    pub fn front_in(&self, ram: &GuestRam, state: FrontState) -> Front {
        Front::from_state(Box::new(self.clone()), ram.clone(), state).unwrap()
    }
}

impl VirtioDevice for Probe {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }
    fn features(&self) -> u64 {
        OWN_FEATURES
    }
    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (offset, byte) in (offset as usize..).zip(data) {
            if let Some(value) = self.log().config.get(offset) {
                *byte = *value;
            }
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (offset, byte) in (offset as usize..).zip(data) {
            if let Some(value) = self.log().config.get_mut(offset) {
                *value = *byte;
            }
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut log = self.log();
        if log.refuses {
            return Err(ActivateError::NoThread);
        }
        let queues = activation.queues.iter();
        let queues = queues.map(|queue| (queue.index, queue.rings.size()));
        log.activations
            .push((activation.features, queues.collect()));
        assert!(log.active.replace(activation).is_none(), "not reset");
        Ok(())
    }
    fn reset(&mut self) {
        let mut log = self.log();
        log.resets += 1;
        log.active = None;
    }
    fn pause(&mut self) {
        self.log().paused = true;
    }
    fn resume(&mut self) {
        self.log().paused = false;
    }
}

/// A way to the driver that counts configuration changes told.
pub struct Told {
    /// The registers.
    pub shared: Arc<FrontShared>,
    /// Configuration change interrupts.
    pub config_changes: Mutex<usize>,
}

impl Told {
    /// The way from the device behind `front`.
    pub fn new(front: &Front) -> Arc<Self> {
        Arc::new(Self {
            shared: front.shared(),
            config_changes: Mutex::default(),
        })
    }
}

impl VirtioInterrupt for Told {
    fn raise(&self, _queue: u16) -> Option<&EventFd> {
        None
    }
    fn config_changed(&self) {
        self.shared.config_changed();
        *self.config_changes.lock().unwrap() += 1;
    }
    fn device_broken(&self) {
        if self.shared.device_broken() {
            assert_ne!(self.shared.status() & DRIVER_OK, 0);
            *self.config_changes.lock().unwrap() += 1;
        }
    }
}
