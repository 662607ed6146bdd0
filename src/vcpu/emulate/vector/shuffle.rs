//! Elements in another order, chosen by an immediate or by a vector.

use iced_x86::Mnemonic;

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::vectors::Vector;
use super::elements::{self, from_fn, get};
use super::moves;
use super::operation::Operation;

/// PSHUFD, PSHUFHW, PSHUFLW, SHUFPS, SHUFPD, VPERMILPS and VPERMILPD: within 16 bytes.
pub(super) fn within(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let last = op.last();
    // VPERMILPS and VPERMILPD may be told by a vector.
    let Some(imm) = op.immediate() else {
        return within_by_vector(cpu, op);
    };
    let imm = usize::from(imm);
    let two = |index: usize| imm >> (2 * (index % 4)) & 3;
    let mnemonic = op.insn.mnemonic();
    let size = match mnemonic {
        Pshufhw | Vpshufhw | Pshuflw | Vpshuflw => 2,
        Shufpd | Vshufpd | Vpermilpd => 8,
        _ => 4,
    };
    let b = match mnemonic {
        Pshufhw | Vpshufhw | Pshuflw | Vpshuflw => op.source(cpu, last)?,
        _ => op.source(cpu, last)?,
    };
    let a = match mnemonic {
        Shufps | Vshufps | Shufpd | Vshufpd => op.source(cpu, op.before_last())?,
        _ => b,
    };
    let value = from_fn(op.len, size, |index| match mnemonic {
        Pshufhw | Vpshufhw if index % 8 >= 4 => get(&b, 2, index & !7 | 4 | two(index)),
        Pshuflw | Vpshuflw if index % 8 < 4 => get(&b, 2, index & !7 | two(index)),
        Pshufhw | Vpshufhw | Pshuflw | Vpshuflw => get(&b, 2, index),
        Shufps | Vshufps if index % 4 >= 2 => get(&b, 4, index & !3 | two(index)),
        Shufps | Vshufps => get(&a, 4, index & !3 | two(index)),
        Shufpd | Vshufpd | Vpermilpd => {
            let source = if index % 2 == 0 { &a } else { &b };
            get(source, 8, index & !1 | imm >> (index % 8) & 1)
        }
        _ => get(&b, 4, index & !3 | two(index)),
    });
    op.finish(cpu, &value, op.len, size)
}

fn within_by_vector(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let (source, chosen) = (op.source(cpu, 1)?, op.source(cpu, 2)?);
    let double = op.insn.mnemonic() == Mnemonic::Vpermilpd;
    let size = if double { 8 } else { 4 };
    let value = from_fn(op.len, size, |index| {
        let by = get(&chosen, size, index) as usize;
        if double {
            get(&source, 8, index & !1 | by >> 1 & 1)
        } else {
            get(&source, 4, index & !3 | by & 3)
        }
    });
    op.finish(cpu, &value, op.len, size)
}

/// PALIGNR, PSLLDQ and PSRLDQ: shifts by bytes within 16 bytes.
pub(super) fn bytes(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let imm = op.imm()?;
    let last = op.source(cpu, op.last())?;
    let zero = [0; 64];
    // The lower 16 of 32 bytes after a shift to the right by `by`.
    let (low, high, by) = match op.insn.mnemonic() {
        Palignr | Vpalignr => (last, op.source(cpu, op.before_last())?, imm),
        Psrldq | Vpsrldq => (last, zero, imm),
        _ if imm > 15 => (zero, zero, 0),
        _ => (zero, last, 16 - imm),
    };
    let value = from_fn(op.len, 1, |index| match index % 16 + by {
        at @ 0..16 => get(&low, 1, index & !15 | at),
        at @ 16..32 => get(&high, 1, index & !15 | at & 15),
        _ => 0,
    });
    op.finish(cpu, &value, op.len, 1)
}

/// VALIGND and VALIGNQ: a shift by elements through two whole vectors.
pub(super) fn align(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let size = match op.insn.mnemonic() {
        Mnemonic::Valignd => 4,
        _ => 8,
    };
    let count = elements::count(op.len, size);
    let by = op.imm()? & (count - 1);
    let (high, low) = (op.source(cpu, 1)?, op.source(cpu, 2)?);
    let value = from_fn(op.len, size, |index| match index + by {
        at if at < count => get(&low, size, at),
        at => get(&high, size, at - count),
    });
    op.finish(cpu, &value, op.len, size)
}

