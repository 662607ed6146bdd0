//! System instructions: XGETBV, XSETBV, CLTS, INVPCID, RDPID, RDTSCP, RDRAND, RDSEED, INT.

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::{Exception, vector};
use super::host;
use super::paging::{Kind, Privilege, bits};
use super::regs::{mask, rflags, set_flags};

const IA32_TSC: u32 = 0x10;
const IA32_TSC_AUX: u32 = 0xc000_0103;
const CR0_TS: u64 = 1 << 3;
const CR4_TSD: u64 = 1 << 2;

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    match insn.mnemonic() {
        Mnemonic::Xgetbv => xgetbv(cpu),
        Mnemonic::Xsetbv => xsetbv(cpu),
        Mnemonic::Clts => {
            cpu.require_cpl0()?;
            cpu.sregs.cr0 &= !CR0_TS;
            Ok(())
        }
        Mnemonic::Invpcid => invpcid(cpu, insn),
        Mnemonic::Rdpid => {
            let aux = cpu.state.msr(IA32_TSC_AUX)?.unwrap_or(0);
            cpu.set_value(insn, 0, aux & mask(4))
        }
        Mnemonic::Rdtsc => rdtsc(cpu),
        Mnemonic::Rdtscp => {
            rdtsc(cpu)?;
            cpu.regs.rcx = cpu.state.msr(IA32_TSC_AUX)?.unwrap_or(0) & mask(4);
            Ok(())
        }
        Mnemonic::Rdrand | Mnemonic::Rdseed => random(cpu, insn),
        Mnemonic::Int3 => interrupt(cpu, vector::BREAKPOINT),
        Mnemonic::Int => interrupt(cpu, insn.immediate8()),
        _ => Err(Stop::NotCovered),
    }
}

fn xgetbv(cpu: &mut Cpu<'_>) -> Result<(), Stop> {
    cpu.require_osxsave()?;
    let xcr0 = cpu.state.xcr0()?;
    let value = match cpu.regs.rcx as u32 {
        0 => xcr0,
        // XINUSE (SDM vol. 1 §13.2): what of XCR0 is not in its initial configuration.
        1 => xcr0 & cpu.state.xsave()?.in_use(),
        _ => return Err(Exception::general_protection().into()),
    };
    set_pair(cpu, value);
    Ok(())
}

fn xsetbv(cpu: &mut Cpu<'_>) -> Result<(), Stop> {
    cpu.require_osxsave()?;
    cpu.require_cpl0()?;
    let value = cpu.regs.rdx << 32 | cpu.regs.rax & mask(4);
    if cpu.regs.rcx as u32 != 0 || !cpu.state.set_xcr0(value)? {
        return Err(Exception::general_protection().into());
    }
    Ok(())
}

/// Checks the operands, then drops more than was asked for, which is allowed:
/// every translation.
fn invpcid(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    const RESERVED: u64 = !0xfff;
    cpu.require_cpl0()?;
    let kind = cpu.value(insn, 0)?;
    let at = cpu.address(insn, 1)?;
    let mut descriptor = [0; 16];
    cpu.read(at, &mut descriptor)?;
    let descriptor = u128::from_le_bytes(descriptor);
    let (pcid, linear) = (descriptor as u64, (descriptor >> 64) as u64);
    let bad_address = kind == 0 && !cpu.walker().is_canonical(linear);
    if kind > 3 || pcid & RESERVED != 0 || bad_address {
        return Err(Exception::general_protection().into());
    }
    Ok(cpu.state.flush_tlb(&cpu.sregs)?)
}

fn rdtsc(cpu: &mut Cpu<'_>) -> Result<(), Stop> {
    if cpu.sregs.cr4 & CR4_TSD != 0 {
        cpu.require_cpl0()?;
    }
    let tsc = cpu.state.msr(IA32_TSC)?.ok_or(Stop::NotCovered)?;
    set_pair(cpu, tsc);
    Ok(())
}

/// EDX:EAX, upper halves cleared.
fn set_pair(cpu: &mut Cpu<'_>, value: u64) {
    cpu.regs.rax = value & mask(4);
    cpu.regs.rdx = value >> 32;
}

/// An event after the instruction, or `#GP` with the gate's index if the guest's
/// kernel has not opened that gate to this privilege level (SDM vol. 3 §6.12.1.2).
fn interrupt(cpu: &mut Cpu<'_>, vector: u8) -> Result<(), Stop> {
    /// Present, and one of the gate types.
    const PRESENT: u8 = 0x80;
    /// The error code names an entry of the IDT.
    const IDT: u32 = 2;
    if cpu.cpl() > 0 {
        let refused = Exception::general_protection_at(u32::from(vector) << 3 | IDT);
        let size = if cpu.sregs.efer & bits::EFER_LMA != 0 {
            16
        } else {
            8
        };
        let offset = u64::from(vector) * size;
        if offset + size - 1 > u64::from(cpu.sregs.idt.limit) {
            return Err(refused.into());
        }
        let mut access = [0];
        let at = cpu.sregs.idt.base.wrapping_add(offset + 5);
        cpu.read_as(at, &mut access, Kind::Read, Privilege::Implicit)?;
        let [access] = access;
        if access >> 5 & 3 < cpu.cpl() {
            return Err(refused.into());
        }
        if access & PRESENT == 0 {
            return Err(Exception::not_present_at(u32::from(vector) << 3 | IDT).into());
        }
    }
    Err(Stop::Trap(Exception::software(vector)))
}

