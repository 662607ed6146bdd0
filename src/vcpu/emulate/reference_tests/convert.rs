//! Conversions between numbers (SDM vol. 1 §4.8.4, vol. 2 CVTPS2DQ and kin): rounding to nearest.

use super::forms::*;
use super::harness::{FLOAT, Isa, check};
use super::model::*;

/// Integers from floating-point numbers: what does not fit gives the integer indefinite value.
fn to_integer(value: f64, lowest: f64, beyond: f64) -> Option<f64> {
    (value >= lowest && value < beyond).then_some(value)
}

fn to_i32(value: f64) -> i32 {
    to_integer(value, -2_147_483_648.0, 2_147_483_648.0).map_or(i32::MIN, |value| value as i32)
}

fn to_i64(value: f64) -> i64 {
    to_integer(value, -TWO_63, TWO_63).map_or(i64::MIN, |value| value as i64)
}

/// Unsigned: all ones are indefinite. What rounds to zero fits, whatever its sign.
fn to_u32(value: f64) -> u32 {
    to_integer(value, 0.0, 4_294_967_296.0).map_or(u32::MAX, |value| value as u32)
}

fn to_u64(value: f64) -> u64 {
    to_integer(value, 0.0, 2.0 * TWO_63).map_or(u64::MAX, |value| value as u64)
}

const TWO_63: f64 = 9_223_372_036_854_775_808.0;

/// Lane for lane of the same size.
fn same<From: Lane, To: Lane>(convert: impl Fn(From) -> To + 'static) -> Model {
    whole(1, To::SIZE * 8, move |inputs| {
        build(inputs.len, |lane| convert(get(&inputs.sources[0], lane)))
    })
    .float()
}

macro_rules! packed {
    ($m:literal, $size:ident) => {
        [
            sse!($m),
            vex_unary!(concat!("v", $m)),
            evex_unary!(concat!("v", $m)),
            broadcast_unary!(concat!("v", $m), $size),
        ]
        .concat()
    };
}

macro_rules! evex_packed {
    ($m:literal, $size:ident) => {
        [evex_unary!($m), broadcast_unary!($m, $size)].concat()
    };
}

const DQ: Isa = Isa {
    evex: "avx512dq",
    ..FLOAT
};

#[test]
fn integers_to_floating_point() {
    check(&packed!("cvtdq2ps", dword), FLOAT, &same(|a: i32| a as f32));
    check(
        &evex_packed!("vcvtudq2ps", dword),
        FLOAT,
        &same(|a: u32| a as f32),
    );
    check(
        &evex_packed!("vcvtqq2pd", qword),
        DQ,
        &same(|a: i64| a as f64),
    );
    check(
        &evex_packed!("vcvtuqq2pd", qword),
        DQ,
        &same(|a: u64| a as f64),
    );
}

#[test]
fn floating_point_to_integers() {
    let rounded = same(|a: f32| to_i32(f64::from(a).round_ties_even()));
    check(&packed!("cvtps2dq", dword), FLOAT, &rounded);
    let cut = same(|a: f32| to_i32(f64::from(a).trunc()));
    check(&packed!("cvttps2dq", dword), FLOAT, &cut);
    let rounded = same(|a: f32| to_u32(f64::from(a).round_ties_even()));
    check(&evex_packed!("vcvtps2udq", dword), FLOAT, &rounded);
    let cut = same(|a: f32| to_u32(f64::from(a).trunc()));
    check(&evex_packed!("vcvttps2udq", dword), FLOAT, &cut);
    let rounded = same(|a: f64| to_i64(a.round_ties_even()));
    check(&evex_packed!("vcvtpd2qq", qword), DQ, &rounded);
    let cut = same(|a: f64| to_i64(a.trunc()));
    check(&evex_packed!("vcvttpd2qq", qword), DQ, &cut);
    let rounded = same(|a: f64| to_u64(a.round_ties_even()));
    check(&evex_packed!("vcvtpd2uqq", qword), DQ, &rounded);
}

