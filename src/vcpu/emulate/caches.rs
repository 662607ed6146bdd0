//! Caches, ordering and waiting: instructions of which little or nothing is left here.
//!
//! The guest's memory is the host's, coherent and ordered by the exit itself; a
//! wait may end at any time by the manual's own words, so none begins. What
//! remains are the checks and faults.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::paging::Kind;
use super::regs::{self, mask, rflags, set_flags};

const CR4_TSD: u64 = 1 << 2;
const IA32_MPERF: u32 = 0xe7;
const IA32_APERF: u32 = 0xe8;

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Lfence | Mfence | Sfence | Serialize => {
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            Ok(())
        }
        // Hints never fault. Without shadow stacks RDSSP is a hint as well.
        Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchw | Prefetchwt1 | Prefetch
        | Cldemote | Reservednop | Rdsspd | Rdsspq => Ok(()),
        Clflush | Clflushopt | Clwb => {
            let linear = cpu.address(insn, 0)?;
            cpu.translate(linear, Kind::Read).map(|_| ())
        }
        Wbinvd | Wbnoinvd | Invd => cpu.require_cpl0(),
        Monitor | Mwait => {
            if cpu.cpl() != 0 {
                return Err(Exception::invalid_opcode().into());
            }
            monitor_or_wait(cpu, insn)
        }
        Monitorx | Mwaitx => monitor_or_wait(cpu, insn),
        Umonitor => {
            let linear = address_in(cpu, insn, insn.op0_register())?;
            cpu.translate(linear, Kind::Read).map(|_| ())
        }
        Umwait | Tpause => timed_wait(cpu, insn),
        Rdpru => performance_counter(cpu),
        _ => Err(Stop::NotCovered),
    }
}

/// The linear address that a register alone gives, in DS or what overrides it.
fn address_in(cpu: &Cpu<'_>, insn: &Instruction, register: Register) -> Result<u64, Stop> {
    let offset = regs::read(&cpu.regs, register).ok_or(Stop::NotCovered)?;
    let segment = match insn.segment_prefix() {
        Register::None => Register::DS,
        segment => segment,
    };
    cpu.linear(segment, offset)
}

/// Extensions of MONITOR must be none; those of MWAIT change only how long it waits.
fn monitor_or_wait(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if matches!(insn.mnemonic(), Mnemonic::Mwait | Mnemonic::Mwaitx) {
        return Ok(());
    }
    if cpu.regs.rcx & mask(4) != 0 {
        return Err(Exception::general_protection().into());
    }
    let linear = address_in(cpu, insn, accumulator(insn))?;
    cpu.translate(linear, Kind::Read).map(|_| ())
}

/// RAX in the width of the instruction's addresses.
fn accumulator(insn: &Instruction) -> Register {
    use iced_x86::Code;
    match insn.code() {
        Code::Monitorq | Code::Monitorxq | Code::Clzeroq => Register::RAX,
        Code::Monitord | Code::Monitorxd | Code::Clzerod => Register::EAX,
        _ => Register::AX,
    }
}

/// Returns at once, and not because the operating system's limit ran out (CF).
fn timed_wait(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let control = cpu.value(insn, 0)? & mask(4);
    let forbidden = cpu.sregs.cr4 & CR4_TSD != 0 && cpu.cpl() != 0;
    if forbidden || control & !1 != 0 {
        return Err(Exception::general_protection().into());
    }
    set_flags(&mut cpu.regs, rflags::STATUS, 0);
    Ok(())
}

/// RDPRU: registers that are not there read as zero.
fn performance_counter(cpu: &mut Cpu<'_>) -> Result<(), Stop> {
    if cpu.sregs.cr4 & CR4_TSD != 0 {
        cpu.require_cpl0()?;
    }
    let value = match cpu.regs.rcx & mask(4) {
        0 => cpu.state.msr(IA32_MPERF)?.unwrap_or(0),
        1 => cpu.state.msr(IA32_APERF)?.unwrap_or(0),
        _ => 0,
    };
    (cpu.regs.rax, cpu.regs.rdx) = (value & mask(4), value >> 32);
    Ok(())
}

