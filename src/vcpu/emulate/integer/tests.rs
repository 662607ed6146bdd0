//! Divisions, stack and branches: what cannot be tried on the processor by itself.

use proptest::prelude::*;

use super::super::exception::Exception;
use super::super::processor_testing::number;
use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, RIP, assemble};

assemble! { divide_64: "div rcx" }
assemble! { divide_32: "div ecx" }
assemble! { divide_16: "div word ptr [rdi]" }
assemble! { divide_8: "div cl" }
assemble! { divide_signed_64: "idiv rcx" }
assemble! { divide_signed_8: "idiv cl" }

fn divide(code: &[u8], rdx: u64, rax: u64, divisor: u64) -> Option<(u64, u64)> {
    let mut machine = Machine::new();
    let regs = &mut machine.regs;
    (regs.rdx, regs.rax, regs.rcx, regs.rdi) = (rdx, rax, divisor, KERNEL_DATA);
    machine.ram.write_u64(KERNEL_DATA, divisor).unwrap();
    match machine.run(code) {
        Ok(()) => Some((machine.regs.rdx, machine.regs.rax)),
        Err(super::Stop::Fault(exception)) => {
            assert_eq!(exception, Exception::divide_error());
            None
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// Numbers worked out by hand from the manual's definition.
#[test]
fn quotients_and_remainders_land_where_the_manual_says() {
    let top = 0xabcd_0000_0000_0000;
    assert_eq!(divide(divide_64(), 1, 5, 16), Some((5, 1 << 60)));
    assert_eq!(divide(divide_32(), top, top | 100, 7), Some((2, 14)));
    assert_eq!(
        divide(divide_16(), top | 1, top | 1, 0x10),
        Some((top | 1, top | 0x1000))
    );
    assert_eq!(
        divide(divide_8(), 9, top | 0x0107, 2),
        Some((9, top | 0x0183))
    );
    let minus = |value: i64| value as u64;
    assert_eq!(
        divide(divide_signed_64(), u64::MAX, minus(-7), 2),
        Some((minus(-1), minus(-3)))
    );
    assert_eq!(
        divide(divide_signed_8(), 0, 0xff80, 0xff),
        None,
        "128 is too much"
    );
    assert_eq!(
        divide(divide_signed_8(), 0, 0xff81, 0xff),
        Some((0, 0x007f))
    );
}

#[test]
fn what_does_not_fit_is_a_divide_error() {
    for code in [
        divide_64(),
        divide_32(),
        divide_16(),
        divide_8(),
        divide_signed_64(),
    ] {
        assert_eq!(divide(code, 0, 1, 0), None);
    }
    assert_eq!(divide(divide_64(), 5, 0, 5), None);
    assert_eq!(divide(divide_8(), 0, 0x0500, 5), None);
    assert_eq!(
        divide(divide_signed_64(), u64::MAX << 63, 0, u64::MAX),
        None
    );
}

/// The processor's own division, where it does not fault.
fn native(rdx: u64, rax: u64, divisor: u64) -> (u64, u64) {
    let (mut high, mut low) = (rdx, rax);
    // SAFETY: the quotient fits, as the caller has made sure; only registers change.
    unsafe {
        std::arch::asm!("div {}", in(reg) divisor, inout("rax") low, inout("rdx") high);
    }
    (high, low)
}

/// The signed one of 32 bits.
fn native_signed(edx: u32, eax: u32, divisor: u32) -> (u32, u32) {
    let (mut high, mut low) = (edx, eax);
    // SAFETY: the quotient fits, as the caller has made sure; only registers change.
    unsafe {
        std::arch::asm!("idiv {:e}", in(reg) divisor, inout("eax") low, inout("edx") high);
    }
    (high, low)
}

assemble! { divide_signed_32: "idiv ecx" }

proptest! {
    #[test]
    fn divisions_do_as_the_processor_does(high in number(), low in number(), divisor in number()) {
        let expected = (high < divisor).then(|| native(high, low, divisor));
        prop_assert_eq!(divide(divide_64(), high, low, divisor), expected);

        let dividend = ((high as u32 as u64) << 32 | low as u32 as u64) as i64;
        let fits = dividend
            .checked_div(i64::from(divisor as i32))
            .is_some_and(|quotient| i32::try_from(quotient).is_ok());
        let expected = fits
            .then(|| native_signed(high as u32, low as u32, divisor as u32))
            .map(|(high, low)| (u64::from(high), u64::from(low)));
        prop_assert_eq!(divide(divide_signed_32(), high, low, divisor), expected);
    }
}

assemble! { push_rax: "push rax" }
assemble! { push_rsp: "push rsp" }
assemble! { push_word: "push ax" }
assemble! { push_memory: "push qword ptr [rdi]" }
assemble! { push_immediate: "push -2" }
assemble! { push_flags: "pushfq" }
assemble! { pop_rcx: "pop rcx" }
assemble! { pop_rsp: "pop rsp" }
assemble! { leave: "leave" }

const STACK: u64 = KERNEL_DATA + 0x200;

fn on_stack() -> Machine {
    let mut machine = Machine::new();
    machine.regs.rsp = STACK;
    machine
}

#[test]
fn pushes_and_pops_move_the_stack() {
    let mut machine = on_stack();
    machine.regs.rax = 0x1122_3344_5566_7788;
    machine.regs.rdi = STACK - 8;
    machine.regs.rflags = 0x1_0246;
    let pushed = [
        (push_rax(), 0x1122_3344_5566_7788),
        (push_memory(), 0x1122_3344_5566_7788),
        (push_immediate(), u64::MAX - 1),
        (push_rsp(), STACK - 24),
        (push_flags(), 0x246),
    ];
    for (at, (code, value)) in (1..).zip(pushed) {
        machine.run(code).unwrap();
        assert_eq!(machine.regs.rsp, STACK - 8 * at);
        assert_eq!(machine.ram.read_u64(STACK - 8 * at).unwrap(), value);
    }
    machine.run(pop_rcx()).unwrap();
    assert_eq!((machine.regs.rcx, machine.regs.rsp), (0x246, STACK - 32));
    machine.run(pop_rsp()).unwrap();
    assert_eq!(machine.regs.rsp, STACK - 24);
    machine.run(push_word()).unwrap();
    assert_eq!(machine.regs.rsp, STACK - 26);
    let mut word = [0; 2];
    machine.ram.read(STACK - 26, &mut word).unwrap();
    assert_eq!(word, [0x88, 0x77]);
}

#[test]
fn a_push_that_faults_moves_nothing() {
    let mut machine = on_stack();
    machine.regs.rsp = END_OF_MAP + 8;
    assert_eq!(
        machine.fault(push_rax()),
        Exception::page_fault(END_OF_MAP, 2)
    );
    assert_eq!(machine.regs.rsp, END_OF_MAP + 8);
    machine.regs.rsp = 1 << 47 | 8;
    assert_eq!(machine.fault(push_rax()), Exception::stack_fault());
}

#[test]
fn leave_takes_the_frame_down() {
    let mut machine = on_stack();
    machine.regs.rbp = STACK + 0x20;
    machine.ram.write_u64(STACK + 0x20, 0xf00).unwrap();
    machine.run(leave()).unwrap();
    assert_eq!((machine.regs.rsp, machine.regs.rbp), (STACK + 0x28, 0xf00));
}

assemble! { call_near: ".byte 0xe8, 0x00, 0x01, 0x00, 0x00" }
assemble! { call_rax: "call rax" }
assemble! { jump_memory: "jmp qword ptr [rdi]" }
assemble! { return_near: "ret" }
assemble! { return_16: "ret 16" }
assemble! { jump_if_equal: ".byte 0x74, 0x10" }
assemble! { jump_if_less: ".byte 0x0f, 0x8c, 0xf0, 0xff, 0xff, 0xff" }
assemble! { jump_if_rcx_zero: ".byte 0xe3, 0x10" }
assemble! { jump_if_ecx_zero: ".byte 0x67, 0xe3, 0x10" }
assemble! { far_jump: "jmp fword ptr [rdi]" }

#[test]
fn calls_return() {
    let mut machine = on_stack();
    machine.run(call_near()).unwrap();
    assert_eq!(
        (machine.regs.rip, machine.regs.rsp),
        (RIP + 0x105, STACK - 8)
    );
    machine.run(return_near()).unwrap();
    assert_eq!((machine.regs.rip, machine.regs.rsp), (RIP + 5, STACK));
    machine.regs.rax = 0x1234;
    machine.run(call_rax()).unwrap();
    assert_eq!(machine.regs.rip, 0x1234);
    machine.run(return_16()).unwrap();
    assert_eq!((machine.regs.rip, machine.regs.rsp), (RIP + 7, STACK + 16));
}

#[test]
fn branches_look_at_their_condition() {
    let taken = |code: &[u8], flags: u64, rcx: u64| {
        let mut machine = on_stack();
        (machine.regs.rflags, machine.regs.rcx) = (flags, rcx);
        machine.run(code).unwrap();
        machine.regs.rip != RIP + code.len() as u64
    };
    assert!(taken(jump_if_equal(), 0x42, 0));
    assert!(!taken(jump_if_equal(), 0x2, 0));
    assert!(taken(jump_if_less(), 0x82, 0), "SF alone");
    assert!(taken(jump_if_less(), 0x802, 0), "OF alone");
    assert!(!taken(jump_if_less(), 0x882, 0));
    assert!(!taken(jump_if_rcx_zero(), 2, 1 << 32));
    assert!(taken(jump_if_ecx_zero(), 2, 1 << 32));
    let mut machine = on_stack();
    machine.regs.rflags = 0x82;
    machine.run(jump_if_less()).unwrap();
    assert_eq!(machine.regs.rip, RIP + 6 - 16);
}

#[test]
fn branches_to_nowhere_fault_in_place() {
    let mut machine = on_stack();
    machine.regs.rdi = KERNEL_DATA;
    machine.ram.write_u64(KERNEL_DATA, 1 << 47).unwrap();
    assert_eq!(
        machine.fault(jump_memory()),
        Exception::general_protection()
    );
    machine.regs.rax = 1 << 47;
    assert_eq!(machine.fault(call_rax()), Exception::general_protection());
    assert_eq!(machine.regs.rsp, STACK);
    assert!(matches!(
        machine.run(far_jump()),
        Err(super::Stop::NotCovered)
    ));
}
