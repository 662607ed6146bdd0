//! SIMD floating-point exceptions and the other fields of MXCSR (SDM vol. 1 §4.9, §10.2.3, §11.5).
//!
//! All results here are worked out by hand.

use super::super::exception::Exception;
use super::super::testing::{KERNEL_DATA, Machine};
use super::forms::*;
use super::harness::same;
use super::model::{Vector, get, set};
use super::processor::Processor;
use super::registers as guest;

const INVALID: u32 = 1;
const DENORMAL: u32 = 1 << 1;
const ZERO_DIVIDE: u32 = 1 << 2;
const OVERFLOW: u32 = 1 << 3;
const UNDERFLOW: u32 = 1 << 4;
const PRECISION: u32 = 1 << 5;
const DENORMALS_ARE_ZERO: u32 = 1 << 6;
const FLUSH_TO_ZERO: u32 = 1 << 15;
const DEFAULT: u32 = 0x1f80;
const CR4_OSXMMEXCPT: u64 = 1 << 10;

/// The mask bit of an exception flag.
fn mask_of(flag: u32) -> u32 {
    flag << 7
}

const ONE: u32 = 0x3f80_0000;
const TWO: u32 = 0x4000_0000;
const THREE: u32 = 0x4040_0000;
const HALF: u32 = 0x3f00_0000;
const INFINITY: u32 = 0x7f80_0000;
const LARGEST: u32 = 0x7f7f_ffff;
/// 2^-126, the smallest normal number.
const SMALLEST: u32 = 0x0080_0000;
const DENORMAL_NUMBER: u32 = 0x0040_0000;
const SIGNALING: u32 = 0x7f80_0001;
const QUIET: u32 = 0x7fc0_0000;
const INDEFINITE: u32 = 0xffc0_0000;
const MINUS_ONE: u32 = 0xbf80_0000;

fn singles(lanes: [u32; 4]) -> Vector {
    let mut vector = [0; 64];
    for (lane, value) in lanes.into_iter().enumerate() {
        set(&mut vector, lane, value);
    }
    vector
}

/// Operands in 1 and 2 for the SSE forms, in 3 and 2 for the others.
fn machine(a: [u32; 4], b: [u32; 4], mxcsr: u32) -> Machine {
    let mut machine = guest::machine();
    machine.sregs.cr4 |= CR4_OSXMMEXCPT;
    machine.regs.rdi = KERNEL_DATA;
    guest::set_mxcsr(&mut machine, mxcsr);
    guest::set_vector(&mut machine, 1, &singles(a));
    guest::set_vector(&mut machine, 3, &singles(a));
    guest::set_vector(&mut machine, 2, &singles(b));
    machine.ram.write(KERNEL_DATA, &singles(b)).unwrap();
    machine
}

fn ps_forms() -> [Vec<Form>; 6] {
    [
        forms![
            "addps xmm1, xmm2",
            "vaddps xmm1, xmm3, xmm2",
            "addps xmm1, xmmword ptr [rdi]"
        ],
        forms![
            "subps xmm1, xmm2",
            "vsubps xmm1, xmm3, xmm2",
            "subps xmm1, xmmword ptr [rdi]"
        ],
        forms![
            "mulps xmm1, xmm2",
            "vmulps xmm1, xmm3, xmm2",
            "mulps xmm1, xmmword ptr [rdi]"
        ],
        forms![
            "divps xmm1, xmm2",
            "vdivps xmm1, xmm3, xmm2",
            "divps xmm1, xmmword ptr [rdi]"
        ],
        forms![
            "maxps xmm1, xmm2",
            "vmaxps xmm1, xmm3, xmm2",
            "maxps xmm1, xmmword ptr [rdi]"
        ],
        forms![
            "sqrtps xmm1, xmm2",
            "vsqrtps xmm1, xmm2",
            "sqrtps xmm1, xmmword ptr [rdi]"
        ],
    ]
}

#[derive(Clone, Copy)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Sqrt,
}