/// Narrower sources: as many lanes as the destination has.
macro_rules! widening {
    ($m:literal) => {
        [
            forms![
                concat!($m, " xmm1, xmm4"),
                concat!($m, " xmm9, qword ptr [rdi + 1]"),
            ],
            forms![
                concat!("v", $m, " xmm1, xmm4"),
                concat!("v", $m, " xmm9, qword ptr [rdi + 1]"),
                concat!("v", $m, " ymm1, xmm14"),
                concat!("v", $m, " ymm9, xmmword ptr [rdi]"),
                concat!("v", $m, " zmm17 {k1}, ymm4"),
                concat!("v", $m, " zmm17 {k1} {z}, ymmword ptr [rdi + 32]"),
                concat!("v", $m, " ymm17 {k4}, xmm4"),
                concat!("v", $m, " xmm17 {k4} {z}, qword ptr [rdi + 8]"),
                concat!("v", $m, " zmm17 {k4}, dword ptr [rdi + 4]{1to8}"),
            ],
        ]
        .concat()
    };
}

/// Half as many bytes as the source has, zeros above.
fn narrower<To: Lane>(convert: impl Fn(f64) -> To + 'static) -> Model {
    whole(1, 32, move |inputs| {
        let lanes = match inputs.source_len {
            0 => inputs.len.max(16) / 8,
            len => len / 8,
        };
        Output {
            value: build(lanes * 4, |lane| convert(get(&inputs.sources[0], lane))),
            len: Some(lanes * 4),
            flags: None,
        }
    })
    .float()
}

macro_rules! narrowing {
    ($m:literal) => {
        [
            forms![
                concat!($m, " xmm1, xmm4"),
                concat!($m, " xmm9, xmmword ptr [rdi + 16]"),
            ],
            forms![
                concat!("v", $m, " xmm1, xmm4"),
                concat!("v", $m, " xmm1, ymm14"),
                concat!("v", $m, " ymm17 {k1}, zmm4"),
                concat!("v", $m, " ymm17 {k1} {z}, zmm30"),
                concat!("v", $m, " xmm17 {k4}, ymm4"),
                concat!("v", $m, " xmm17 {k4}, xmm4"),
                concat!("v", $m, " xmm17 {k4} {z}, xmm4"),
            ],
        ]
        .concat()
    };
}

fn f64_to_f32(value: f64) -> f32 {
    if value.is_nan() {
        // The sign and the upper bits of the significand stay; quiet.
        let bits = value.to_bits();
        let sign = (bits >> 32) as u32 & 0x8000_0000;
        let payload = (bits >> 29) as u32 & 0x7f_ffff;
        return f32::from_bits(sign | 0x7fc0_0000 | payload);
    }
    value as f32
}

fn f32_to_f64(value: f32) -> f64 {
    if value.is_nan() {
        let bits = u64::from(value.to_bits());
        let sign = (bits & 0x8000_0000) << 32;
        return f64::from_bits(sign | 0x7ff8 << 48 | (bits & 0x7f_ffff) << 29);
    }
    f64::from(value)
}

fn widened<From: Lane>(convert: impl Fn(From) -> f64 + 'static) -> Model {
    whole(1, 64, move |inputs| {
        build(inputs.len, |lane| convert(get(&inputs.sources[0], lane)))
    })
    .float()
}

#[test]
fn wider_and_narrower() {
    check(&widening!("cvtps2pd"), FLOAT, &widened(f32_to_f64));
    check(
        &widening!("cvtdq2pd"),
        FLOAT,
        &widened(|a: i32| f64::from(a)),
    );
    check(&narrowing!("cvtpd2ps"), FLOAT, &narrower(f64_to_f32));
    check(
        &narrowing!("cvtpd2dq"),
        FLOAT,
        &narrower(|a| to_i32(a.round_ties_even())),
    );
    check(
        &narrowing!("cvttpd2dq"),
        FLOAT,
        &narrower(|a| to_i32(a.trunc())),
    );
}

/// Element 0 of the second source converted, the rest from the first.
fn element0<From: Lane, To: Lane>(convert: impl Fn(From) -> To + 'static) -> Model {
    whole(2, 8, move |inputs| {
        let mut value = inputs.sources[0];
        set(&mut value, 0, convert(get(&inputs.sources[1], 0)));
        value
    })
    .scalar(To::SIZE * 8)
    .float()
}

