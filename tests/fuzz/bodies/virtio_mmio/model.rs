//! What a virtio-mmio device does, written down a second time, after virtio 1.2 §2.1,
//! §2.7, §3.1 and §4.2.2.

use mayfly::devices::virtio::front::FrontState;
use mayfly::devices::virtio::queue::QueueState;
use mayfly::devices::virtio::transport::mmio::MmioState;

use super::RAM;
use super::recorder::{CONFIG_LEN, FEATURES, QUEUE_SIZES};

/// The device's own, INDIRECT_DESC, EVENT_IDX, VERSION_1.
const OFFERED: u64 = FEATURES | 1 << 28 | 1 << 29 | 1 << 32;

/// Features, and queues with their numbers: what a device is activated with.
pub type Activated = (u64, Vec<(u16, QueueState)>);

/// What the registers do to the world.
#[derive(Debug, Default, PartialEq)]
pub struct Deeds {
    /// Interrupts.
    pub edges: u64,
    /// Kicks that each queue has had.
    pub kicks: Vec<u64>,
    /// Tries to activate the device.
    pub activations: Vec<Activated>,
    /// Resets of the device.
    pub resets: usize,
}

/// The registers.
pub struct Model {
    /// Whether the device will not be activated.
    pub refuses: bool,
    state: MmioState,
    config: [u8; CONFIG_LEN],
    /// Whether activation was tried since the last reset, and with success.
    tried: bool,
    active: bool,
    deeds: Deeds,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            refuses: false,
            state: MmioState {
                front: after_reset(0),
                ..MmioState::default()
            },
            config: [0; CONFIG_LEN],
            tried: false,
            active: false,
            deeds: no_deeds(),
        }
    }
}

impl Model {
    /// What is to be saved.
    pub fn state(&self) -> MmioState {
        self.state.clone()
    }

    /// What was done since the last call.
    pub fn take_deeds(&mut self) -> Deeds {
        std::mem::replace(&mut self.deeds, no_deeds())
    }

