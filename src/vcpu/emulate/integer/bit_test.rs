//! BT, BTS, BTR, BTC, BSF and BSR.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::regs::{rflags, set_flags};
use super::{flag_if, signed};

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if matches!(insn.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr) {
        return scan(cpu, insn);
    }
    let size = cpu.operand_size(insn, 0);
    let bits = 8 * size as u64;
    let offset = cpu.value(insn, 1)?;
    let bit = 1u64 << (offset % bits);
    let mnemonic = insn.mnemonic();
    let change = |value: u64| match mnemonic {
        Mnemonic::Bts => value | bit,
        Mnemonic::Btr => value & !bit,
        _ => value ^ bit,
    };
    let old = if insn.op_kind(0) == OpKind::Register {
        match mnemonic {
            Mnemonic::Bt => cpu.value(insn, 0)?,
            _ => cpu.update(insn, 0, change)?,
        }
    } else {
        // A register's offset reaches beyond the operand, in both directions.
        let words = match insn.op_kind(1) {
            OpKind::Register => signed(offset, size) >> bits.trailing_zeros(),
            _ => 0,
        };
        let linear = cpu.address_beyond(insn, 0, words.wrapping_mul(size as i64))?;
        match mnemonic {
            Mnemonic::Bt => cpu.read_number(linear, size)?,
            _ => cpu.update_memory(linear, size, insn.has_lock_prefix(), change)?,
        }
    };
    set_flags(
        &mut cpu.regs,
        rflags::CF,
        flag_if(old & bit != 0, rflags::CF),
    );
    Ok(())
}

/// With a source of zero the destination stays, as on every processor there is.
fn scan(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let source = cpu.value(insn, 1)?;
    set_flags(&mut cpu.regs, rflags::ZF, flag_if(source == 0, rflags::ZF));
    let Some(highest) = source.checked_ilog2() else {
        return Ok(());
    };
    let index = match insn.mnemonic() {
        Mnemonic::Bsf => source.trailing_zeros(),
        _ => highest,
    };
    cpu.set_value(insn, 0, u64::from(index))
}
