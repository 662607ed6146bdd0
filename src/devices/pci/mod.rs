//! A small PCI root: one bus, single-function devices, no bridges (PCI Local Bus 3.0,
//! PCI Express Base 5.0).
//!
//! ```text
//!  ports 0xcf8..0xd00 ─► PciPorts ─┐ configuration            ┌─ 00:00.0 HostBridge
//!  ECAM_START.. ───────► PciEcam ──┼────────────────► PciRoot ┼─ 00:01.0 PciFunction
//!  PCI_BAR_START.. ───► PciBars ──┘ memory, by the BARs      └─ 00:02.0 …
//! ```
//!
//! The root gives each device its addresses and interrupt line, as firmware would;
//! the guest may move them. The host bridge forwards only the window it declares,
//! so that a BAR elsewhere is not decoded.

mod config_space;
mod host_bridge;
mod msix;
mod ports;
mod root;
mod windows;

use std::ops::Range;

pub use config_space::{ConfigSpace, Header};
pub use msix::{Msix, MsixState, MsixVectors, VECTORS_MAX};
pub use ports::{PciPorts, PciPortsState};
pub use root::{PciError, PciRoot};
pub use windows::{PciBars, PciEcam};

/// Command register (PCI 3.0 §6.2.2).
pub const COMMAND: usize = 0x04;
/// Command: the device answers at its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: the device may read and write memory.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command: the device must not assert INTx.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status register (§6.2.3).
pub const STATUS: usize = 0x06;
/// Status: the device wants an interrupt by INTx.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status: there is a list of capabilities.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// The first base address register.
pub const BAR0: usize = 0x10;
/// Interrupt line: the input of the interrupt controller, as firmware tells it.
pub const INTERRUPT_LINE: usize = 0x3c;

/// A device with one function and at most one memory BAR, BAR 0.
pub trait PciFunction: Send {
    /// The guest reads `data.len()` bytes at `offset` into the configuration space.
    /// `data` comes filled with zeros, which is what lies beyond its end.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);

    /// The guest writes there.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// Bytes that BAR 0 decodes, a power of two; 0 if there is no BAR.
    fn memory_size(&self) -> u64;

    /// The guest-physical addresses at which BAR 0 is decoded now; none where the
    /// command register forbids it, or where the host bridge does not forward.
    fn memory(&self) -> Option<Range<u64>>;

    /// The guest reads at `offset` into BAR 0. `data` comes filled with zeros.
    fn read_memory(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes at `offset` into BAR 0.
    fn write_memory(&mut self, offset: u64, data: &[u8]);

    /// Finishes what is in flight and takes up nothing new.
    fn pause(&mut self) {}

    /// Goes on after a pause.
    fn resume(&mut self) {}
}
