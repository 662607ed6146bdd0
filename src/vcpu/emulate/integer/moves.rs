//! MOV and its kin: MOVZX, MOVSX, CMOVcc, SETcc, BSWAP, LEA, and sign extension in place.

use iced_x86::{Instruction, Mnemonic, Register};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::regs::{self, mask, rflags, set_flags};
use super::{condition_holds, signed};

/// What SAHF writes.
const LOW_FLAGS: u64 = rflags::CF | rflags::PF | rflags::AF | rflags::ZF | rflags::SF;

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    match insn.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx => {
            let value = cpu.value(insn, 1)?;
            cpu.set_value(insn, 0, value)
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let value = cpu.value(insn, 1)?;
            let size = cpu.operand_size(insn, 1);
            cpu.set_value(insn, 0, signed(value, size) as u64)
        }
        Mnemonic::Lea => load_address(cpu, insn),
        Mnemonic::Bswap => swap_bytes(cpu, insn),
        Mnemonic::Cbw => extend(cpu, Register::AL, Register::AX, Register::None),
        Mnemonic::Cwde => extend(cpu, Register::AX, Register::EAX, Register::None),
        Mnemonic::Cdqe => extend(cpu, Register::EAX, Register::RAX, Register::None),
        Mnemonic::Cwd => extend(cpu, Register::AX, Register::AX, Register::DX),
        Mnemonic::Cdq => extend(cpu, Register::EAX, Register::EAX, Register::EDX),
        Mnemonic::Cqo => extend(cpu, Register::RAX, Register::RAX, Register::RDX),
        Mnemonic::Lahf => {
            let flags = cpu.regs.rflags & LOW_FLAGS | 2;
            write(cpu, Register::AH, flags)
        }
        Mnemonic::Sahf => {
            let flags = cpu.regs.rax >> 8;
            set_flags(&mut cpu.regs, LOW_FLAGS, flags);
            Ok(())
        }
        mnemonic if is_conditional_move(mnemonic) => {
            // The source is read, and a 32-bit destination cleared above, either way.
            let source = cpu.value(insn, 1)?;
            let kept = cpu.value(insn, 0)?;
            let holds = condition_holds(insn, cpu.regs.rflags);
            cpu.set_value(insn, 0, if holds { source } else { kept })
        }
        mnemonic if is_conditional_set(mnemonic) => {
            let holds = condition_holds(insn, cpu.regs.rflags);
            cpu.set_value(insn, 0, u64::from(holds))
        }
        _ => Err(Stop::NotCovered),
    }
}

fn is_conditional_move(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Cmovo
            | Cmovno
            | Cmovb
            | Cmovae
            | Cmove
            | Cmovne
            | Cmovbe
            | Cmova
            | Cmovs
            | Cmovns
            | Cmovp
            | Cmovnp
            | Cmovl
            | Cmovge
            | Cmovle
            | Cmovg
    )
}

fn is_conditional_set(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Seto | Setno
            | Setb
            | Setae
            | Sete
            | Setne
            | Setbe
            | Seta
            | Sets
            | Setns
            | Setp
            | Setnp
            | Setl
            | Setge
            | Setle
            | Setg
    )
}

fn write(cpu: &mut Cpu<'_>, register: Register, value: u64) -> Result<(), Stop> {
    regs::write(&mut cpu.regs, register, value).ok_or(Stop::NotCovered)
}

/// The address is not accessed, nor need it be canonical, nor has it a segment.
fn load_address(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let registers = cpu.regs;
    let address = insn
        .virtual_address(1, 0, |register, _, _| {
            if register.is_segment_register() {
                Some(0)
            } else {
                regs::read(&registers, register)
            }
        })
        .ok_or(Stop::NotCovered)?;
    cpu.set_value(insn, 0, address)
}

/// With 16 bits the result is undefined: processors give zero.
fn swap_bytes(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let size = cpu.operand_size(insn, 0);
    let value = cpu.value(insn, 0)?;
    let swapped = match size {
        8 => value.swap_bytes(),
        4 => value.swap_bytes() >> 32,
        _ => 0,
    };
    cpu.set_value(insn, 0, swapped)
}

/// Writes the sign-extended `from` to `to`, and its sign alone to `upper` where there is one.
fn extend(cpu: &mut Cpu<'_>, from: Register, to: Register, upper: Register) -> Result<(), Stop> {
    let value = regs::read(&cpu.regs, from).ok_or(Stop::NotCovered)?;
    let value = signed(value, from.size());
    if upper == Register::None {
        return write(cpu, to, value as u64);
    }
    write(cpu, upper, (value >> 63) as u64 & mask(upper.size()))
}
