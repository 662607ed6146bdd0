//! RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE and SWAPGS.

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;

const CR4_FSGSBASE: u64 = 1 << 16;
/// What SWAPGS exchanges the GS base with.
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if !cpu.is_64_bit() {
        return Err(Exception::invalid_opcode().into());
    }
    if insn.mnemonic() == Mnemonic::Swapgs {
        return swap(cpu);
    }
    if cpu.sregs.cr4 & CR4_FSGSBASE == 0 {
        return Err(Exception::invalid_opcode().into());
    }
    match insn.mnemonic() {
        Mnemonic::Rdfsbase => cpu.set_value(insn, 0, cpu.sregs.fs.base),
        Mnemonic::Rdgsbase => cpu.set_value(insn, 0, cpu.sregs.gs.base),
        mnemonic => {
            let base = cpu.value(insn, 0)?;
            if !cpu.walker().is_canonical(base) {
                return Err(Exception::general_protection().into());
            }
            if mnemonic == Mnemonic::Wrfsbase {
                cpu.sregs.fs.base = base;
            } else {
                cpu.sregs.gs.base = base;
            }
            Ok(())
        }
    }
}

fn swap(cpu: &mut Cpu<'_>) -> Result<(), Stop> {
    cpu.require_cpl0()?;
    let other = cpu
        .state
        .msr(IA32_KERNEL_GS_BASE)?
        .ok_or(Stop::NotCovered)?;
    if !cpu.state.set_msr(IA32_KERNEL_GS_BASE, cpu.sregs.gs.base)? {
        return Err(Stop::NotCovered);
    }
    cpu.sregs.gs.base = other;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, assemble};
    use super::*;

    assemble! { read_fs: "rdfsbase rax" }
    assemble! { read_gs_32: "rdgsbase eax" }
    assemble! { write_fs: "wrfsbase rcx" }
    assemble! { write_gs_32: "wrgsbase ecx" }
    assemble! { swap_gs: "swapgs" }

    #[test]
    fn bases_are_read_and_written() {
        let mut machine = Machine::new();
        machine.sregs.cr4 |= CR4_FSGSBASE;
        machine.enter_user_mode();
        let base = 0xffff_8000_1234_5678;
        (machine.sregs.fs.base, machine.sregs.gs.base) = (base, base);
        machine.run(read_fs()).unwrap();
        assert_eq!(machine.regs.rax, base);
        machine.run(read_gs_32()).unwrap();
        assert_eq!(machine.regs.rax, 0x1234_5678);
        machine.regs.rcx = 0x7fff_8765_4321_0123;
        assert_eq!(machine.fault(write_fs()), Exception::general_protection());
        machine.run(write_gs_32()).unwrap();
        assert_eq!(machine.sregs.gs.base, 0x4321_0123);
        machine.regs.rcx = 0x7fff_4321_0123;
        machine.run(write_fs()).unwrap();
        assert_eq!(machine.sregs.fs.base, 0x7fff_4321_0123);
    }

    #[test]
    fn the_kernel_must_have_allowed_it() {
        let mut machine = Machine::new();
        for code in [read_fs(), read_gs_32(), write_fs(), write_gs_32()] {
            assert_eq!(machine.fault(code), Exception::invalid_opcode());
        }
    }

    #[test]
    fn swapgs_exchanges_the_base_with_the_msr() {
        let mut machine = Machine::new();
        machine.state.msrs.insert(IA32_KERNEL_GS_BASE, 5);
        machine.sregs.gs.base = 7;
        machine.run(swap_gs()).unwrap();
        assert_eq!(machine.sregs.gs.base, 5);
        assert_eq!(machine.state.msrs[&IA32_KERNEL_GS_BASE], 7);
        machine.enter_user_mode();
        assert_eq!(machine.fault(swap_gs()), Exception::general_protection());
    }
}
