//! What an operating system must have enabled, and what emulation leaves alone.

use super::super::exception::Exception;
use super::super::testing::{KERNEL_DATA, Machine};
use super::forms::*;
use super::processor::Processor;
use super::registers as guest;

const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXSAVE: u64 = 1 << 18;

fn sse_forms() -> Vec<Form> {
    forms![
        "paddd xmm1, xmm2",
        "movdqu xmm1, xmmword ptr [rdi]",
        "pshufd xmm1, xmm2, 1",
        "addps xmm1, xmm2",
        "movd eax, xmm2",
        "pmovmskb eax, xmm1",
    ]
}

fn vex_forms() -> Vec<Form> {
    forms![
        "vpaddd xmm1, xmm2, xmm3",
        "vpaddd ymm1, ymm2, ymm3",
        "vmovdqu ymmword ptr [rdi], ymm2",
        "vaddps ymm1, ymm2, ymm3",
        "vpshufd ymm1, ymm2, 1",
        "vmovd eax, xmm2",
    ]
}

fn evex_forms() -> Vec<Form> {
    forms![
        "vpaddd zmm1, zmm2, zmm3",
        "vpaddd xmm17, xmm2, xmm3",
        "vmovdqu64 zmmword ptr [rdi], zmm2",
        "vpshufd ymm17, ymm2, 1",
        "vpcmpud k1, zmm1, zmm2, 1",
        "vmovd eax, xmm17",
    ]
}

fn opmask_forms() -> Vec<Form> {
    forms![
        "kandw k1, k2, k3",
        "kmovw k1, eax",
        "kmovw eax, k1",
        "kmovw k1, word ptr [rdi]",
        "kortestw k1, k2",
    ]
}

fn outcome(form: &Form, prepare: impl Fn(&mut Machine)) -> Option<Exception> {
    let mut machine = guest::machine();
    machine.regs.rdi = KERNEL_DATA;
    prepare(&mut machine);
    match machine.run(form.code) {
        Ok(()) => None,
        Err(super::super::error::Stop::Fault(fault)) => Some(fault),
        Err(stop) => panic!("{}: {stop:?}", form.text),
    }
}

fn assert_all(forms: &[Form], fault: Option<Exception>, prepare: impl Fn(&mut Machine) + Copy) {
    for form in forms {
        let fault = fault.or_else(|| {
            // Nothing is in the way of it but the host.
            let known = form.is_legacy()
                || Processor::Host.has(if form.is_evex() || form.text.contains('k') {
                    "avx512vl"
                } else {
                    "avx2"
                });
            (!known).then_some(Exception::invalid_opcode())
        });
        assert_eq!(outcome(form, prepare), fault, "{}", form.text);
    }
}

const UNKNOWN: Option<Exception> = Some(Exception::invalid_opcode());
const NOT_AVAILABLE: Option<Exception> = Some(Exception::device_not_available());

#[test]
fn all_run_where_all_is_enabled() {
    for forms in [sse_forms(), vex_forms(), evex_forms(), opmask_forms()] {
        assert_all(&forms, None, |_| {});
    }
}

#[test]
fn emulation_and_osfxsr_are_for_sse_alone() {
    assert_all(&sse_forms(), UNKNOWN, |machine| machine.sregs.cr0 |= CR0_EM);
    assert_all(&sse_forms(), UNKNOWN, |machine| {
        machine.sregs.cr4 &= !CR4_OSFXSR;
    });
    assert_all(&vex_forms(), None, |machine| machine.sregs.cr0 |= CR0_EM);
    assert_all(&vex_forms(), None, |machine| {
        machine.sregs.cr4 &= !CR4_OSFXSR;
    });
}

#[test]
fn osxsave_is_for_all_others() {
    let without = |machine: &mut Machine| machine.sregs.cr4 &= !CR4_OSXSAVE;
    assert_all(&sse_forms(), None, without);
    for forms in [vex_forms(), evex_forms(), opmask_forms()] {
        assert_all(&forms, UNKNOWN, without);
    }
}

#[test]
fn xcr0_enables_components() {
    for xcr0 in [1, 3, 0xe3] {
        let set = move |machine: &mut Machine| machine.state.xcr0 = xcr0;
        for forms in [vex_forms(), evex_forms(), opmask_forms()] {
            assert_all(&forms, UNKNOWN, set);
        }
    }
    for xcr0 in [7, 0x27, 0x67, 0xa7, 0xc7, 0xe1] {
        let set = move |machine: &mut Machine| machine.state.xcr0 = xcr0;
        assert_all(&evex_forms(), UNKNOWN, set);
        assert_all(&opmask_forms(), UNKNOWN, set);
        if xcr0 & 6 == 6 {
            assert_all(&vex_forms(), None, set);
        }
    }
    assert_all(&sse_forms(), None, |machine| machine.state.xcr0 = 1);
}

