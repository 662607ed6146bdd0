//! Opmask registers: their own instructions, comparisons into them, and their
//! exchange with vectors.

use iced_x86::{Mnemonic, OpKind};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::fpu;
use super::super::regs::{rflags, set_flags};
use super::super::vectors;
use super::elements::{self, bits_where, from_fn, get, get_signed};
use super::operation::{Operation, first_bits};

/// Bits that an opmask instruction works on: the last letter of its name.
fn width(mnemonic: Mnemonic) -> usize {
    use Mnemonic::*;
    match mnemonic {
        Kmovb | Kandb | Kandnb | Korb | Kxnorb | Kxorb | Knotb | Kaddb | Kshiftlb | Kshiftrb
        | Kortestb | Ktestb => 8,
        Kmovw | Kandw | Kandnw | Korw | Kxnorw | Kxorw | Knotw | Kaddw | Kshiftlw | Kshiftrw
        | Kortestw | Ktestw | Kunpckbw => 16,
        Kmovd | Kandd | Kandnd | Kord | Kxnord | Kxord | Knotd | Kaddd | Kshiftld | Kshiftrd
        | Kortestd | Ktestd | Kunpckwd => 32,
        _ => 64,
    }
}

/// KMOV: between opmasks, memory and general registers.
pub(super) fn copy(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let width = width(op.insn.mnemonic());
    let value = if op.is_opmask(1) {
        vectors::opmask(cpu, op.insn.op_register(1))?
    } else if op.is_memory(1) {
        let at = cpu.address(op.insn, 1)?;
        cpu.read_number(at, width / 8)?
    } else {
        cpu.value(op.insn, 1)?
    };
    let value = value & first_bits(width);
    if op.is_opmask(0) {
        return vectors::set_opmask(cpu, op.insn.op_register(0), value);
    }
    if op.is_memory(0) {
        let at = cpu.address(op.insn, 0)?;
        return cpu.write_number(at, width / 8, value);
    }
    cpu.set_value(op.insn, 0, value)
}

/// KAND, KANDN, KOR, KXNOR, KXOR, KNOT, KADD, KSHIFTL, KSHIFTR and KUNPCK.
pub(super) fn combine(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let width = width(op.insn.mnemonic());
    let all = first_bits(width);
    let a = vectors::opmask(cpu, op.insn.op_register(1))? & all;
    let b = match op.insn.op_kind(2.min(op.insn.op_count().saturating_sub(1))) {
        OpKind::Immediate8 => u64::from(op.insn.immediate8()),
        _ => vectors::opmask(cpu, op.insn.op_register(op.last()))? & all,
    };
    let by = if b < width as u64 { b as u32 } else { 64 };
    let half = width as u32 / 2;
    let value = match op.insn.mnemonic() {
        Kandb | Kandw | Kandd | Kandq => a & b,
        Kandnb | Kandnw | Kandnd | Kandnq => !a & b,
        Korb | Korw | Kord | Korq => a | b,
        Kxnorb | Kxnorw | Kxnord | Kxnorq => !(a ^ b),
        Kxorb | Kxorw | Kxord | Kxorq => a ^ b,
        Knotb | Knotw | Knotd | Knotq => !a,
        Kaddb | Kaddw | Kaddd | Kaddq => a.wrapping_add(b),
        Kshiftlb | Kshiftlw | Kshiftld | Kshiftlq => a.checked_shl(by).unwrap_or(0),
        Kshiftrb | Kshiftrw | Kshiftrd | Kshiftrq => a.checked_shr(by).unwrap_or(0),
        _ => a << half | b & first_bits(width / 2),
    };
    vectors::set_opmask(cpu, op.insn.op_register(0), value & all)
}

/// KORTEST and KTEST.
pub(super) fn test(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let all = first_bits(width(op.insn.mnemonic()));
    let a = vectors::opmask(cpu, op.insn.op_register(0))? & all;
    let b = vectors::opmask(cpu, op.insn.op_register(1))? & all;
    let (zero, carry) = match op.insn.mnemonic() {
        Kortestb | Kortestw | Kortestd | Kortestq => (a | b == 0, a | b == all),
        _ => (a & b == 0, !a & b == 0),
    };
    let flag = |set, flag| if set { flag } else { 0 };
    let flags = flag(zero, rflags::ZF) | flag(carry, rflags::CF);
    set_flags(&mut cpu.regs, rflags::STATUS, flags);
    Ok(())
}

