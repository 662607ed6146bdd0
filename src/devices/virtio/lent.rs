//! A device that outlives the machine it is in.
//!
//! A guest that resets gets a new machine, and finds in it the devices of the one
//! before: their files and links stay open, their threads run on. So a machine is
//! lent its devices.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};

/// A device that is lent to one machine after the other.
pub struct Kept(Arc<Mutex<Box<dyn VirtioDevice>>>);

impl Kept {
    /// Keeps `device`, which is as after reset.
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(device))))
    }

    /// The device as the next machine has it. The one before must run no more, and
    /// [`reset`](Self::reset) must have been called since.
    pub fn lend(&self) -> Box<dyn VirtioDevice> {
        let device = lock(&self.0);
        Box::new(Lent {
            device_type: device.device_type(),
            features: device.features(),
            queue_sizes: device.queue_sizes().to_vec(),
            device: self.0.clone(),
        })
    }

    /// The machine is reset: whatever it was doing, the device gives back what that
    /// machine's driver has handed to it, and is as in the beginning.
    pub fn reset(&self) {
        let mut device = lock(&self.0);
        device.reset();
        // The machine may have been paused when it ended.
        device.resume();
    }
}

/// A device in one machine.
struct Lent {
    device: Arc<Mutex<Box<dyn VirtioDevice>>>,
    device_type: DeviceType,
    features: u64,
    queue_sizes: Vec<u16>,
}

impl VirtioDevice for Lent {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        lock(&self.device).read_config(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        lock(&self.device).write_config(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        lock(&self.device).activate(activation)
    }

    fn reset(&mut self) {
        lock(&self.device).reset();
    }

    fn pause(&mut self) {
        lock(&self.device).pause();
    }

    fn resume(&mut self) {
        lock(&self.device).resume();
    }
}

fn lock(device: &Mutex<Box<dyn VirtioDevice>>) -> MutexGuard<'_, Box<dyn VirtioDevice>> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::front::testing::{Probe, Told};
    use super::*;
    use crate::memory::GuestRam;

    #[test]
    fn one_machine_after_the_other_has_the_device_as_in_the_beginning() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let probe = Probe::default();
        let interrupt = Told::new(&probe.front(&ram));
        let kept = Kept::new(probe.clone());
        for boot in 1..=3 {
            let mut device = kept.lend();
            assert_eq!(device.queue_sizes(), probe.queue_sizes());
            // The device itself refuses to be activated twice without a reset.
            let activation = Activation {
                features: boot,
                queues: Vec::new(),
                interrupt: interrupt.clone(),
            };
            device.activate(activation).unwrap();
            device.pause();
            kept.reset();
            let log = probe.log();
            assert!(log.active.is_none() && !log.paused);
            assert_eq!(log.activations.len() as u64, boot);
        }
    }
}