/// CF tells success; with none the destination is zero.
fn random(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let word = host::random();
    let success = if word.is_some() { rflags::CF } else { 0 };
    set_flags(&mut cpu.regs, rflags::STATUS, success);
    cpu.set_value(insn, 0, word.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{KERNEL_DATA, Machine, assemble};
    use super::*;

    assemble! { xgetbv_of_xcr0: "xgetbv" }
    assemble! { xsetbv: "xsetbv" }
    assemble! { clts: "clts" }
    assemble! { invpcid: "invpcid rax, [rbx]" }
    assemble! { rdpid: "rdpid rax" }
    assemble! { rdtscp: "rdtscp" }
    assemble! { rdrand: "rdrand rax" }
    assemble! { rdseed: "rdseed eax" }
    assemble! { int3: "int3" }
    assemble! { int_0x80: "int 0x80" }

    #[test]
    fn xgetbv_tells_xcr0_and_what_is_in_use() {
        let mut machine = Machine::new();
        machine.run(xgetbv_of_xcr0()).unwrap();
        assert_eq!((machine.regs.rax, machine.regs.rdx), (7, 0));
        machine.regs.rcx = 1;
        machine.state.image.set_in_use(0b1010);
        machine.run(xgetbv_of_xcr0()).unwrap();
        assert_eq!(machine.regs.rax, 2);
        machine.regs.rcx = 2;
        assert_eq!(
            machine.fault(xgetbv_of_xcr0()),
            Exception::general_protection()
        );
    }

    #[test]
    fn xsetbv_is_checked_by_kvm() {
        let mut machine = Machine::new();
        machine.regs.rax = 3;
        machine.run(xsetbv()).unwrap();
        assert_eq!(machine.state.xcr0, 3);
        machine.regs.rax = 2;
        assert_eq!(machine.fault(xsetbv()), Exception::general_protection());
        machine.enter_user_mode();
        assert_eq!(machine.fault(xsetbv()), Exception::general_protection());
    }

    #[test]
    fn clts_clears_ts() {
        let mut machine = Machine::new();
        machine.sregs.cr0 |= CR0_TS;
        machine.run(clts()).unwrap();
        assert_eq!(machine.sregs.cr0 & CR0_TS, 0);
    }

    #[test]
    fn invpcid_flushes_once_its_operands_are_right() {
        let mut machine = Machine::new();
        machine.regs.rbx = KERNEL_DATA;
        for kind in 0..4 {
            machine.regs.rax = kind;
            machine.run(invpcid()).unwrap();
        }
        assert_eq!(machine.state.flushes, 4);
        machine.regs.rax = 4;
        assert_eq!(machine.fault(invpcid()), Exception::general_protection());
        machine.regs.rax = 0;
        machine.ram.write_u64(KERNEL_DATA + 8, 1 << 60).unwrap();
        assert_eq!(machine.fault(invpcid()), Exception::general_protection());
        machine.regs.rax = 1;
        machine.ram.write_u64(KERNEL_DATA, 0x1000).unwrap();
        assert_eq!(machine.fault(invpcid()), Exception::general_protection());
        assert_eq!(machine.state.flushes, 4);
    }

    #[test]
    fn time_and_processor_number_are_the_guests() {
        let mut machine = Machine::new();
        machine.state.msrs.insert(IA32_TSC_AUX, 5);
        machine.state.msrs.insert(IA32_TSC, 7 << 32 | 9);
        machine.run(rdpid()).unwrap();
        assert_eq!(machine.regs.rax, 5);
        machine.run(rdtscp()).unwrap();
        let regs = &machine.regs;
        assert_eq!((regs.rdx, regs.rax, regs.rcx), (7, 9, 5));
    }

    #[test]
    fn random_numbers_differ() {
        if !std::arch::is_x86_feature_detected!("rdrand") {
            let mut machine = Machine::new();
            machine.run(rdrand()).unwrap();
            assert_eq!(machine.regs.rflags & rflags::CF, 0, "none is ready, ever");
            return;
        }
        let mut machine = Machine::new();
        let words: Vec<u64> = (0..4)
            .map(|_| {
                machine.run(rdrand()).unwrap();
                assert_eq!(machine.regs.rflags & rflags::CF, rflags::CF);
                machine.regs.rax
            })
            .collect();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
        machine.run(rdseed()).unwrap();
        assert!(machine.regs.rax <= mask(4));
    }

    #[test]
    fn user_code_may_raise_what_the_gates_allow() {
        let mut machine = Machine::new();
        machine.enter_user_mode();
        (machine.sregs.idt.base, machine.sregs.idt.limit) = (KERNEL_DATA, 0x80 * 16 + 15);
        let gate = |machine: &Machine, access: u64| {
            machine
                .ram
                .write_u64(KERNEL_DATA + 0x80 * 16, access << 40)
                .unwrap();
        };
        gate(&machine, 0x8e);
        let refused = Exception::general_protection_at(0x402);
        assert_eq!(machine.fault(int_0x80()), refused);
        gate(&machine, 0x6e);
        assert_eq!(machine.fault(int_0x80()), Exception::not_present_at(0x402));
        gate(&machine, 0xee);
        assert!(matches!(machine.run(int_0x80()), Err(Stop::Trap(_))));
        machine.sregs.idt.limit -= 1;
        assert_eq!(machine.fault(int_0x80()), refused);
    }

    #[test]
    fn software_interrupts_trap_after_the_instruction() {
        for (code, vector) in [(int3(), 3), (int_0x80(), 0x80)] {
            let result = Machine::new().run(code);
            assert!(
                matches!(result, Err(Stop::Trap(exception)) if exception == Exception::software(vector)),
                "{result:?}"
            );
        }
    }
}
