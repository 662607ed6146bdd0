//! Configuration mechanism #1: ports 0xcf8 to 0xcff (PCI 3.0 §3.2.2.3.2), in whose
//! midst a PC has its reset control register.
//!
//! | port   | access          | what is there                                       |
//! |--------|-----------------|-----------------------------------------------------|
//! | 0xcf8  | 32 bits         | CONFIG_ADDRESS: enable, bus, device, function, register |
//! | 0xcf9  | 8 bits          | reset control ([`super::super::reset_control`])     |
//! | 0xcfc  | 8, 16, 32 bits  | CONFIG_DATA: the selected register, at any byte     |
//!
//! Other widths at CONFIG_ADDRESS belong to no device.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::PciRoot;
use crate::devices::BusDevice;
use crate::devices::reset_control::{ResetControl, ResetControlState};
use crate::memory::layout::{PORT_PCI_CONFIG, PORT_RESET};

const DATA: u64 = 4;
const RESET: u64 = (PORT_RESET - PORT_PCI_CONFIG) as u64;

const ENABLE: u32 = 1 << 31;
/// Enable, bus, device, function and register; the others read as zero.
const ADDRESS_BITS: u32 = 0x80ff_fffc;
const BUS_SHIFT: u32 = 16;
const DEVICE_SHIFT: u32 = 11;
const FUNCTION_SHIFT: u32 = 8;

/// Everything the ports remember. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciPortsState {
    /// CONFIG_ADDRESS.
    pub address: u32,
    /// The reset control register.
    pub reset: ResetControlState,
}

/// The ports.
pub struct PciPorts {
    address: u32,
    root: Arc<Mutex<PciRoot>>,
    reset: ResetControl,
}

impl PciPorts {
    /// Ports of the device.
    pub const LEN: u64 = 8;

    /// Builds the ports in `state`, before the functions of `root`. `reset` makes the
    /// reset control register in the state it is given.
    pub fn from_state(
        state: PciPortsState,
        root: Arc<Mutex<PciRoot>>,
        reset: impl FnOnce(ResetControlState) -> ResetControl,
    ) -> Self {
        Self {
            address: state.address & ADDRESS_BITS,
            root,
            reset: reset(state.reset),
        }
    }

    /// The state to save.
    pub fn state(&self) -> PciPortsState {
        PciPortsState {
            address: self.address,
            reset: self.reset.state(),
        }
    }

    /// The device and the byte of its configuration space that data port `offset`
    /// stands for; none if the address selects no function that could be there.
    fn target(&self, offset: u64) -> Option<(usize, usize)> {
        let field = |shift: u32, bits: u32| (self.address >> shift & ((1 << bits) - 1)) as usize;
        let there = self.address & ENABLE != 0 && field(BUS_SHIFT, 8) == 0;
        if !there || field(FUNCTION_SHIFT, 3) != 0 {
            return None;
        }
        let byte = usize::try_from(offset.checked_sub(DATA)?).ok()?;
        Some((field(DEVICE_SHIFT, 5), field(0, 8).checked_add(byte)?))
    }
}

impl BusDevice for PciPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (RESET, 1) => self.reset.read(0, data),
            (DATA.., _) => {
                if let Some((device, register)) = self.target(offset) {
                    let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
                    root.read_config(device, register, data);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]) & ADDRESS_BITS,
            (RESET, [_]) => self.reset.write(0, data),
            (DATA.., _) => {
                if let Some((device, register)) = self.target(offset) {
                    let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
                    root.write_config(device, register, data);
                }
            }
            _ => {}
        }
    }
}
