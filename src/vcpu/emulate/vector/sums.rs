//! Sums of absolute differences of bytes, at places that an immediate chooses.

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::vectors::Vector;
use super::elements::{from_fn, get};
use super::operation::Operation;

/// The sum over four bytes of `a` from `at_a` on and of `b` from `at_b` on.
fn four(a: &Vector, at_a: usize, b: &Vector, at_b: usize) -> u64 {
    (0..4)
        .map(|step| get(a, 1, at_a + step).abs_diff(get(b, 1, at_b + step)))
        .sum()
}

/// MPSADBW: four bytes of the second source against eight places of the first.
pub(super) fn of_shifted_differences(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let imm = op.imm()?;
    let a = op.source(cpu, op.before_last())?;
    let b = op.source(cpu, op.last())?;
    let value = from_fn(op.len, 2, |index| {
        let (part, place) = (index / 8, index % 8);
        // The upper 16 bytes have three bits of their own.
        let chosen = imm >> (3 * (part & 1));
        let at_a = 16 * part + 4 * (chosen >> 2 & 1) + place;
        let at_b = 16 * part + 4 * (chosen & 3);
        four(&a, at_a, &b, at_b)
    });
    op.finish(cpu, &value, op.len, 2)
}

/// VDBPSADBW: the same of the second source's four-byte groups in another order.
pub(super) fn of_chosen_differences(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    let imm = op.imm()?;
    let (a, b) = (op.source(cpu, 1)?, op.source(cpu, 2)?);
    let chosen = from_fn(op.len, 4, |index| {
        get(&b, 4, index & !3 | imm >> (2 * (index % 4)) & 3)
    });
    let value = from_fn(op.len, 2, |index| {
        let (half, place) = (8 * (index / 4), index % 4);
        let at_a = half + if place < 2 { 0 } else { 4 };
        four(&a, at_a, &chosen, half + place)
    });
    op.finish(cpu, &value, op.len, 2)
}
