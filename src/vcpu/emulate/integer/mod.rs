//! Everyday instructions on general registers and memory.
//!
//! KVM runs these itself. They are needed for the first instruction of the guest's
//! page-fault handler, whose place the planted breakpoint has taken (see
//! [`super::hooks`]), and between two instructions that KVM would hand back.

mod arithmetic;
mod bit_test;
mod branch;
mod exchange;
mod moves;
mod multiply;
#[cfg(test)]
mod processor_tests;
mod shift;
mod stack;
#[cfg(test)]
mod tests;

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::regs::{mask, rflags};

/// Executes an instruction of one of the families, if it is.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Nop | Endbr64 | Endbr32 | Pause => Ok(()),
        Add | Adc | Sub | Sbb | Cmp | And | Test | Or | Xor | Inc | Dec | Neg | Not => {
            arithmetic::execute(cpu, insn)
        }
        Bt | Bts | Btr | Btc | Bsf | Bsr => bit_test::execute(cpu, insn),
        Xchg | Xadd | Cmpxchg | Cmpxchg8b => exchange::execute(cpu, insn),
        Mul | Imul | Div | Idiv => multiply::execute(cpu, insn),
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd => shift::execute(cpu, insn),
        Push | Pop | Pushfq | Pushfd | Pushf | Leave => stack::execute(cpu, insn),
        Jmp | Call | Ret | Jrcxz | Jecxz | Jcxz => branch::execute(cpu, insn),
        _ if insn.is_jcc_short_or_near() => branch::execute(cpu, insn),
        _ => moves::execute(cpu, insn),
    }
}

fn flag_if(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

/// The top bit of the low `size` bytes.
fn sign_bit(size: usize) -> u64 {
    (mask(size) >> 1).wrapping_add(1)
}

fn is_negative(value: u64, size: usize) -> bool {
    value & sign_bit(size) != 0
}

/// The low `size` bytes of `value` as a signed number.
fn signed(value: u64, size: usize) -> i64 {
    let unused = 64 - 8 * size.clamp(1, 8);
    (value << unused) as i64 >> unused
}

/// PF, ZF and SF of a result.
fn result_flags(result: u64, size: usize) -> u64 {
    flag_if((result as u8).count_ones().is_multiple_of(2), rflags::PF)
        | flag_if(result & mask(size) == 0, rflags::ZF)
        | flag_if(is_negative(result, size), rflags::SF)
}

/// Whether the instruction's condition holds (SDM vol. 1 appendix B).
fn condition_holds(insn: &Instruction, flags: u64) -> bool {
    use iced_x86::ConditionCode as Code;
    let set = |flag| flags & flag != 0;
    let less = set(rflags::SF) != set(rflags::OF);
    match insn.condition_code() {
        Code::o => set(rflags::OF),
        Code::no => !set(rflags::OF),
        Code::b => set(rflags::CF),
        Code::ae => !set(rflags::CF),
        Code::e => set(rflags::ZF),
        Code::ne => !set(rflags::ZF),
        Code::be => set(rflags::CF | rflags::ZF),
        Code::a => !set(rflags::CF | rflags::ZF),
        Code::s => set(rflags::SF),
        Code::ns => !set(rflags::SF),
        Code::p => set(rflags::PF),
        Code::np => !set(rflags::PF),
        Code::l => less,
        Code::ge => !less,
        Code::le => less || set(rflags::ZF),
        Code::g => !less && !set(rflags::ZF),
        Code::None => true,
    }
}
