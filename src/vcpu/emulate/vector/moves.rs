//! Moves: whole registers, single elements, halves, and those that repeat elements.

use iced_x86::{Mnemonic, OpKind, Register};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::vectors;
use super::elements;
use super::operation::{Operation, first_bits};

/// MOVUPS, MOVDQA and kin: all of a register, to or from memory or another register.
pub(super) fn whole(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let mnemonic = op.insn.mnemonic();
    let size = match mnemonic {
        Vmovdqu8 => 1,
        Vmovdqu16 => 2,
        Vmovups | Vmovaps | Vmovdqu32 | Vmovdqa32 => 4,
        _ => 8,
    };
    let aligned = !matches!(
        mnemonic,
        Movups
            | Movupd
            | Movdqu
            | Lddqu
            | Vmovups
            | Vmovupd
            | Vmovdqu
            | Vlddqu
            | Vmovdqu8
            | Vmovdqu16
            | Vmovdqu32
            | Vmovdqu64
    );
    for index in (0..2).filter(|index| aligned && op.is_memory(*index)) {
        cpu.aligned_address(op.insn, index, op.len as u64)?;
    }
    let value = op.masked_source(cpu, 1, size)?;
    op.finish(cpu, &value, op.len, size)
}

/// MOVD and MOVQ: the low 4 or 8 bytes of a vector register.
///
/// The destination is cleared above them: all of it by the VEX forms, up to 16 bytes by the SSE forms.
pub(super) fn low(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let insn = op.insn;
    let is_xmm =
        |index| insn.op_kind(index) == OpKind::Register && insn.op_register(index).is_xmm();
    let size = match insn.mnemonic() {
        Mnemonic::Movd | Mnemonic::Vmovd => 4,
        _ => 8,
    };
    let value = if is_xmm(1) {
        let vector = vectors::register(cpu, insn.op_register(1), 16)?;
        elements::get(&vector, size, 0)
    } else {
        cpu.value(insn, 1)?
    };
    if !is_xmm(0) {
        return cpu.set_value(insn, 0, value);
    }
    let vector = elements::from_fn(size, size, |_| value);
    vectors::set_register(cpu, insn.op_register(0), op.form, &vector, 16)
}

/// MOVSS and MOVSD: element 0, with the rest of the first source, or zeros from memory.
pub(super) fn element(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let size = match op.insn.mnemonic() {
        Mnemonic::Movss | Mnemonic::Vmovss => 4,
        _ => 8,
    };
    let last = op.last();
    if op.is_memory(0) {
        let value = op.source(cpu, last)?;
        return op.finish(cpu, &value, size, size);
    }
    let moved = op.masked_source(cpu, last, size)?;
    let mut value = if op.is_memory(last) {
        [0; 64]
    } else {
        op.source(cpu, op.before_last())?
    };
    elements::put(&mut value, size, 0, elements::get(&moved, size, 0));
    op.finish_scalar(cpu, &value, size)
}

/// MOVLPS, MOVHPS, MOVLHPS, MOVHLPS and kin: 8 bytes, the rest as in the first source.
pub(super) fn half(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let (from, to) = match op.insn.mnemonic() {
        Movlps | Movlpd | Vmovlps | Vmovlpd => (0, 0),
        Movhps | Movhpd | Vmovhps | Vmovhpd => (0, 1),
        Movhlps | Vmovhlps => (1, 0),
        _ => (0, 1),
    };
    let source = op.source(cpu, op.last())?;
    if op.is_memory(0) {
        return cpu.set_value(op.insn, 0, elements::get(&source, 8, to));
    }
    let mut value = op.source(cpu, op.before_last())?;
    elements::put(&mut value, 8, to, elements::get(&source, 8, from));
    vectors::set_register(cpu, op.insn.op_register(0), op.form, &value, 16)
}

/// MOVSLDUP, MOVSHDUP and MOVDDUP: each second element twice.
pub(super) fn duplicate(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let (size, odd) = match op.insn.mnemonic() {
        Movsldup | Vmovsldup => (4, 0),
        Movshdup | Vmovshdup => (4, 1),
        _ => (8, 0),
    };
    let source = op.source(cpu, 1)?;
    let value = elements::from_fn(op.len, size, |index| {
        elements::get(&source, size, index & !1 | odd)
    });
    op.finish(cpu, &value, op.len, size)
}

/// VMASKMOV and VPMASKMOV: elements whose sign in the middle operand is set, zeros else.
pub(super) fn by_sign(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let size = match op.insn.mnemonic() {
        Mnemonic::Vmaskmovps | Mnemonic::Vpmaskmovd => 4,
        _ => 8,
    };
    let signs = op.source(cpu, 1)?;
    let masked = op.masked_by(elements::signs(&signs, op.len, size));
    let value = masked.masked_source(cpu, 2, size)?;
    masked.finish(cpu, &value, op.len, size)
}

/// MASKMOVDQU: bytes whose sign in the last operand is set, to DS:\[RDI\].
pub(super) fn bytes_by_sign(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let value = vectors::register(cpu, op.insn.op_register(1), 16)?;
    let signs = vectors::register(cpu, op.insn.op_register(2), 16)?;
    let masked = op.masked_by(elements::signs(&signs, 16, 1));
    let at = cpu.address(op.insn, 0)?;
    masked.store(cpu, at, &value, 16, 1)
}

/// VZEROUPPER and VZEROALL.
pub(super) fn clear(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let kept = match op.insn.mnemonic() {
        Mnemonic::Vzeroupper => 16,
        _ => 0,
    };
    vectors::clear_above(cpu, kept, if cpu.is_64_bit() { 16 } else { 8 })
}

/// Broadcasts of 1 to 32 bytes of memory, a vector register or a general one.
pub(super) fn broadcast(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let (unit, size) = match op.insn.mnemonic() {
        Vpbroadcastb => (1, 1),
        Vpbroadcastw => (2, 2),
        Vbroadcastss | Vpbroadcastd => (4, 4),
        Vbroadcastsd | Vpbroadcastq => (8, 8),
        Vbroadcastf32x2 | Vbroadcasti32x2 => (8, 4),
        Vbroadcastf32x4 | Vbroadcasti32x4 => (16, 4),
        Vbroadcastf128 | Vbroadcasti128 | Vbroadcastf64x2 | Vbroadcasti64x2 => (16, 8),
        Vbroadcastf32x8 | Vbroadcasti32x8 => (32, 4),
        _ => (32, 8),
    };
    let register = op.insn.op_register(1);
    let source = if op.is_memory(1) {
        let mut value = [0; 64];
        let at = cpu.address(op.insn, 1)?;
        if op.mask.bits & first_bits(elements::count(op.len, size)) != 0 {
            cpu.read(at, value.get_mut(..unit).unwrap_or(&mut []))?;
        }
        value
    } else if register.is_gpr() {
        let value = cpu.value(op.insn, 1)?;
        elements::from_fn(8, 8, |_| value)
    } else {
        op.source(cpu, 1)?
    };
    let value = elements::splat(source.get(..unit).unwrap_or(&[]), unit);
    op.finish(cpu, &value, op.len, size)
}

/// The implicit third operand of the SSE blends and SHA256RNDS2.
pub(super) fn xmm0(cpu: &mut Cpu<'_>) -> Result<vectors::Vector, Stop> {
    vectors::register(cpu, Register::XMM0, 16)
}
