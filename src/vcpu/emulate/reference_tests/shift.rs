//! Shifts and rotations (SDM vol. 2, PSLLW and kin, VPROLD, VPSHLD).

use super::forms::*;
use super::harness::{BYTES, INTEGER, Isa, check};
use super::model::*;

/// What a shift does with one lane: counts of the lane's width and more shift everything out.
trait Shift: Lane {
    fn left(self, count: u64) -> Self;
    fn right(self, count: u64) -> Self;
    fn arithmetic(self, count: u64) -> Self;
}

macro_rules! shift {
    ($($t:ty, $signed:ty);*) => {$(
        impl Shift for $t {
            fn left(self, count: u64) -> Self {
                if count < <$t>::BITS.into() { self << count } else { 0 }
            }
            fn right(self, count: u64) -> Self {
                if count < <$t>::BITS.into() { self >> count } else { 0 }
            }
            fn arithmetic(self, count: u64) -> Self {
                (self as $signed >> count.min((<$t>::BITS - 1).into())) as $t
            }
        }
    )*};
}
shift!(u16, i16; u32, i32; u64, i64);

/// By the low 64 bits of the second source, the same count for every lane.
fn by_count<T: Shift>(operation: fn(T, u64) -> T) -> Model {
    whole(2, T::SIZE * 8, move |inputs| {
        let count = get(&inputs.sources[1], 0);
        build(inputs.len, |lane| {
            operation(get(&inputs.sources[0], lane), count)
        })
    })
}

fn by_immediate<T: Shift>(operation: fn(T, u64) -> T) -> Model {
    lanes1i(move |a, count| operation(a, count.into()))
}

/// Forms with the count in an XMM register or 16 bytes of memory.
macro_rules! count_forms {
    ($sse:literal, $vex:literal) => {
        [
            sse!($sse),
            forms![
                concat!($vex, " xmm1, xmm3, xmm4"),
                concat!($vex, " ymm9, ymm12, xmmword ptr [rdi]"),
                concat!($vex, " ymm8, ymm8, xmm8"),
            ],
            evex_count!($vex),
        ]
        .concat()
    };
}

macro_rules! evex_count {
    ($m:literal) => {
        forms![
            concat!($m, " zmm1, zmm3, xmm24"),
            concat!($m, " zmm17 {k2}, zmm30, xmm4"),
            concat!($m, " zmm1 {k3} {z}, zmm1, xmmword ptr [rdi + 16]"),
            concat!($m, " ymm18 {k4}, ymm3, xmmword ptr [rdi]"),
            concat!($m, " xmm16 {k6} {z}, xmm17, xmm18"),
        ]
    };
}

macro_rules! immediate_forms {
    ($sse:literal, $vex:literal, $imm:literal) => {
        [
            forms![concat!($sse, " xmm1", $imm), concat!($sse, " xmm9", $imm),],
            forms![
                concat!($vex, " xmm1, xmm3", $imm),
                concat!($vex, " ymm9, ymm12", $imm),
                concat!($vex, " ymm8, ymm8", $imm),
            ],
            evex_unary!($vex, $imm),
        ]
        .concat()
    };
}

/// Counts below, at and beyond each width.
macro_rules! immediates {
    ($sse:literal, $vex:literal, $isa:expr, $model:expr) => {
        check(&immediate_forms!($sse, $vex, ", 0"), $isa, &$model);
        check(&immediate_forms!($sse, $vex, ", 7"), $isa, &$model);
        check(&immediate_forms!($sse, $vex, ", 16"), $isa, &$model);
        check(&immediate_forms!($sse, $vex, ", 31"), $isa, &$model);
        check(&immediate_forms!($sse, $vex, ", 64"), $isa, &$model);
        check(&immediate_forms!($sse, $vex, ", 255"), $isa, &$model);
    };
}

macro_rules! row {
    ($sse:literal, $vex:literal, $isa:expr, $operation:expr) => {
        check(&count_forms!($sse, $vex), $isa, &by_count($operation));
        immediates!($sse, $vex, $isa, by_immediate($operation));
    };
}

#[test]
fn left_shifts() {
    row!("psllw", "vpsllw", BYTES, <u16 as Shift>::left);
    row!("pslld", "vpslld", INTEGER, <u32 as Shift>::left);
    row!("psllq", "vpsllq", INTEGER, <u64 as Shift>::left);
}

#[test]
fn right_shifts() {
    row!("psrlw", "vpsrlw", BYTES, <u16 as Shift>::right);
    row!("psrld", "vpsrld", INTEGER, <u32 as Shift>::right);
    row!("psrlq", "vpsrlq", INTEGER, <u64 as Shift>::right);
}

#[test]
fn arithmetic_right_shifts() {
    row!("psraw", "vpsraw", BYTES, <u16 as Shift>::arithmetic);
    row!("psrad", "vpsrad", INTEGER, <u32 as Shift>::arithmetic);
    check(
        &evex_count!("vpsraq"),
        INTEGER,
        &by_count(<u64 as Shift>::arithmetic),
    );
    let forms = [
        evex_unary!("vpsraq", ", 17"),
        broadcast_unary!("vpsraq", qword, ", 99"),
    ];
    check(
        &forms.concat(),
        INTEGER,
        &by_immediate(<u64 as Shift>::arithmetic),
    );
}

#[test]
fn broadcast_shifts_by_an_immediate() {
    let forms = broadcast_unary!("vpslld", dword, ", 3");
    check(&forms, INTEGER, &by_immediate(<u32 as Shift>::left));
    let forms = broadcast_unary!("vpsrlq", qword, ", 63");
    check(&forms, INTEGER, &by_immediate(<u64 as Shift>::right));
}

