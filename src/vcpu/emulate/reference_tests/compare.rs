//! Comparisons: into lanes, into opmasks, into flags and general registers.

use super::forms::*;
use super::harness::{BYTES, FLOAT, INTEGER, Isa, check};
use super::model::*;

const SSE4: Isa = Isa {
    sse: "sse4.1",
    vex_256: "avx",
    ..INTEGER
};

/// All ones where `holds`, in lanes.
macro_rules! lanes_of {
    ($t:ty, $holds:expr) => {
        lanes2(|a: $t, b: $t| if $holds(a, b) { !0 } else { 0 })
    };
}

/// One bit for each lane of two sources.
fn bits<T: Lane>(holds: impl Fn(T, T, u8) -> bool + 'static) -> Model {
    whole(2, T::SIZE * 8, move |inputs| {
        let [a, b] = [0, 1].map(|source| &inputs.sources[source]);
        (0..inputs.len / T::SIZE)
            .filter(|lane| holds(get(a, *lane), get(b, *lane), inputs.immediate))
            .fold(0u64, |bits, lane| bits | 1 << lane)
    })
}

/// Forms that write an opmask.
macro_rules! into_mask {
    ($m:literal) => { into_mask!($m, "") };
    ($m:literal, $imm:literal) => {
        forms![
            concat!($m, " k1, zmm3, zmm24", $imm),
            concat!($m, " k7 {k2}, zmm30, zmmword ptr [rdi + 64]", $imm),
            concat!($m, " k3 {k3}, ymm18, ymm1", $imm),
            concat!($m, " k2, ymm18, ymmword ptr [rdi + 32]", $imm),
            concat!($m, " k4 {k5}, xmm18, xmm17", $imm),
            concat!($m, " k5, xmm9, xmmword ptr [rdi + 1]", $imm),
        ]
    };
}

macro_rules! broadcast_into_mask {
    ($m:literal, dword, $imm:literal) => {
        forms![
            concat!($m, " k1 {k2}, zmm3, dword ptr [rdi]{1to16}", $imm),
            concat!($m, " k1, ymm3, dword ptr [rdi + 4]{1to8}", $imm),
        ]
    };
    ($m:literal, qword, $imm:literal) => {
        forms![
            concat!($m, " k1 {k2}, zmm3, qword ptr [rdi]{1to8}", $imm),
            concat!($m, " k1, xmm3, qword ptr [rdi + 8]{1to2}", $imm),
        ]
    };
}

#[test]
fn into_lanes() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $needs:literal, $model:expr) => {
            let isa = Isa {
                sse: $needs,
                ..INTEGER
            };
            check(&[sse!($sse), vex!($vex)].concat(), isa, &$model);
        };
    }
    row!("pcmpeqb", "vpcmpeqb", "sse2", lanes_of!(u8, |a, b| a == b));
    row!("pcmpeqw", "vpcmpeqw", "sse2", lanes_of!(u16, |a, b| a == b));
    row!("pcmpeqd", "vpcmpeqd", "sse2", lanes_of!(u32, |a, b| a == b));
    row!(
        "pcmpeqq",
        "vpcmpeqq",
        "sse4.1",
        lanes_of!(u64, |a, b| a == b)
    );
    row!("pcmpgtb", "vpcmpgtb", "sse2", lanes_of!(i8, |a, b| a > b));
    row!("pcmpgtw", "vpcmpgtw", "sse2", lanes_of!(i16, |a, b| a > b));
    row!("pcmpgtd", "vpcmpgtd", "sse2", lanes_of!(i32, |a, b| a > b));
    row!(
        "pcmpgtq",
        "vpcmpgtq",
        "sse4.2",
        lanes_of!(i64, |a, b| a > b)
    );
}

#[test]
fn equal_and_greater_into_masks() {
    check(&into_mask!("vpcmpeqb"), BYTES, &bits(|a: u8, b, _| a == b));
    check(&into_mask!("vpcmpeqw"), BYTES, &bits(|a: u16, b, _| a == b));
    check(
        &into_mask!("vpcmpeqd"),
        INTEGER,
        &bits(|a: u32, b, _| a == b),
    );
    check(
        &into_mask!("vpcmpeqq"),
        INTEGER,
        &bits(|a: u64, b, _| a == b),
    );
    check(&into_mask!("vpcmpgtb"), BYTES, &bits(|a: i8, b, _| a > b));
    check(&into_mask!("vpcmpgtw"), BYTES, &bits(|a: i16, b, _| a > b));
    check(
        &into_mask!("vpcmpgtd"),
        INTEGER,
        &bits(|a: i32, b, _| a > b),
    );
    check(
        &into_mask!("vpcmpgtq"),
        INTEGER,
        &bits(|a: i64, b, _| a > b),
    );
    let forms = broadcast_into_mask!("vpcmpeqd", dword, "");
    check(&forms, INTEGER, &bits(|a: u32, b, _| a == b));
    let forms = broadcast_into_mask!("vpcmpgtq", qword, "");
    check(&forms, INTEGER, &bits(|a: i64, b, _| a > b));
}

/// The predicates of VPCMPD and kin.
fn predicate<T: PartialOrd>(a: T, b: T, number: u8) -> bool {
    match number & 7 {
        0 => a == b,
        1 => a < b,
        2 => a <= b,
        3 => false,
        4 => a != b,
        5 => a >= b,
        6 => a > b,
        _ => true,
    }
}

