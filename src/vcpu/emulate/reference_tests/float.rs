//! Floating-point arithmetic, comparisons and rounding (SDM vol. 1 §4.8, §11.5; IEEE 754).
//!
//! Rounding is to nearest here, no exception is unmasked, and all are reported
//! already; the exceptions have a file of their own.

use super::forms::*;
use super::harness::{FLOAT, Isa, check};
use super::model::*;

/// A binary32 or binary64 number, as instructions see it.
trait Float: Lane + PartialOrd {
    /// What invalid operations give: a quiet NaN with the sign set.
    const INDEFINITE: Self;
    fn is_nan(self) -> bool;
    fn quiet(self) -> Self;
    fn is_zero(self) -> bool;
}

macro_rules! float {
    ($t:ty, $indefinite:literal, $quiet:literal) => {
        impl Float for $t {
            const INDEFINITE: Self = <$t>::from_bits($indefinite);
            fn is_nan(self) -> bool {
                <$t>::is_nan(self)
            }
            fn quiet(self) -> Self {
                <$t>::from_bits(self.to_bits() | $quiet)
            }
            fn is_zero(self) -> bool {
                self == 0.0
            }
        }
    };
}
float!(f32, 0xffc0_0000, 0x0040_0000);
float!(f64, 0xfff8_0000_0000_0000, 0x0008_0000_0000_0000);

/// SDM vol. 1 table 4-7: a NaN operand is the result, made quiet, the first one before the second.
fn with_nans<T: Float>(a: T, b: T, operation: impl Fn(T, T) -> T) -> T {
    if a.is_nan() {
        return a.quiet();
    }
    if b.is_nan() {
        return b.quiet();
    }
    let result = operation(a, b);
    if result.is_nan() {
        T::INDEFINITE
    } else {
        result
    }
}

/// MIN and MAX: the second operand where either is NaN or both are zeros.
fn choose<T: Float>(a: T, b: T, first: impl Fn(T, T) -> bool) -> T {
    if a.is_nan() || b.is_nan() || (a.is_zero() && b.is_zero()) {
        b
    } else if first(a, b) {
        a
    } else {
        b
    }
}

/// Element 0 of a vector from those of two sources, the rest from the first.
fn element0<T: Lane>(operation: impl Fn(T, T, u8) -> T + 'static) -> Model {
    whole(2, 8, move |inputs| {
        let [a, b] = [0, 1].map(|source| get(&inputs.sources[source], 0));
        let mut value = inputs.sources[0];
        set(&mut value, 0, operation(a, b, inputs.immediate));
        value
    })
    .scalar(T::SIZE * 8)
    .float()
}

macro_rules! scalar_forms {
    ($m:expr, $size:literal) => {
        scalar_forms!($m, $size, "")
    };
    ($m:expr, $size:literal, $imm:literal) => {
        forms![
            concat!($m, " xmm1, xmm4", $imm),
            concat!($m, " xmm2, xmm2", $imm),
            concat!($m, " xmm9, ", $size, " ptr [rdi + 1]", $imm),
            concat!("v", $m, " xmm1, xmm11, xmm14", $imm),
            concat!("v", $m, " xmm9, xmm12, ", $size, " ptr [rdi + 1]", $imm),
        ]
    };
}

macro_rules! evex_scalar_forms {
    ($m:expr, $size:literal) => {
        evex_scalar_forms!($m, $size, "")
    };
    ($m:expr, $size:literal, $imm:literal) => {
        forms![
            concat!($m, " xmm17, xmm3, xmm30", $imm),
            concat!($m, " xmm17 {k1}, xmm3, xmm30", $imm),
            concat!($m, " xmm1 {k2} {z}, xmm19, ", $size, " ptr [rdi + 8]", $imm),
        ]
    };
}

/// Packed and scalar, single and double.
macro_rules! four {
    ($ps:literal, $pd:literal, $ss:literal, $sd:literal, $operation:expr) => {
        macro_rules! one {
            ($p:literal, $s:literal, $t:ty, $size:ident, $text:literal) => {
                let forms = [
                    sse!($p),
                    vex!(concat!("v", $p)),
                    evex!(concat!("v", $p)),
                    broadcast!(concat!("v", $p), $size),
                ];
                check(&forms.concat(), FLOAT, &lanes2::<$t>($operation).float());
                let forms = [
                    scalar_forms!($s, $text),
                    evex_scalar_forms!(concat!("v", $s), $text),
                ];
                check(
                    &forms.concat(),
                    FLOAT,
                    &element0::<$t>(|a, b, _| $operation(a, b)),
                );
            };
        }
        one!($ps, $ss, f32, dword, "dword");
        one!($pd, $sd, f64, qword, "qword");
    };
}

#[test]
fn sums_and_differences() {
    four!("addps", "addpd", "addss", "addsd", |a, b| with_nans(
        a,
        b,
        |a, b| a + b
    ));
    four!("subps", "subpd", "subss", "subsd", |a, b| with_nans(
        a,
        b,
        |a, b| a - b
    ));
}

