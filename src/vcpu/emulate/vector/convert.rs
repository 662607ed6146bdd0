//! Integer elements made longer or shorter, and those packed together by an opmask.

use iced_x86::Mnemonic;

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::elements::{self, bits, from_fn, get, get_signed};
use super::operation::Operation;

/// PMOVZX and PMOVSX.
pub(super) fn extend(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let (from, to) = match op.insn.mnemonic() {
        Pmovzxbw | Vpmovzxbw | Pmovsxbw | Vpmovsxbw => (1, 2),
        Pmovzxbd | Vpmovzxbd | Pmovsxbd | Vpmovsxbd => (1, 4),
        Pmovzxbq | Vpmovzxbq | Pmovsxbq | Vpmovsxbq => (1, 8),
        Pmovzxwd | Vpmovzxwd | Pmovsxwd | Vpmovsxwd => (2, 4),
        Pmovzxwq | Vpmovzxwq | Pmovsxwq | Vpmovsxwq => (2, 8),
        _ => (4, 8),
    };
    let signed = matches!(
        op.insn.mnemonic(),
        Pmovsxbw
            | Vpmovsxbw
            | Pmovsxbd
            | Vpmovsxbd
            | Pmovsxbq
            | Vpmovsxbq
            | Pmovsxwd
            | Vpmovsxwd
            | Pmovsxwq
            | Vpmovsxwq
            | Pmovsxdq
            | Vpmovsxdq
    );
    let source = op.masked_source(cpu, 1, from)?;
    let value = from_fn(op.len, to, |index| {
        if signed {
            get_signed(&source, from, index) as u64
        } else {
            get(&source, from, index)
        }
    });
    op.finish(cpu, &value, op.len, to)
}

/// What becomes of numbers too large for the shorter element.
enum Excess {
    Truncate,
    Signed,
    Unsigned,
}

/// VPMOVQB to VPMOVWB, truncating and saturating.
pub(super) fn shorten(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let mnemonic = op.insn.mnemonic();
    let (from, to) = match mnemonic {
        Vpmovqd | Vpmovsqd | Vpmovusqd => (8, 4),
        Vpmovqw | Vpmovsqw | Vpmovusqw => (8, 2),
        Vpmovqb | Vpmovsqb | Vpmovusqb => (8, 1),
        Vpmovdw | Vpmovsdw | Vpmovusdw => (4, 2),
        Vpmovdb | Vpmovsdb | Vpmovusdb => (4, 1),
        _ => (2, 1),
    };
    let excess = match mnemonic {
        Vpmovsqd | Vpmovsqw | Vpmovsqb | Vpmovsdw | Vpmovsdb | Vpmovswb => Excess::Signed,
        Vpmovusqd | Vpmovusqw | Vpmovusqb | Vpmovusdw | Vpmovusdb | Vpmovuswb => Excess::Unsigned,
        _ => Excess::Truncate,
    };
    let source = op.source(cpu, 1)?;
    let largest = (1i64 << (bits(to) - 1)) - 1;
    let len = elements::count(op.len, from) * to;
    let value = from_fn(len, to, |index| match excess {
        Excess::Truncate => get(&source, from, index),
        Excess::Signed => get_signed(&source, from, index).clamp(-largest - 1, largest) as u64,
        Excess::Unsigned => get(&source, from, index).min(2 * largest as u64 + 1),
    });
    op.finish(cpu, &value, len, to)
}

fn packed_size(mnemonic: Mnemonic) -> usize {
    use Mnemonic::*;
    match mnemonic {
        Vpcompressb | Vpexpandb => 1,
        Vpcompressw | Vpexpandw => 2,
        Vpcompressd | Vpexpandd | Vcompressps | Vexpandps => 4,
        _ => 8,
    }
}

/// VCOMPRESS and VPCOMPRESS: the elements that the opmask has, side by side.
pub(super) fn compress(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let size = packed_size(op.insn.mnemonic());
    let source = op.source(cpu, 1)?;
    let chosen = (0..elements::count(op.len, size)).filter(|index| op.mask.has(*index));
    let mut value = [0; 64];
    let mut taken = 0;
    for index in chosen {
        elements::put(&mut value, size, taken, get(&source, size, index));
        taken += 1;
    }
    if op.is_memory(0) {
        let at = cpu.address(op.insn, 0)?;
        let bytes = value.get(..taken * size).ok_or(Stop::NotCovered)?;
        return cpu.write(at, bytes);
    }
    let dense = Operation {
        mask: super::operation::Mask {
            bits: super::operation::first_bits(taken),
            ..op.mask
        },
        ..*op
    };
    dense.finish(cpu, &value, op.len, size)
}

/// VEXPAND and VPEXPAND: elements side by side go where the opmask has one.
pub(super) fn expand(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let size = packed_size(op.insn.mnemonic());
    let count = elements::count(op.len, size);
    let source = if op.is_memory(1) {
        let taken = (0..count).filter(|index| op.mask.has(*index)).count();
        let at = cpu.address(op.insn, 1)?;
        let mut value = [0; 64];
        cpu.read(at, value.get_mut(..taken * size).unwrap_or(&mut []))?;
        value
    } else {
        op.source(cpu, 1)?
    };
    let mut taken = 0;
    let value = from_fn(op.len, size, |index| {
        if !op.mask.has(index) {
            return 0;
        }
        taken += 1;
        get(&source, size, taken - 1)
    });
    op.finish(cpu, &value, op.len, size)
}

/// VPCONFLICTD and VPCONFLICTQ: which earlier elements equal this one.
pub(super) fn conflict(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let size = match op.insn.mnemonic() {
        Mnemonic::Vpconflictd => 4,
        _ => 8,
    };
    let source = op.source(cpu, 1)?;
    let value = from_fn(op.len, size, |index| {
        let this = get(&source, size, index);
        elements::bits_where(index, |earlier| get(&source, size, earlier) == this)
    });
    op.finish(cpu, &value, op.len, size)
}

/// VPTERNLOGD and VPTERNLOGQ: the immediate is the truth table of three bits.
pub(super) fn ternary(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let size = match op.insn.mnemonic() {
        Mnemonic::Vpternlogd => 4,
        _ => 8,
    };
    let table = op.imm()?;
    let (a, b) = (op.source(cpu, 0)?, op.source(cpu, 1)?);
    let c = op.masked_source(cpu, 2, size)?;
    let value = from_fn(op.len, 8, |index| {
        let (a, b, c) = (get(&a, 8, index), get(&b, 8, index), get(&c, 8, index));
        (0..8)
            .filter(|row| table >> row & 1 != 0)
            .fold(0, |set, row| {
                let pick = |word: u64, bit: u32| if row >> bit & 1 != 0 { word } else { !word };
                set | pick(a, 2) & pick(b, 1) & pick(c, 0)
            })
    });
    op.finish(cpu, &value, op.len, size)
}
