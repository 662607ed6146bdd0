//! The common configuration structure (virtio 1.2 §4.1.4.3).
//!
//! | offset | field                   | bits |    |
//! |--------|-------------------------|------|----|
//! | 0x00   | `device_feature_select` | 32   | RW |
//! | 0x04   | `device_feature`        | 32   | R  |
//! | 0x08   | `driver_feature_select` | 32   | RW |
//! | 0x0c   | `driver_feature`        | 32   | RW |
//! | 0x10   | `config_msix_vector`    | 16   | RW |
//! | 0x12   | `num_queues`            | 16   | R  |
//! | 0x14   | `device_status`         | 8    | RW |
//! | 0x15   | `config_generation`     | 8    | R  |
//! | 0x16   | `queue_select`          | 16   | RW |
//! | 0x18   | `queue_size`            | 16   | RW |
//! | 0x1a   | `queue_msix_vector`     | 16   | RW |
//! | 0x1c   | `queue_enable`          | 16   | RW |
//! | 0x1e   | `queue_notify_off`      | 16   | R  |
//! | 0x20   | `queue_desc`            | 64   | RW |
//! | 0x28   | `queue_driver`          | 64   | RW |
//! | 0x30   | `queue_device`          | 64   | RW |
//!
//! Reads may have any width. Writes have that of the field, and those of 64 bits may
//! come in halves, as the specification asks of drivers (§4.1.3.1); others do nothing.
//! What follows in virtio 1.2 (`queue_notify_data`, `queue_reset`) belongs to features
//! that are not offered.

use serde::{Deserialize, Serialize};

use super::VirtioPci;
use super::interrupt::NO_VECTOR;
use crate::devices::virtio::queue::QueueState;

/// Bytes of the structure.
pub const COMMON_SIZE: usize = 0x38;

const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_MSIX_VECTOR: u64 = 0x10;
const DEVICE_STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const QUEUE_DEVICE: u64 = 0x30;
const END: u64 = 0x38;

/// Which half or queue the registers beside them show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selects {
    device_feature: u32,
    driver_feature: u32,
    queue: u16,
}

/// What the structure remembers beyond [`Front`](crate::devices::virtio::front::Front),
/// and ISR. The default is the state after reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonState {
    /// The select registers.
    pub selects: Selects,
    /// The vector of configuration changes; none if no vector is mapped.
    pub config_vector: Option<u16>,
    /// The same of each queue; those missing have none.
    pub queue_vectors: Vec<Option<u16>>,
    /// The ISR byte.
    pub isr: u8,
}

impl VirtioPci {
    /// The driver reads at `offset`; zeros lie beyond the end.
    pub(super) fn read_common(&self, offset: u64, data: &mut [u8]) {
        let registers = self.common_registers();
        let from = usize::try_from(offset).unwrap_or(COMMON_SIZE);
        let bytes = registers.get(from..).unwrap_or_default();
        for (byte, register) in data.iter_mut().zip(bytes) {
            *byte = *register;
        }
    }

    /// The whole structure, as it reads now.
    fn common_registers(&self) -> [u8; COMMON_SIZE] {
        let Selects {
            device_feature,
            driver_feature,
            queue,
        } = self.selects;
        let features = self.front.features_half(device_feature);
        let chosen = self.front.driver_features_half(driver_feature);
        let absent = QueueState::default();
        let state = self.front.queue(queue).unwrap_or(&absent);
        let fields: [&[u8]; 16] = [
            &device_feature.to_le_bytes(),
            &features.to_le_bytes(),
            &driver_feature.to_le_bytes(),
            &chosen.to_le_bytes(),
            &self.interrupt.config_vector().to_le_bytes(),
            &self.front.queue_count().to_le_bytes(),
            &[self.front.status()],
            &[self.front.config_generation() as u8],
            &queue.to_le_bytes(),
            &state.size.to_le_bytes(),
            &self.interrupt.queue_vector(queue).to_le_bytes(),
            &u16::from(state.ready).to_le_bytes(),
            // A queue's notification lies at its number times the multiplier.
            &self.front.queue(queue).map_or(0, |_| queue).to_le_bytes(),
            &state.descriptors.to_le_bytes(),
            &state.available.to_le_bytes(),
            &state.used.to_le_bytes(),
        ];
        let mut registers = [0; COMMON_SIZE];
        for (register, byte) in registers.iter_mut().zip(fields.into_iter().flatten()) {
            *register = *byte;
        }
        registers
    }