#[test]
fn a_task_switch_makes_them_unavailable() {
    let switched = |machine: &mut Machine| machine.sregs.cr0 |= CR0_TS;
    let host = |feature| Processor::Host.has(feature);
    assert_all(&sse_forms(), NOT_AVAILABLE, switched);
    if host("avx2") {
        assert_all(&vex_forms(), NOT_AVAILABLE, switched);
    }
    if host("avx512vl") {
        assert_all(&evex_forms(), NOT_AVAILABLE, switched);
        assert_all(&opmask_forms(), NOT_AVAILABLE, switched);
    }
    // What is not enabled is unknown, task switch or not.
    assert_all(&evex_forms(), UNKNOWN, |machine| {
        machine.sregs.cr0 |= CR0_TS;
        machine.state.xcr0 = 7;
    });
}

/// Before a page fault comes what the instruction itself may not.
#[test]
fn enablement_comes_before_memory() {
    let form = &forms!["movdqu xmm1, xmmword ptr [rdi]"][0];
    let fault = outcome(form, |machine| {
        machine.regs.rdi = 1 << 47;
        machine.sregs.cr0 |= CR0_TS;
    });
    assert_eq!(fault, NOT_AVAILABLE);
}

/// Components that a register written to lies in are no longer in their initial state.
#[test]
fn components_written_to_are_in_use() {
    let rows = [
        (forms!["paddd xmm1, xmm2"], "sse2", 2),
        (forms!["pshufd xmm1, xmm2, 1"], "sse2", 2),
        (forms!["vpaddd ymm1, ymm2, ymmword ptr [rdi]"], "avx2", 6),
        (
            forms!["vpaddd zmm1, zmm2, zmmword ptr [rdi]"],
            "avx512f",
            0x46,
        ),
        (
            forms!["vpaddd zmm17, zmm2, zmmword ptr [rdi]"],
            "avx512f",
            0x80,
        ),
        (forms!["vpbroadcastd xmm17, ecx"], "avx512vl", 0x80),
        (forms!["kmovw k1, ecx"], "avx512f", 0x20),
        (forms!["vpcmpud k1, zmm1, zmm2, 0"], "avx512f", 0x20),
    ];
    for (forms, feature, components) in rows {
        if !Processor::Host.has(feature) {
            assert_eq!(outcome(&forms[0], |_| {}), UNKNOWN);
            continue;
        }
        let mut machine = guest::machine();
        machine.state.image.set_in_use(1);
        machine.ram.write(KERNEL_DATA, &[0x55; 64]).unwrap();
        (machine.regs.rdi, machine.regs.rcx) = (KERNEL_DATA, u64::MAX);
        machine.run(forms[0].code).unwrap();
        let in_use = machine.state.image.in_use();
        assert_eq!(
            in_use & (components | 1),
            components | 1,
            "{}",
            forms[0].text
        );
    }
}

/// The VMM's own MXCSR and x87 control word.
fn host_control() -> (u32, u16) {
    let (mut mxcsr, mut control) = (0u32, 0u16);
    // SAFETY: both write the variable that they are given.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack));
        std::arch::asm!("fnstcw [{}]", in(reg) &mut control, options(nostack));
    }
    (mxcsr & !0x3f, control)
}

#[test]
fn the_hosts_control_registers_stay() {
    let before = host_control();
    let forms = forms![
        "addps xmm1, xmm2",
        "divps xmm1, xmm3",
        "sqrtpd xmm1, xmm2",
        "cvtps2dq xmm1, xmm2",
        "paddd xmm1, xmm2",
        "pshufb xmm1, xmm2",
    ];
    // Every rounding mode, flush to zero, denormals are zero, exceptions unmasked.
    for mxcsr in [0x1f80, 0x3f80, 0x5f80, 0x7f80, 0x9fc0, 0xe000, 0x0000] {
        for form in &forms {
            let mut machine = guest::machine();
            machine.sregs.cr4 |= 1 << 10;
            guest::set_mxcsr(&mut machine, mxcsr);
            machine.state.image.put(0, &0x0c00_u16.to_le_bytes());
            guest::set_vector(&mut machine, 2, &[0x91; 64]);
            let _ = machine.run(form.code);
            assert_eq!(host_control(), before, "{} with {mxcsr:#x}", form.text);
        }
    }
}
