//! virtio-mmio, version 2 (virtio 1.2 §4.2): a page of registers and one interrupt.
//!
//! | offset         | register            |    | what it is                                  |
//! |----------------|---------------------|----|---------------------------------------------|
//! | 0x000          | `MagicValue`        | R  | "virt"                                      |
//! | 0x004          | `Version`           | R  | 2                                           |
//! | 0x008          | `DeviceID`          | R  | what the device is (§5)                     |
//! | 0x00c          | `VendorID`          | R  | "MFLY"                                      |
//! | 0x010, 0x014   | `DeviceFeatures`    | R  | the half that `…Sel` (W) names              |
//! | 0x020, 0x024   | `DriverFeatures`    | W  | the half that `…Sel` (W) names              |
//! | 0x030          | `QueueSel`          | W  | the queue of the next registers             |
//! | 0x034          | `QueueNumMax`       | R  | its largest size, 0 if there is none        |
//! | 0x038          | `QueueNum`          | W  | its size                                    |
//! | 0x044          | `QueueReady`        | RW | whether it may be used                      |
//! | 0x050          | `QueueNotify`       | W  | a kick: number of the queue                 |
//! | 0x060          | `InterruptStatus`   | R  | bit 0: buffers used, bit 1: configuration   |
//! | 0x064          | `InterruptACK`      | W  | clears bits of it                           |
//! | 0x070          | `Status`            | RW | see [`Front::set_status`]                   |
//! | 0x080, 0x084   | `QueueDesc`         | W  | guest-physical address, low and high        |
//! | 0x090, 0x094   | `QueueDriver`       | W  | of the available ring                       |
//! | 0x0a0, 0x0a4   | `QueueDevice`       | W  | of the used ring                            |
//! | 0x0b0…0x0bc    | `SHMLen`, `SHMBase` | R  | all ones: there is no shared memory         |
//! | 0x0fc          | `ConfigGeneration`  | R  | see §2.5                                    |
//! | 0x100…0xfff    | `Config`            | RW | the device's configuration space            |
//!
//! Registers are accessed with 32 bits and aligned, as the specification demands of
//! drivers; what else is tried reads as zeros and writes nothing. The configuration
//! space takes every width.
//!
//! # The interrupt
//!
//! It is an edge: the bit in `InterruptStatus` is set first, then the irqfd written.
//! A driver reads the register, acknowledges what it read, and only then looks at
//! its queues, so buffers used before the acknowledgement are seen, and for those
//! used after it the bit is set again and an edge follows. An edge whose bit the
//! driver has acknowledged with an earlier one finds `InterruptStatus` 0, which
//! drivers take for a spurious interrupt. No edge is left out for a bit that is set
//! already: one that came while the pin was masked is lost, and the next makes up for it.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::Doorbells;
use crate::devices::BusDevice;
use crate::devices::virtio::device::VirtioInterrupt;
use crate::devices::virtio::front::{Front, FrontShared, FrontState};
use crate::devices::virtio::queue::QueueState;

/// Size of a device's registers in bytes.
pub const LEN: u64 = 0x1000;

/// Offset of `QueueNotify`.
pub const QUEUE_NOTIFY: u64 = 0x050;

const MAGIC_VALUE: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_NUM_MAX: u64 = 0x034;
const QUEUE_NUM: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESC_LOW: u64 = 0x080;
const QUEUE_DESC_HIGH: u64 = 0x084;
const QUEUE_DRIVER_LOW: u64 = 0x090;
const QUEUE_DRIVER_HIGH: u64 = 0x094;
const QUEUE_DEVICE_LOW: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
const SHM_LEN_LOW: u64 = 0x0b0;
const SHM_BASE_HIGH: u64 = 0x0bc;
const CONFIG_GENERATION: u64 = 0x0fc;
const CONFIG: u64 = 0x100;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The interface of virtio 1.0 and later; 1 was the legacy one.
const MODERN: u32 = 2;
/// "MFLY", little-endian.
const VENDOR: u32 = 0x594c_464d;
/// The length of a shared memory region that does not exist (§4.2.2): -1.
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// `InterruptStatus`: the device has used a buffer.
pub const USED_BUFFER: u32 = 1;
/// `InterruptStatus`: the configuration has changed.
pub const CONFIG_CHANGE: u32 = 2;

/// What the registers remember. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmioState {
    /// The registers common to all transports.
    pub front: FrontState,
    /// `DeviceFeaturesSel`.
    pub device_features_select: u32,
    /// `DriverFeaturesSel`.
    pub driver_features_select: u32,
    /// `QueueSel`.
    pub queue_select: u32,
    /// `InterruptStatus`.
    pub interrupt_status: u32,
}

/// The registers of one device.
pub struct MmioTransport {
    front: Front,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    interrupt: Arc<MmioInterrupt>,
}

impl MmioTransport {
    /// The registers of a device behind `front`, to be put at guest-physical `base`.
    /// `irq` is the irqfd of its pin, which is edge-triggered.
    ///
    /// A kick for which there is no doorbell is an exit.
    pub fn new(front: Front, irq: Arc<EventFd>, doorbells: &dyn Doorbells, base: u64) -> Self {
        Self::from_state(front, MmioState::default(), irq, doorbells, base)
    }

    /// The same in `state`; `front` is made from `state.front` already. A device that
    /// was running is handed its queues.
    pub fn from_state(
        front: Front,
        state: MmioState,
        irq: Arc<EventFd>,
        doorbells: &dyn Doorbells,
        base: u64,
    ) -> Self {
        register_kicks(&front, doorbells, base);
        let interrupt = Arc::new(MmioInterrupt {
            status: AtomicU32::new(state.interrupt_status & (USED_BUFFER | CONFIG_CHANGE)),
            irq,
            front: front.shared(),
        });
        let mut transport = Self {
            front,
            device_features_select: state.device_features_select,
            driver_features_select: state.driver_features_select,
            queue_select: state.queue_select,
            interrupt,
        };
        let handle = transport.interrupt_handle();
        transport.front.reactivate(&handle);
        transport
    }

