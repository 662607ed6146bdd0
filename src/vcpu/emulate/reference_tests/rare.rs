//! What of AVX-512 kernels hardly use: numbers taken apart, their classes, and the conversions left.

use super::forms::*;
use super::harness::{BYTES, FLOAT, Isa, check, check_with};
use super::model::*;

const DQ: Isa = Isa {
    evex: "avx512dq",
    ..FLOAT
};

/// Eighths from -16 to 16, none of them zero.
fn eighths(vector: &mut Vector) {
    let bytes = *vector;
    for lane in 0..16 {
        let byte = bytes[lane * 4] as i8;
        let number = f32::from(if byte == 0 { 77 } else { byte }) / 8.0;
        set(vector, lane, number);
    }
}

/// The same in double precision.
fn double_eighths(vector: &mut Vector) {
    let bytes = *vector;
    for lane in 0..8 {
        let byte = bytes[lane * 8] as i8;
        let number = f64::from(if byte == 0 { 77 } else { byte }) / 8.0;
        set(vector, lane, number);
    }
}

/// Forms on registers alone, which `prepare` makes fit for the model.
macro_rules! unary {
    ($m:literal, $imm:literal) => {
        forms![
            concat!($m, " zmm1, zmm24", $imm),
            concat!($m, " zmm17 {k2}, zmm4", $imm),
            concat!($m, " ymm1 {k5} {z}, ymm31", $imm),
            concat!($m, " xmm16 {k6}, xmm18", $imm),
        ]
    };
}

macro_rules! binary {
    ($m:literal, $imm:literal) => {
        forms![
            concat!($m, " zmm1, zmm3, zmm24", $imm),
            concat!($m, " zmm17 {k2}, zmm30, zmm4", $imm),
            concat!($m, " ymm1 {k5} {z}, ymm2, ymm31", $imm),
            concat!($m, " xmm16 {k6}, xmm17, xmm18", $imm),
        ]
    };
}