/// Blends by an immediate, by the signs of a vector, or by the opmask.
pub(super) fn blend(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let mnemonic = op.insn.mnemonic();
    let size = match mnemonic {
        Pblendvb | Vpblendvb => 1,
        Pblendw | Vpblendw => 2,
        Blendps | Vblendps | Vpblendd | Blendvps | Vblendvps => 4,
        _ => 8,
    };
    let (a, b, chosen): (Vector, Vector, Option<Vector>) = match mnemonic {
        Pblendvb | Blendvps | Blendvpd => {
            let by = moves::xmm0(cpu)?;
            (op.source(cpu, 0)?, op.source(cpu, 1)?, Some(by))
        }
        Vpblendvb | Vblendvps | Vblendvpd => {
            let by = op.source(cpu, 3)?;
            (op.source(cpu, 1)?, op.source(cpu, 2)?, Some(by))
        }
        _ => {
            let first = op.source(cpu, op.before_last())?;
            (first, op.source(cpu, op.last())?, None)
        }
    };
    let imm = usize::from(op.immediate().unwrap_or(0));
    let value = from_fn(op.len, size, |index| {
        let second = match &chosen {
            Some(by) => elements::get_signed(by, size, index) < 0,
            None => imm >> (index % 8) & 1 != 0,
        };
        get(if second { &b } else { &a }, size, index)
    });
    op.finish(cpu, &value, op.len, size)
}

/// VPBLENDM and VBLENDM: the opmask chooses between the sources.
pub(super) fn blend_by_opmask(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let size = match op.insn.mnemonic() {
        Vpblendmb => 1,
        Vpblendmw => 2,
        Vpblendmd | Vblendmps => 4,
        _ => 8,
    };
    let a = op.source(cpu, 1)?;
    let b = op.masked_source(cpu, 2, size)?;
    op.merge_and_write(cpu, &a, &b, op.len, size)
}

/// VPERMQ and VPERMPD by an immediate, VPERM2F128, VPERM2I128 and the shuffles of 16-byte parts.
pub(super) fn parts(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let imm = op.imm()?;
    let last = op.source(cpu, op.last())?;
    let mnemonic = op.insn.mnemonic();
    let size = match mnemonic {
        Vshuff32x4 | Vshufi32x4 => 4,
        _ => 8,
    };
    if matches!(mnemonic, Vpermq | Vpermpd) {
        let value = from_fn(op.len, 8, |index| {
            get(&last, 8, index & !3 | imm >> (2 * (index % 4)) & 3)
        });
        return op.finish(cpu, &value, op.len, 8);
    }
    let first = op.source(cpu, 1)?;
    let whole = elements::count(op.len, 16);
    let value = from_fn(op.len, 8, |index| {
        let (part, half) = (index / 2, index % 2);
        if matches!(mnemonic, Vperm2f128 | Vperm2i128) {
            let chosen = imm >> (4 * part) & 0xf;
            let source = if chosen & 2 == 0 { &first } else { &last };
            return if chosen & 8 != 0 {
                0
            } else {
                get(source, 8, 2 * (chosen & 1) + half)
            };
        }
        let source = if part < whole / 2 { &first } else { &last };
        let chosen = if whole == 2 {
            imm >> part & 1
        } else {
            imm >> (2 * part) & 3
        };
        get(source, 8, 2 * chosen + half)
    });
    op.finish(cpu, &value, op.len, size)
}

fn element_size(mnemonic: Mnemonic) -> usize {
    use Mnemonic::*;
    match mnemonic {
        Vpermb | Vpermi2b | Vpermt2b => 1,
        Vpermw | Vpermi2w | Vpermt2w => 2,
        Vpermd | Vpermps | Vpermi2d | Vpermt2d | Vpermi2ps | Vpermt2ps => 4,
        _ => 8,
    }
}

/// VPERMB to VPERMQ, VPERMPS and VPERMPD: any element of a vector, chosen by a vector.
pub(super) fn permute(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    if op.immediate().is_some() {
        return parts(cpu, op);
    }
    let size = element_size(op.insn.mnemonic());
    let (chosen, source) = (op.source(cpu, 1)?, op.source(cpu, 2)?);
    let last = elements::count(op.len, size) - 1;
    let value = from_fn(op.len, size, |index| {
        get(&source, size, get(&chosen, size, index) as usize & last)
    });
    op.finish(cpu, &value, op.len, size)
}

/// VPERMI2 and VPERMT2: any element of two vectors.
pub(super) fn permute_two(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let mnemonic = op.insn.mnemonic();
    let size = element_size(mnemonic);
    let (old, middle) = (op.source(cpu, 0)?, op.source(cpu, 1)?);
    let second = op.source(cpu, 2)?;
    let by_old = matches!(
        mnemonic,
        Vpermi2b | Vpermi2w | Vpermi2d | Vpermi2q | Vpermi2ps | Vpermi2pd
    );
    let (chosen, first) = if by_old { (old, middle) } else { (middle, old) };
    let count = elements::count(op.len, size);
    let value = from_fn(op.len, size, |index| {
        let at = get(&chosen, size, index) as usize & (2 * count - 1);
        if at < count {
            get(&first, size, at)
        } else {
            get(&second, size, at - count)
        }
    });
    op.finish(cpu, &value, op.len, size)
}