#[test]
fn shifts_by_a_count_for_each_lane() {
    macro_rules! row {
        ($m:literal, $size:ident, $t:ty, $operation:ident) => {
            let forms = [vex!($m), evex!($m), broadcast!($m, $size)].concat();
            let isa = Isa {
                vex_128: "avx2",
                ..INTEGER
            };
            check(&forms, isa, &lanes2(|a: $t, b: $t| a.$operation(b.into())));
        };
    }
    row!("vpsllvd", dword, u32, left);
    row!("vpsllvq", qword, u64, left);
    row!("vpsrlvd", dword, u32, right);
    row!("vpsrlvq", qword, u64, right);
    row!("vpsravd", dword, u32, arithmetic);
    let forms = [evex!("vpsravq"), broadcast!("vpsravq", qword)].concat();
    check(&forms, INTEGER, &lanes2(|a: u64, b: u64| a.arithmetic(b)));
    let words =
        |operation: fn(u16, u64) -> u16| lanes2(move |a: u16, b: u16| operation(a, b.into()));
    check(&evex!("vpsllvw"), BYTES, &words(Shift::left));
    check(&evex!("vpsrlvw"), BYTES, &words(Shift::right));
    check(&evex!("vpsravw"), BYTES, &words(Shift::arithmetic));
}

#[test]
fn rotations() {
    macro_rules! row {
        ($m:literal, $size:ident, $imm:literal, $t:ty, $rotate:ident) => {
            let forms = [evex_unary!($m, $imm), broadcast_unary!($m, $size, $imm)].concat();
            check(
                &forms,
                INTEGER,
                &lanes1i(|a: $t, count| a.$rotate(count.into())),
            );
        };
    }
    row!("vprold", dword, ", 7", u32, rotate_left);
    row!("vprold", dword, ", 45", u32, rotate_left);
    row!("vprolq", qword, ", 63", u64, rotate_left);
    row!("vprord", dword, ", 25", u32, rotate_right);
    row!("vprorq", qword, ", 200", u64, rotate_right);
    macro_rules! variable {
        ($m:literal, $size:ident, $t:ty, $rotate:ident) => {
            let forms = [evex!($m), broadcast!($m, $size)].concat();
            let model = lanes2(|a: $t, b: $t| a.$rotate((b % <$t>::BITS as $t) as u32));
            check(&forms, INTEGER, &model);
        };
    }
    variable!("vprolvd", dword, u32, rotate_left);
    variable!("vprolvq", qword, u64, rotate_left);
    variable!("vprorvd", dword, u32, rotate_right);
    variable!("vprorvq", qword, u64, rotate_right);
}

/// The bytes of each 16 are moved; counts past 15 clear them.
#[test]
fn byte_shifts() {
    let isa = Isa {
        evex: "avx512bw",
        ..INTEGER
    };
    macro_rules! row {
        ($sse:literal, $vex:literal, $imm:literal, $model:expr) => {
            let forms = forms![
                concat!($sse, " xmm1", $imm),
                concat!($vex, " xmm1, xmm3", $imm),
                concat!($vex, " ymm9, ymm12", $imm),
                concat!($vex, " zmm17, zmm30", $imm),
                concat!($vex, " ymm17, ymmword ptr [rdi + 32]", $imm),
            ];
            check(&forms, isa, &$model);
        };
    }
    fn left() -> Model {
        lanes1i(|a: u128, count| if count < 16 { a << (8 * count) } else { 0 })
    }
    fn right() -> Model {
        lanes1i(|a: u128, count| if count < 16 { a >> (8 * count) } else { 0 })
    }
    row!("pslldq", "vpslldq", ", 1", left());
    row!("pslldq", "vpslldq", ", 12", left());
    row!("pslldq", "vpslldq", ", 16", left());
    row!("psrldq", "vpsrldq", ", 3", right());
    row!("psrldq", "vpsrldq", ", 8", right());
    row!("psrldq", "vpsrldq", ", 255", right());
}

/// Two lanes are joined, shifted, and half of it is the result.
macro_rules! double_shift {
    ($name:ident, $left:literal, $right:literal, $left_by:literal, $right_by:literal, $t:ty, $wide:ty) => {
        #[test]
        fn $name() {
            fn join(high: $t, low: $t) -> $wide {
                <$wide>::from(high) << <$t>::BITS | <$wide>::from(low)
            }
            fn left(a: $t, b: $t, count: u64) -> $t {
                (join(a, b) << (count % u64::from(<$t>::BITS)) >> <$t>::BITS) as $t
            }
            fn right(a: $t, b: $t, count: u64) -> $t {
                (join(b, a) >> (count % u64::from(<$t>::BITS))) as $t
            }
            let isa = Isa {
                evex: "avx512vbmi2",
                ..INTEGER
            };
            let model = lanes2i(|a, b, count| left(a, b, count.into()));
            check(&evex!($left, ", 13"), isa, &model);
            let model = lanes2i(|a, b, count| right(a, b, count.into()));
            check(&evex!($right, ", 77"), isa, &model);
            let model = lanes3(|a, b, count: $t, _| left(a, b, count.into()));
            check(&evex!($left_by), isa, &model);
            let model = lanes3(|a, b, count: $t, _| right(a, b, count.into()));
            check(&evex!($right_by), isa, &model);
        }
    };
}
double_shift!(
    words_are_shifted_in,
    "vpshldw",
    "vpshrdw",
    "vpshldvw",
    "vpshrdvw",
    u16,
    u32
);
double_shift!(
    doublewords_are_shifted_in,
    "vpshldd",
    "vpshrdd",
    "vpshldvd",
    "vpshrdvd",
    u32,
    u64
);
double_shift!(
    quadwords_are_shifted_in,
    "vpshldq",
    "vpshrdq",
    "vpshldvq",
    "vpshrdvq",
    u64,
    u128
);