/// Rounded down: the exponent without its bias.
fn exponent(number: f64) -> i32 {
    (number.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

#[test]
fn exponents_and_significands() {
    let singles = lanes1(|a: f32| exponent(a.into()) as f32);
    check_with(&unary!("vgetexpps", ""), FLOAT, &singles.float(), eighths);
    let doubles = lanes1(|a: f64| exponent(a).into());
    check_with(
        &unary!("vgetexppd", ""),
        FLOAT,
        &doubles.float(),
        double_eighths,
    );
    // From 1 to 2; from a half to 1; from three quarters to three halves.
    let significand = |a: f32| a / 2f32.powi(exponent(a.into()));
    let forms = unary!("vgetmantps", ", 0");
    check_with(&forms, FLOAT, &lanes1(significand).float(), eighths);
    let forms = unary!("vgetmantps", ", 2");
    let halves = lanes1(move |a| significand(a) / 2.0);
    check_with(&forms, FLOAT, &halves.float(), eighths);
    let forms = unary!("vgetmantps", ", 7");
    let around_one = lanes1(move |a: f32| match significand(a).abs() {
        large if large >= 1.5 => large / 2.0,
        small => small,
    });
    check_with(&forms, FLOAT, &around_one.float(), eighths);
}

#[test]
fn scaling() {
    let singles = lanes2(|a: f32, b: f32| a * 2f32.powi(b.floor() as i32));
    check_with(&binary!("vscalefps", ""), FLOAT, &singles.float(), eighths);
    let doubles = lanes2(|a: f64, b: f64| a * 2f64.powi(b.floor() as i32));
    check_with(
        &binary!("vscalefpd", ""),
        FLOAT,
        &doubles.float(),
        double_eighths,
    );
}

/// What rounding to so many fractional bits leaves.
#[test]
fn reduction() {
    fn rest(a: f32, bits: i32, round: fn(f32) -> f32) -> f32 {
        a - round(a * 2f32.powi(bits)) / 2f32.powi(bits)
    }
    let forms = unary!("vreduceps", ", 0");
    let model = lanes1(|a| rest(a, 0, f32::round_ties_even));
    check_with(&forms, DQ, &model.float(), eighths);
    let forms = unary!("vreduceps", ", 17");
    // Nothing left is a negative zero where rounding is down (IEEE 754 §6.3).
    let model = lanes1(|a| match rest(a, 1, f32::floor) {
        0.0 => -0.0,
        left => left,
    });
    check_with(&forms, DQ, &model.float(), eighths);
    let forms = unary!("vrndscaleps", ", 18");
    let model = lanes1(|a: f32| (a * 2.0).ceil() / 2.0);
    check_with(&forms, FLOAT, &model.float(), eighths);
}

#[test]
fn ranges() {
    // The smaller, with the first's sign; the larger magnitude, without; the larger, negative.
    let forms = binary!("vrangeps", ", 0");
    let model = lanes2(|a: f32, b: f32| a.min(b).abs().copysign(a));
    check_with(&forms, DQ, &model.float(), eighths);
    let forms = binary!("vrangeps", ", 11");
    let model = lanes2(|a: f32, b: f32| a.abs().max(b.abs()));
    check_with(&forms, DQ, &model.float(), eighths);
    let forms = binary!("vrangepd", ", 13");
    let model = lanes2(|a: f64, b: f64| -a.max(b).abs());
    check_with(&forms, DQ, &model.float(), double_eighths);
}

/// One bit of the immediate for each class.
fn is_of_class(bits: u64, exponent_bits: u32, fraction_bits: u32, classes: u8) -> bool {
    let fraction = bits & ((1 << fraction_bits) - 1);
    let all_ones = (1 << exponent_bits) - 1;
    let exponent = bits >> fraction_bits & all_ones;
    let negative = bits >> (fraction_bits + exponent_bits) & 1 == 1;
    let quiet = fraction >> (fraction_bits - 1) == 1;
    let (nan, infinite) = (
        exponent == all_ones && fraction != 0,
        exponent == all_ones && fraction == 0,
    );
    let zero = exponent == 0 && fraction == 0;
    let found = [
        nan && quiet,
        zero && !negative,
        zero && negative,
        infinite && !negative,
        infinite && negative,
        exponent == 0 && fraction != 0,
        negative && exponent != all_ones && !zero,
        nan && !quiet,
    ];
    (0..8).any(|class| classes >> class & 1 == 1 && found[class])
}

#[test]
fn classes() {
    macro_rules! row {
        ($imm:literal) => {
            let model = whole(1, 8, |inputs| {
                (0..inputs.source_len / 4)
                    .filter(|lane| {
                        let bits: u32 = get(&inputs.sources[0], *lane);
                        is_of_class(bits.into(), 8, 23, inputs.immediate)
                    })
                    .fold(0u64, |bits, lane| bits | 1 << lane)
            });
            let forms = forms![
                concat!("vfpclassps k1, zmm24", $imm),
                concat!("vfpclassps k7 {k2}, ymm30", $imm),
            ];
            check(&forms, DQ, &model);
            let model = whole(1, 8, |inputs| {
                (0..inputs.source_len / 8)
                    .filter(|lane| {
                        let bits: u64 = get(&inputs.sources[0], *lane);
                        is_of_class(bits, 11, 52, inputs.immediate)
                    })
                    .fold(0u64, |bits, lane| bits | 1 << lane)
            });
            let forms = forms![
                concat!("vfpclasspd k1, zmm24", $imm),
                concat!("vfpclasspd k7 {k2}, xmm30", $imm),
            ];
            check(&forms, DQ, &model);
        };
    }
    row!(", 1");
    row!(", 2");
    row!(", 4");
    row!(", 24");
    row!(", 32");
    row!(", 64");
    row!(", 128");
    row!(", 255");
}

/// Sums of differences of four bytes of the first source, and of four of the second, whose
/// doublewords the immediate has put in order.
#[test]
fn sums_of_differences() {
    let model = blocks2(16, |a, b, imm| {
        let chosen = block::<u32>(|lane| get(&b, usize::from(imm >> (2 * lane) & 3)));
        block::<u16>(|lane| {
            // Words of a quadword: bytes 0 of both, then 1, then 2 and 3 with bytes 4 of the first.
            let (base, word) = (lane / 4 * 8, lane % 4);
            let first = base + word / 2 * 4;
            let second = base + word;
            (0..4)
                .map(|byte| u16::from(a[first + byte].abs_diff(chosen[second + byte])))
                .sum()
        })
    });
    check(&evex!("vdbpsadbw", ", 27"), BYTES, &model);
    let model = blocks2(16, |a, b, _| {
        block::<u16>(|lane| {
            let (base, word) = (lane / 4 * 8, lane % 4);
            let (first, second) = (base + word / 2 * 4, base + word);
            (0..4)
                .map(|byte| u16::from(a[first + byte].abs_diff(b[second + byte])))
                .sum()
        })
    });
    check(&evex!("vdbpsadbw", ", 228"), BYTES, &model);
}

/// Quadwords and numbers of half their size.
#[test]
fn conversions_between_sizes() {
    macro_rules! widening {
        ($m:literal) => {
            forms![
                concat!($m, " zmm1, ymm24"),
                concat!($m, " zmm17 {k2}, ymm4"),
                concat!($m, " ymm1 {k5} {z}, xmm31"),
                concat!($m, " xmm16 {k6}, xmm18"),
                concat!($m, " zmm16 {k6}, ymmword ptr [rdi + 32]"),
                concat!($m, " zmm16 {k6}, dword ptr [rdi + 4]{1to8}"),
            ]
        };
    }
    fn widened<From: Lane, To: Lane>(convert: fn(From) -> To) -> Model {
        whole(1, 64, move |inputs| {
            build(inputs.len, |lane| convert(get(&inputs.sources[0], lane)))
        })
        .float()
    }
    fn to_i64(value: f32) -> i64 {
        let fits = (-9.223_372e18..9.223_372e18).contains(&value);
        if fits { value as i64 } else { i64::MIN }
    }
    fn to_u64(value: f32) -> u64 {
        if (0.0..1.844_674_4e19).contains(&value) {
            value as u64
        } else {
            u64::MAX
        }
    }
    check(
        &widening!("vcvtudq2pd"),
        FLOAT,
        &widened(|a: u32| f64::from(a)),
    );
    check(
        &widening!("vcvttps2qq"),
        DQ,
        &widened(|a: f32| to_i64(a.trunc())),
    );
    check(
        &widening!("vcvtps2qq"),
        DQ,
        &widened(|a: f32| to_i64(a.round_ties_even())),
    );
    check(
        &widening!("vcvttps2uqq"),
        DQ,
        &widened(|a: f32| to_u64(a.trunc())),
    );
    macro_rules! narrowing {
        ($m:literal) => {
            forms![
                concat!($m, " ymm1, zmm24"),
                concat!($m, " ymm17 {k2}, zmm4"),
                concat!($m, " xmm1 {k5} {z}, ymm31"),
                concat!($m, " xmm16 {k6}, xmm18"),
            ]
        };
    }
    fn narrowed<From: Lane, To: Lane>(convert: fn(From) -> To) -> Model {
        whole(1, 32, move |inputs| {
            let len = inputs.source_len / 2;
            Output {
                value: build(len, |lane| convert(get(&inputs.sources[0], lane))),
                len: Some(len),
                flags: None,
            }
        })
        .float()
    }
    check(&narrowing!("vcvtqq2ps"), DQ, &narrowed(|a: i64| a as f32));
    check(&narrowing!("vcvtuqq2ps"), DQ, &narrowed(|a: u64| a as f32));
    fn to_u32(value: f64) -> u32 {
        if (0.0..4_294_967_296.0).contains(&value) {
            value as u32
        } else {
            u32::MAX
        }
    }
    check(
        &narrowing!("vcvttpd2udq"),
        FLOAT,
        &narrowed(|a: f64| to_u32(a.trunc())),
    );
    check(
        &narrowing!("vcvtpd2udq"),
        FLOAT,
        &narrowed(|a: f64| to_u32(a.round_ties_even())),
    );
}
