//! Instructions that set or clear one flag.

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::regs::{rflags, set_flags};

/// CLAC, STAC, CLC, STC, CMC, CLD, STD, CLI.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let carry = cpu.regs.rflags & rflags::CF;
    let (flag, value) = match insn.mnemonic() {
        Mnemonic::Clac => (access_check(cpu)?, 0),
        Mnemonic::Stac => (access_check(cpu)?, rflags::AC),
        Mnemonic::Clc => (rflags::CF, 0),
        Mnemonic::Stc => (rflags::CF, rflags::CF),
        Mnemonic::Cmc => (rflags::CF, carry ^ rflags::CF),
        Mnemonic::Cld => (rflags::DF, 0),
        Mnemonic::Std => (rflags::DF, rflags::DF),
        Mnemonic::Cli if cpu.cpl() == 0 => (rflags::IF, 0),
        _ => return Err(Stop::NotCovered),
    };
    set_flags(&mut cpu.regs, flag, value);
    Ok(())
}

/// CLAC and STAC are `#UD` outside CPL 0.
fn access_check(cpu: &Cpu<'_>) -> Result<u64, Stop> {
    if cpu.cpl() != 0 {
        return Err(Exception::invalid_opcode().into());
    }
    Ok(rflags::AC)
}
