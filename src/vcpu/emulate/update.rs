//! Read-modify-write of an operand, atomic where the instruction is.
//!
//! A locked instruction on RAM is done by the processor's own LOCK CMPXCHG on the
//! memory that the other vCPUs and the device threads see, at whatever alignment,
//! as long as the operand lies within a cache line. One that spans two lines (a
//! split lock, possibly across pages that are not neighbours in the host) is read
//! and written in two steps, as KVM's own emulator does: the host may punish
//! split locks, even by a signal, and kernels avoid them. Devices know no locks.

use iced_x86::{Instruction, OpKind};

use super::cpu::Cpu;
use super::error::Stop;
use super::host;
use super::memory::left_in_page;
use super::paging::Kind;
use super::regs;

/// Attempts against other writers of the same word before the instruction is run anew.
const MAX_TRIES: usize = 64;

impl Cpu<'_> {
    /// Replaces operand `index`, of up to 8 bytes, by what `change` makes of it,
    /// atomically with a LOCK prefix. Returns what it was.
    pub fn update(
        &mut self,
        insn: &Instruction,
        index: u32,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Stop> {
        if insn.op_kind(index) == OpKind::Register {
            let register = insn.op_register(index);
            let old = regs::read(&self.regs, register).ok_or(Stop::NotCovered)?;
            regs::write(&mut self.regs, register, change(old)).ok_or(Stop::NotCovered)?;
            return Ok(old);
        }
        let linear = self.address(insn, index)?;
        let size = self.operand_size(insn, index);
        self.update_memory(linear, size, insn.has_lock_prefix(), change)
    }

    /// The same for `size` bytes at a linear address.
    ///
    /// The processor asks for write permission before it reads, and so does this.
    pub fn update_memory(
        &mut self,
        linear: u64,
        size: usize,
        atomic: bool,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Stop> {
        if size > left_in_page(linear) {
            let old = self.read_to_write(linear, size)?;
            self.write_number(linear, size, change(old))?;
            return Ok(old);
        }
        let gpa = self.translate(linear, Kind::Write)?;
        let mut word = [0; 8];
        let part = word.get_mut(..size).ok_or(Stop::NotCovered)?;
        self.read_physical(gpa, part);
        let mut old = u64::from_le_bytes(word);
        if !(atomic && host::is_exchangeable(self.ram, gpa, size)) {
            let new = change(old).to_le_bytes();
            self.write_physical(gpa, new.get(..size).unwrap_or(&new));
            return Ok(old);
        }
        for _ in 0..MAX_TRIES {
            let found = host::compare_exchange(self.ram, gpa, size, old, change(old));
            match found.ok_or(Stop::NotCovered)? {
                found if found == old => return Ok(old),
                found => old = found,
            }
        }
        Err(Stop::Retry)
    }

    /// A number that will be written to: its faults are those of a write.
    fn read_to_write(&mut self, linear: u64, size: usize) -> Result<u64, Stop> {
        let privilege = self.privilege();
        let mut word = [0; 8];
        let part = word.get_mut(..size).ok_or(Stop::NotCovered)?;
        self.read_as(linear, part, Kind::Write, privilege)?;
        Ok(u64::from_le_bytes(word))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::devices::BusDevice;

    use super::super::exception::Exception;
    use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, USER_DATA, assemble};

    assemble! { locked_add_64: "lock add [rdi], rax" }
    assemble! { locked_increment: "lock inc qword ptr [rdi]" }
    assemble! { plain_or: "or [rdi], ecx" }

    fn at(rdi: u64) -> Machine {
        let mut machine = Machine::new();
        machine.regs.rdi = rdi;
        machine
    }

    #[test]
    fn locked_additions_of_two_processors_lose_nothing() {
        // Aligned, within a line but across words, and across 16 bytes.
        for offset in [0, 5, 12] {
            let mut first = at(KERNEL_DATA + offset);
            let mut second = at(KERNEL_DATA + offset);
            second.ram = first.ram.clone();
            let add = |machine: &mut Machine| {
                for _ in 0..5_000 {
                    machine.run(locked_increment()).unwrap();
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(|| add(&mut first));
                scope.spawn(|| add(&mut second));
            });
            let mut word = [0; 8];
            first.ram.read(KERNEL_DATA + offset, &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), 10_000, "offset {offset}");
        }
    }

    #[test]
    fn operands_may_cross_lines_and_pages() {
        for start in [KERNEL_DATA + 60, KERNEL_DATA + 4093, USER_DATA - 1] {
            let mut machine = at(start);
            machine.ram.write(start, &[0xff; 8]).unwrap();
            machine.regs.rax = 0x0102_0304_0506_0709;
            machine.run(locked_add_64()).unwrap();
            let mut word = [0; 8];
            machine.ram.read(start, &mut word).unwrap();
            assert_eq!(
                u64::from_le_bytes(word),
                0x0102_0304_0506_0708,
                "{start:#x}"
            );
        }
    }

    /// One register, and the sizes of the accesses to it.
    #[derive(Default)]
    struct Counter {
        value: u64,
        reads: Vec<usize>,
        writes: Vec<usize>,
    }

    impl BusDevice for Counter {
        fn read(&mut self, _: u64, data: &mut [u8]) {
            data.copy_from_slice(&self.value.to_le_bytes()[..data.len()]);
            self.reads.push(data.len());
        }
        fn write(&mut self, _: u64, data: &[u8]) {
            self.value = u64::from(u32::from_le_bytes(data.try_into().unwrap()));
            self.writes.push(data.len());
        }
    }

    #[test]
    fn a_device_is_read_and_written_once() {
        let mut machine = at(0xd000_0010);
        let device = Arc::new(Mutex::new(Counter::default()));
        machine
            .bus
            .insert(0xd000_0000, 0x1000, device.clone())
            .unwrap();
        machine.ram.write_u64(0x3018, 0xc000_0083).unwrap();
        machine.regs.rcx = 6;
        device.lock().unwrap().value = 1;
        machine.run(plain_or()).unwrap();
        let device = device.lock().unwrap();
        assert_eq!(
            (device.value, &device.reads, &device.writes),
            (7, &vec![4], &vec![4])
        );
    }

    #[test]
    fn the_fault_is_that_of_a_write() {
        let mut machine = at(END_OF_MAP);
        assert_eq!(
            machine.fault(plain_or()),
            Exception::page_fault(END_OF_MAP, 2)
        );
        machine.regs.rdi = END_OF_MAP - 2;
        assert_eq!(
            machine.fault(locked_add_64()),
            Exception::page_fault(END_OF_MAP, 2)
        );
        machine.enter_user_mode();
        machine.regs.rdi = KERNEL_DATA;
        assert_eq!(
            machine.fault(plain_or()),
            Exception::page_fault(KERNEL_DATA, 7)
        );
    }

    #[test]
    fn a_read_only_page_is_neither_changed_nor_dirtied() {
        let mut machine = at(KERNEL_DATA);
        machine.ram.write_u64(0x4000, 0x81).unwrap();
        assert_eq!(
            machine.fault(locked_add_64()),
            Exception::page_fault(KERNEL_DATA, 3)
        );
        assert_eq!(machine.ram.read_u64(0x4000).unwrap() & 0x40, 0);
        machine.ram.write_u64(0x4000, 0x83).unwrap();
        machine.run(locked_add_64()).unwrap();
        assert_eq!(machine.ram.read_u64(0x4000).unwrap() & 0x60, 0x60);
    }
}
