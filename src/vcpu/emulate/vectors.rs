//! Vector registers in the XSAVE image, and what enables the instructions on them.
//!
//! Registers lie in pieces (SDM vol. 1 §13.4, §13.5): bits 127:0 in the legacy
//! region, 255:128 in component 2, 511:256 in component 6; registers 16 to 31
//! whole in component 7.

use iced_x86::{EncodingKind, Instruction, OpKind, Register};

use super::cpu::{Cpu, Host};
use super::error::Stop;
use super::exception::Exception;
use super::state::XsaveImage;
use super::xsave_layout::{AVX, SSE};

/// A register's 64 bytes, or as many of them as count.
pub(super) type Vector = [u8; 64];

const XMM_REGISTERS: usize = 160;
const YMM_UPPER: u32 = 2;
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
    ///
    /// Opmasks and broadcasts are not covered.
    pub fn enabled(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<Self, Stop> {
        if insn.op_mask() != Register::None || insn.is_broadcast() {
            return Err(Stop::NotCovered);
        }
        let (form, needed) = match insn.encoding() {
            EncodingKind::Legacy => {
                cpu.require_sse()?;
                return Ok(Self::Sse);
            }
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

/// Length of the vector the instruction works on in bytes: that of its first vector register.
pub(super) fn length(insn: &Instruction) -> Result<usize, Stop> {
    (0..insn.op_count())
        .filter(|index| insn.op_kind(*index) == OpKind::Register)
        .map(|index| insn.op_register(index))
        .find(|register| register.is_vector_register())
        .map(Register::size)
        .ok_or(Stop::NotCovered)
}

/// The first `len` bytes of operand `index`, a vector register or memory, zeros after them.
pub(super) fn operand(
    cpu: &mut Cpu<'_>,
    image: &XsaveImage,
    insn: &Instruction,
    index: u32,
    len: usize,
    alignment: u64,
) -> Result<Vector, Stop> {
    let mut value = [0; 64];
    if insn.op_kind(index) == OpKind::Register {
        for (at, from, part) in pieces(cpu.host, number(insn.op_register(index))?, len) {
            let bytes = image.get(at, part);
            for (to, byte) in value.iter_mut().skip(from).zip(bytes) {
                *to = *byte;
            }
        }
    } else {
        let at = cpu.aligned_address(insn, index, alignment)?;
        cpu.read(at, value.get_mut(..len).ok_or(Stop::NotCovered)?)?;
    }
    Ok(value)
}

/// Writes the first `len` bytes of `value` to vector register `register`.
///
/// All forms but SSE clear the rest of it.
pub(super) fn set_register(
    cpu: &mut Cpu<'_>,
    image: &mut XsaveImage,
    register: Register,
    form: Form,
    value: &Vector,
    len: usize,
) -> Result<(), Stop> {
    let number = number(register)?;
    let whole = if form == Form::Sse { len } else { 64 };
    for (to, from, part) in pieces(cpu.host, number, whole) {
        for at in 0..part {
            let byte = value.get(from + at).filter(|_| from + at < len);
            image.put(to + at, &[byte.copied().unwrap_or(0)]);
        }
    }
    let written = match (number < 16, len) {
        (true, ..=16) => SSE,
        (true, ..=32) => SSE | AVX,
        (true, _) => SSE | AVX | 1 << ZMM_UPPER,
        (false, _) => 1 << ZMM_16_TO_31,
    };
    image.set_in_use(image.in_use() | written);
    Ok(cpu.state.set_xsave(image)?)
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
