//! The root's two windows in memory: ECAM (PCI Express Base 5.0 §7.2.2) for the
//! configuration of bus 0, and the one in which the BARs lie.

use std::sync::{Arc, Mutex, PoisonError};

use super::PciRoot;
use crate::devices::BusDevice;
use crate::memory::layout::PCI_BAR_START;

const DEVICE_SHIFT: u32 = 15;
const FUNCTION_SHIFT: u32 = 12;
const FUNCTION_BITS: u64 = 7;
const REGISTER_BITS: u64 = 0xfff;

/// Configuration space in memory, 4 KiB a function.
pub struct PciEcam {
    root: Arc<Mutex<PciRoot>>,
}

impl PciEcam {
    /// The window of `root`.
    pub fn new(root: Arc<Mutex<PciRoot>>) -> Self {
        Self { root }
    }
}

/// The device and the byte of its configuration space; none for the functions that no
/// device has.
fn target(offset: u64) -> Option<(usize, usize)> {
    if offset >> FUNCTION_SHIFT & FUNCTION_BITS != 0 {
        return None;
    }
    let device = usize::try_from(offset >> DEVICE_SHIFT).ok()?;
    Some((device, usize::try_from(offset & REGISTER_BITS).ok()?))
}

impl BusDevice for PciEcam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some((device, register)) = target(offset) {
            let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
            root.read_config(device, register, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some((device, register)) = target(offset) {
            let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
            root.write_config(device, register, data);
        }
    }
}

/// The window from [`PCI_BAR_START`]: whatever BAR is there.
pub struct PciBars {
    root: Arc<Mutex<PciRoot>>,
}

impl PciBars {
    /// The window of `root`.
    pub fn new(root: Arc<Mutex<PciRoot>>) -> Self {
        Self { root }
    }
}

impl BusDevice for PciBars {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(addr) = PCI_BAR_START.checked_add(offset) {
            let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
            root.read_memory(addr, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(addr) = PCI_BAR_START.checked_add(offset) {
            let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
            root.write_memory(addr, data);
        }
    }
}