/// MOVNTI, MOVDIRI, MOVDIR64B and CLZERO: stores past the caches.
pub(super) fn store(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    const LINE: u64 = 64;
    match insn.mnemonic() {
        Mnemonic::Movnti | Mnemonic::Movdiri => {
            let value = cpu.value(insn, 1)?;
            cpu.set_value(insn, 0, value)
        }
        Mnemonic::Clzero => {
            let linear = address_in(cpu, insn, accumulator(insn))?;
            cpu.write(linear & !(LINE - 1), &[0; LINE as usize])
        }
        Mnemonic::Movdir64b if insn.op_kind(0) == OpKind::Register => {
            let offset = regs::read(&cpu.regs, insn.op0_register()).ok_or(Stop::NotCovered)?;
            // The destination's segment is ES, whatever prefix the source has.
            let to = cpu.linear(Register::ES, offset)?;
            if to % LINE != 0 {
                return Err(Exception::general_protection().into());
            }
            let from = cpu.address(insn, 1)?;
            let mut line = [0; LINE as usize];
            cpu.read(from, &mut line)?;
            cpu.write(to, &line)
        }
        _ => Err(Stop::NotCovered),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, USER_DATA, assemble};
    use super::*;

    assemble! { fences: "mfence" }
    assemble! { serialize: ".byte 0x0f, 0x01, 0xe8" }
    assemble! { prefetch: "prefetcht0 [rdi]" }
    assemble! { prefetch_to_write: "prefetchw [rdi]" }
    assemble! { demote: ".byte 0x0f, 0x1c, 0x07" }
    assemble! { flush: "clflush [rdi]" }
    assemble! { flush_opt: "clflushopt [rdi]" }
    assemble! { write_back: "clwb [rdi]" }
    assemble! { write_back_all: ".byte 0xf3, 0x0f, 0x09" }
    assemble! { shadow_stack: ".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8" }
    assemble! { pause_until: ".byte 0x66, 0x0f, 0xae, 0xf1" }
    assemble! { user_wait: ".byte 0xf2, 0x0f, 0xae, 0xf1" }
    assemble! { user_monitor: ".byte 0xf3, 0x0f, 0xae, 0xf7" }
    assemble! { monitor_extended: ".byte 0x0f, 0x01, 0xfa" }
    assemble! { wait_extended: ".byte 0x0f, 0x01, 0xfb" }
    assemble! { performance: ".byte 0x0f, 0x01, 0xfd" }
    assemble! { store_past: "movnti [rdi], rcx" }
    assemble! { store_direct: ".byte 0x0f, 0x38, 0xf9, 0x0f" }
    assemble! { store_line: ".byte 0x66, 0x0f, 0x38, 0xf8, 0x3e" }
    assemble! { clear_line: ".byte 0x0f, 0x01, 0xfc" }

    #[test]
    fn hints_and_fences_touch_nothing() {
        let mut machine = Machine::new();
        machine.regs.rdi = 1 << 47;
        machine.enter_user_mode();
        for code in [
            fences(),
            serialize(),
            prefetch(),
            prefetch_to_write(),
            demote(),
            shadow_stack(),
            wait_extended(),
        ] {
            let before = machine.regs;
            machine.run(code).unwrap();
            let mut after = before;
            after.rip += code.len() as u64;
            assert_eq!(machine.regs, after, "{code:02x?}");
        }
    }

    #[test]
    fn flushing_a_line_is_a_read_of_it() {
        let mut machine = Machine::new();
        for code in [flush(), flush_opt(), write_back()] {
            machine.regs.rdi = END_OF_MAP + 5;
            assert_eq!(
                machine.fault(code),
                Exception::page_fault(END_OF_MAP + 5, 0)
            );
            machine.regs.rdi = KERNEL_DATA;
            machine.run(code).unwrap();
        }
        assert_eq!(machine.ram.read_u64(0x4000).unwrap() & 0x60, 0x20);
        machine.enter_user_mode();
        assert_eq!(
            machine.fault(flush()),
            Exception::page_fault(KERNEL_DATA, 5)
        );
        assert_eq!(
            machine.fault(write_back_all()),
            Exception::general_protection()
        );
    }

    #[test]
    fn waits_end_at_once_without_a_timeout() {
        let mut machine = Machine::new();
        machine.enter_user_mode();
        for code in [pause_until(), user_wait()] {
            (machine.regs.rflags, machine.regs.rcx) = (0x8d7, 1);
            machine.run(code).unwrap();
            assert_eq!(machine.regs.rflags, 2);
            machine.regs.rcx = 2;
            assert_eq!(machine.fault(code), Exception::general_protection());
        }
        machine.sregs.cr4 |= CR4_TSD;
        machine.regs.rcx = 0;
        assert_eq!(
            machine.fault(pause_until()),
            Exception::general_protection()
        );
    }

    #[test]
    fn what_is_monitored_must_be_readable() {
        let mut machine = Machine::new();
        machine.enter_user_mode();
        for code in [user_monitor(), monitor_extended()] {
            (machine.regs.rdi, machine.regs.rax) = (USER_DATA, USER_DATA);
            machine.run(code).unwrap();
            (machine.regs.rdi, machine.regs.rax) = (KERNEL_DATA, KERNEL_DATA);
            assert_eq!(machine.fault(code), Exception::page_fault(KERNEL_DATA, 5));
        }
        (machine.regs.rax, machine.regs.rcx) = (USER_DATA, 1);
        assert_eq!(
            machine.fault(monitor_extended()),
            Exception::general_protection()
        );
    }

    #[test]
    fn performance_registers_that_are_not_there_are_zero() {
        let mut machine = Machine::new();
        machine.state.msrs.insert(IA32_APERF, 3 << 32 | 4);
        for (index, expected) in [(0, (0, 0)), (1, (3, 4)), (2, (0, 0))] {
            (machine.regs.rcx, machine.regs.rax) = (index, 99);
            machine.run(performance()).unwrap();
            assert_eq!((machine.regs.rdx, machine.regs.rax), expected);
        }
    }

    #[test]
    fn direct_stores_land_in_memory() {
        let mut machine = Machine::new();
        machine.regs.rcx = 0x1122_3344_5566_7788;
        machine.regs.rdi = KERNEL_DATA + 1;
        machine.run(store_past()).unwrap();
        let mut bytes = [0; 8];
        machine.ram.read(KERNEL_DATA + 1, &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), machine.regs.rcx);
        machine.regs.rdi = KERNEL_DATA + 0x40;
        machine.run(store_direct()).unwrap();
        assert_eq!(
            machine.ram.read_u64(KERNEL_DATA + 0x40).unwrap(),
            0x5566_7788
        );
        let line: Vec<u8> = (100..164).collect();
        machine.ram.write(KERNEL_DATA + 3, &line).unwrap();
        (machine.regs.rsi, machine.regs.rdi) = (KERNEL_DATA + 3, KERNEL_DATA + 0x200);
        machine.run(store_line()).unwrap();
        let mut copy = [0; 64];
        machine.ram.read(KERNEL_DATA + 0x200, &mut copy).unwrap();
        assert_eq!(copy.as_slice(), line);
        machine.regs.rdi += 8;
        assert_eq!(machine.fault(store_line()), Exception::general_protection());
        machine.regs.rax = KERNEL_DATA + 0x23f;
        machine.run(clear_line()).unwrap();
        machine.ram.read(KERNEL_DATA + 0x200, &mut copy).unwrap();
        assert_eq!(copy, [0; 64]);
    }
}
