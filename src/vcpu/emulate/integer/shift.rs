//! Shifts and rotates: SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD and SHRD.
//!
//! Each is done on 128 bits, which hold the operand, its carry and what is shifted in.

use iced_x86::{Instruction, Mnemonic};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::regs::{mask, rflags, set_flags};
use super::{flag_if, is_negative, result_flags, sign_bit, signed};

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let mnemonic = insn.mnemonic();
    let (filler, count_operand) = match mnemonic {
        Mnemonic::Shld | Mnemonic::Shrd => (cpu.value(insn, 1)?, 2),
        _ => (0, 1),
    };
    let count_mask = if size == 8 { 0x3f } else { 0x1f };
    let count = cpu.value(insn, count_operand)? as u32 & count_mask;
    let carry = cpu.regs.rflags & rflags::CF;
    let compute = |value| shifted(mnemonic, value, filler, count, carry, size);
    // With a count of zero the operand is written all the same, the flags are not.
    let old = cpu.update(insn, 0, |value| compute(value).0)?;
    if count == 0 {
        return Ok(());
    }
    let (result, carry) = compute(old);
    let mut which = rflags::CF | rflags::OF;
    let mut flags = flag_if(carry, rflags::CF) | overflow(mnemonic, old, result, carry, size);
    if !is_rotation(mnemonic) {
        which = rflags::STATUS;
        flags |= result_flags(result, size);
    }
    set_flags(&mut cpu.regs, which, flags);
    Ok(())
}

fn is_rotation(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr
    )
}

/// The result, and the last bit that was shifted out.
fn shifted(
    mnemonic: Mnemonic,
    value: u64,
    filler: u64,
    count: u32,
    carry: u64,
    size: usize,
) -> (u64, bool) {
    let bits = 8 * size as u32;
    let wide = u128::from(value);
    let (result, carry_out) = match mnemonic {
        Mnemonic::Shl | Mnemonic::Sal => {
            let result = wide << count;
            (result, result >> bits & 1 != 0)
        }
        Mnemonic::Shr => (wide >> count, last_out(wide, count)),
        Mnemonic::Sar => {
            let wide = i128::from(signed(value, size)) as u128;
            ((wide as i128 >> count) as u128, last_out(wide, count))
        }
        Mnemonic::Rol => {
            let by = count % bits;
            let result = wide << by | wide >> (bits - by);
            (result, result & 1 != 0)
        }
        Mnemonic::Ror => {
            let by = count % bits;
            let result = wide >> by | wide << (bits - by);
            (result, is_negative(result as u64, size))
        }
        Mnemonic::Rcl => {
            let ring = wide | u128::from(carry) << bits;
            let result = rotate_ring(ring, count % (bits + 1), bits + 1);
            (result, result >> bits & 1 != 0)
        }
        Mnemonic::Rcr => {
            let ring = wide | u128::from(carry) << bits;
            let by = count % (bits + 1);
            let result = rotate_ring(ring, bits + 1 - by, bits + 1);
            (result, result >> bits & 1 != 0)
        }
        Mnemonic::Shld => {
            // What is shifted in comes from below.
            let joined = wide << bits | u128::from(filler);
            let out = last_out(joined, 2 * bits - count + 1);
            (joined.rotate_left(count) >> bits, out)
        }
        _ => {
            let joined = u128::from(filler) << bits | wide;
            (joined >> count, last_out(joined, count))
        }
    };
    (result as u64 & mask(size), carry_out)
}

/// Bit `count - 1`, which a shift to the right drops last.
fn last_out(value: u128, count: u32) -> bool {
    count
        .checked_sub(1)
        .and_then(|bit| value.checked_shr(bit))
        .is_some_and(|value| value & 1 != 0)
}

/// Rotates the low `width` bits to the left.
fn rotate_ring(ring: u128, by: u32, width: u32) -> u128 {
    let all = (1u128 << width) - 1;
    (ring << by | ring >> (width - by)) & all
}

/// OF, which the manual defines for a count of one (and which is the same rule beyond).
fn overflow(mnemonic: Mnemonic, old: u64, result: u64, carry: bool, size: usize) -> u64 {
    let top = is_negative(result, size);
    let next = result & (sign_bit(size) >> 1) != 0;
    let set = match mnemonic {
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Rol | Mnemonic::Rcl => top != carry,
        Mnemonic::Shr => is_negative(old, size),
        Mnemonic::Ror | Mnemonic::Rcr => top != next,
        Mnemonic::Shld | Mnemonic::Shrd => top != is_negative(old, size),
        _ => false,
    };
    flag_if(set, rflags::OF)
}
