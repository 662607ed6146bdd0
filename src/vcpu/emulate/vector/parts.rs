//! Parts of vectors: inserted, extracted, and gathered into general registers.

use iced_x86::Mnemonic;

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::regs::{rflags, set_flags};
use super::elements;
use super::operation::Operation;

/// PINSRB, PINSRW, PINSRD and PINSRQ.
pub(super) fn insert_general(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let size = match op.insn.mnemonic() {
        Pinsrb | Vpinsrb => 1,
        Pinsrw | Vpinsrw => 2,
        Pinsrd | Vpinsrd => 4,
        _ => 8,
    };
    let inserted = cpu.value(op.insn, op.last())?;
    let mut value = op.source(cpu, op.before_last())?;
    let index = op.imm()? & (elements::count(16, size) - 1);
    elements::put(&mut value, size, index, inserted);
    op.finish(cpu, &value, 16, 16)
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ and EXTRACTPS.
pub(super) fn extract_general(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let size = match op.insn.mnemonic() {
        Pextrb | Vpextrb => 1,
        Pextrw | Vpextrw => 2,
        Pextrd | Vpextrd | Extractps | Vextractps => 4,
        _ => 8,
    };
    let source = op.source(cpu, 1)?;
    let index = op.imm()? & (elements::count(16, size) - 1);
    cpu.set_value(op.insn, 0, elements::get(&source, size, index))
}

/// INSERTPS: one element to another place, then zeros where the immediate says.
pub(super) fn insert_single(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let (imm, last) = (op.imm()?, op.last());
    let source = op.source(cpu, last)?;
    let from = if op.is_memory(last) { 0 } else { imm >> 6 };
    let first = op.source(cpu, op.before_last())?;
    let value = elements::from_fn(16, 4, |index| {
        if imm >> index & 1 != 0 {
            0
        } else if index == imm >> 4 & 3 {
            elements::get(&source, 4, from)
        } else {
            elements::get(&first, 4, index)
        }
    });
    op.finish(cpu, &value, 16, 4)
}

/// Size of the part, and of the elements that an opmask counts.
fn part(mnemonic: Mnemonic) -> (usize, usize) {
    use Mnemonic::*;
    match mnemonic {
        Vinsertf32x4 | Vinserti32x4 | Vextractf32x4 | Vextracti32x4 => (16, 4),
        Vinsertf32x8 | Vinserti32x8 | Vextractf32x8 | Vextracti32x8 => (32, 4),
        Vinsertf64x4 | Vinserti64x4 | Vextractf64x4 | Vextracti64x4 => (32, 8),
        _ => (16, 8),
    }
}

/// VINSERTF128 and kin: 16 or 32 bytes of a longer vector.
pub(super) fn insert(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let (unit, size) = part(op.insn.mnemonic());
    let inserted = op.source(cpu, 2)?;
    let mut value = op.source(cpu, 1)?;
    let at = (op.imm()? & (op.len / unit).saturating_sub(1)) * unit;
    for (to, from) in value.iter_mut().skip(at).take(unit).zip(inserted) {
        *to = from;
    }
    op.finish(cpu, &value, op.len, size)
}

/// VEXTRACTF128 and kin.
pub(super) fn extract(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let (unit, size) = part(op.insn.mnemonic());
    let source = op.source(cpu, 1)?;
    let at = (op.imm()? & (op.len / unit).saturating_sub(1)) * unit;
    let mut value = [0; 64];
    for (to, from) in value.iter_mut().zip(source.iter().skip(at).take(unit)) {
        *to = *from;
    }
    if op.is_memory(0) {
        // All of it must be writable, whatever the opmask leaves out.
        let to = cpu.address(op.insn, 0)?;
        cpu.probe_write(to, unit)?;
    }
    op.finish(cpu, &value, unit, size)
}

/// PMOVMSKB, MOVMSKPS and MOVMSKPD: the signs of all elements.
pub(super) fn signs(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let size = match op.insn.mnemonic() {
        Pmovmskb | Vpmovmskb => 1,
        Movmskps | Vmovmskps => 4,
        _ => 8,
    };
    let source = op.source(cpu, 1)?;
    cpu.set_value(op.insn, 0, elements::signs(&source, op.len, size))
}

/// PTEST, VTESTPS and VTESTPD: ZF if no common bit, CF if no bit but common ones.
pub(super) fn test(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let counted = match op.insn.mnemonic() {
        Mnemonic::Vtestps => 0x8000_0000_8000_0000,
        Mnemonic::Vtestpd => 1 << 63,
        _ => u64::MAX,
    };
    let (a, b) = (op.source(cpu, 0)?, op.source(cpu, 1)?);
    let (mut common, mut beyond) = (0, 0);
    for index in 0..elements::count(op.len, 8) {
        let (a, b) = (elements::get(&a, 8, index), elements::get(&b, 8, index));
        common |= a & b & counted;
        beyond |= !a & b & counted;
    }
    let zero = if common == 0 { rflags::ZF } else { 0 };
    let carry = if beyond == 0 { rflags::CF } else { 0 };
    set_flags(&mut cpu.regs, rflags::STATUS, zero | carry);
    Ok(())
}