    /// Whether the device has its queues.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// The driver reads.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= 0x100 {
            for (at, byte) in (offset - 0x100..CONFIG_LEN as u64).zip(data) {
                *byte = self.config[at as usize];
            }
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let queue = self
            .state
            .front
            .queues
            .get(self.state.queue_select as usize);
        match offset {
            0x000 => u32::from_le_bytes(*b"virt"),
            0x004 => 2,
            0x008 => 2,
            0x00c => u32::from_le_bytes(*b"MFLY"),
            0x010 if self.state.device_features_select < 2 => {
                (OFFERED >> (32 * self.state.device_features_select)) as u32
            }
            0x034 if queue.is_some() => QUEUE_SIZES[self.state.queue_select as usize].into(),
            0x044 => queue.map_or(0, |queue| queue.ready.into()),
            0x060 => self.state.interrupt_status,
            0x070 => self.state.front.status.into(),
            0x0b0 | 0x0b4 | 0x0b8 | 0x0bc => u32::MAX,
            0x0fc => self.state.front.generation,
            _ => 0,
        }
    }

    /// The driver writes.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= 0x100 {
            // FEATURES_OK, and neither NEEDS_RESET nor FAILED.
            if self.state.front.status & 0xc8 == 8 {
                for (at, byte) in (offset - 0x100..CONFIG_LEN as u64).zip(data) {
                    self.config[at as usize] = *byte;
                }
            }
        } else if let (Ok(value), 0) = (data.try_into(), offset % 4) {
            self.set_register(offset, u32::from_le_bytes(value));
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        let status = self.state.front.status;
        let select = self.state.queue_select as usize;
        match offset {
            0x014 => self.state.device_features_select = value,
            0x020 if status & 0xcc == 0 => {
                let features = &mut self.state.front.driver_features;
                match self.state.driver_features_select {
                    0 => *features = *features >> 32 << 32 | u64::from(value),
                    1 => *features = *features << 32 >> 32 | u64::from(value) << 32,
                    _ => {}
                }
            }
            0x024 => self.state.driver_features_select = value,
            0x030 => self.state.queue_select = value,
            0x050 => {
                if let Some(kicks) = self.deeds.kicks.get_mut(value as usize) {
                    *kicks += 1;
                }
            }
            0x064 => self.state.interrupt_status &= !value,
            0x070 => self.set_status(value as u8),
            // Neither DRIVER_OK nor broken.
            0x038..=0x0a7 if status & 0xc4 == 0 => {
                if let Some(queue) = self.state.front.queues.get_mut(select) {
                    set_queue(queue, offset, value);
                }
            }
            _ => {}
        }
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            if self.tried {
                self.deeds.resets += 1;
            }
            (self.tried, self.active) = (false, false);
            self.state = MmioState {
                front: after_reset(self.state.front.generation),
                ..MmioState::default()
            };
            return;
        }
        let front = &mut self.state.front;
        let added = value & !front.status;
        front.status |= added & 0x83;
        let features = front.driver_features;
        let acceptable = features & OFFERED == features && features >> 32 & 1 == 1;
        if added & 8 != 0 && front.status & 0xc0 == 0 && acceptable {
            front.status |= 8;
        }
        if added & 4 != 0 && front.status & 0xc8 == 8 {
            front.status |= 4;
            self.activate();
        }
    }

    fn activate(&mut self) {
        let front = &self.state.front;
        let queues: Vec<_> = (0..)
            .zip(&front.queues)
            .filter(|(_, queue)| queue.ready)
            .map(|(index, queue)| (index, queue.clone()))
            .collect();
        if queues.iter().all(|(index, queue)| is_sound(*index, queue)) {
            self.deeds.activations.push((front.driver_features, queues));
            (self.tried, self.active) = (true, !self.refuses);
        }
        if !self.active {
            self.device_broken();
        }
    }

    /// The device has used a buffer, and tells.
    pub fn queue_used(&mut self) {
        self.interrupt(1);
    }

    /// The device has changed its configuration, and tells.
    pub fn config_changed(&mut self) {
        self.state.front.generation = self.state.front.generation.wrapping_add(1);
        self.interrupt(2);
    }

    /// The device cannot go on.
    pub fn device_broken(&mut self) {
        let before = self.state.front.status;
        self.state.front.status |= 0x40;
        if before & 0x44 == 4 {
            self.interrupt(2);
        }
    }

    fn interrupt(&mut self, bit: u32) {
        self.state.interrupt_status |= bit;
        self.deeds.edges += 1;
    }

    /// The machine was saved, and this is another one.
    pub fn restored(&mut self) {
        (self.tried, self.active) = (false, false);
        // Running, not broken: the device is activated anew, and looks at its queues.
        if self.state.front.status & 0xc4 == 4 {
            self.activate();
            for (queue, kicks) in self.state.front.queues.iter().zip(&mut self.deeds.kicks) {
                *kicks += u64::from(queue.ready);
            }
        }
    }
}

fn no_deeds() -> Deeds {
    Deeds {
        kicks: vec![0; QUEUE_SIZES.len()],
        ..Deeds::default()
    }
}

fn after_reset(generation: u32) -> FrontState {
    let queues = QUEUE_SIZES.map(|size| QueueState {
        size,
        ..QueueState::default()
    });
    FrontState {
        generation,
        queues: queues.to_vec(),
        ..FrontState::default()
    }
}

fn set_queue(queue: &mut QueueState, offset: u64, value: u32) {
    if offset == 0x044 {
        queue.ready = value & 1 == 1;
    }
    if queue.ready {
        return;
    }
    if offset == 0x038 {
        queue.size = value.min(0xffff) as u16;
    }
    let address = match offset & !0xf {
        0x080 => &mut queue.descriptors,
        0x090 => &mut queue.available,
        0x0a0 => &mut queue.used,
        _ => return,
    };
    let mut halves = [*address as u32, (*address >> 32) as u32];
    if let Some(half) = halves.get_mut((offset & 0xf) as usize / 4) {
        *half = value;
    }
    *address = u64::from(halves[1]) << 32 | u64::from(halves[0]);
}

/// A size that is offered, and three rings aligned and in RAM (§2.7). An available ring
/// at address 0 counts as one that was not set up.
fn is_sound(index: u16, queue: &QueueState) -> bool {
    let size = u64::from(queue.size);
    let fits = |address: u64, align, len| {
        let end = address.checked_add(len);
        address.is_multiple_of(align) && end.is_some_and(|end| end <= RAM)
    };
    queue.size.is_power_of_two()
        && queue.size <= QUEUE_SIZES[usize::from(index)]
        && fits(queue.descriptors, 16, 16 * size)
        && queue.available != 0
        && fits(queue.available, 2, 6 + 2 * size)
        && fits(queue.used, 4, 6 + 8 * size)
}
