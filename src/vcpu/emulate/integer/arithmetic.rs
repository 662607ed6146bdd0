//! ADD, ADC, SUB, SBB, CMP, AND, TEST, OR, XOR, INC, DEC, NEG and NOT.

use iced_x86::{Instruction, Mnemonic};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::regs::{mask, rflags, set_flags};
use super::{flag_if, is_negative, result_flags};

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let mnemonic = insn.mnemonic();
    let other = match mnemonic {
        Mnemonic::Inc | Mnemonic::Dec => 1,
        Mnemonic::Neg | Mnemonic::Not => 0,
        _ => cpu.value(insn, 1)? & mask(size),
    };
    let before = cpu.regs.rflags;
    let compute = |value| operation(mnemonic, value, other, size, before);
    let old = match mnemonic {
        Mnemonic::Cmp | Mnemonic::Test => cpu.value(insn, 0)?,
        _ => cpu.update(insn, 0, |value| compute(value).0)?,
    };
    let (which, flags) = match mnemonic {
        Mnemonic::Not => return Ok(()),
        Mnemonic::Inc | Mnemonic::Dec => (rflags::STATUS & !rflags::CF, compute(old).1),
        _ => (rflags::STATUS, compute(old).1),
    };
    set_flags(&mut cpu.regs, which, flags);
    Ok(())
}

/// Result and status flags of `a` and `b`.
fn operation(mnemonic: Mnemonic, a: u64, b: u64, size: usize, flags: u64) -> (u64, u64) {
    let carry = flags & rflags::CF;
    match mnemonic {
        Mnemonic::Add | Mnemonic::Inc => add(a, b, 0, size),
        Mnemonic::Adc => add(a, b, carry, size),
        Mnemonic::Sub | Mnemonic::Cmp | Mnemonic::Dec => subtract(a, b, 0, size),
        Mnemonic::Sbb => subtract(a, b, carry, size),
        Mnemonic::Neg => subtract(0, a, 0, size),
        Mnemonic::Not => (!a & mask(size), 0),
        Mnemonic::Or => logical(a | b, size),
        Mnemonic::Xor => logical(a ^ b, size),
        _ => logical(a & b, size),
    }
}

fn logical(result: u64, size: usize) -> (u64, u64) {
    (result, result_flags(result, size))
}

/// `a + b + carry`, with all six flags.
pub(super) fn add(a: u64, b: u64, carry: u64, size: usize) -> (u64, u64) {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    let result = sum as u64 & mask(size);
    let flags = result_flags(result, size)
        | flag_if(sum > u128::from(mask(size)), rflags::CF)
        | flag_if((a ^ b ^ result) & 0x10 != 0, rflags::AF)
        | flag_if(is_negative((a ^ result) & (b ^ result), size), rflags::OF);
    (result, flags)
}

/// `a - b - borrow`, with all six flags.
pub(super) fn subtract(a: u64, b: u64, borrow: u64, size: usize) -> (u64, u64) {
    let result = a.wrapping_sub(b).wrapping_sub(borrow) & mask(size);
    let flags = result_flags(result, size)
        | flag_if(
            u128::from(a) < u128::from(b) + u128::from(borrow),
            rflags::CF,
        )
        | flag_if((a ^ b ^ result) & 0x10 != 0, rflags::AF)
        | flag_if(is_negative((a ^ b) & (a ^ result), size), rflags::OF);
    (result, flags)
}
