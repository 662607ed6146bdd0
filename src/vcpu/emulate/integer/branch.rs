//! Near branches: Jcc, JMP, CALL, RET, JRCXZ.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::exception::Exception;
use super::super::regs::mask;
use super::{condition_holds, stack};

/// Executes one of the group. Far branches are not covered.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    match insn.mnemonic() {
        Mnemonic::Jmp => {
            let to = target(cpu, insn)?;
            go(cpu, to)
        }
        Mnemonic::Call => {
            let to = target(cpu, insn)?;
            let size = insn.stack_pointer_increment().unsigned_abs() as usize;
            let back = cpu.regs.rip;
            go(cpu, to)?;
            stack::push(cpu, size, back)
        }
        Mnemonic::Ret => {
            let arguments = match insn.op_count() {
                0 => 0,
                _ => cpu.value(insn, 0)?,
            };
            let size = insn.stack_pointer_increment().unsigned_abs() as u64;
            let size = size.saturating_sub(arguments) as usize;
            let to = stack::pop(cpu, size)?;
            stack::release(cpu, arguments);
            go(cpu, to)
        }
        Mnemonic::Jrcxz => go_if(cpu, insn, cpu.regs.rcx == 0),
        Mnemonic::Jecxz => go_if(cpu, insn, cpu.regs.rcx & mask(4) == 0),
        Mnemonic::Jcxz => go_if(cpu, insn, cpu.regs.rcx & mask(2) == 0),
        _ => {
            let holds = condition_holds(insn, cpu.regs.rflags);
            go_if(cpu, insn, holds)
        }
    }
}

fn target(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<u64, Stop> {
    match insn.op_kind(0) {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            Ok(insn.near_branch_target())
        }
        _ if insn.is_jmp_near_indirect() || insn.is_call_near_indirect() => cpu.value(insn, 0),
        _ => Err(Stop::NotCovered),
    }
}

fn go_if(cpu: &mut Cpu<'_>, insn: &Instruction, taken: bool) -> Result<(), Stop> {
    if taken {
        go(cpu, insn.near_branch_target())
    } else {
        Ok(())
    }
}

/// `#GP(0)` where the target is not canonical, or beyond the code segment's limit.
fn go(cpu: &mut Cpu<'_>, to: u64) -> Result<(), Stop> {
    let reachable = if cpu.is_64_bit() {
        cpu.walker().is_canonical(to)
    } else {
        to <= u64::from(cpu.sregs.cs.limit)
    };
    if !reachable {
        return Err(Exception::general_protection().into());
    }
    cpu.regs.rip = to;
    Ok(())
}
