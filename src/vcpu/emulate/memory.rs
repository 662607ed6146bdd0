//! Reads and writes at linear addresses: translated page by page, then RAM or a device.

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::paging::{Access, Kind, Privilege, WalkError};

const PAGE: usize = 4096;
/// Widest access a device is given, in bytes.
const DEVICE_WORD: usize = 8;

impl From<WalkError> for Stop {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Fault(exception) => Self::Fault(exception),
            WalkError::Contended => Self::Retry,
            WalkError::Unsupported => Self::PagingMode,
        }
    }
}

impl Cpu<'_> {
    /// The guest-physical address of `linear`, checked for `kind` with the current privilege.
    pub fn translate(&mut self, linear: u64, kind: Kind) -> Result<u64, Stop> {
        let privilege = self.privilege();
        self.translate_as(linear, kind, privilege)
    }

    /// The same on behalf of `privilege`.
    pub fn translate_as(
        &mut self,
        linear: u64,
        kind: Kind,
        privilege: Privilege,
    ) -> Result<u64, Stop> {
        let access = Access { kind, privilege };
        let walker = self.walker();
        if self.is_64_bit() && !walker.is_canonical(linear) {
            return Err(Exception::general_protection().into());
        }
        let translation = walker.translate(linear, access)?;
        if self.ram_only && !self.ram.contains(translation.gpa, 1) {
            return Err(Stop::NotCovered);
        }
        if let Some((key, error)) = translation.key {
            let pkru = self.pkru()?;
            if self.walker().key_denies(pkru, key, access) {
                return Err(Exception::page_fault(linear, error).into());
            }
        }
        Ok(translation.gpa)
    }

    /// Reads `data.len()` bytes at `linear`.
    pub fn read(&mut self, linear: u64, data: &mut [u8]) -> Result<(), Stop> {
        let privilege = self.privilege();
        self.read_as(linear, data, Kind::Read, privilege)
    }

    /// The same on behalf of `privilege`, or as an instruction fetch.
    pub fn read_as(
        &mut self,
        linear: u64,
        data: &mut [u8],
        kind: Kind,
        privilege: Privilege,
    ) -> Result<(), Stop> {
        let mut at = linear;
        let mut rest = data;
        while !rest.is_empty() {
            let gpa = self.translate_as(at, kind, privilege)?;
            let (now, later) = rest.split_at_mut(left_in_page(at).min(rest.len()));
            self.read_physical(gpa, now);
            at = self.advance(at, now.len());
            rest = later;
        }
        Ok(())
    }

    /// Writes `data` at `linear`: nothing is written if any page of it faults.
    pub fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        if data.len() > left_in_page(linear) {
            self.probe_write(linear, data.len())?;
        }
        let mut at = linear;
        let mut rest = data;
        while !rest.is_empty() {
            let gpa = self.translate(at, Kind::Write)?;
            let (now, later) = rest.split_at(left_in_page(at).min(rest.len()));
            self.write_physical(gpa, now);
            at = self.advance(at, now.len());
            rest = later;
        }
        Ok(())
    }

    /// Faults if any page of the range cannot be written.
    pub fn probe_write(&mut self, linear: u64, len: usize) -> Result<(), Stop> {
        let mut at = linear;
        let mut left = len;
        while left > 0 {
            self.translate(at, Kind::Write)?;
            let now = left_in_page(at).min(left);
            at = self.advance(at, now);
            left -= now;
        }
        Ok(())
    }

    /// A number of up to 8 bytes at `linear`.
    pub fn read_number(&mut self, linear: u64, size: usize) -> Result<u64, Stop> {
        let mut word = [0; 8];
        let part = word.get_mut(..size).ok_or(Stop::NotCovered)?;
        self.read(linear, part)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Writes the low `size` bytes (up to 8) of `value` at `linear`.
    pub fn write_number(&mut self, linear: u64, size: usize, value: u64) -> Result<(), Stop> {
        let word = value.to_le_bytes();
        self.write(linear, word.get(..size).ok_or(Stop::NotCovered)?)
    }

    /// RAM or a device at `gpa`, without a page's end in between.
    pub fn read_physical(&self, gpa: u64, data: &mut [u8]) {
        if self.ram.read(gpa, data).is_ok() {
            return;
        }
        let (mut at, mut rest) = (gpa, data);
        while !rest.is_empty() {
            let (word, later) = rest.split_at_mut(device_word(rest.len()));
            self.mmio.read(at, word);
            at = at.wrapping_add(word.len() as u64);
            rest = later;
        }
    }

    /// The same for writing.
    pub fn write_physical(&self, gpa: u64, data: &[u8]) {
        if self.ram.write(gpa, data).is_ok() {
            return;
        }
        let (mut at, mut rest) = (gpa, data);
        while !rest.is_empty() {
            let (word, later) = rest.split_at(device_word(rest.len()));
            self.mmio.write(at, word);
            at = at.wrapping_add(word.len() as u64);
            rest = later;
        }
    }

    /// Linear addresses wrap at 4 GiB outside 64-bit code.
    fn advance(&self, linear: u64, by: usize) -> u64 {
        let next = linear.wrapping_add(by as u64);
        if self.is_64_bit() {
            next
        } else {
            next & 0xffff_ffff
        }
    }
}

/// Bytes from `linear` to the end of its page.
pub(super) fn left_in_page(linear: u64) -> usize {
    PAGE - (linear as usize & (PAGE - 1))
}

/// How much of `len` bytes, which are not none, one access to a device takes: 1, 2, 4 or 8.
fn device_word(len: usize) -> usize {
    1 << len.clamp(1, DEVICE_WORD).ilog2()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::sandbox::Sandbox;
    use crate::devices::BusDevice;
    use crate::devices::bus::Bus;
    use crate::memory::ram::GuestRam;

    /// Keeps offset and width of each access.
    #[derive(Default)]
    struct Widths(Vec<(u64, usize)>);

    impl BusDevice for Widths {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            self.0.push((offset, data.len()));
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.len()));
        }
    }

    #[test]
    fn devices_see_accesses_of_1_2_4_and_8_bytes() {
        let device = Arc::new(Mutex::new(Widths::default()));
        let mut bus = Bus::new();
        bus.insert(0xd000_0000, 32, device.clone()).unwrap();
        let mut sandbox = Sandbox::new(GuestRam::new(1 << 20).unwrap(), bus);
        let cpu = sandbox.cpu();
        cpu.write_physical(0xd000_0000, &[0; 23]);
        cpu.read_physical(0xd000_0003, &mut [0; 5]);
        cpu.read_physical(u64::MAX, &mut [0; 16]);
        assert_eq!(
            device.lock().unwrap().0,
            [(0, 8), (8, 8), (16, 4), (20, 2), (22, 1), (3, 4), (7, 1)]
        );
    }
}
