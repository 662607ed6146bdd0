//! MUL, IMUL, DIV and IDIV.

use iced_x86::{Instruction, Mnemonic, Register};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::exception::Exception;
use super::super::regs::{mask, rflags, set_flags};
use super::{flag_if, result_flags, signed};

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    match (insn.mnemonic(), insn.op_count()) {
        (Mnemonic::Mul, _) => multiply_wide(cpu, insn, false),
        (Mnemonic::Imul, 1) => multiply_wide(cpu, insn, true),
        (Mnemonic::Imul, _) => multiply(cpu, insn),
        (mnemonic, _) => divide(cpu, insn, mnemonic == Mnemonic::Idiv),
    }
}

/// The registers that hold the two halves of a double-width number.
fn halves(size: usize) -> (Register, Register) {
    match size {
        1 => (Register::AH, Register::AL),
        2 => (Register::DX, Register::AX),
        4 => (Register::EDX, Register::EAX),
        _ => (Register::RDX, Register::RAX),
    }
}

fn set_halves(cpu: &mut Cpu<'_>, size: usize, high: u64, low: u64) -> Result<(), Stop> {
    use super::super::regs::write;
    let (upper, lower) = halves(size);
    write(&mut cpu.regs, lower, low).ok_or(Stop::NotCovered)?;
    write(&mut cpu.regs, upper, high).ok_or(Stop::NotCovered)
}

/// CF and OF tell that the product does not fit; the manual leaves the others undefined.
fn set_product_flags(cpu: &mut Cpu<'_>, low: u64, size: usize, lost: bool) {
    let flags = result_flags(low, size) & !rflags::ZF | flag_if(lost, rflags::CF | rflags::OF);
    set_flags(&mut cpu.regs, rflags::STATUS, flags);
}

fn multiply_wide(cpu: &mut Cpu<'_>, insn: &Instruction, is_signed: bool) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let (a, b) = (cpu.value(insn, 0)?, cpu.regs.rax & mask(size));
    let product = if is_signed {
        (i128::from(signed(a, size)) * i128::from(signed(b, size))) as u128
    } else {
        u128::from(a) * u128::from(b)
    };
    let low = product as u64 & mask(size);
    let high = (product >> (8 * size)) as u64 & mask(size);
    let expected_high = if is_signed {
        (signed(low, size) >> 63) as u64 & mask(size)
    } else {
        0
    };
    set_halves(cpu, size, high, low)?;
    set_product_flags(cpu, low, size, high != expected_high);
    Ok(())
}

/// The forms with a destination register, which keep the lower half.
fn multiply(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let (first, second) = if insn.op_count() == 3 { (1, 2) } else { (0, 1) };
    let a = signed(cpu.value(insn, first)?, size);
    let b = signed(cpu.value(insn, second)?, size);
    let product = i128::from(a) * i128::from(b);
    let low = product as u64 & mask(size);
    set_product_flags(cpu, low, size, i128::from(signed(low, size)) != product);
    cpu.set_value(insn, 0, low)
}

/// `#DE` for a divisor of zero and for a quotient that does not fit. Flags stay:
/// the manual leaves them undefined.
fn divide(cpu: &mut Cpu<'_>, insn: &Instruction, is_signed: bool) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let bits = 8 * size;
    let divisor = cpu.value(insn, 0)?;
    let (upper, lower) = halves(size);
    let half = |register| super::super::regs::read(&cpu.regs, register).ok_or(Stop::NotCovered);
    let dividend = u128::from(half(upper)?) << bits | u128::from(half(lower)?);
    let overflow = || Stop::Fault(Exception::divide_error());
    let (quotient, remainder) = if is_signed {
        let unused = 128 - 2 * bits;
        let dividend = (dividend << unused) as i128 >> unused;
        let divisor = i128::from(signed(divisor, size));
        let quotient = dividend.checked_div(divisor).ok_or_else(overflow)?;
        if i128::from(signed(quotient as u64, size)) != quotient {
            return Err(overflow());
        }
        let remainder = dividend.checked_rem(divisor).ok_or_else(overflow)?;
        (quotient as u64, remainder as u64)
    } else {
        let divisor = u128::from(divisor);
        let quotient = dividend.checked_div(divisor).ok_or_else(overflow)?;
        if quotient > u128::from(mask(size)) {
            return Err(overflow());
        }
        let remainder = dividend.checked_rem(divisor).ok_or_else(overflow)?;
        (quotient as u64, remainder as u64)
    };
    set_halves(cpu, size, remainder, quotient)
}