/// Operation, its operands, MXCSR's fields beyond the default, result, flags.
const SCALAR_ROWS: [(Op, u32, u32, u32, u32, u32); 34] = [
    (Op::Add, ONE, ONE, 0, TWO, 0),
    (Op::Div, ONE, 0, 0, INFINITY, ZERO_DIVIDE),
    (Op::Div, MINUS_ONE, 0, 0, 0xff80_0000, ZERO_DIVIDE),
    (Op::Div, 0, 0, 0, INDEFINITE, INVALID),
    (Op::Div, INFINITY, INFINITY, 0, INDEFINITE, INVALID),
    (Op::Div, INFINITY, 0, 0, INFINITY, 0),
    (Op::Sub, INFINITY, INFINITY, 0, INDEFINITE, INVALID),
    (Op::Mul, INFINITY, 0, 0, INDEFINITE, INVALID),
    (Op::Sqrt, 0, MINUS_ONE, 0, INDEFINITE, INVALID),
    (Op::Sqrt, 0, 0x8000_0000, 0, 0x8000_0000, 0),
    (Op::Add, SIGNALING, ONE, 0, 0x7fc0_0001, INVALID),
    (Op::Add, QUIET, ONE, 0, QUIET, 0),
    (Op::Add, ONE, SIGNALING, 0, 0x7fc0_0001, INVALID),
    (Op::Max, QUIET, ONE, 0, ONE, INVALID),
    // A third: 0x3eaaaaaa.aaa…
    (Op::Div, ONE, THREE, 0, 0x3eaa_aaab, PRECISION),
    (Op::Div, ONE, THREE, 1 << 13, 0x3eaa_aaaa, PRECISION),
    (Op::Div, ONE, THREE, 2 << 13, 0x3eaa_aaab, PRECISION),
    (Op::Div, ONE, THREE, 3 << 13, 0x3eaa_aaaa, PRECISION),
    (Op::Div, MINUS_ONE, THREE, 1 << 13, 0xbeaa_aaab, PRECISION),
    (Op::Div, MINUS_ONE, THREE, 2 << 13, 0xbeaa_aaaa, PRECISION),
    (Op::Sub, ONE, ONE, 1 << 13, 0x8000_0000, 0),
    (Op::Sub, ONE, ONE, 2 << 13, 0, 0),
    (Op::Mul, LARGEST, TWO, 0, INFINITY, OVERFLOW | PRECISION),
    (
        Op::Mul,
        LARGEST,
        TWO,
        1 << 13,
        LARGEST,
        OVERFLOW | PRECISION,
    ),
    (
        Op::Mul,
        LARGEST,
        TWO,
        3 << 13,
        LARGEST,
        OVERFLOW | PRECISION,
    ),
    // Tiny and exact: no exception where it is masked.
    (Op::Mul, SMALLEST, HALF, 0, DENORMAL_NUMBER, 0),
    (
        Op::Div,
        SMALLEST,
        THREE,
        0,
        0x002a_aaab,
        UNDERFLOW | PRECISION,
    ),
    (
        Op::Mul,
        SMALLEST,
        HALF,
        FLUSH_TO_ZERO,
        0,
        UNDERFLOW | PRECISION,
    ),
    (Op::Add, DENORMAL_NUMBER, 0, 0, DENORMAL_NUMBER, DENORMAL),
    (Op::Add, DENORMAL_NUMBER, ONE, 0, ONE, DENORMAL | PRECISION),
    (Op::Add, DENORMAL_NUMBER, ONE, DENORMALS_ARE_ZERO, ONE, 0),
    (Op::Max, DENORMAL_NUMBER, 0, DENORMALS_ARE_ZERO, 0, 0),
    (Op::Max, DENORMAL_NUMBER, 0, 0, DENORMAL_NUMBER, DENORMAL),
    (Op::Sqrt, 0, TWO, 0, 0x3fb5_04f3, PRECISION),
];

#[test]
fn masked_exceptions_are_reported() {
    let forms = ps_forms();
    for (row, (op, a, b, mode, result, flags)) in SCALAR_ROWS.into_iter().enumerate() {
        for form in &forms[op as usize] {
            if form.mnemonic().starts_with('v') && !Processor::Host.has("avx") {
                continue;
            }
            // The other elements raise nothing.
            let mut machine = machine([a, ONE, ONE, ONE], [b, ONE, ONE, ONE], DEFAULT | mode);
            machine.run(form.code).unwrap();
            let found: u32 = get(&guest::vector(&machine, 1), 0);
            assert_eq!(
                (found, guest::mxcsr(&machine)),
                (result, DEFAULT | mode | flags),
                "{} {a:#x} {b:#x}, row {row}: {found:#x} {:#x}",
                form.text,
                guest::mxcsr(&machine)
            );
        }
    }
}

#[test]
fn flags_are_sticky() {
    let form = &forms!["addps xmm1, xmm2"][0];
    let mut machine = machine([ONE; 4], [ONE; 4], DEFAULT | ZERO_DIVIDE | UNDERFLOW);
    machine.run(form.code).unwrap();
    assert_eq!(guest::mxcsr(&machine), DEFAULT | ZERO_DIVIDE | UNDERFLOW);
}