    /// The driver writes at `offset`.
    pub(super) fn write_common(&mut self, offset: u64, data: &[u8]) {
        match *data {
            [value] => self.write_byte(offset, value),
            [a, b] => self.write_word(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_dword(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h]
                if matches!(offset, QUEUE_DESC | QUEUE_DRIVER | QUEUE_DEVICE) =>
            {
                self.write_dword(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_dword(offset.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        if offset != DEVICE_STATUS {
            return;
        }
        self.front.set_status(value, &self.interrupt.handle());
        if value == 0 {
            // The device is quiet now: nothing sets these any more.
            self.interrupt.reset();
            self.selects = Selects::default();
        }
    }

    fn write_word(&mut self, offset: u64, value: u16) {
        let queue = self.selects.queue;
        match offset {
            CONFIG_MSIX_VECTOR => self.interrupt.set_config_vector(value),
            QUEUE_SELECT => self.selects.queue = value,
            QUEUE_SIZE => {
                if let Some(state) = self.front.queue_mut(queue) {
                    state.size = value;
                }
            }
            QUEUE_MSIX_VECTOR => self.interrupt.set_queue_vector(queue, value),
            // A driver must not write 0 (§4.1.4.3.2).
            QUEUE_ENABLE if value == 1 => self.front.set_queue_ready(queue, true),
            _ => {}
        }
    }

    fn write_dword(&mut self, offset: u64, value: u32) {
        match offset {
            DEVICE_FEATURE_SELECT => self.selects.device_feature = value,
            DRIVER_FEATURE_SELECT => self.selects.driver_feature = value,
            DRIVER_FEATURE => {
                let select = self.selects.driver_feature;
                self.front.set_driver_features_half(select, value);
            }
            QUEUE_DESC..END => {
                if let Some(state) = self.front.queue_mut(self.selects.queue) {
                    write_address(state, offset, value);
                }
            }
            _ => {}
        }
    }

    pub(super) fn common_state(&self) -> CommonState {
        let some = |vector| (vector != NO_VECTOR).then_some(vector);
        let queues = 0..self.front.queue_count();
        CommonState {
            selects: self.selects,
            config_vector: some(self.interrupt.config_vector()),
            queue_vectors: queues
                .map(|queue| some(self.interrupt.queue_vector(queue)))
                .collect(),
            isr: self.interrupt.isr(),
        }
    }

    pub(super) fn restore_common(&mut self, state: &CommonState) {
        self.selects = state.selects;
        let vector = |vector: Option<u16>| vector.unwrap_or(NO_VECTOR);
        self.interrupt
            .set_config_vector(vector(state.config_vector));
        for (queue, saved) in (0u16..).zip(&state.queue_vectors) {
            self.interrupt.set_queue_vector(queue, vector(*saved));
        }
        self.interrupt.restore_isr(state.isr);
    }
}

/// Half of one of the three addresses.
fn write_address(state: &mut QueueState, offset: u64, value: u32) {
    let address = match offset & !7 {
        QUEUE_DESC => &mut state.descriptors,
        QUEUE_DRIVER => &mut state.available,
        _ => &mut state.used,
    };
    let value = u64::from(value);
    match offset % 8 {
        0 => *address = *address & !0xffff_ffff | value,
        4 => *address = *address & 0xffff_ffff | value << 32,
        _ => {}
    }
}