    /// The state to save; the device must be paused.
    pub fn state(&self) -> MmioState {
        MmioState {
            front: self.front.state(),
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            interrupt_status: self.interrupt.pending(),
        }
    }

    /// The registers common to all transports.
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// The same, to pause and resume the device.
    pub fn front_mut(&mut self) -> &mut Front {
        &mut self.front
    }

    fn interrupt_handle(&self) -> Arc<dyn VirtioInterrupt> {
        self.interrupt.clone()
    }

    /// The selected queue; none if the driver has selected one that does not exist.
    fn selected(&self) -> Option<u16> {
        let index = u16::try_from(self.queue_select).ok()?;
        self.front.queue(index).map(|_| index)
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            MAGIC_VALUE => MAGIC,
            VERSION => MODERN,
            DEVICE_ID => u32::from(self.front.device_type() as u16),
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => self.front.features_half(self.device_features_select),
            QUEUE_NUM_MAX => self
                .selected()
                .map_or(0, |queue| self.front.queue_max_size(queue).into()),
            QUEUE_READY => self
                .selected()
                .and_then(|queue| self.front.queue(queue))
                .map_or(0, |queue| queue.ready.into()),
            INTERRUPT_STATUS => self.interrupt.pending(),
            STATUS => self.front.status().into(),
            SHM_LEN_LOW..=SHM_BASE_HIGH => NO_SHARED_MEMORY,
            CONFIG_GENERATION => self.front.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            DEVICE_FEATURES_SEL => self.device_features_select = value,
            DRIVER_FEATURES => self
                .front
                .set_driver_features_half(self.driver_features_select, value),
            DRIVER_FEATURES_SEL => self.driver_features_select = value,
            QUEUE_SEL => self.queue_select = value,
            QUEUE_READY => {
                if let Some(queue) = self.selected() {
                    self.front.set_queue_ready(queue, value & 1 != 0);
                }
            }
            QUEUE_NOTIFY => {
                if let Ok(queue) = u16::try_from(value) {
                    self.front.notify(queue);
                }
            }
            INTERRUPT_ACK => self.interrupt.acknowledge(value),
            STATUS => self.write_status(value),
            QUEUE_NUM | QUEUE_DESC_LOW..=QUEUE_DEVICE_HIGH => {
                let queue = self.selected();
                if let Some(queue) = queue.and_then(|queue| self.front.queue_mut(queue)) {
                    write_queue(queue, offset, value);
                }
            }
            _ => {}
        }
    }

    fn write_status(&mut self, value: u32) {
        // The bits above are none; without those below it is a reset all the same.
        let handle = self.interrupt_handle();
        self.front.set_status(value as u8, &handle);
        if value as u8 == 0 {
            // The device is quiet now: nothing sets these any more.
            self.interrupt.acknowledge(u32::MAX);
            self.device_features_select = 0;
            self.driver_features_select = 0;
            self.queue_select = 0;
        }
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.front.read_config(offset, data);
        } else if let (Ok(register), 0) = (<&mut [u8; 4]>::try_from(&mut *data), offset % 4) {
            *register = self.read_register(offset).to_le_bytes();
        } else {
            data.fill(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.front.write_config(offset, data);
        } else if let (Ok(register), 0) = (<[u8; 4]>::try_from(data), offset % 4) {
            self.write_register(offset, u32::from_le_bytes(register));
        }
    }
}

/// Has kicks go to the device's threads without an exit.
fn register_kicks(front: &Front, doorbells: &dyn Doorbells, base: u64) {
    let addr = base.saturating_add(QUEUE_NOTIFY);
    for index in 0..front.queue_count() {
        if let Some(kick) = front.kick(index)
            && let Err(error) = doorbells.register(addr, Some(index.into()), kick)
        {
            log::warn!("kicks of the virtio device at {base:#x} cost an exit each: {error}");
            return;
        }
    }
}

fn write_queue(queue: &mut QueueState, offset: u64, value: u32) {
    match offset {
        // A size that is too large for the field is too large for the queue too.
        QUEUE_NUM => queue.size = u16::try_from(value).unwrap_or(u16::MAX),
        QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
        QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
        QUEUE_DRIVER_LOW => set_low(&mut queue.available, value),
        QUEUE_DRIVER_HIGH => set_high(&mut queue.available, value),
        QUEUE_DEVICE_LOW => set_low(&mut queue.used, value),
        QUEUE_DEVICE_HIGH => set_high(&mut queue.used, value),
        _ => {}
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}

/// The device's way to the driver.
struct MmioInterrupt {
    /// `InterruptStatus`.
    status: AtomicU32,
    irq: Arc<EventFd>,
    front: Arc<FrontShared>,
}

impl MmioInterrupt {
    fn pending(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    fn signal(&self, bit: u32) -> &EventFd {
        self.status.fetch_or(bit, Ordering::AcqRel);
        &self.irq
    }
}

impl VirtioInterrupt for MmioInterrupt {
    fn raise(&self, _queue: u16) -> Option<&EventFd> {
        Some(self.signal(USED_BUFFER))
    }

    fn config_changed(&self) {
        self.front.config_changed();
        // A counter that is full has an interrupt on its way already.
        let _ = self.signal(CONFIG_CHANGE).write(1);
    }

    fn device_broken(&self) {
        if self.front.device_broken() {
            let _ = self.signal(CONFIG_CHANGE).write(1);
        }
    }
}
