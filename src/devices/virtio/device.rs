//! The contract between a virtio device and the transport it sits behind.
//!
//! ```text
//!            features, queues, DRIVER_OK
//!  reset ──────────────────────────────► active ⇄ paused
//!    ▲            activate()               │  pause(), resume()
//!    └─────────────────────────────────────┘
//!                  reset()
//! ```
//!
//! The transport serves the registers that every device has (status, features,
//! queues); the device states what it is, and is handed its queues when the
//! driver sets DRIVER_OK (virtio 1.2 §3.1.1). It gives everything back on reset.

use std::sync::Arc;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::queue::VirtQueue;

/// Device types (virtio 1.2 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceType {
    /// A network interface (§5.1).
    Net = 1,
    /// A disk (§5.2).
    Block = 2,
    /// A source of randomness (§5.4).
    Entropy = 4,
}

/// Why a device could not be activated: its queues are not what it needs.
#[derive(Debug, Error)]
pub enum ActivateError {
    /// Fewer queues are enabled than the device cannot do without.
    #[error("the driver has enabled {given} of the {needed} queues that the device needs")]
    Queues {
        /// Queues enabled.
        given: usize,
        /// Queues needed.
        needed: usize,
    },
    /// The thread that serves the device has ended.
    #[error("the thread that serves the device has ended")]
    NoThread,
}

/// How a device reaches the guest's driver; one for all its queues.
pub trait VirtioInterrupt: Send + Sync {
    /// Buffers of queue `queue` were used and the driver wants to know (§2.7.7,
    /// §4.1.5.3, §4.2.3.4). Notes in the registers what the driver will read there
    /// and gives the descriptor that is to be written (one 8-byte `1`) for the
    /// interrupt; none where there is nothing to write: the interrupt is masked and
    /// noted as pending, or the queue has no vector.
    ///
    /// A device whose thread sleeps in io_uring writes the descriptor there.
    fn raise(&self, queue: u16) -> Option<&EventFd>;

    /// [`raise`](Self::raise), and the write.
    fn queue_used(&self, queue: u16) {
        if let Some(fd) = self.raise(queue) {
            // A counter that is full has an interrupt on its way already.
            let _ = fd.write(1);
        }
    }

    /// The configuration space has changed: a new generation, and an interrupt.
    fn config_changed(&self);

    /// The driver has broken a rule that the device cannot recover from: sets
    /// DEVICE_NEEDS_RESET (§2.1.2). The device serves nothing until it is reset.
    fn device_broken(&self);
}

/// A queue that the driver has set up.
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    /// Its rings.
    pub rings: VirtQueue,
    /// Readable when the driver has made buffers available.
    pub kick: Arc<EventFd>,
}

/// What a device is handed when the driver sets DRIVER_OK.
pub struct Activation {
    /// The features both sides agreed on, as one 64-bit mask.
    pub features: u64,
    /// The queues the driver has enabled, in order of their numbers.
    pub queues: Vec<ActiveQueue>,
    /// The way to the driver.
    pub interrupt: Arc<dyn VirtioInterrupt>,
}

/// A virtio device without its transport.
///
/// Called on the thread of the vCPU that makes the access, but for
/// [`pause`](Self::pause) and [`resume`](Self::resume).
pub trait VirtioDevice: Send {
    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// The device's own feature bits (0 to 23, and 50 up). Those of the ring and the transport
    /// (VERSION_1, EVENT_IDX, INDIRECT_DESC) are added by the transport.
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two each; their number is the
    /// number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// The driver reads its configuration space at `offset`. `data` comes filled
    /// with zeros, which is what lies beyond its end.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes to its configuration space at `offset`; what cannot be
    /// written is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The driver is ready (DRIVER_OK).
    ///
    /// # Errors
    /// [`ActivateError`]; the transport sets DEVICE_NEEDS_RESET then.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Back to the state before activation. Returns when nothing is in flight any
    /// more: from then on the device touches neither the queues nor guest memory.
    fn reset(&mut self);

    /// Finishes what is in flight and takes up nothing new, so that guest memory and
    /// the queues' state hold still. Returns when that is so.
    fn pause(&mut self);

    /// Goes on after a pause.
    fn resume(&mut self);
}
