//! CMPXCHG16B, locked or not.

use iced_x86::Instruction;

use super::cpu::Cpu;
use super::error::Stop;
use super::host;
use super::paging::Kind;
use super::regs::{rflags, set_flags};

/// Size of the operand in bytes, to which it must be aligned.
const SIZE: usize = 16;

/// Compares RDX:RAX with the operand; stores RCX:RBX if equal, loads RDX:RAX if not.
///
/// The plain form is done locked as well: nobody can tell but by the time it takes.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let linear = cpu.aligned_address(insn, 0, SIZE as u64)?;
    let expected = pair(cpu.regs.rdx, cpu.regs.rax);
    let replacement = pair(cpu.regs.rcx, cpu.regs.rbx);
    // The processor asks for write permission whether or not it will store.
    let gpa = cpu.translate(linear, Kind::Write)?;
    let found = if cpu.ram.contains(gpa, SIZE) {
        host::compare_exchange_u128(cpu.ram, gpa, expected, replacement).ok_or(Stop::NotCovered)?
    } else {
        exchange_in_device(cpu, gpa, expected, replacement)
    };
    if found == expected {
        set_flags(&mut cpu.regs, rflags::ZF, rflags::ZF);
    } else {
        cpu.regs.rax = found as u64;
        cpu.regs.rdx = (found >> 64) as u64;
        set_flags(&mut cpu.regs, rflags::ZF, 0);
    }
    Ok(())
}

/// A device sees two reads of 8 bytes, and two writes: of what is there already
/// if it differs, since the processor's write takes place either way.
fn exchange_in_device(cpu: &Cpu<'_>, gpa: u64, expected: u128, replacement: u128) -> u128 {
    let mut bytes = [0; SIZE];
    cpu.read_physical(gpa, &mut bytes);
    let found = u128::from_le_bytes(bytes);
    let written = if found == expected {
        replacement
    } else {
        found
    };
    cpu.write_physical(gpa, &written.to_le_bytes());
    found
}

fn pair(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::exception::Exception;
    use super::super::testing::{KERNEL_DATA, Machine, assemble};
    use crate::devices::BusDevice;

    assemble! { exchange_16: "lock cmpxchg16b [rdi]" }

    /// Two words, and the sizes of the accesses to them.
    #[derive(Default)]
    struct Words {
        memory: [u8; 16],
        reads: Vec<(u64, usize)>,
        writes: Vec<(u64, usize)>,
    }

    impl BusDevice for Words {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            let from = offset as usize;
            data.copy_from_slice(&self.memory[from..from + data.len()]);
            self.reads.push((offset, data.len()));
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            let to = offset as usize;
            self.memory[to..to + data.len()].copy_from_slice(data);
            self.writes.push((offset, data.len()));
        }
    }

    #[test]
    fn a_device_sees_words() {
        let mut machine = Machine::new();
        let device = Arc::new(Mutex::new(Words::default()));
        machine.bus.insert(0xd000_0000, 16, device.clone()).unwrap();
        machine.ram.write_u64(0x3018, 0xc000_0083).unwrap();
        let regs = &mut machine.regs;
        (regs.rdi, regs.rbx, regs.rcx) = (0xd000_0000, 5, 6);
        machine.run(exchange_16()).unwrap();
        assert_eq!(machine.regs.rflags & 0x40, 0x40);
        machine.run(exchange_16()).unwrap();
        assert_eq!(machine.regs.rflags & 0x40, 0);
        assert_eq!((machine.regs.rax, machine.regs.rdx), (5, 6));
        let device = device.lock().unwrap();
        let twice = [(0, 8), (8, 8), (0, 8), (8, 8)];
        assert_eq!(
            (device.reads.as_slice(), device.writes.as_slice()),
            (&twice[..], &twice[..])
        );
        assert_eq!((device.memory[0], device.memory[8]), (5, 6));
    }

    #[test]
    fn it_must_be_aligned() {
        let mut machine = Machine::new();
        machine.regs.rdi = KERNEL_DATA + 8;
        assert_eq!(
            machine.fault(exchange_16()),
            Exception::general_protection()
        );
    }
}
