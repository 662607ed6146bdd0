//! MXCSR while a stub runs, and the floating-point exceptions that come of it
//! (SDM vol. 1 §11.5, vol. 2 §2.7.5).
//!
//! The stub runs with all exceptions masked. What a masked exception leaves in
//! the flags tells which of those that the guest has not masked it would have raised.

use iced_x86::{Mnemonic, RoundingControl};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::exception::Exception;
use super::super::fpu;
use super::super::vector::elements;
use super::super::vector::operation::Operation;
use super::call::Frame;
use super::table::{Kind, Row};

const FLAGS: u32 = 0x3f;
const MASKS: u32 = 0x1f80;
const MASKS_SHIFT: u32 = 7;
const ROUNDING: u32 = 0x6000;
const ROUNDING_SHIFT: u32 = 13;
const FLUSH_TO_ZERO: u32 = 1 << 15;
/// Flags, masks, rounding, DAZ and FTZ: what every 64-bit processor takes.
const ALL: u32 = 0xffff;
const UNDERFLOW: u32 = 1 << 4;
const PRECISION: u32 = 1 << 5;
/// Invalid operation, denormal operand and division by zero: found before there is a result.
const BEFORE_COMPUTING: u32 = 7;
const CR4_OSXMMEXCPT: u64 = 1 << 10;

/// How one instruction computes.
pub(super) struct Control {
    /// The guest's MXCSR.
    guest: u32,
    /// Rounding mode, in its place in MXCSR.
    rounding: u32,
    /// Whether the instruction says itself that it raises nothing.
    silent: bool,
    /// Flags that it never raises.
    ignored: u32,
}

impl Control {
    /// From the guest's MXCSR and the instruction.
    pub fn of(cpu: &mut Cpu<'_>, op: &Operation<'_>, row: &Row) -> Result<Self, Stop> {
        let guest = cpu.state.image()?.number(fpu::MXCSR, 4) as u32;
        let mode = |mode: u32| Some(mode << ROUNDING_SHIFT);
        let embedded = match op.insn.rounding_control() {
            RoundingControl::None => None,
            RoundingControl::RoundToNearest => mode(0),
            RoundingControl::RoundDown => mode(1),
            RoundingControl::RoundUp => mode(2),
            RoundingControl::RoundTowardZero => mode(3),
        };
        let silent = embedded.is_some() || op.insn.suppress_all_exceptions();
        let immediate = u32::from(op.immediate().unwrap_or(0));
        let (own, ignored) = match row.kind {
            Kind::Round | Kind::RoundScalar | Kind::RoundNarrow => {
                let exact = row.kind != Kind::RoundNarrow && immediate & 8 != 0;
                let own = (immediate & 4 == 0).then_some((immediate & 3) << ROUNDING_SHIFT);
                (own, if exact { PRECISION } else { 0 })
            }
            _ => (embedded, 0),
        };
        Ok(Self {
            guest,
            rounding: own.unwrap_or(guest & ROUNDING),
            silent,
            ignored,
        })
    }

    /// MXCSR for the stub: no flags, all exceptions masked.
    pub fn while_running(&self) -> u32 {
        let mut mxcsr = self.guest & ALL & !(FLAGS | ROUNDING) | self.rounding | MASKS;
        if self.hears_underflow() {
            // Flushing is the answer to a masked underflow only.
            mxcsr &= !FLUSH_TO_ZERO;
        }
        mxcsr
    }

    fn unmasked(&self) -> u32 {
        !(self.guest >> MASKS_SHIFT) & FLAGS
    }

    fn hears_underflow(&self) -> bool {
        !self.silent && self.unmasked() & UNDERFLOW != 0
    }

    /// Adds what the stub has raised to the guest's MXCSR. The exception, if the
    /// guest wants to hear of one.
    pub fn raise(
        &self,
        cpu: &mut Cpu<'_>,
        op: &Operation<'_>,
        row: &Row,
        frame: &Frame,
    ) -> Result<Option<Exception>, Stop> {
        if self.silent {
            return Ok(None);
        }
        let mut raised = frame.mxcsr & FLAGS & !self.ignored;
        if self.hears_underflow() && underflows(op.insn.mnemonic(), row) && has_tiny(op, row, frame)
        {
            // A masked underflow counts only if it is inexact as well.
            raised |= UNDERFLOW;
        }
        if raised & self.unmasked() & BEFORE_COMPUTING != 0 {
            raised &= BEFORE_COMPUTING;
        }
        if raised & !self.guest != 0 {
            fpu::set_mxcsr(cpu.state.image_mut()?, self.guest | raised);
        }
        if raised & self.unmasked() == 0 {
            return Ok(None);
        }
        Ok(Some(if cpu.sregs.cr4 & CR4_OSXMMEXCPT != 0 {
            Exception::simd_floating_point()
        } else {
            Exception::invalid_opcode()
        }))
    }
}

/// Whether a denormal result of this operation is an underflow.
fn underflows(mnemonic: Mnemonic, row: &Row) -> bool {
    use Mnemonic::*;
    matches!(row.kind, Kind::Accumulate | Kind::ScalarAccumulate)
        || matches!(
            row.mnemonics.first().unwrap_or(&mnemonic),
            Addps
                | Addpd
                | Addss
                | Addsd
                | Subps
                | Subpd
                | Subss
                | Subsd
                | Mulps
                | Mulpd
                | Mulss
                | Mulsd
                | Divps
                | Divpd
                | Divss
                | Divsd
                | Haddps
                | Haddpd
                | Hsubps
                | Hsubpd
                | Addsubps
                | Addsubpd
                | Dpps
                | Dppd
                | Cvtpd2ps
                | Cvtsd2ss
                | Vcvtps2ph
                | Vscalefps
                | Vscalefpd
                | Vscalefss
                | Vscalefsd
        )
}

/// Whether a computed element of the result is denormal.
fn has_tiny(op: &Operation<'_>, row: &Row, frame: &Frame) -> bool {
    let fraction = match row.size {
        2 => 10,
        4 => 23,
        _ => 52,
    };
    let magnitude = u64::MAX >> (65 - elements::bits(row.size));
    let count = if row.kind.is_scalar() {
        1
    } else {
        elements::count(op.len, row.size)
    };
    // Results of a narrowing fill half of each piece, zeros the rest.
    (0..count).any(|index| {
        let number = elements::get(&frame.a, row.size, index) & magnitude;
        number != 0 && number >> fraction == 0
    })
}
