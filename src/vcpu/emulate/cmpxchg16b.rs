//! CMPXCHG16B, locked or not.

use iced_x86::Instruction;

use super::cpu::Cpu;
use super::error::Stop;
use super::host;
use super::paging::Kind;
use super::regs::{rflags, set_flags};

/// Compares RDX:RAX with the operand; stores RCX:RBX if equal, loads RDX:RAX if not.
///
/// The plain form is done locked as well: nobody can tell but by the time it takes.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let linear = cpu.aligned_address(insn, 0, 16)?;
    let expected = pair(cpu.regs.rdx, cpu.regs.rax);
    let replacement = pair(cpu.regs.rcx, cpu.regs.rbx);
    // The processor asks for write permission whether or not it will store.
    let gpa = cpu.translate(linear, Kind::Write)?;
    let found =
        host::compare_exchange_u128(cpu.ram, gpa, expected, replacement).ok_or(Stop::NotCovered)?;
    if found == expected {
        set_flags(&mut cpu.regs, rflags::ZF, rflags::ZF);
    } else {
        cpu.regs.rax = found as u64;
        cpu.regs.rdx = (found >> 64) as u64;
        set_flags(&mut cpu.regs, rflags::ZF, 0);
    }
    Ok(())
}

fn pair(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}
