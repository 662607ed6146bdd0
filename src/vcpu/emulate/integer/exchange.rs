//! XCHG, XADD, CMPXCHG and CMPXCHG8B.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::regs::{mask, rflags, set_flags};
use super::arithmetic::{add, subtract};

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    match insn.mnemonic() {
        Mnemonic::Xchg => exchange(cpu, insn),
        Mnemonic::Xadd => exchange_add(cpu, insn),
        Mnemonic::Cmpxchg => compare_exchange(cpu, insn),
        _ => compare_exchange_8_bytes(cpu, insn),
    }
}

/// With memory it is atomic without a prefix too.
fn exchange(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    // Which of the two operands may be memory differs between assemblers.
    let (place, register) = if insn.op_kind(1) == OpKind::Memory {
        (1, 0)
    } else {
        (0, 1)
    };
    let new = cpu.value(insn, register)?;
    let old = if insn.op_kind(place) == OpKind::Register {
        cpu.update(insn, place, |_| new)?
    } else {
        let linear = cpu.address(insn, place)?;
        cpu.update_memory(linear, size, true, |_| new)?
    };
    cpu.set_value(insn, register, old)
}

fn exchange_add(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let addend = cpu.value(insn, 1)?;
    let sum = |value| add(value, addend, 0, size);
    if insn.op_kind(0) == OpKind::Register {
        // The sum stands if both are one register.
        let old = cpu.value(insn, 0)?;
        cpu.set_value(insn, 1, old)?;
        cpu.set_value(insn, 0, sum(old).0)?;
        set_flags(&mut cpu.regs, rflags::STATUS, sum(old).1);
        return Ok(());
    }
    let old = cpu.update(insn, 0, |value| sum(value).0)?;
    set_flags(&mut cpu.regs, rflags::STATUS, sum(old).1);
    cpu.set_value(insn, 1, old)
}

/// The accumulator is loaded only if the operand differs from it.
fn compare_exchange(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let expected = cpu.regs.rax & mask(size);
    let new = cpu.value(insn, 1)?;
    let choose = |value| if value == expected { new } else { value };
    // Memory is written either way; of a register not even the upper half changes.
    let register = insn.op_kind(0) == OpKind::Register;
    let old = if register && cpu.value(insn, 0)? != expected {
        cpu.value(insn, 0)?
    } else {
        cpu.update(insn, 0, choose)?
    };
    set_flags(
        &mut cpu.regs,
        rflags::STATUS,
        subtract(expected, old, 0, size).1,
    );
    if old != expected {
        cpu.regs.rax = match size {
            4 | 8 => old,
            _ => cpu.regs.rax & !mask(size) | old,
        };
    }
    Ok(())
}

fn compare_exchange_8_bytes(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let pair = |high: u64, low: u64| high << 32 | low & mask(4);
    let expected = pair(cpu.regs.rdx, cpu.regs.rax);
    let new = pair(cpu.regs.rcx, cpu.regs.rbx);
    let linear = cpu.address(insn, 0)?;
    let choose = |value| if value == expected { new } else { value };
    let old = cpu.update_memory(linear, 8, insn.has_lock_prefix(), choose)?;
    if old == expected {
        set_flags(&mut cpu.regs, rflags::ZF, rflags::ZF);
    } else {
        set_flags(&mut cpu.regs, rflags::ZF, 0);
        (cpu.regs.rdx, cpu.regs.rax) = (old >> 32, old & mask(4));
    }
    Ok(())
}