#[test]
fn products_and_quotients() {
    four!("mulps", "mulpd", "mulss", "mulsd", |a, b| with_nans(
        a,
        b,
        |a, b| a * b
    ));
    four!("divps", "divpd", "divss", "divsd", |a, b| with_nans(
        a,
        b,
        |a, b| a / b
    ));
}

#[test]
fn minima_and_maxima() {
    four!("minps", "minpd", "minss", "minsd", |a, b| choose(
        a,
        b,
        |a, b| a < b
    ));
    four!("maxps", "maxpd", "maxss", "maxsd", |a, b| choose(
        a,
        b,
        |a, b| a > b
    ));
}

#[test]
fn square_roots() {
    macro_rules! row {
        ($p:literal, $s:literal, $t:ty, $size:ident, $text:literal) => {
            fn root(a: $t) -> $t {
                with_nans(a, a, |a, _| a.sqrt())
            }
            let forms = [
                sse!($p),
                vex_unary!(concat!("v", $p)),
                evex_unary!(concat!("v", $p)),
                broadcast_unary!(concat!("v", $p), $size),
            ];
            check(&forms.concat(), FLOAT, &lanes1(root).float());
            let forms = [
                scalar_forms!($s, $text),
                evex_scalar_forms!(concat!("v", $s), $text),
            ];
            check(&forms.concat(), FLOAT, &element0(|_, b: $t, _| root(b)));
        };
    }
    {
        row!("sqrtps", "sqrtss", f32, dword, "dword");
    }
    {
        row!("sqrtpd", "sqrtsd", f64, qword, "qword");
    }
}

#[test]
fn horizontal_and_alternating() {
    let sse3 = Isa {
        sse: "sse3",
        ..FLOAT
    };
    macro_rules! row {
        ($m:literal, $t:ty, $lane:expr) => {
            let model = blocks2(8, |a, b, _| block::<$t>(|lane| $lane(a, b, lane))).float();
            let forms = [sse!($m), vex!(concat!("v", $m))];
            check(&forms.concat(), sse3, &model);
        };
    }
    macro_rules! pair {
        ($ps:literal, $pd:literal, $lane:ident) => {
            row!($ps, f32, $lane::<f32>);
            row!($pd, f64, $lane::<f64>);
        };
    }
    fn neighbours<T: Float>(a: Block, b: Block, lane: usize) -> [T; 2] {
        let half = 8 / T::SIZE;
        let from = if lane < half { a } else { b };
        let first = lane % half * 2;
        [get(&from, first), get(&from, first + 1)]
    }
    fn sum<T: Float + std::ops::Add<Output = T>>(a: Block, b: Block, lane: usize) -> T {
        let [a, b] = neighbours::<T>(a, b, lane);
        with_nans(a, b, |a, b| a + b)
    }
    fn difference<T: Float + std::ops::Sub<Output = T>>(a: Block, b: Block, lane: usize) -> T {
        let [a, b] = neighbours::<T>(a, b, lane);
        with_nans(a, b, |a, b| a - b)
    }
    fn alternating<T>(a: Block, b: Block, lane: usize) -> T
    where
        T: Float + std::ops::Add<Output = T> + std::ops::Sub<Output = T>,
    {
        let (a, b): (T, T) = (get(&a, lane), get(&b, lane));
        let odd = lane % 2 == 1;
        with_nans(a, b, |a, b| if odd { a + b } else { a - b })
    }
    pair!("haddps", "haddpd", sum);
    pair!("hsubps", "hsubpd", difference);
    pair!("addsubps", "addsubpd", alternating);
}

/// The 32 predicates of VCMPPS, of which SSE has the first 8.
fn predicate<T: Float>(a: T, b: T, number: u8) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    // Bit 4 changes only which comparisons signal; bit 3 whether unordered counts.
    match number & 15 {
        0 => a == b,
        1 => a < b,
        2 => a <= b,
        3 => unordered,
        4 => unordered || a != b,
        5 => unordered || a >= b,
        6 => unordered || a > b,
        7 => !unordered,
        8 => unordered || a == b,
        9 => unordered || a < b,
        10 => unordered || a <= b,
        11 => false,
        12 => !unordered && a != b,
        13 => a >= b,
        14 => a > b,
        _ => true,
    }
}