#[test]
fn scalars() {
    macro_rules! forms_of {
        ($m:literal, $size:literal) => {
            forms![
                concat!($m, " xmm1, xmm4"),
                concat!($m, " xmm9, ", $size, " ptr [rdi + 1]"),
                concat!("v", $m, " xmm1, xmm3, xmm4"),
                concat!("v", $m, " xmm9, xmm12, ", $size, " ptr [rdi + 1]"),
                concat!("v", $m, " xmm17 {k1}, xmm12, xmm30"),
                concat!("v", $m, " xmm17 {k1} {z}, xmm12, ", $size, " ptr [rdi + 8]"),
            ]
        };
    }
    check(
        &forms_of!("cvtss2sd", "dword"),
        FLOAT,
        &element0(f32_to_f64),
    );
    check(
        &forms_of!("cvtsd2ss", "qword"),
        FLOAT,
        &element0(f64_to_f32),
    );
}

#[test]
fn general_registers_to_scalars() {
    macro_rules! row {
        ($m:literal, $r:literal, $size:literal, $from:ty, $to:ty) => {
            let forms = forms![
                concat!($m, " xmm1, ", $r),
                concat!($m, " xmm9, ", $size, " ptr [rdi + 1]"),
                concat!("v", $m, " xmm1, xmm3, ", $r),
                concat!("v", $m, " xmm9, xmm12, ", $size, " ptr [rdi + 1]"),
                concat!("v", $m, " xmm17, xmm12, ", $r),
            ];
            check(&forms, FLOAT, &element0(|a: $from| a as $to));
        };
    }
    row!("cvtsi2ss", "ebx", "dword", i32, f32);
    row!("cvtsi2ss", "rcx", "qword", i64, f32);
    row!("cvtsi2sd", "edx", "dword", i32, f64);
    row!("cvtsi2sd", "rax", "qword", i64, f64);
    let forms = forms![
        "vcvtusi2sd xmm17, xmm3, rcx",
        "vcvtusi2sd xmm1, xmm3, qword ptr [rdi]"
    ];
    check(&forms, FLOAT, &element0(|a: u64| a as f64));
    let forms = forms!["vcvtusi2ss xmm17, xmm3, ecx"];
    check(&forms, FLOAT, &element0(|a: u32| a as f32));
}

#[test]
fn scalars_to_general_registers() {
    fn model<From: Lane>(convert: impl Fn(From) -> u64 + 'static) -> Model {
        whole(1, 8, move |inputs| convert(get(&inputs.sources[0], 0))).float()
    }
    macro_rules! row {
        ($m:literal, $r:literal, $size:literal, $from:ty, $convert:expr) => {
            let forms = forms![
                concat!($m, " ", $r, ", xmm4"),
                concat!($m, " ", $r, ", ", $size, " ptr [rdi + 1]"),
                concat!("v", $m, " ", $r, ", xmm14"),
                concat!("v", $m, " ", $r, ", xmm30"),
                concat!("v", $m, " ", $r, ", ", $size, " ptr [rdi + 1]"),
            ];
            check(
                &forms,
                FLOAT,
                &model(|a: $from| $convert(f64::from(a)) as u64),
            );
        };
    }
    row!(
        "cvtss2si",
        "eax",
        "dword",
        f32,
        |a: f64| to_i32(a.round_ties_even()) as u32
    );
    row!("cvtss2si", "rax", "dword", f32, |a: f64| to_i64(
        a.round_ties_even()
    ));
    row!("cvttss2si", "ecx", "dword", f32, |a: f64| to_i32(a.trunc())
        as u32);
    row!("cvttss2si", "rcx", "dword", f32, |a: f64| to_i64(a.trunc()));
    row!(
        "cvtsd2si",
        "edx",
        "qword",
        f64,
        |a: f64| to_i32(a.round_ties_even()) as u32
    );
    row!("cvtsd2si", "rdx", "qword", f64, |a: f64| to_i64(
        a.round_ties_even()
    ));
    row!("cvttsd2si", "ebx", "qword", f64, |a: f64| to_i32(a.trunc())
        as u32);
    row!("cvttsd2si", "rbx", "qword", f64, |a: f64| to_i64(a.trunc()));
}