/// Runs a form that must raise `#XM`: the destination stays, `flags` are reported.
fn assert_raises(form: &Form, a: [u32; 4], b: [u32; 4], unmasked: u32, flags: u32) {
    let mxcsr = DEFAULT & !mask_of(unmasked);
    let mut machine = machine(a, b, mxcsr);
    let mut before = guest::machine();
    same(&machine, &mut before);
    let fault = machine.fault(form.code);
    assert_eq!(
        (fault.vector, fault.error_code),
        (19, None),
        "{}",
        form.text
    );
    assert_eq!(guest::vector(&machine, 1), guest::vector(&before, 1));
    assert_eq!(machine.regs, before.regs);
    assert_eq!(
        guest::mxcsr(&machine),
        mxcsr | flags,
        "{}: {:#x}",
        form.text,
        guest::mxcsr(&machine)
    );
}

#[test]
fn unmasked_exceptions_are_raised() {
    let [add, _, mul, div, ..] = ps_forms();
    let ones = [ONE; 4];
    let first = |value| [value, ONE, ONE, ONE];
    for form in div.iter().filter(|form| form.is_legacy()) {
        assert_raises(form, ones, first(0), ZERO_DIVIDE, ZERO_DIVIDE);
        assert_raises(form, first(0), first(0), INVALID, INVALID);
        assert_raises(form, ones, first(THREE), PRECISION, PRECISION);
    }
    assert_raises(&add[0], first(DENORMAL_NUMBER), [0; 4], DENORMAL, DENORMAL);
    assert_raises(
        &mul[0],
        first(LARGEST),
        first(TWO),
        OVERFLOW,
        OVERFLOW | PRECISION,
    );
    let sqrt = &forms!["sqrtss xmm1, xmm2"][0];
    assert_raises(sqrt, ones, first(MINUS_ONE), INVALID, INVALID);
    let convert = &forms!["cvtps2dq xmm1, xmm2"][0];
    assert_raises(convert, ones, first(INFINITY), INVALID, INVALID);
    let compare = &forms!["comiss xmm1, xmm2"][0];
    assert_raises(compare, ones, first(QUIET), INVALID, INVALID);
}

#[test]
fn without_a_handler_it_is_an_invalid_opcode() {
    let form = &forms!["divps xmm1, xmm2"][0];
    let mut machine = machine([ONE; 4], [0; 4], DEFAULT & !mask_of(ZERO_DIVIDE));
    machine.sregs.cr4 &= !CR4_OSXMMEXCPT;
    assert_eq!(machine.fault(form.code), Exception::invalid_opcode());
}

/// SDM vol. 1 §11.5.2: what is found before the computation (here in element 0) keeps the
/// other elements from being computed, and thus from being inexact.
#[test]
fn a_division_by_zero_hides_what_the_computation_would_raise() {
    let form = &forms!["divps xmm1, xmm2"][0];
    let b = [0, THREE, ONE, ONE];
    assert_raises(form, [ONE; 4], b, ZERO_DIVIDE, ZERO_DIVIDE);
}

/// SDM vol. 1 §4.9.1.5: unmasked, an underflow is a tiny result, be it exact or not.
#[test]
fn an_unmasked_underflow_need_not_be_inexact() {
    let form = &forms!["mulps xmm1, xmm2"][0];
    let a = [SMALLEST, ONE, ONE, ONE];
    let b = [HALF, ONE, ONE, ONE];
    assert_raises(form, a, b, UNDERFLOW, UNDERFLOW);
}

#[test]
fn quiet_comparisons_raise_for_signaling_operands_alone() {
    let forms = forms![
        "ucomiss xmm1, xmm2",
        "cmpeqps xmm1, xmm2",
        "cmpunordps xmm1, xmm2"
    ];
    for form in &forms {
        for (b, flags) in [(QUIET, 0), (SIGNALING, INVALID)] {
            let mut machine = machine([ONE; 4], [b, ONE, ONE, ONE], DEFAULT);
            machine.run(form.code).unwrap();
            assert_eq!(guest::mxcsr(&machine), DEFAULT | flags, "{}", form.text);
        }
    }
    let form = &forms!["cmpltps xmm1, xmm2"][0];
    let mut machine = machine([ONE; 4], [QUIET, ONE, ONE, ONE], DEFAULT);
    machine.run(form.code).unwrap();
    assert_eq!(guest::mxcsr(&machine), DEFAULT | INVALID);
}

