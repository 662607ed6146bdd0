//! The device's way to the driver: MSI-X vectors, or INTx with the ISR byte
//! (virtio 1.2 §4.1.5.3, §4.1.5.4).

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::devices::LevelLine;
use crate::devices::pci::MsixVectors;
use crate::devices::virtio::device::VirtioInterrupt;
use crate::devices::virtio::front::{Front, FrontShared};

/// VIRTIO_MSI_NO_VECTOR: the event interrupts nobody.
pub const NO_VECTOR: u16 = 0xffff;
/// ISR: buffers of some queue were used.
const ISR_QUEUE: u8 = 1;
/// ISR: the configuration has changed.
const ISR_CONFIG: u8 = 2;
const ISR_BITS: u8 = ISR_QUEUE | ISR_CONFIG;

/// How the device interrupts. With MSI-X, no lock is taken on the way.
pub struct PciInterrupt {
    front: Arc<FrontShared>,
    msix: Arc<MsixVectors>,
    vectors: usize,
    /// The vector of each queue.
    queues: Box<[AtomicU16]>,
    /// The vector of configuration changes.
    config: AtomicU16,
    /// ISR and the line change together, or an interrupt could be lost between them.
    intx: Mutex<Intx>,
    line: Arc<dyn LevelLine>,
}

#[derive(Default)]
struct Intx {
    isr: u8,
    disabled: bool,
}

impl PciInterrupt {
    /// As after reset.
    pub fn new(front: &Front, msix: Arc<MsixVectors>, line: Arc<dyn LevelLine>) -> Self {
        let queues = 0..front.queue_count();
        Self {
            front: front.shared(),
            vectors: msix.len(),
            msix,
            queues: queues.map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            config: AtomicU16::new(NO_VECTOR),
            intx: Mutex::default(),
            line,
        }
    }

    /// As devices take it.
    pub fn handle(self: &Arc<Self>) -> Arc<dyn VirtioInterrupt> {
        self.clone()
    }

    /// The vector of queue `index`.
    pub fn queue_vector(&self, index: u16) -> u16 {
        let vector = self.queues.get(usize::from(index));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// The vector of configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.config.load(Ordering::Acquire)
    }

    /// The driver maps queue `index` to `vector`; one that does not exist becomes none.
    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(slot) = self.queues.get(usize::from(index)) {
            slot.store(self.existing(vector), Ordering::Release);
        }
    }

    /// The driver maps configuration changes to `vector`.
    pub fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), Ordering::Release);
    }

    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// The driver reads ISR, which clears it and lets go of the line.
    pub fn take_isr(&self) -> u8 {
        let mut intx = self.lock();
        let isr = std::mem::take(&mut intx.isr);
        self.update_line(&intx);
        isr
    }

    /// ISR, for who only looks.
    pub fn isr(&self) -> u8 {
        self.lock().isr
    }

    /// Whether the function wants an interrupt by INTx, allowed or not.
    pub fn intx_pending(&self) -> bool {
        self.isr() != 0 && !self.msix.is_enabled()
    }

    /// The command register, or MSI-X's control, may have changed.
    pub fn set_intx_disabled(&self, disabled: bool) {
        let mut intx = self.lock();
        intx.disabled = disabled;
        self.update_line(&intx);
    }

    /// Sets ISR to what was saved.
    pub fn restore_isr(&self, isr: u8) {
        let mut intx = self.lock();
        intx.isr = isr & ISR_BITS;
        self.update_line(&intx);
    }

    /// Everything as after the device's reset (§4.1.4.3.1, §4.1.5.1.2.1).
    pub fn reset(&self) {
        for vector in &self.queues {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.config.store(NO_VECTOR, Ordering::Release);
        self.msix.forget_pending();
        self.take_isr();
    }

    fn by_intx(&self, bit: u8) {
        let mut intx = self.lock();
        intx.isr |= bit;
        self.update_line(&intx);
    }

    fn update_line(&self, intx: &Intx) {
        let asserted = intx.isr != 0 && !intx.disabled && !self.msix.is_enabled();
        self.line.set_level(asserted);
    }

    fn lock(&self) -> MutexGuard<'_, Intx> {
        self.intx.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An interrupt for a change of the configuration.
    fn notify_config(&self) {
        if !self.msix.is_enabled() {
            self.by_intx(ISR_CONFIG);
        } else if let Some(fd) = self.msix.raise(self.config_vector()) {
            // A counter that is full has an interrupt on its way already.
            let _ = fd.write(1);
        }
    }
}

impl VirtioInterrupt for PciInterrupt {
    fn raise(&self, queue: u16) -> Option<&EventFd> {
        if self.msix.is_enabled() {
            return self.msix.raise(self.queue_vector(queue));
        }
        self.by_intx(ISR_QUEUE);
        None
    }

    fn config_changed(&self) {
        self.front.config_changed();
        self.notify_config();
    }

    fn device_broken(&self) {
        if self.front.device_broken() {
            self.notify_config();
        }
    }
}