#[test]
fn comparisons() {
    macro_rules! sse_and_vex {
        ($imm:literal) => {
            let singles = lanes2i(|a: u32, b, imm| {
                let holds = predicate(f32::from_bits(a), f32::from_bits(b), imm);
                u32::from(holds).wrapping_neg()
            });
            check(
                &[sse!("cmpps", $imm), vex!("vcmpps", $imm)].concat(),
                FLOAT,
                &singles.float(),
            );
            let doubles = lanes2i(|a: u64, b, imm| {
                let holds = predicate(f64::from_bits(a), f64::from_bits(b), imm);
                u64::from(holds).wrapping_neg()
            });
            check(
                &[sse!("cmppd", $imm), vex!("vcmppd", $imm)].concat(),
                FLOAT,
                &doubles.float(),
            );
            let scalar = element0(|a: u32, b, imm| {
                let holds = predicate(f32::from_bits(a), f32::from_bits(b), imm);
                u32::from(holds).wrapping_neg()
            });
            check(&scalar_forms!("cmpss", "dword", $imm), FLOAT, &scalar);
        };
    }
    sse_and_vex!(", 0");
    sse_and_vex!(", 1");
    sse_and_vex!(", 2");
    sse_and_vex!(", 3");
    sse_and_vex!(", 4");
    sse_and_vex!(", 5");
    sse_and_vex!(", 6");
    sse_and_vex!(", 7");
    macro_rules! beyond_sse {
        ($imm:literal) => {
            let lanes = lanes2i(|a: u32, b, imm| {
                let holds = predicate(f32::from_bits(a), f32::from_bits(b), imm);
                u32::from(holds).wrapping_neg()
            });
            check(&vex!("vcmpps", $imm), FLOAT, &lanes.float());
            let bits = whole(2, 8, |inputs| {
                let [a, b] = [0, 1].map(|source| &inputs.sources[source]);
                (0..inputs.len / 8)
                    .filter(|lane| predicate::<f64>(get(a, *lane), get(b, *lane), inputs.immediate))
                    .fold(0u64, |bits, lane| bits | 1 << lane)
            });
            let forms = forms![
                concat!("vcmppd k1, zmm3, zmm24", $imm),
                concat!("vcmppd k7 {k2}, zmm30, zmmword ptr [rdi + 64]", $imm),
                concat!("vcmppd k4 {k5}, xmm18, xmm17", $imm),
                concat!("vcmppd k4 {k5}, ymm18, qword ptr [rdi]{1to4}", $imm),
            ];
            check(&forms, FLOAT, &bits.float());
        };
    }
    beyond_sse!(", 1");
    beyond_sse!(", 8");
    beyond_sse!(", 9");
    beyond_sse!(", 12");
    beyond_sse!(", 13");
    beyond_sse!(", 30");
}

/// ZF, PF and CF as SDM vol. 2 has them for COMISS; OF, SF and AF are cleared.
fn comparison_flags<T: Float>() -> Model {
    whole(2, 8, |inputs| {
        let [a, b] = [0, 1].map(|source| get::<T>(&inputs.sources[source], 0));
        let flags = if a.is_nan() || b.is_nan() {
            0x45
        } else if a < b {
            1
        } else if a > b {
            0
        } else {
            0x40
        };
        Output {
            value: inputs.old,
            len: Some(0),
            flags: Some(flags),
        }
    })
    .float()
}

#[test]
fn comparisons_into_flags() {
    macro_rules! row {
        ($m:literal, $size:literal, $t:ty) => {
            let forms = forms![
                concat!($m, " xmm1, xmm4"),
                concat!($m, " xmm2, xmm2"),
                concat!($m, " xmm9, ", $size, " ptr [rdi + 1]"),
                concat!("v", $m, " xmm1, xmm14"),
                concat!("v", $m, " xmm9, ", $size, " ptr [rdi]"),
                concat!("v", $m, " xmm17, xmm4"),
                concat!("v", $m, " xmm17, ", $size, " ptr [rdi + 8]"),
            ];
            check(&forms, FLOAT, &comparison_flags::<$t>());
        };
    }
    row!("comiss", "dword", f32);
    row!("ucomiss", "dword", f32);
    row!("comisd", "qword", f64);
    row!("ucomisd", "qword", f64);
}

#[test]
fn rounding_to_integers() {
    let sse4 = Isa {
        sse: "sse4.1",
        ..FLOAT
    };
    macro_rules! row {
        ($imm:literal, $operation:ident) => {
            let single = |a: f32| with_nans(a, a, |a, _| a.$operation());
            let double = |a: f64| with_nans(a, a, |a, _| a.$operation());
            let forms = [sse!("roundps", $imm), vex_unary!("vroundps", $imm)];
            check(&forms.concat(), sse4, &lanes1(single).float());
            let forms = [sse!("roundpd", $imm), vex_unary!("vroundpd", $imm)];
            check(&forms.concat(), sse4, &lanes1(double).float());
            let model = element0(move |_, b: f32, _| single(b));
            check(&scalar_forms!("roundss", "dword", $imm), sse4, &model);
            let model = element0(move |_, b: f64, _| double(b));
            check(&scalar_forms!("roundsd", "qword", $imm), sse4, &model);
            let forms = [
                evex_unary!("vrndscaleps", $imm),
                broadcast_unary!("vrndscaleps", dword, $imm),
            ];
            check(&forms.concat(), sse4, &lanes1(single).float());
            let forms = evex_unary!("vrndscalepd", $imm);
            check(&forms, sse4, &lanes1(double).float());
        };
    }
    row!(", 0", round_ties_even);
    row!(", 1", floor);
    row!(", 2", ceil);
    row!(", 3", trunc);
    row!(", 11", trunc);
    row!(", 4", round_ties_even);
}
