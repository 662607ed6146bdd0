//! 00:00.0: what stands between the processors and the bus. It has no registers of
//! its own; that it is there tells guests that there is a bus.

use std::ops::Range;

use super::{ConfigSpace, Header, PciFunction};

/// Red Hat, for machines that are none.
const VENDOR: u16 = 0x1b36;
/// A host bridge for PCI Express without quirks.
const DEVICE: u16 = 0x0008;
/// Bridge, host.
const CLASS: u32 = 0x06_00_00;

/// The host bridge.
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// The bridge after reset.
    pub fn new() -> Self {
        let config = ConfigSpace::new(&Header {
            vendor: VENDOR,
            device: DEVICE,
            class: CLASS,
            ..Default::default()
        });
        Self { config }
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn memory_size(&self) -> u64 {
        0
    }

    fn memory(&self) -> Option<Range<u64>> {
        None
    }

    fn read_memory(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write_memory(&mut self, _offset: u64, _data: &[u8]) {}
}
