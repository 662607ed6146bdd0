//! What is executed beyond an instruction, and where that ends.

use super::error::Stop;
use super::exception::Exception;
use super::regs::rflags;
use super::run_ahead;
use super::testing::{END_OF_MAP, KERNEL_DATA, Machine, RIP, assemble};

/// Runs ahead from code at RIP: where it stopped, relative to its start, and how.
fn run(machine: &mut Machine, code: &[u8]) -> (u64, Result<(), Stop>) {
    machine.ram.write(RIP, code).unwrap();
    machine.regs.rip = RIP;
    let mut counts = vec![0; iced_x86::Mnemonic::values().len()];
    let mut cpu = machine.cpu();
    let result = run_ahead::run(&mut cpu, &mut counts);
    let (regs, sregs) = (cpu.regs, cpu.sregs);
    (machine.regs, machine.sregs) = (regs, sregs);
    (regs.rip - RIP, result)
}

fn low_half(machine: &Machine, number: usize) -> u64 {
    machine.state.image.number(160 + 16 * number, 8)
}

// The doubling of a number, ten times, with the last values in memory.
assemble! { ahead_loop:
    "2: paddq xmm1, xmm1",
    "movdqu [rdi], xmm1",
    "add rdi, 16",
    "dec ecx",
    "jnz 2b",
    "call 3f",
    "hlt",
    "3: movq rax, xmm1",
    "ret",
}

#[test]
fn a_loop_and_a_call_are_executed_up_to_what_is_not_covered() {
    let mut machine = Machine::new();
    machine.state.image.put(160 + 16, &3u64.to_le_bytes());
    (machine.regs.rcx, machine.regs.rdi) = (10, KERNEL_DATA);
    let (stopped, result) = run(&mut machine, ahead_loop());
    assert!(result.is_ok());
    assert_eq!(ahead_loop()[stopped as usize], 0xf4, "HLT is KVM's");
    assert_eq!((machine.regs.rax, machine.regs.rcx), (3072, 0));
    assert_eq!(machine.regs.rsp, 0xf000);
    assert_eq!(machine.ram.read_u64(KERNEL_DATA + 16).unwrap(), 12);
    assert_ne!(machine.regs.rflags & rflags::ZF, 0);
}

assemble! { ahead_fault: "paddq xmm1, xmm1", "mov rdi, rdx", "movdqu xmm1, [rdi]", "nop" }

#[test]
fn a_fault_comes_after_what_precedes_it() {
    let mut machine = Machine::new();
    machine.state.image.put(160 + 16, &3u64.to_le_bytes());
    machine.regs.rdx = END_OF_MAP;
    let (stopped, result) = run(&mut machine, ahead_fault());
    let fault = Exception::page_fault(END_OF_MAP, 0);
    assert!(
        matches!(result, Err(Stop::Fault(found)) if found == fault),
        "{result:?}"
    );
    assert_eq!(stopped, 7, "the instruction that faults is to be run anew");
    assert_eq!((low_half(&machine, 1), machine.regs.rdi), (6, END_OF_MAP));
}

assemble! { ahead_device: "mov rax, [rdi]", "nop" }
assemble! { ahead_breakpoint: "nop", "int3", "nop" }
assemble! { ahead_control: "nop", "mov rax, cr0", "nop" }
assemble! { ahead_segment: "nop", "mov ds, eax", "nop" }
assemble! { ahead_flags: "nop", "cli", "nop" }

#[test]
fn devices_breakpoints_and_system_registers_are_left_to_kvm() {
    for (code, expected) in [
        (ahead_device(), 0),
        (ahead_breakpoint(), 1),
        (ahead_control(), 1),
        (ahead_segment(), 1),
        (ahead_flags(), 1),
    ] {
        let mut machine = Machine::new();
        // A page beyond RAM.
        machine.ram.write_u64(0x4010, 0xfee0_0083).unwrap();
        machine.regs.rdi = END_OF_MAP;
        let before = machine.regs;
        let (stopped, result) = run(&mut machine, code);
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(stopped, expected, "{code:02x?}");
        assert_eq!(machine.regs.rax, before.rax);
    }
}

assemble! { ahead_forever: "2: paddq xmm1, xmm1", "jmp 2b" }
assemble! { ahead_without_vectors: "2: inc rax", "jmp 2b" }

#[test]
fn a_run_is_bounded() {
    let mut machine = Machine::new();
    assert!(run(&mut machine, ahead_forever()).1.is_ok());
    assert!(run(&mut machine, ahead_without_vectors()).1.is_ok());
    assert!((1..100).contains(&machine.regs.rax), "not worth it");
}

#[test]
fn single_steps_are_single() {
    let mut machine = Machine::new();
    machine.regs.rflags |= rflags::TF;
    assert_eq!(run(&mut machine, ahead_forever()).0, 0);
}

// The second instruction is written over by the first.
assemble! { ahead_self_modifying: "mov byte ptr [rdi + 4], 0xf4", "2: nop", "nop" }

#[test]
fn code_is_read_when_it_is_reached() {
    let mut machine = Machine::new();
    machine.regs.rdi = RIP;
    let (stopped, result) = run(&mut machine, ahead_self_modifying());
    assert!(result.is_ok());
    assert_eq!(stopped, 4);
}

#[test]
fn an_instruction_that_runs_into_an_unmapped_page_faults_there() {
    let mut machine = Machine::new();
    // The first two bytes of PADDQ, at the end of what is mapped.
    machine.ram.write(END_OF_MAP - 2, &[0x66, 0x0f]).unwrap();
    machine.regs.rip = END_OF_MAP - 2;
    let outcome = machine.run_at_rip();
    let fault = super::sandbox::Outcome::Fault {
        vector: 14,
        error: Some(0x10),
        cr2: Some(END_OF_MAP),
    };
    assert_eq!(format!("{outcome:?}"), format!("{fault:?}"));
}

#[test]
fn the_sandbox_runs_ahead_as_well() {
    let mut machine = Machine::new();
    machine.ram.write(RIP, ahead_fault()).unwrap();
    machine.regs.rdx = END_OF_MAP;
    let outcome = machine.run_ahead();
    assert!(
        matches!(outcome, super::sandbox::Outcome::Fault { vector: 14, .. }),
        "{outcome:?}"
    );
    assert_eq!((machine.regs.rip, machine.sregs.cr2), (RIP + 7, END_OF_MAP));
}