#[test]
fn integer_predicates() {
    macro_rules! row {
        ($m:literal, $isa:expr, $t:ty) => {
            check(&into_mask!($m, ", 1"), $isa, &bits(predicate::<$t>));
            check(&into_mask!($m, ", 2"), $isa, &bits(predicate::<$t>));
            check(&into_mask!($m, ", 4"), $isa, &bits(predicate::<$t>));
            check(&into_mask!($m, ", 5"), $isa, &bits(predicate::<$t>));
            check(&into_mask!($m, ", 6"), $isa, &bits(predicate::<$t>));
        };
    }
    row!("vpcmpb", BYTES, i8);
    row!("vpcmpub", BYTES, u8);
    row!("vpcmpw", BYTES, i16);
    row!("vpcmpuw", BYTES, u16);
    row!("vpcmpd", INTEGER, i32);
    row!("vpcmpud", INTEGER, u32);
    row!("vpcmpq", INTEGER, i64);
    row!("vpcmpuq", INTEGER, u64);
    let rest = [
        into_mask!("vpcmpud", ", 0"),
        into_mask!("vpcmpud", ", 3"),
        into_mask!("vpcmpud", ", 7"),
        broadcast_into_mask!("vpcmpud", dword, ", 1"),
    ];
    check(&rest.concat(), INTEGER, &bits(predicate::<u32>));
    let forms = broadcast_into_mask!("vpcmpq", qword, ", 6");
    check(&forms, INTEGER, &bits(predicate::<i64>));
}

#[test]
fn common_bits_into_masks() {
    macro_rules! row {
        ($test:literal, $test_not:literal, $isa:expr, $t:ty) => {
            check(&into_mask!($test), $isa, &bits(|a: $t, b, _| a & b != 0));
            check(
                &into_mask!($test_not),
                $isa,
                &bits(|a: $t, b, _| a & b == 0),
            );
        };
    }
    row!("vptestmb", "vptestnmb", BYTES, u8);
    row!("vptestmw", "vptestnmw", BYTES, u16);
    row!("vptestmd", "vptestnmd", INTEGER, u32);
    row!("vptestmq", "vptestnmq", INTEGER, u64);
    let forms = broadcast_into_mask!("vptestmd", dword, "");
    check(&forms, INTEGER, &bits(|a: u32, b, _| a & b != 0));
}

#[test]
fn bits_of_quadwords_into_masks() {
    let isa = Isa {
        evex: "avx512bitalg",
        ..INTEGER
    };
    let model = whole(2, 8, |inputs| {
        let bit = |at: usize| {
            let word: u64 = get(&inputs.sources[0], at / 8);
            word >> (inputs.sources[1][at] & 63) & 1
        };
        (0..inputs.len).fold(0u64, |bits, at| bits | bit(at) << at)
    });
    check(&into_mask!("vpshufbitqmb"), isa, &model);
}

const ZF: u64 = 1 << 6;
const CF: u64 = 1;

/// ZF if no bit is common, CF if no bit of the second is missing in the first; the other flags are cleared.
fn test_flags(bits: usize, mask: u64) -> Model {
    whole(2, bits, move |inputs| {
        let mut flags = ZF | CF;
        for lane in 0..inputs.len / 8 {
            let [a, b] = [0, 1].map(|source| get::<u64>(&inputs.sources[source], lane));
            if a & b & mask != 0 {
                flags &= !ZF;
            }
            if !a & b & mask != 0 {
                flags &= !CF;
            }
        }
        Output {
            value: inputs.old,
            len: Some(0),
            flags: Some(flags),
        }
    })
}

#[test]
fn into_flags() {
    macro_rules! row {
        ($sse:expr, $vex:literal, $model:expr) => {
            let forms = forms![
                concat!($vex, " xmm1, xmm3"),
                concat!($vex, " xmm2, xmm2"),
                concat!($vex, " ymm9, ymm12"),
                concat!($vex, " ymm9, ymmword ptr [rdi + 1]"),
            ];
            check(&[$sse, forms].concat(), SSE4, &$model);
        };
    }
    let sse = forms![
        "ptest xmm1, xmm4",
        "ptest xmm2, xmm2",
        "ptest xmm9, xmmword ptr [rdi + 16]"
    ];
    row!(sse, "vptest", test_flags(8, u64::MAX));
    row!(vec![], "vtestps", test_flags(8, 0x8000_0000_8000_0000));
    row!(vec![], "vtestpd", test_flags(8, 1 << 63));
}

/// One bit for the sign of each lane, in a general register.
fn signs<T: Lane>() -> Model {
    whole(1, 8, |inputs| {
        (0..inputs.len / T::SIZE).fold(0u64, |bits, lane| {
            let sign = inputs.sources[0][(lane + 1) * T::SIZE - 1] >> 7;
            bits | u64::from(sign) << lane
        })
    })
}

#[test]
fn signs_into_general_registers() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $isa:expr, $t:ty) => {
            let forms = forms![
                concat!($sse, " eax, xmm1"),
                concat!($sse, " ecx, xmm12"),
                concat!($vex, " edx, xmm1"),
                concat!($vex, " eax, ymm1"),
                concat!($vex, " ecx, ymm15"),
            ];
            check(&forms, $isa, &signs::<$t>());
        };
    }
    row!("pmovmskb", "vpmovmskb", INTEGER, u8);
    row!("movmskps", "vmovmskps", FLOAT, u32);
    row!("movmskpd", "vmovmskpd", FLOAT, u64);
}
