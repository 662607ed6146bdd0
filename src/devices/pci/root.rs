//! The bus: which functions are on it, and who answers.

use std::sync::{Arc, Mutex};

use thiserror::Error;

use super::host_bridge::HostBridge;
use super::{BAR0, INTERRUPT_LINE, PciBars, PciEcam, PciFunction, PciPorts, PciPortsState};
use crate::devices::bus::{Bus, BusError};
use crate::devices::reset_control::{ResetControl, ResetControlState};
use crate::memory::layout::{
    ECAM_SIZE, ECAM_START, PCI_BAR_SIZE, PCI_BAR_START, PCI_INTX_GSIS, PORT_PCI_CONFIG,
};

/// Devices on a bus.
const DEVICES: usize = 32;

/// Why a device could not be put on the bus.
#[derive(Debug, Error)]
pub enum PciError {
    /// All places are taken.
    #[error("there is no room for another device on the PCI bus, which takes 31; use fewer")]
    Full,
    /// The window for BARs is full.
    #[error("there is no room for another device's registers in the PCI window; use fewer devices")]
    NoAddress,
}

/// Bus 0, with the host bridge as device 0.
pub struct PciRoot {
    /// By device number.
    functions: Vec<Box<dyn PciFunction>>,
    /// From here on the BAR window is free.
    next_address: u64,
}

impl Default for PciRoot {
    fn default() -> Self {
        Self::new()
    }
}

impl PciRoot {
    /// A bus with nothing but the host bridge.
    pub fn new() -> Self {
        Self {
            functions: vec![Box::new(HostBridge::new())],
            next_address: PCI_BAR_START,
        }
    }

    /// The GSI to which INTA of device `device` leads; ACPI tells the guest.
    pub fn intx_gsi(device: usize) -> u32 {
        let [first, second] = PCI_INTX_GSIS;
        if device.is_multiple_of(2) {
            first
        } else {
            second
        }
    }

    /// The number that the next device gets.
    pub fn next_device(&self) -> usize {
        self.functions.len()
    }

    /// Puts `function` on the bus as the next device, and sets its BAR and its
    /// interrupt line up as firmware would.
    ///
    /// # Errors
    /// [`PciError`] if there is no place, or no address left for its registers.
    pub fn add(&mut self, mut function: Box<dyn PciFunction>) -> Result<(), PciError> {
        if self.functions.len() >= DEVICES {
            return Err(PciError::Full);
        }
        let size = function.memory_size();
        if size > 0 {
            let start = self
                .take_addresses(size)
                .and_then(|start| u32::try_from(start).ok())
                .ok_or(PciError::NoAddress)?;
            function.write_config(BAR0, &start.to_le_bytes());
        }
        let gsi = Self::intx_gsi(self.functions.len());
        function.write_config(INTERRUPT_LINE, &[gsi as u8]);
        self.functions.push(function);
        Ok(())
    }

    /// A range of the window that is aligned to its own size.
    fn take_addresses(&mut self, size: u64) -> Option<u64> {
        let start = self.next_address.checked_next_multiple_of(size)?;
        let end = start.checked_add(size)?;
        if end > PCI_BAR_START.checked_add(PCI_BAR_SIZE)? {
            return None;
        }
        self.next_address = end;
        Some(start)
    }

    /// Puts the bus behind the ports and the windows that `layout` gives it. `reset`
    /// is the reset control register, whose port lies among the bus's.
    ///
    /// # Errors
    /// [`BusError`] if another device has claimed one of them.
    pub fn attach(
        self,
        pio: &mut Bus,
        mmio: &mut Bus,
        reset: impl FnOnce(ResetControlState) -> ResetControl,
    ) -> Result<Arc<Mutex<Self>>, BusError> {
        let root = Arc::new(Mutex::new(self));
        let ports = PciPorts::from_state(PciPortsState::default(), root.clone(), reset);
        let ports = Arc::new(Mutex::new(ports));
        pio.insert(u64::from(PORT_PCI_CONFIG), PciPorts::LEN, ports)?;
        let ecam = Arc::new(Mutex::new(PciEcam::new(root.clone())));
        mmio.insert(ECAM_START, ECAM_SIZE, ecam)?;
        let bars = Arc::new(Mutex::new(PciBars::new(root.clone())));
        mmio.insert(PCI_BAR_START, PCI_BAR_SIZE, bars)?;
        Ok(root)
    }

    /// The guest reads configuration. Where there is no device `data` is left as it is.
    pub fn read_config(&mut self, device: usize, register: usize, data: &mut [u8]) {
        if let Some(function) = self.functions.get_mut(device) {
            data.fill(0);
            function.read_config(register, data);
        }
    }

    /// The guest writes configuration.
    pub fn write_config(&mut self, device: usize, register: usize, data: &[u8]) {
        if let Some(function) = self.functions.get_mut(device) {
            function.write_config(register, data);
        }
    }

    /// The guest reads guest-physical `addr`. Where no BAR is `data` is left as it is.
    pub fn read_memory(&mut self, addr: u64, data: &mut [u8]) {
        if let Some((function, offset)) = self.at(addr, data.len()) {
            data.fill(0);
            function.read_memory(offset, data);
        }
    }

    /// The guest writes to guest-physical `addr`.
    pub fn write_memory(&mut self, addr: u64, data: &[u8]) {
        if let Some((function, offset)) = self.at(addr, data.len()) {
            function.write_memory(offset, data);
        }
    }

    /// The function that decodes the whole access, and the offset into its BAR. Where
    /// BARs overlap the lowest device number wins.
    fn at(&mut self, addr: u64, len: usize) -> Option<(&mut (dyn PciFunction + 'static), u64)> {
        let end = addr.checked_add(u64::try_from(len).ok()?)?;
        self.functions.iter_mut().find_map(|function| {
            let range = function.memory()?;
            let inside = range.start <= addr && end <= range.end;
            let offset = addr.checked_sub(range.start)?;
            inside.then_some((&mut **function, offset))
        })
    }

    /// Finishes what the devices have in flight; they take up nothing new.
    pub fn pause(&mut self) {
        for function in &mut self.functions {
            function.pause();
        }
    }

    /// The devices go on.
    pub fn resume(&mut self) {
        for function in &mut self.functions {
            function.resume();
        }
    }
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
