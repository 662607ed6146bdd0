//! A device that does nothing but remember.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use mayfly::devices::virtio::device::{
    ActivateError, Activation, DeviceType, VirtioDevice, VirtioInterrupt,
};
use mayfly::devices::virtio::transport::Doorbells;
use vmm_sys_util::eventfd::EventFd;

use super::model::Deeds;

/// Features of its own.
pub const FEATURES: u64 = 0x21;
/// Sizes of its queues.
pub const QUEUE_SIZES: [u16; 3] = [16, 256, 1];
/// Bytes of its configuration space.
pub const CONFIG_LEN: usize = 12;

#[derive(Default)]
struct Record {
    deeds: Deeds,
    config: [u8; CONFIG_LEN],
    refuses: bool,
    paused: bool,
    /// What it was handed, until it is reset.
    active: Option<Activation>,
}

/// The device, and the same for those who look at it.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().expect("nobody has panicked")
    }

    /// What was done to it since the last call.
    pub fn deeds(&self) -> Deeds {
        std::mem::take(&mut self.record().deeds)
    }

    /// Its way to the driver, while it has one.
    pub fn interrupt(&self) -> Option<Arc<dyn VirtioInterrupt>> {
        let record = self.record();
        record
            .active
            .as_ref()
            .map(|active| active.interrupt.clone())
    }

    /// Whether it will not be activated from now on.
    pub fn toggle_refusal(&self) -> bool {
        let mut record = self.record();
        record.refuses ^= true;
        record.refuses
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.record().paused
    }

    /// A device of its own, like this one and not activated.
    pub fn copy(&self) -> Self {
        let record = self.record();
        Self(Arc::new(Mutex::new(Record {
            config: record.config,
            refuses: record.refuses,
            ..Record::default()
        })))
    }
}

impl VirtioDevice for Recorder {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let record = self.record();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(record.config.iter().skip(start)) {
            *to = *from;
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut record = self.record();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in record.config.iter_mut().skip(start).zip(data) {
            *to = *from;
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut record = self.record();
        assert!(record.active.is_none(), "activated twice without a reset");
        let mut queues = Vec::new();
        for queue in &activation.queues {
            let state = queue.rings.state();
            assert!(state.ready && queue.rings.size() == state.size);
            queues.push((queue.index, state));
        }
        record.deeds.activations.push((activation.features, queues));
        if record.refuses {
            return Err(ActivateError::NoThread);
        }
        record.active = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        let mut record = self.record();
        record.deeds.resets += 1;
        record.active = None;
    }

    fn pause(&mut self) {
        self.record().paused = true;
    }

    fn resume(&mut self) {
        self.record().paused = false;
    }
}

/// Every kick is an access of a register.
pub struct NoDoorbells;

impl Doorbells for NoDoorbells {
    fn register(&self, _: u64, _: Option<u32>, _: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn unregister(&self, _: u64, _: Option<u32>, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}
