//! The status register's bits, and what a device's own threads change of the registers.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The driver has noticed the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The driver knows how to drive it.
pub const DRIVER: u8 = 2;
/// The driver is set up, and the device serves its queues.
pub const DRIVER_OK: u8 = 4;
/// Both sides agree on the features.
pub const FEATURES_OK: u8 = 8;
/// The device cannot go on until it is reset; only it sets this.
pub const DEVICE_NEEDS_RESET: u8 = 64;
/// The driver has given up.
pub const FAILED: u8 = 128;

/// Every bit there is.
pub(super) const ALL: u8 =
    ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | DEVICE_NEEDS_RESET | FAILED;

/// How far driver and device have come (virtio 1.2 §3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From reset to FEATURES_OK: the driver chooses features.
    Negotiating,
    /// From FEATURES_OK to DRIVER_OK: the driver sets up its queues.
    Configuring,
    /// DRIVER_OK: the device serves its queues.
    Running,
    /// DEVICE_NEEDS_RESET or FAILED: only a reset leads on.
    Broken,
}

impl Stage {
    /// What a status says.
    pub fn of(status: u8) -> Self {
        if status & (DEVICE_NEEDS_RESET | FAILED) != 0 {
            Self::Broken
        } else if status & DRIVER_OK != 0 {
            Self::Running
        } else if status & FEATURES_OK != 0 {
            Self::Configuring
        } else {
            Self::Negotiating
        }
    }
}

/// The registers that the device's threads change while vCPUs read them.
#[derive(Debug, Default)]
pub struct FrontShared {
    status: AtomicU8,
    generation: AtomicU32,
}

impl FrontShared {
    pub(super) fn new(status: u8, generation: u32) -> Self {
        Self {
            status: AtomicU8::new(status),
            generation: AtomicU32::new(generation),
        }
    }

    /// The status register.
    pub fn status(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    /// Changes whenever the configuration space does (§2.5).
    pub fn config_generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The configuration space has changed.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Sets DEVICE_NEEDS_RESET. True if the driver has to be told by a
    /// configuration change interrupt: it had set DRIVER_OK, and does not know yet
    /// (§2.1.2).
    pub fn device_broken(&self) -> bool {
        let before = self.status.fetch_or(DEVICE_NEEDS_RESET, Ordering::AcqRel);
        before & (DRIVER_OK | DEVICE_NEEDS_RESET) == DRIVER_OK
    }

    pub(super) fn set(&self, bits: u8) {
        self.status.fetch_or(bits, Ordering::AcqRel);
    }

    pub(super) fn clear(&self) {
        self.status.store(0, Ordering::Release);
    }
}
