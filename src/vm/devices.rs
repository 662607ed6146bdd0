//! The devices of the machine, built from their reset state and put on the buses.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::error::BuildError;
use super::lifecycle::Lifecycle;
use crate::console::Output;
use crate::devices::bus::Bus;
use crate::devices::serial::Serial;
use crate::interrupts::Interrupts;
use crate::memory::layout;

/// The buses, and the devices that others than the guest talk to.
pub struct Buses {
    /// Port space.
    pub pio: Bus,
    /// Guest-physical addresses.
    pub mmio: Bus,
    /// The serial port.
    pub serial: Arc<Mutex<Serial>>,
}
