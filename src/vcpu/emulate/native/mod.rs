//! Vector instructions executed by the processor itself, on the guest's operands.
//!
//! Nothing is generated at run time. For each operation there is a prebuilt stub,
//! the instruction on fixed registers and a RET ([`table`]), and one way into it
//! ([`call`]), so that no memory need ever be made executable:
//!
//! ```text
//! operands of the guest's instruction          its result
//!   registers ─► XSAVE image ─┐                ▲ opmask, zeroing, rest of the register
//!   memory ─► page walk ──────┴► a, b, c ─► stub on 16 bytes, up to 4 times ─► a
//! ```
//!
//! AVX and AVX-512 do the same to each 128 bits of a longer vector, so one stub
//! serves all encodings and lengths of an operation, and a host without
//! AVX-512 serves what its guest can have. Opmasks and broadcasts are done in software,
//! and so is what moves data between those 128 bits ([`super::vector`]).
//!
//! Of the guest's state only operands and MXCSR (all exceptions masked) ever
//! reach the processor: PKRU and AMX tiles are never loaded, so no guest can
//! close the VMM's own memory to it or leave it with a larger state.
//! Floating-point exceptions that the guest has not masked become `#XM`.

mod call;
mod control;
mod convert;
mod crypto;
mod float;
mod fused;
mod integer;
mod table;
mod variable;

use iced_x86::{CpuidFeature, Instruction, Mnemonic};

use self::call::Frame;
use self::control::Control;
use self::table::{Found, Index, Kind, Needs, Table};
use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::regs::{rflags, set_flags};
use super::vector::elements;
use super::vector::operation::Operation;
use super::vectors::{self, Form, Vector};

const TABLES: [&Table; 6] = [
    &integer::INTEGER,
    &variable::VARIABLE,
    &crypto::CRYPTO,
    &float::FLOAT,
    &fused::FUSED,
    &convert::CONVERT,
];

static INDEX: Index = Index::new(&TABLES);

/// The stubs of an instruction, if it is one of those executed natively.
pub(super) fn find(mnemonic: Mnemonic) -> Option<Found> {
    INDEX.find(&TABLES, mnemonic)
}

/// Executes it.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction, found: &Found) -> Result<(), Stop> {
    let op = Operation::new(cpu, insn)?;
    let host = &cpu.host.features;
    let can = match found.row.needs {
        Needs::Sse => true,
        Needs::Vex => host.have(&[CpuidFeature::AVX]),
        Needs::Evex => host.have(&[CpuidFeature::AVX512F, CpuidFeature::AVX512VL]),
    };
    if !can {
        return Err(Stop::NotCovered);
    }
    let mut frame = Frame::new();
    load(cpu, &op, found, &mut frame)?;
    if found.row.float {
        keep_masked_out_elements_silent(&op, found, &mut frame);
    }
    // A store that faults (VCVTPS2PH) has raised no flag in MXCSR.
    let before = match found.row.float && op.is_memory(0) {
        true => Some(cpu.state.xsave()?),
        false => None,
    };
    let raised = run(cpu, &op, found, &mut frame)?;
    if let Some(exception) = raised {
        return Err(exception.into());
    }
    let result = complete(cpu, &op, found, &frame);
    if let (Err(_), Some(before)) = (&result, &before) {
        cpu.state.set_xsave(before)?;
    }
    result
}

/// Fills the frame with the instruction's sources.
fn load(
    cpu: &mut Cpu<'_>,
    op: &Operation<'_>,
    found: &Found,
    frame: &mut Frame,
) -> Result<(), Stop> {
    let (row, last) = (found.row, op.last());
    let first = op.before_last();
    let register_or_none = |cpu: &mut Cpu<'_>, index: u32| {
        if op.is_memory(index) || op.is_opmask(index) {
            return Ok([0; 64]);
        }
        vectors::register(cpu, op.insn.op_register(index), op.len)
    };
    match row.kind {
        Kind::Accumulate | Kind::ScalarAccumulate => {
            frame.a = op.source(cpu, 0)?;
            frame.b = op.source(cpu, 1)?;
            frame.c = op.masked_source(cpu, 2, row.size)?;
        }
        Kind::Count if op.immediate().is_some() => {
            frame.a = op.masked_source(cpu, last, row.size)?;
            frame.b = elements::splat(&[op.immediate().unwrap_or(0)], 16);
        }
        Kind::Count => {
            frame.a = op.source(cpu, first)?;
            frame.b = elements::splat(&op.source(cpu, last)?, 16);
        }
        Kind::EachCount => {
            frame.a = op.masked_source(cpu, last, row.size)?;
            frame.b = elements::splat(&[op.immediate().unwrap_or(0)], row.size);
        }
        Kind::PairCount => {
            frame.a = op.source(cpu, first)?;
            frame.b = op.masked_source(cpu, last, row.size)?;
            frame.c = elements::splat(&[op.immediate().unwrap_or(0)], row.size);
        }
        Kind::FromGeneral => {
            frame.a = register_or_none(cpu, first)?;
            frame.general = cpu.value(op.insn, last)?;
        }
        Kind::ToGeneral => frame.b = op.source(cpu, last)?,
        Kind::Mixed | Kind::XorImmediate => {
            frame.a = register_or_none(cpu, first)?;
            frame.b = op.source(cpu, last)?;
        }
        Kind::ThroughXmm0 => {
            frame.a = op.source(cpu, 0)?;
            frame.b = op.source(cpu, 1)?;
            frame.c = vectors::register(cpu, iced_x86::Register::XMM0, 16)?;
        }
        Kind::Carryless => {
            let imm = op.imm()?;
            let (a, b) = (op.source(cpu, first)?, op.source(cpu, last)?);
            let half = |vector: &Vector, bit: usize| {
                let upper = imm >> bit & 1;
                elements::from_fn(64, 8, |index| elements::get(vector, 8, index & !1 | upper))
            };
            (frame.a, frame.b) = (half(&a, 0), half(&b, 4));
        }
        Kind::Widen => {
            let source = op.masked_source(cpu, last, row.size / 2)?;
            let half = |index| elements::get(&source, 8, index);
            // Each piece of the result comes from 8 bytes.
            frame.b = elements::from_fn(
                64,
                8,
                |index| {
                    if index % 2 == 0 { half(index / 2) } else { 0 }
                },
            );
        }
        Kind::Narrow | Kind::RoundNarrow => {
            frame.b = op.masked_source(cpu, last, row.size * 2)?;
        }
        _ => {
            let size = if op.insn.memory_size().size() < 16 && !op.insn.is_broadcast() {
                op.insn.memory_size().size()
            } else {
                row.size
            };
            frame.a = register_or_none(cpu, first)?;
            frame.b = op.masked_source(cpu, last, size)?;
        }
    }
    Ok(())
}

