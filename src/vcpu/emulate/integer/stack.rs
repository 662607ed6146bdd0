//! PUSH, POP, PUSHF and LEAVE, and the stack under them.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::exception::Exception;
use super::super::regs::{self, mask, rflags};

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = insn.stack_pointer_increment().unsigned_abs() as usize;
    match insn.mnemonic() {
        Mnemonic::Push => {
            let value = pushed(cpu, insn)?;
            push(cpu, size, value)
        }
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => {
            // RF reads as zero on the stack, VM is not set in the modes there are here.
            let flags = cpu.regs.rflags & !rflags::RF;
            push(cpu, size, flags)
        }
        Mnemonic::Pop => pop_to(cpu, insn, size),
        _ => leave(cpu, insn),
    }
}

fn pushed(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<u64, Stop> {
    match insn.op_kind(0) {
        OpKind::Register if insn.op_register(0).is_segment_register() => {
            regs::segment(&cpu.sregs, insn.op_register(0))
                .map(|segment| u64::from(segment.selector))
                .ok_or(Stop::NotCovered)
        }
        _ => cpu.value(insn, 0),
    }
}

fn pop_to(cpu: &mut Cpu<'_>, insn: &Instruction, size: usize) -> Result<(), Stop> {
    if insn.op_kind(0) != OpKind::Register || !insn.op_register(0).is_gpr() {
        return Err(Stop::NotCovered);
    }
    // POP RSP: the popped value stands, so the increment comes first.
    let value = pop(cpu, size)?;
    cpu.set_value(insn, 0, value)
}

fn leave(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let (base, size) = match insn.code() {
        iced_x86::Code::Leaveq => (Register::RBP, 8),
        iced_x86::Code::Leaved => (Register::EBP, 4),
        iced_x86::Code::Leavew => (Register::BP, 2),
        _ => return Err(Stop::NotCovered),
    };
    let frame = cpu.regs.rbp;
    move_stack(cpu, frame);
    let value = pop(cpu, size)?;
    regs::write(&mut cpu.regs, base, value).ok_or(Stop::NotCovered)
}

/// Width of the stack pointer in bytes.
fn pointer_size(cpu: &Cpu<'_>) -> usize {
    if cpu.is_64_bit() {
        8
    } else if cpu.sregs.ss.db != 0 {
        4
    } else {
        2
    }
}

fn move_stack(cpu: &mut Cpu<'_>, pointer: u64) {
    let width = mask(pointer_size(cpu));
    cpu.regs.rsp = cpu.regs.rsp & !width | pointer & width;
}

/// The linear address of `offset` on the stack; `#SS(0)` where it is not canonical.
fn stack_address(cpu: &Cpu<'_>, offset: u64) -> Result<u64, Stop> {
    let offset = offset & mask(pointer_size(cpu));
    if !cpu.is_64_bit() {
        return Ok(cpu.sregs.ss.base.wrapping_add(offset) & mask(4));
    }
    if !cpu.walker().is_canonical(offset) {
        return Err(Exception::stack_fault().into());
    }
    Ok(offset)
}

/// Pushes the low `size` bytes of `value`.
pub(super) fn push(cpu: &mut Cpu<'_>, size: usize, value: u64) -> Result<(), Stop> {
    let top = cpu.regs.rsp.wrapping_sub(size as u64);
    let linear = stack_address(cpu, top)?;
    cpu.write_number(linear, size, value)?;
    move_stack(cpu, top);
    Ok(())
}

/// Pops `size` bytes.
pub(super) fn pop(cpu: &mut Cpu<'_>, size: usize) -> Result<u64, Stop> {
    let linear = stack_address(cpu, cpu.regs.rsp)?;
    let value = cpu.read_number(linear, size)?;
    release(cpu, size as u64);
    Ok(value)
}

/// Takes `len` bytes off the stack.
pub(super) fn release(cpu: &mut Cpu<'_>, len: u64) {
    let pointer = cpu.regs.rsp.wrapping_add(len);
    move_stack(cpu, pointer);
}
