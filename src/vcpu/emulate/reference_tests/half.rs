//! Half-precision numbers, dot products, and reciprocals that are approximated.

use super::forms::*;
use super::harness::{FLOAT, Isa, check, check_with};
use super::model::*;

const F16C: Isa = Isa {
    vex_128: "f16c",
    vex_256: "f16c",
    ..FLOAT
};

/// IEEE 754 binary16: 5 bits of exponent, 10 of significand.
fn from_half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10 & 31), u32::from(bits & 0x3ff));
    match exponent {
        31 if fraction != 0 => f32::from_bits(sign | 0x7fc0_0000 | fraction << 13),
        31 => f32::from_bits(sign | 0x7f80_0000),
        _ => {
            let magnitude = if exponent == 0 {
                f64::from(fraction) * 2f64.powi(-24)
            } else {
                f64::from(0x400 + fraction) * 2f64.powi(exponent as i32 - 25)
            };
            f32::from_bits(sign | (magnitude as f32).to_bits())
        }
    }
}

/// Rounded by `round`, which is given the magnitude in units of its last place.
fn to_half(value: f32, round: fn(f64) -> f64) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    if value.is_nan() {
        return sign | 0x7e00 | (bits >> 13) as u16 & 0x3ff;
    }
    if value.is_infinite() {
        return sign | 0x7c00;
    }
    let magnitude = f64::from(value.abs());
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(-14);
    let units = round(magnitude * 2f64.powi(10 - exponent)) as u32;
    // A carry out of the significand lands in the exponent, as it should.
    let number = match units {
        0x400.. => ((exponent + 14) as u32 * 0x400) + units,
        _ => units,
    };
    let largest = if round(0.5) == 0.0 && round(0.75) == 0.0 {
        0x7bff
    } else {
        0x7c00
    };
    sign | number.min(largest) as u16
}

#[test]
fn from_half_precision() {
    let model = whole(1, 32, |inputs| {
        build::<f32>(inputs.len, |lane| from_half(get(&inputs.sources[0], lane)))
    });
    let forms = forms![
        "vcvtph2ps xmm1, xmm4",
        "vcvtph2ps xmm9, qword ptr [rdi + 1]",
        "vcvtph2ps ymm1, xmm4",
        "vcvtph2ps ymm9, xmmword ptr [rdi]",
        "vcvtph2ps zmm17 {k1}, ymm4",
        "vcvtph2ps zmm17 {k1} {z}, ymmword ptr [rdi + 32]",
    ];
    check(&forms, F16C, &model.float());
}

#[test]
fn to_half_precision() {
    fn model(round: fn(f64) -> f64) -> Model {
        whole(1, 16, move |inputs| {
            let len = inputs.source_len / 2;
            Output {
                value: build::<u16>(len, |lane| to_half(get(&inputs.sources[0], lane), round)),
                len: Some(len),
                flags: None,
            }
        })
        .float()
    }
    macro_rules! row {
        ($imm:literal, $round:expr) => {
            let forms = forms![
                concat!("vcvtps2ph xmm1, xmm4", $imm),
                concat!("vcvtps2ph xmm1, ymm4", $imm),
                concat!("vcvtps2ph qword ptr [rdi + 1], xmm4", $imm),
                concat!("vcvtps2ph xmmword ptr [rdi], ymm14", $imm),
                concat!("vcvtps2ph ymm17 {k1}, zmm4", $imm),
                concat!("vcvtps2ph ymmword ptr [rdi + 32] {k1}, zmm4", $imm),
            ];
            check(&forms, F16C, &model($round));
        };
    }
    row!(", 0", f64::round_ties_even);
    row!(", 3", f64::trunc);
    row!(", 4", f64::round_ties_even);
}

/// Products that the immediate's upper half chooses, their sum where its lower half says.
#[test]
fn dot_products() {
    let sse4 = Isa {
        sse: "sse4.1",
        ..FLOAT
    };
    // Small whole numbers: the order of the sum does not matter, nor do NaNs come up.
    fn number(byte: u8) -> f64 {
        f64::from(byte as i8)
    }
    macro_rules! row {
        ($dot:literal, $t:ty, $imm:literal) => {
            let dot = forms![
                concat!($dot, " xmm1, xmm4", $imm),
                concat!("v", $dot, " xmm1, xmm3, xmm4", $imm),
            ];
            let lanes = 16 / size_of::<$t>();
            let model = whole(2, 8, move |inputs| {
                let lane = |source: usize, lane| get::<$t>(&inputs.sources[source], lane);
                let sum: $t = (0..lanes)
                    .filter(|at| inputs.immediate >> (4 + at) & 1 == 1)
                    .map(|at| lane(0, at) * lane(1, at))
                    .sum();
                build::<$t>(16, |at| {
                    if inputs.immediate >> at & 1 == 1 {
                        sum + 0.0
                    } else {
                        0.0
                    }
                })
            });
            check_with(&dot, sse4, &model.float(), |vector| {
                let bytes = *vector;
                for at in 0..64 / size_of::<$t>() {
                    set(vector, at, number(bytes[at].wrapping_add(at as u8)) as $t);
                }
            });
        };
    }
    row!("dpps", f32, ", 255");
    row!("dpps", f32, ", 117");
    row!("dpps", f32, ", 18");
    row!("dppd", f64, ", 51");
    row!("dppd", f64, ", 33");
}

/// Approximations: within the relative error that the manual allows.
#[test]
fn approximate_reciprocals() {
    use super::processor::Processor;
    use super::registers as guest;

    type Exact = fn(f64) -> f64;
    let rows: [(_, _, _, Exact); 4] = [
        (forms!["rcpps xmm1, xmm2"], "sse2", 1.5 / 4096.0, |a| {
            1.0 / a
        }),
        (forms!["rsqrtps xmm1, xmm2"], "sse2", 1.5 / 4096.0, |a| {
            1.0 / a.sqrt()
        }),
        (
            forms!["vrcp14ps xmm1, xmm2"],
            "avx512vl",
            1.0 / 16384.0,
            |a| 1.0 / a,
        ),
        (
            forms!["vrsqrt14ps xmm1, xmm2"],
            "avx512vl",
            1.0 / 16384.0,
            |a| 1.0 / a.sqrt(),
        ),
    ];
    for (forms, feature, allowed, exact) in rows {
        let mut machine = guest::machine();
        let numbers = [1.0f32, 3.0, 1.0e-20, 7.7e20];
        let mut vector = [0; 64];
        for (lane, number) in numbers.into_iter().enumerate() {
            set(&mut vector, lane, number);
        }
        guest::set_vector(&mut machine, 2, &vector);
        if !Processor::Host.has(feature) {
            let unknown = super::super::exception::Exception::invalid_opcode();
            assert_eq!(machine.fault(forms[0].code), unknown);
            continue;
        }
        machine.run(forms[0].code).unwrap();
        assert_eq!(guest::mxcsr(&machine), 0x1f80);
        for (lane, number) in numbers.into_iter().enumerate() {
            let found = f64::from(get::<f32>(&guest::vector(&machine, 1), lane));
            let exact = exact(f64::from(number));
            assert!(
                (found / exact - 1.0).abs() <= allowed,
                "{}: {found}",
                forms[0].text
            );
        }
    }
}
