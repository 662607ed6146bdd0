//! Everyday instructions, without memory atomicity.
//!
//! KVM runs these itself. They are needed for the first instruction of the
//! guest's page-fault handler, whose place the planted breakpoint has taken
//! (see [`super::hooks`]).

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::cpu::Cpu;
use super::error::Stop;
use super::regs::{mask, rflags, set_flags};

/// NOP, ENDBR, MOV, LEA, PUSH, POP, ADD, SUB, AND, OR, XOR, CMP, TEST, JMP.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if insn.has_lock_prefix() || !cpu.is_64_bit() {
        return Err(Stop::NotCovered);
    }
    match insn.mnemonic() {
        Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Pause => Ok(()),
        Mnemonic::Mov => {
            let value = cpu.value(insn, 1)?;
            cpu.set_value(insn, 0, value)
        }
        Mnemonic::Lea => lea(cpu, insn),
        Mnemonic::Push => push(cpu, insn),
        Mnemonic::Pop => pop(cpu, insn),
        Mnemonic::Jmp if insn.op_kind(0) == OpKind::NearBranch64 => {
            cpu.regs.rip = insn.near_branch_target();
            Ok(())
        }
        _ => arithmetic(cpu, insn),
    }
}

/// The address is not accessed, nor need it be canonical, nor has it a segment.
fn lea(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let regs = cpu.regs;
    let address = insn
        .virtual_address(1, 0, |register, _, _| {
            if register.is_segment_register() {
                Some(0)
            } else {
                super::regs::read(&regs, register)
            }
        })
        .ok_or(Stop::NotCovered)?;
    cpu.set_value(insn, 0, address)
}

fn push(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = insn.stack_pointer_increment().unsigned_abs() as usize;
    let value = match insn.op_kind(0) {
        OpKind::Register if insn.op_register(0).is_segment_register() => {
            super::regs::segment(&cpu.sregs, insn.op_register(0))
                .map(|segment| u64::from(segment.selector))
                .ok_or(Stop::NotCovered)?
        }
        _ => cpu.value(insn, 0)?,
    };
    let top = cpu.regs.rsp.wrapping_sub(size as u64);
    cpu.write_number(top, size, value)?;
    cpu.regs.rsp = top;
    Ok(())
}

fn pop(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if insn.op_kind(0) != OpKind::Register || !insn.op_register(0).is_gpr() {
        return Err(Stop::NotCovered);
    }
    let size = insn.stack_pointer_increment().unsigned_abs() as usize;
    let value = cpu.read_number(cpu.regs.rsp, size)?;
    // POP RSP: the popped value stands, so the increment comes first.
    cpu.regs.rsp = cpu.regs.rsp.wrapping_add(size as u64);
    cpu.set_value(insn, 0, value)
}

fn arithmetic(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let bits = size as u32 * 8;
    let (a, b) = (cpu.value(insn, 0)?, cpu.value(insn, 1)? & mask(size));
    let sign = |value: u64| value >> (bits - 1) & 1 != 0;
    let (result, carry, overflow, store) = match insn.mnemonic() {
        Mnemonic::Add => {
            let sum = u128::from(a) + u128::from(b);
            let result = sum as u64 & mask(size);
            (
                result,
                sum >> bits != 0,
                sign((a ^ result) & (b ^ result)),
                true,
            )
        }
        Mnemonic::Sub | Mnemonic::Cmp => {
            let result = a.wrapping_sub(b) & mask(size);
            let store = insn.mnemonic() == Mnemonic::Sub;
            (result, a < b, sign((a ^ b) & (a ^ result)), store)
        }
        Mnemonic::And => (a & b, false, false, true),
        Mnemonic::Test => (a & b, false, false, false),
        Mnemonic::Or => (a | b, false, false, true),
        Mnemonic::Xor => (a ^ b, false, false, true),
        _ => return Err(Stop::NotCovered),
    };
    if store {
        cpu.set_value(insn, 0, result)?;
    }
    let adjusts = matches!(
        insn.mnemonic(),
        Mnemonic::Add | Mnemonic::Sub | Mnemonic::Cmp
    );
    let flags = [
        (carry, rflags::CF),
        ((result as u8).count_ones().is_multiple_of(2), rflags::PF),
        (adjusts && (a ^ b ^ result) & 0x10 != 0, rflags::AF),
        (result == 0, rflags::ZF),
        (sign(result), rflags::SF),
        (overflow, rflags::OF),
    ];
    let value = flags
        .iter()
        .filter(|(set, _)| *set)
        .fold(0, |all, (_, flag)| all | flag);
    set_flags(&mut cpu.regs, rflags::STATUS, value);
    Ok(())
}
