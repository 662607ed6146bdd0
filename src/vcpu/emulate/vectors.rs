//! Vector registers and opmasks in the XSAVE image, and what enables the instructions on them.
//!
//! Registers lie in pieces (SDM vol. 1 §13.4, §13.5): bits 127:0 in the legacy
//! region, 255:128 in component 2, 511:256 in component 6; registers 16 to 31
//! whole in component 7; opmasks in component 5.

use iced_x86::{EncodingKind, Instruction, MemorySize, OpKind, Register};

use super::cpu::{Cpu, Host};
use super::error::Stop;
use super::exception::Exception;
use super::xsave_layout::{AVX, SSE};

/// A register's 64 bytes, or as many of them as count.
pub(super) type Vector = [u8; 64];

const XMM_REGISTERS: usize = 160;
const YMM_UPPER: u32 = 2;
const OPMASKS: u32 = 5;
const ZMM_UPPER: u32 = 6;
const ZMM_16_TO_31: u32 = 7;
/// XCR0 bits that AVX-512 needs: SSE, AVX, opmasks and both ZMM components.
const AVX512: u64 = SSE | AVX | 0xe0;

/// How an instruction is encoded, which decides what it needs and what it clears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Leaves what lies above the bytes it writes.
    Sse,
    /// Clears what lies above.
    Vex,
    /// The same, with AVX-512 enabled.
    Evex,
}

