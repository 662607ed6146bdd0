//! The CMOS RAM and real-time clock: a Motorola MC146818.
//!
//! | index      | register                                             |
//! |------------|------------------------------------------------------|
//! | 0x00..0x0a | seconds to year, and three alarm registers           |
//! | 0x0a..0x0e | registers A to D                                     |
//! | 0x32       | century                                              |
//! | the rest   | battery-backed RAM, with the memory size as PCs do   |
//!
//! The clock is the host's in UTC plus an offset, which changes when the guest
//! sets the time. Register B chooses BCD or binary and 24 or 12 hours. No
//! interrupt is raised: alarm registers are mere RAM, register C reads as 0.

mod calendar;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::BusDevice;
use crate::memory::layout::{PCI_HOLE_END, ram_ranges};

pub use calendar::DateTime;

/// Ports of the device: index and data.
pub const LEN: u64 = 2;
/// Index of the century, as the FADT tells it.
pub const CENTURY: u8 = 0x32;

const INDEX_PORT: u64 = 0;
const DATA_PORT: u64 = 1;
/// Bit 7 of the index port masks NMIs; there are none to mask.
const INDEX_BITS: u8 = 0x7f;
const RAM_LEN: usize = 128;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;

const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// A 32.768 kHz crystal, 1024 Hz periodic rate.
const A_RESET: u8 = 0x26;
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const D_VALID: u8 = 1 << 7;
const HOURS_PM: u8 = 1 << 7;

/// An update is announced so long before it happens.
const UPDATE_NOTICE: Duration = Duration::from_micros(244);

/// Tells the time that passed since 1970 began, in UTC.
pub type HostClock = Box<dyn Fn() -> Duration + Send>;

/// The host's clock.
pub fn host_clock() -> HostClock {
    let since_1970 = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Box::new(move || since_1970().unwrap_or_default())
}

/// Everything the chip remembers. The default is the state in a new machine, whose
/// memory size the CMOS RAM does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CmosRtcState {
    /// Index of the byte behind the data port.
    pub index: u8,
    /// Register A without its update-in-progress bit.
    pub register_a: u8,
    /// Register B.
    pub register_b: u8,
    /// Guest time less host time, in seconds.
    pub offset: i64,
    /// The time being set, while register B's SET bit is 1.
    pub held: Option<DateTime>,
    /// The CMOS RAM, 128 bytes; clock and control registers are not in it.
    pub ram: Vec<u8>,
}

impl Default for CmosRtcState {
    fn default() -> Self {
        Self {
            index: 0,
            register_a: A_RESET,
            register_b: B_24_HOURS,
            offset: 0,
            held: None,
            ram: vec![0; RAM_LEN],
        }
    }
}

impl CmosRtcState {
    /// The state of a new machine with `size` bytes of memory.
    pub fn for_memory(size: u64) -> Self {
        let mut state = Self::default();
        state.tell_memory(size);
        state
    }

    /// Puts the size of memory, in bytes, where firmware does.
    fn tell_memory(&mut self, size: u64) {
        let ranges = ram_ranges(size);
        let high: u64 = ranges
            .iter()
            .filter(|range| range.start >= PCI_HOLE_END)
            .map(|range| range.len)
            .sum();
        let low = size.saturating_sub(high);
        let base_kib = (low >> 10).min(640);
        let extended_kib = (low.saturating_sub(1 << 20) >> 10).min(0xffff);
        let above_16_mib = (low.saturating_sub(16 << 20) >> 16).min(0xffff);
        let above_4_gib = (high >> 16).min(0xff_ffff);

        self.store(&[0x15, 0x16], base_kib);
        self.store(&[0x17, 0x18], extended_kib);
        self.store(&[0x30, 0x31], extended_kib);
        self.store(&[0x34, 0x35], above_16_mib);
        self.store(&[0x5b, 0x5c, 0x5d], above_4_gib);
    }

    /// Stores a little-endian number at these indices.
    fn store(&mut self, indices: &[u8], value: u64) {
        for (index, byte) in indices.iter().zip(value.to_le_bytes()) {
            if let Some(slot) = self.ram.get_mut(usize::from(*index)) {
                *slot = byte;
            }
        }
    }
}

/// The CMOS RAM and clock.
pub struct CmosRtc {
    state: CmosRtcState,
    clock: HostClock,
}

impl CmosRtc {
    /// Builds the chip in `state`, driven by `clock`.
    pub fn from_state(mut state: CmosRtcState, clock: HostClock) -> Self {
        state.index &= INDEX_BITS;
        state.ram.resize(RAM_LEN, 0);
        Self { state, clock }
    }

    /// The state to save.
    pub fn state(&self) -> CmosRtcState {
        self.state.clone()
    }

