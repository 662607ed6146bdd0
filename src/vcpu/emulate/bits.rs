//! Bit counting, BMI1, BMI2, ADX, MOVBE and CRC32 on general registers.

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::regs::{mask, rflags, set_flags};

/// POPCNT, LZCNT, TZCNT, MOVBE, CRC32 and the BMI and ADX instructions.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    match insn.mnemonic() {
        Mnemonic::Popcnt | Mnemonic::Lzcnt | Mnemonic::Tzcnt => count(cpu, insn),
        Mnemonic::Andn | Mnemonic::Bextr | Mnemonic::Bzhi => three_with_flags(cpu, insn),
        Mnemonic::Blsi | Mnemonic::Blsr | Mnemonic::Blsmsk => lowest_bit(cpu, insn),
        Mnemonic::Pdep | Mnemonic::Pext => scatter(cpu, insn),
        Mnemonic::Rorx | Mnemonic::Sarx | Mnemonic::Shlx | Mnemonic::Shrx => shift(cpu, insn),
        Mnemonic::Mulx => multiply(cpu, insn),
        Mnemonic::Adcx | Mnemonic::Adox => add_with_carry(cpu, insn),
        Mnemonic::Movbe => move_swapped(cpu, insn),
        Mnemonic::Crc32 => checksum(cpu, insn),
        _ => Err(Stop::NotCovered),
    }
}

fn bits_of(size: usize) -> u32 {
    size as u32 * 8
}

fn flag_if(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

fn sign_of(value: u64, size: usize) -> bool {
    value >> (bits_of(size) - 1) & 1 != 0
}

fn count(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let source = cpu.value(insn, 1)?;
    let width = bits_of(size);
    let result = match insn.mnemonic() {
        Mnemonic::Popcnt => source.count_ones(),
        Mnemonic::Lzcnt => source.leading_zeros() - (64 - width),
        _ => source.trailing_zeros().min(width),
    };
    let flags = if insn.mnemonic() == Mnemonic::Popcnt {
        set_flags(&mut cpu.regs, rflags::STATUS, 0);
        flag_if(source == 0, rflags::ZF)
    } else {
        flag_if(result == width, rflags::CF) | flag_if(result == 0, rflags::ZF)
    };
    set_flags(&mut cpu.regs, rflags::CF | rflags::ZF, flags);
    cpu.set_value(insn, 0, u64::from(result))
}

fn three_with_flags(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let (first, second) = (cpu.value(insn, 1)?, cpu.value(insn, 2)?);
    let width = bits_of(size);
    let (result, carry) = match insn.mnemonic() {
        Mnemonic::Andn => (!first & second & mask(size), false),
        Mnemonic::Bextr => {
            let (start, len) = ((second & 0xff) as u32, (second >> 8 & 0xff) as u32);
            let shifted = first.checked_shr(start).unwrap_or(0);
            (shifted & low_ones(len), false)
        }
        _ => {
            let index = (second & 0xff) as u32;
            (first & low_ones(index), index >= width)
        }
    };
    let flags = flag_if(result == 0, rflags::ZF)
        | flag_if(carry, rflags::CF)
        | flag_if(
            insn.mnemonic() != Mnemonic::Bextr && sign_of(result, size),
            rflags::SF,
        );
    set_flags(
        &mut cpu.regs,
        rflags::ZF | rflags::CF | rflags::OF | rflags::SF,
        flags,
    );
    cpu.set_value(insn, 0, result)
}

/// `count` low ones; all from 64 up.
fn low_ones(count: u32) -> u64 {
    1u64.checked_shl(count).map_or(u64::MAX, |bit| bit - 1)
}

fn lowest_bit(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let source = cpu.value(insn, 1)?;
    let (result, carry) = match insn.mnemonic() {
        Mnemonic::Blsi => (source & source.wrapping_neg(), source != 0),
        Mnemonic::Blsr => (source & source.wrapping_sub(1), source == 0),
        _ => (source ^ source.wrapping_sub(1), source == 0),
    };
    let result = result & mask(size);
    let flags = flag_if(result == 0, rflags::ZF)
        | flag_if(sign_of(result, size), rflags::SF)
        | flag_if(carry, rflags::CF);
    set_flags(
        &mut cpu.regs,
        rflags::ZF | rflags::SF | rflags::CF | rflags::OF,
        flags,
    );
    cpu.set_value(insn, 0, result)
}

fn scatter(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let source = cpu.value(insn, 1)?;
    let mut selected = cpu.value(insn, 2)?;
    let mut result = 0;
    let mut position = 0;
    while selected != 0 {
        let lowest = selected & selected.wrapping_neg();
        if insn.mnemonic() == Mnemonic::Pdep {
            result |= flag_if(source >> position & 1 != 0, lowest);
        } else {
            result |= flag_if(source & lowest != 0, 1 << position);
        }
        position += 1;
        selected &= selected.wrapping_sub(1);
    }
    cpu.set_value(insn, 0, result)
}

fn shift(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let source = cpu.value(insn, 1)?;
    let width = bits_of(size);
    let by = (cpu.value(insn, 2)? as u32) & (width - 1);
    let result = match insn.mnemonic() {
        Mnemonic::Rorx if size == 4 => u64::from((source as u32).rotate_right(by)),
        Mnemonic::Rorx => source.rotate_right(by),
        Mnemonic::Sarx if size == 4 => ((source as u32 as i32) >> by) as u64,
        Mnemonic::Sarx => ((source as i64) >> by) as u64,
        Mnemonic::Shlx => source << by,
        _ => source >> by,
    };
    cpu.set_value(insn, 0, result)
}

fn multiply(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let source = u128::from(cpu.value(insn, 2)?);
    let product = source * u128::from(cpu.regs.rdx & mask(size));
    // The high half is written last: it stands if both name one register.
    cpu.set_value(insn, 1, product as u64)?;
    cpu.set_value(insn, 0, (product >> bits_of(size)) as u64)
}

fn add_with_carry(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let flag = if insn.mnemonic() == Mnemonic::Adcx {
        rflags::CF
    } else {
        rflags::OF
    };
    let carry = u128::from(cpu.regs.rflags & flag != 0);
    let sum = u128::from(cpu.value(insn, 0)?) + u128::from(cpu.value(insn, 1)?) + carry;
    set_flags(
        &mut cpu.regs,
        flag,
        flag_if(sum >> bits_of(size) != 0, flag),
    );
    cpu.set_value(insn, 0, sum as u64)
}

fn move_swapped(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let swapped = cpu.value(insn, 1)?.swap_bytes() >> (64 - bits_of(size));
    cpu.set_value(insn, 0, swapped)
}

/// One step for each bit of the source, with the Castagnoli polynomial, bits
/// reflected: SDM vol. 2, CRC32 (11EDC6F41H).
fn checksum(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    const REFLECTED: u64 = 0x82f6_3b78;
    let size = cpu.operand_size(insn, 1);
    let mut rest = (cpu.value(insn, 0)? & mask(4)) ^ cpu.value(insn, 1)?;
    for _ in 0..bits_of(size) {
        rest = rest >> 1 ^ flag_if(rest & 1 != 0, REFLECTED);
    }
    cpu.set_value(insn, 0, rest)
}