impl Form {
    /// The instruction's form, once it may be used: `#UD` or `#NM` if not.
    pub fn enabled(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<Self, Stop> {
        if !cpu.host.features.have(insn.cpuid_features()) {
            return Err(Exception::invalid_opcode().into());
        }
        let (form, needed) = match insn.encoding() {
            EncodingKind::Legacy => {
                cpu.require_sse()?;
                return Ok(Self::Sse);
            }
            EncodingKind::VEX if uses_opmasks(insn) => (Self::Vex, AVX512),
            EncodingKind::VEX => (Self::Vex, SSE | AVX),
            EncodingKind::EVEX => (Self::Evex, AVX512),
            _ => return Err(Stop::NotCovered),
        };
        cpu.require_osxsave()?;
        if cpu.state.xcr0()? & needed != needed {
            return Err(Exception::invalid_opcode().into());
        }
        cpu.require_xsave()?;
        Ok(form)
    }
}

fn uses_opmasks(insn: &Instruction) -> bool {
    (0..insn.op_count())
        .any(|index| insn.op_kind(index) == OpKind::Register && insn.op_register(index).is_k())
}

/// Length of the vectors the instruction works on in bytes: that of the longest
/// among its registers and its memory operand.
pub(super) fn length(insn: &Instruction) -> usize {
    use MemorySize::{
        Broadcast256_Float32, Broadcast256_Float64, Broadcast256_Int64, Broadcast256_UInt64,
        Broadcast512_Float32, Broadcast512_Float64, Broadcast512_Int64, Broadcast512_UInt64,
    };
    let memory =
        match insn.memory_size() {
            // Conversions to shorter elements and to opmasks: the destination does not tell.
            Broadcast256_Float32 | Broadcast256_Float64 | Broadcast256_Int64
            | Broadcast256_UInt64 => 32,
            Broadcast512_Float32 | Broadcast512_Float64 | Broadcast512_Int64
            | Broadcast512_UInt64 => 64,
            size => size.size(),
        };
    (0..insn.op_count())
        .filter(|index| insn.op_kind(*index) == OpKind::Register)
        .map(|index| insn.op_register(index))
        .filter(|register| register.is_vector_register())
        .map(Register::size)
        .fold(memory.max(16), usize::max)
        .min(64)
}

/// The first `len` bytes of vector register `register`, zeros after them.
pub(super) fn register(cpu: &mut Cpu<'_>, register: Register, len: usize) -> Result<Vector, Stop> {
    let number = number(register)?;
    let mut value = [0; 64];
    let host = cpu.host;
    let image = cpu.state.image()?;
    for (at, from, part) in pieces(host, number, len) {
        let to = value.get_mut(from..).unwrap_or(&mut []);
        for (to, byte) in to.iter_mut().zip(image.get(at, part)) {
            *to = *byte;
        }
    }
    Ok(value)
}

/// Writes the first `len` bytes of `value` to vector register `register`.
///
/// All forms but SSE clear the rest of it.
pub(super) fn set_register(
    cpu: &mut Cpu<'_>,
    register: Register,
    form: Form,
    value: &Vector,
    len: usize,
) -> Result<(), Stop> {
    let number = number(register)?;
    let mut whole = [0; 64];
    for (to, from) in whole.iter_mut().zip(value).take(len) {
        *to = *from;
    }
    let written = if form == Form::Sse { len } else { 64 };
    let host = cpu.host;
    let image = cpu.state.image_mut()?;
    for (at, from, part) in pieces(host, number, written) {
        let part = part.min(written - from);
        image.put(at, whole.get(from..from + part).unwrap_or(&[]));
    }
    let components = match (number < 16, len) {
        (true, ..=16) => SSE,
        (true, ..=32) => SSE | AVX,
        (true, _) => SSE | AVX | 1 << ZMM_UPPER,
        (false, _) => 1 << ZMM_16_TO_31,
    };
    image.set_in_use(image.in_use() | components);
    Ok(())
}

/// Clears what lies above the first `len` bytes of all registers up to 15 (VZEROUPPER, VZEROALL).
pub(super) fn clear_above(cpu: &mut Cpu<'_>, len: usize, count: usize) -> Result<(), Stop> {
    let host = cpu.host;
    let image = cpu.state.image_mut()?;
    for number in 0..count.min(16) {
        for (at, _, part) in pieces(host, number, 64).filter(|(_, from, _)| *from >= len) {
            image.put(at, [0; 32].get(..part).unwrap_or(&[]));
        }
    }
    Ok(())
}

/// Opmask register `register`, all 64 bits of it.
pub(super) fn opmask(cpu: &mut Cpu<'_>, register: Register) -> Result<u64, Stop> {
    let at = opmask_offset(cpu.host, register)?;
    Ok(cpu.state.image()?.number(at, 8))
}

/// Writes all 64 bits of opmask register `register`.
pub(super) fn set_opmask(cpu: &mut Cpu<'_>, register: Register, value: u64) -> Result<(), Stop> {
    let at = opmask_offset(cpu.host, register)?;
    let image = cpu.state.image_mut()?;
    image.put(at, &value.to_le_bytes());
    image.set_in_use(image.in_use() | 1 << OPMASKS);
    Ok(())
}

fn opmask_offset(host: &Host, register: Register) -> Result<usize, Stop> {
    if !register.is_k() {
        return Err(Stop::NotCovered);
    }
    let component = host.xsave.component(OPMASKS).ok_or(Stop::NotCovered)?;
    Ok(component.offset.saturating_add(8 * register.number()))
}

fn number(register: Register) -> Result<usize, Stop> {
    if register.is_vector_register() {
        Ok(register.number())
    } else {
        Err(Stop::NotCovered)
    }
}

/// The pieces of the first `len` bytes of register `number`: offset in the
/// image, offset in the register, length.
fn pieces(
    host: &Host,
    number: usize,
    len: usize,
) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
    let place = |component, each: usize, index: usize| {
        host.xsave
            .component(component)
            .map(|component| component.offset + each * index)
    };
    let all = if number < 16 {
        [
            Some((XMM_REGISTERS + 16 * number, 0, 16)),
            place(YMM_UPPER, 16, number).map(|at| (at, 16, 16)),
            place(ZMM_UPPER, 32, number).map(|at| (at, 32, 32)),
        ]
    } else {
        let at = place(ZMM_16_TO_31, 64, number & 15);
        [at.map(|at| (at, 0, 64)), None, None]
    };
    all.into_iter()
        .flatten()
        .filter(move |(_, from, _)| *from < len)
}