/// VPCMPB to VPCMPUQ: the immediate says which relation.
pub(super) fn compare(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let mnemonic = op.insn.mnemonic();
    let size = match mnemonic {
        Vpcmpb | Vpcmpub => 1,
        Vpcmpw | Vpcmpuw => 2,
        Vpcmpd | Vpcmpud => 4,
        _ => 8,
    };
    let signed = matches!(mnemonic, Vpcmpb | Vpcmpw | Vpcmpd | Vpcmpq);
    let relation = op.imm()? & 7;
    let a = op.source(cpu, 1)?;
    let b = op.masked_source(cpu, 2, size)?;
    let count = elements::count(op.len, size);
    let bits = bits_where(count, |index| {
        let order = if signed {
            get_signed(&a, size, index).cmp(&get_signed(&b, size, index))
        } else {
            get(&a, size, index).cmp(&get(&b, size, index))
        };
        match relation {
            0 => order.is_eq(),
            1 => order.is_lt(),
            2 => order.is_le(),
            3 => false,
            4 => order.is_ne(),
            5 => order.is_ge(),
            6 => order.is_gt(),
            _ => true,
        }
    });
    op.finish_opmask(cpu, bits, count)
}

/// VPTESTM and VPTESTNM: whether two elements have a common bit.
pub(super) fn test_elements(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let (size, common) = match op.insn.mnemonic() {
        Vptestmb => (1, true),
        Vptestmw => (2, true),
        Vptestmd => (4, true),
        Vptestmq => (8, true),
        Vptestnmb => (1, false),
        Vptestnmw => (2, false),
        Vptestnmd => (4, false),
        _ => (8, false),
    };
    let a = op.source(cpu, 1)?;
    let b = op.masked_source(cpu, 2, size)?;
    let count = elements::count(op.len, size);
    let bits = bits_where(count, |index| {
        (get(&a, size, index) & get(&b, size, index) != 0) == common
    });
    op.finish_opmask(cpu, bits, count)
}

/// VPMOVM2 (an opmask to elements of all ones or zeros), VPMOV2M (back: the
/// signs) and VPBROADCASTM (the number into each element).
pub(super) fn exchange(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let size = match op.insn.mnemonic() {
        Vpmovm2b | Vpmovb2m => 1,
        Vpmovm2w | Vpmovw2m => 2,
        Vpmovm2d | Vpmovd2m | Vpbroadcastmw2d => 4,
        _ => 8,
    };
    if op.is_opmask(0) {
        let source = op.source(cpu, 1)?;
        let count = elements::count(op.len, size);
        return op.finish_opmask(cpu, elements::signs(&source, op.len, size), count);
    }
    let mask = vectors::opmask(cpu, op.insn.op_register(1))?;
    let value = match op.insn.mnemonic() {
        Vpbroadcastmw2d => from_fn(op.len, size, |_| mask & 0xffff),
        Vpbroadcastmb2q => from_fn(op.len, size, |_| mask & 0xff),
        _ => from_fn(op.len, size, |index| {
            if mask >> index & 1 != 0 { u64::MAX } else { 0 }
        }),
    };
    op.finish(cpu, &value, op.len, size)
}

/// VPSHUFBITQMB: of each 64 bits, those that eight bytes number.
pub(super) fn pick_bits(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let (a, b) = (op.source(cpu, 1)?, op.source(cpu, 2)?);
    let bits = bits_where(op.len, |index| {
        get(&a, 8, index / 8) >> (get(&b, 1, index) & 63) & 1 != 0
    });
    op.finish_opmask(cpu, bits, op.len)
}

/// VFPCLASS: whether a number is of one of the kinds that the immediate names.
pub(super) fn classify(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    const DENORMALS_ARE_ZEROS: u64 = 1 << 6;
    let mnemonic = op.insn.mnemonic();
    let (size, fraction) = match mnemonic {
        Vfpclassps | Vfpclassss => (4, 23),
        _ => (8, 52),
    };
    let count = match mnemonic {
        Vfpclassps | Vfpclasspd => elements::count(op.len, size),
        _ => 1,
    };
    let daz = cpu.state.image()?.number(fpu::MXCSR, 4) & DENORMALS_ARE_ZEROS != 0;
    let kinds = op.imm()?;
    let source = op.masked_source(cpu, 1, size)?;
    let sign = elements::bits(size) - 1;
    let largest = first_bits(sign as usize - fraction);
    let bits = bits_where(count, |index| {
        let number = get(&source, size, index);
        let negative = number >> sign & 1 != 0;
        let exponent = number >> fraction & largest;
        let part = number & first_bits(fraction);
        let zero = exponent == 0 && (part == 0 || daz);
        let infinite = exponent == largest && part == 0;
        let quiet = part >> (fraction - 1) & 1 != 0;
        let not_a_number = exponent == largest && part != 0;
        let is = [
            not_a_number && quiet,
            zero && !negative,
            zero && negative,
            infinite && !negative,
            infinite && negative,
            exponent == 0 && !zero,
            negative && exponent != largest && !zero,
            not_a_number && !quiet,
        ];
        is.iter()
            .enumerate()
            .any(|(kind, is)| *is && kinds >> kind & 1 != 0)
    });
    op.finish_opmask(cpu, bits, count)
}