/// What the opmask leaves out raises no exception: it computes with ones.
fn keep_masked_out_elements_silent(op: &Operation<'_>, found: &Found, frame: &mut Frame) {
    let row = found.row;
    let size = match row.kind {
        Kind::Widen => row.size / 2,
        Kind::Narrow | Kind::RoundNarrow => row.size * 2,
        _ => row.size,
    };
    let one = match size {
        2 => 0x3c00,
        4 => 0x3f80_0000,
        _ => 0x3ff0_0000_0000_0000,
    };
    if row.kind.is_scalar() {
        return;
    }
    for index in
        (0..elements::count(op.len, row.size.max(size))).filter(|index| !op.mask.has(*index))
    {
        // Two elements of a piece that widens are followed by as many unused ones.
        let at = match row.kind {
            Kind::Widen => {
                let each = 8 / size;
                index / each * (2 * each) + index % each
            }
            _ => index,
        };
        for vector in [&mut frame.a, &mut frame.b, &mut frame.c] {
            elements::put(vector, size, at, one);
        }
    }
}

/// Calls the stub; the exception that the guest wants to hear of, if one was raised.
fn run(
    cpu: &mut Cpu<'_>,
    op: &Operation<'_>,
    found: &Found,
    frame: &mut Frame,
) -> Result<Option<Exception>, Stop> {
    let row = found.row;
    if row.kind.is_scalar() && !op.mask.has(0) {
        return Ok(None);
    }
    let pieces = if row.kind.is_scalar() { 1 } else { op.len / 16 };
    let which = match row.kind {
        Kind::FromGeneral => usize::from(cpu.operand_size(op.insn, op.last()) == 8),
        Kind::ToGeneral => usize::from(cpu.operand_size(op.insn, 0) == 8),
        _ => op.immediate().unwrap_or(0).into(),
    };
    let control = match row.float {
        true => Some(Control::of(cpu, op, row)?),
        false => None,
    };
    if let Some(control) = &control {
        frame.mxcsr = control.while_running();
    }
    // SAFETY: the guest's instruction and the stub's need what this processor has,
    // as was asked in `execute` and `Operation::new`; MXCSR is as demanded.
    unsafe { call::call(found.stub(which), frame, pieces) };
    match control {
        Some(control) => control.raise(cpu, op, row, frame),
        None => Ok(None),
    }
}

/// Takes the result to where the instruction wants it.
fn complete(
    cpu: &mut Cpu<'_>,
    op: &Operation<'_>,
    found: &Found,
    frame: &Frame,
) -> Result<(), Stop> {
    let row = found.row;
    let immediate = op.immediate().unwrap_or(0);
    match row.kind {
        Kind::Flags => {
            let flags = rflags::ZF | rflags::PF | rflags::CF;
            set_flags(&mut cpu.regs, rflags::STATUS, frame.general & flags);
            Ok(())
        }
        Kind::ToGeneral => cpu.set_value(op.insn, 0, frame.general),
        _ if op.is_opmask(0) => {
            let count = if row.kind.is_scalar() {
                1
            } else {
                elements::count(op.len, row.size)
            };
            let bits = (0..count)
                .filter(|index| elements::get_signed(&frame.a, row.size, *index) < 0)
                .fold(0, |bits, index| bits | 1 << index);
            op.finish_opmask(cpu, bits, count)
        }
        Kind::Scalar | Kind::ScalarAccumulate | Kind::RoundScalar | Kind::FromGeneral => {
            op.finish_scalar(cpu, &frame.a, row.size)
        }
        Kind::Narrow | Kind::RoundNarrow => {
            let halves =
                elements::from_fn(op.len / 2, 8, |index| elements::get(&frame.a, 8, index * 2));
            // Only the SSE forms do not clear the rest by themselves.
            let len = match op.form {
                Form::Sse => 16,
                _ => op.len / 2,
            };
            op.finish(cpu, &halves, len, row.size)
        }
        Kind::XorImmediate => {
            let value = frame.a.map(|byte| byte ^ immediate);
            op.finish(cpu, &value, op.len, row.size)
        }
        Kind::RoundConstant => {
            let value = elements::from_fn(op.len, 4, |index| {
                let constant = u64::from(immediate) * (index as u64 & 1);
                elements::get(&frame.a, 4, index) ^ constant
            });
            op.finish(cpu, &value, op.len, row.size)
        }
        _ => op.finish(cpu, &frame.a, op.len, row.size),
    }
}