    /// What a reset of the machine, which has `memory` bytes of it, does: the battery keeps
    /// the RAM and the time, and firmware sets the control registers and the size of memory.
    pub fn reset(&mut self, memory: u64) {
        // That lets the clock go on, if it was being set, from there.
        self.write_register_b(B_24_HOURS);
        self.state.register_a = A_RESET;
        self.state.index = 0;
        self.state.tell_memory(memory);
    }

    /// The date and time that the registers show.
    fn now(&self) -> DateTime {
        self.state.held.unwrap_or_else(|| {
            let seconds = self.host_seconds().saturating_add(self.state.offset);
            DateTime::from_unix(seconds)
        })
    }

    fn host_seconds(&self) -> i64 {
        i64::try_from((self.clock)().as_secs()).unwrap_or(i64::MAX)
    }

    /// Makes `time` the guest's time from now on, if it is one.
    fn set_time(&mut self, time: DateTime) {
        if let Some(seconds) = time.to_unix() {
            self.state.offset = seconds.saturating_sub(self.host_seconds());
        }
    }

    fn is_update_near(&self) -> bool {
        let fraction = Duration::from_nanos((self.clock)().subsec_nanos().into());
        self.state.held.is_none() && fraction + UPDATE_NOTICE >= Duration::from_secs(1)
    }

    fn read_indexed(&self) -> u8 {
        match self.state.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => self.read_time(),
            REGISTER_A if self.is_update_near() => self.state.register_a | A_UPDATE_IN_PROGRESS,
            REGISTER_A => self.state.register_a,
            REGISTER_B => self.state.register_b,
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            index => *self.state.ram.get(usize::from(index)).unwrap_or(&0),
        }
    }

    fn write_indexed(&mut self, value: u8) {
        match self.state.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                self.write_time(value);
            }
            REGISTER_A => self.state.register_a = value & !A_UPDATE_IN_PROGRESS,
            REGISTER_B => self.write_register_b(value),
            REGISTER_C | REGISTER_D => {}
            index => {
                if let Some(byte) = self.state.ram.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }

    /// SET holds the time while the guest writes it piece by piece.
    fn write_register_b(&mut self, value: u8) {
        self.state.register_b = value;
        if value & B_SET != 0 {
            self.state.held = Some(self.now());
        } else if let Some(time) = self.state.held.take() {
            self.set_time(time);
        }
    }

    fn read_time(&self) -> u8 {
        let now = self.now();
        match self.state.index {
            SECONDS => self.encode(now.second),
            MINUTES => self.encode(now.minute),
            HOURS => self.encode_hour(now.hour),
            WEEKDAY => self.encode(now.weekday),
            DAY => self.encode(now.day),
            MONTH => self.encode(now.month),
            YEAR => self.encode((now.year % 100) as u8),
            _ => self.encode((now.year / 100) as u8),
        }
    }

    fn write_time(&mut self, value: u8) {
        let mut time = self.now();
        let number = self.decode(value);
        match self.state.index {
            SECONDS => time.second = number,
            MINUTES => time.minute = number,
            HOURS => time.hour = self.decode_hour(value),
            WEEKDAY => time.weekday = number,
            DAY => time.day = number,
            MONTH => time.month = number,
            YEAR => time.year = (time.year / 100 * 100).saturating_add((number % 100).into()),
            _ => time.year = time.year % 100 + u16::from(number) * 100,
        }
        if self.state.held.is_some() {
            self.state.held = Some(time);
        } else {
            self.set_time(time);
        }
    }

    fn encode(&self, number: u8) -> u8 {
        if self.state.register_b & B_BINARY != 0 {
            number
        } else {
            ((number / 10 % 10) << 4) | (number % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.state.register_b & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }
    }

    /// In 12-hour mode midnight is 12 AM and noon 12 PM.
    fn encode_hour(&self, hour: u8) -> u8 {
        if self.state.register_b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { HOURS_PM } else { 0 };
        let of_twelve = if hour.is_multiple_of(12) {
            12
        } else {
            hour % 12
        };
        self.encode(of_twelve) | pm
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.state.register_b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let hour = self.decode(value & !HOURS_PM) % 12;
        if value & HOURS_PM != 0 {
            hour + 12
        } else {
            hour
        }
    }
}

/// The ports are a byte wide; a wider access is one to each port it covers.
/// The index port cannot be read.
impl BusDevice for CmosRtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..LEN).zip(data) {
            if port == DATA_PORT {
                *byte = self.read_indexed();
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (port, byte) in (offset..LEN).zip(data) {
            match port {
                INDEX_PORT => self.state.index = byte & INDEX_BITS,
                _ => self.write_indexed(*byte),
            }
        }
    }
}