#[test]
fn elements_left_out_raise_nothing() {
    let forms = forms![
        "vdivps xmm1 {k1}, xmm3, xmm2",
        "vdivps xmm1 {k1} {z}, xmm3, xmm2",
        "vsqrtps xmm1 {k1}, xmm2",
        "vdivss xmm1 {k1}, xmm3, xmm2",
        "vcmpltps k2 {k1}, xmm3, xmm2",
    ];
    for form in &forms {
        let a = [ONE; 4];
        let b = [SIGNALING, ONE, 0x8000_0001, 0];
        let mut machine = machine(a, b, DEFAULT & !mask_of(INVALID | ZERO_DIVIDE | DENORMAL));
        guest::set_mask(&mut machine, 1, 0b0010);
        let before = guest::mxcsr(&machine);
        if !Processor::Host.has("avx512vl") {
            assert_eq!(machine.fault(form.code), Exception::invalid_opcode());
            continue;
        }
        machine.run(form.code).unwrap();
        assert_eq!(guest::mxcsr(&machine), before, "{}", form.text);
    }
}

/// Embedded rounding goes with suppression of all exceptions.
#[test]
fn an_instructions_own_rounding() {
    let rows = [
        (forms!["vdivps zmm1, zmm3, zmm2, {rn-sae}"], 0x3eaa_aaab),
        (forms!["vdivps zmm1, zmm3, zmm2, {rd-sae}"], 0x3eaa_aaaa),
        (forms!["vdivps zmm1, zmm3, zmm2, {ru-sae}"], 0x3eaa_aaab),
        (forms!["vdivps zmm1, zmm3, zmm2, {rz-sae}"], 0x3eaa_aaaa),
        (forms!["vdivss xmm1, xmm3, xmm2, {rz-sae}"], 0x3eaa_aaaa),
    ];
    for (forms, expected) in rows {
        // Unmasked, and rounding up where the instruction does not say otherwise.
        let mut machine = machine([ONE; 4], [THREE; 4], 2 << 13);
        for lane in 4..16 {
            for number in [2, 3] {
                let mut vector = guest::vector(&machine, number);
                set(&mut vector, lane, ONE);
                guest::set_vector(&mut machine, number, &vector);
            }
        }
        if !Processor::Host.has("avx512f") {
            assert_eq!(machine.fault(forms[0].code), Exception::invalid_opcode());
            continue;
        }
        machine.run(forms[0].code).unwrap();
        let found: u32 = get(&guest::vector(&machine, 1), 0);
        assert_eq!(
            (found, guest::mxcsr(&machine)),
            (expected, 2 << 13),
            "{}",
            forms[0].text
        );
    }
}

#[test]
fn conversions_report_what_is_lost() {
    let rows = [
        (forms!["cvtps2dq xmm1, xmm2"], 0x4020_0000, 0, 2, PRECISION),
        (
            forms!["cvtps2dq xmm1, xmm2"],
            0x4020_0000,
            2 << 13,
            3,
            PRECISION,
        ),
        (
            forms!["cvttps2dq xmm1, xmm2"],
            0x4020_0000,
            2 << 13,
            2,
            PRECISION,
        ),
        (
            forms!["cvtps2dq xmm1, xmm2"],
            INFINITY,
            0,
            0x8000_0000,
            INVALID,
        ),
        (
            forms!["cvttps2dq xmm1, xmm2"],
            0x4f00_0000,
            0,
            0x8000_0000,
            INVALID,
        ),
        (
            forms!["cvttps2dq xmm1, xmm2"],
            0xcf00_0000,
            0,
            0x8000_0000,
            0,
        ),
        (
            forms!["cvtdq2ps xmm1, xmm2"],
            0x0100_0001,
            0,
            0x4b80_0000,
            PRECISION,
        ),
        (
            forms!["cvtdq2ps xmm1, xmm2"],
            0x0100_0001,
            2 << 13,
            0x4b80_0001,
            PRECISION,
        ),
    ];
    for (forms, source, mode, result, flags) in rows {
        let ones = match forms[0].mnemonic() {
            "cvtdq2ps" => [source, 1, 1, 1],
            _ => [source, ONE, ONE, ONE],
        };
        let mut machine = machine([ONE; 4], ones, DEFAULT | mode);
        machine.run(forms[0].code).unwrap();
        let found: u32 = get(&guest::vector(&machine, 1), 0);
        assert_eq!(
            (found, guest::mxcsr(&machine)),
            (result, DEFAULT | mode | flags),
            "{} {source:#x}",
            forms[0].text
        );
    }
}
