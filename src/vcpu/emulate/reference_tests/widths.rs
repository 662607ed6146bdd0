//! Lanes made wider or narrower, and turned into opmasks and back.

use super::forms::*;
use super::harness::{BYTES, INTEGER, Isa, check};
use super::model::*;

/// Each lane of the destination from a narrower one of the source.
fn widen<From: Lane, To: Lane>(convert: fn(From) -> To) -> Model {
    whole(1, To::SIZE * 8, move |inputs| {
        build(inputs.len, |lane| convert(get(&inputs.sources[0], lane)))
    })
}

/// `$x`, `$y`, `$z`: what memory operands are called for destinations of 16, 32 and 64 bytes.
macro_rules! widening {
    ($m:literal, $x:literal, $y:literal, $z:literal, $register_y:literal, $register_z:literal) => {
        [
            forms![
                concat!($m, " xmm1, xmm4"),
                concat!($m, " xmm9, ", $x, " ptr [rdi + 1]"),
            ],
            forms![
                concat!("v", $m, " xmm1, xmm4"),
                concat!("v", $m, " xmm9, ", $x, " ptr [rdi + 1]"),
                concat!("v", $m, " ymm1, xmm14"),
                concat!("v", $m, " ymm9, ", $y, " ptr [rdi]"),
                concat!("v", $m, " zmm17 {k1}, ", $register_z, "4"),
                concat!("v", $m, " zmm17 {k1} {z}, ", $register_z, "31"),
                concat!("v", $m, " zmm1, ", $z, " ptr [rdi + 32]"),
                concat!("v", $m, " ymm17 {k4}, ", $register_y, "4"),
                concat!("v", $m, " ymm17 {k4} {z}, ", $y, " ptr [rdi + 16]"),
                concat!("v", $m, " xmm17 {k4}, ", $x, " ptr [rdi + 8]"),
            ],
        ]
        .concat()
    };
}

#[test]
fn wider_lanes() {
    macro_rules! row {
        ($signed:literal, $unsigned:literal, $x:literal, $y:literal, $z:literal, $rz:literal, $evex:literal,
         $from:ty, $ufrom:ty, $to:ty) => {
            let isa = Isa {
                sse: "sse4.1",
                evex: $evex,
                ..INTEGER
            };
            let forms = widening!($signed, $x, $y, $z, "xmm", $rz);
            check(&forms, isa, &widen(|a: $from| <$to>::from(a)));
            let forms = widening!($unsigned, $x, $y, $z, "xmm", $rz);
            check(&forms, isa, &widen(|a: $ufrom| <$to>::from(a)));
        };
    }
    row!(
        "pmovsxbw", "pmovzxbw", "qword", "xmmword", "ymmword", "ymm", "avx512bw", i8, u8, i16
    );
    row!(
        "pmovsxbd", "pmovzxbd", "dword", "qword", "xmmword", "xmm", "avx512f", i8, u8, i32
    );
    row!(
        "pmovsxbq", "pmovzxbq", "word", "dword", "qword", "xmm", "avx512f", i8, u8, i64
    );
    row!(
        "pmovsxwd", "pmovzxwd", "qword", "xmmword", "ymmword", "ymm", "avx512f", i16, u16, i32
    );
    row!(
        "pmovsxwq", "pmovzxwq", "dword", "qword", "xmmword", "xmm", "avx512f", i16, u16, i64
    );
    row!(
        "pmovsxdq", "pmovzxdq", "qword", "xmmword", "ymmword", "ymm", "avx512f", i32, u32, i64
    );
}

/// The lanes of the source narrowed; what is above them in a register becomes zero.
fn narrow<From: Lane, To: Lane>(convert: fn(From) -> To) -> Model {
    whole(1, To::SIZE * 8, move |inputs| {
        let lanes = inputs.source_len / From::SIZE;
        let len = lanes * To::SIZE;
        Output {
            value: build(len, |lane| convert(get(&inputs.sources[0], lane))),
            len: Some(len),
            flags: None,
        }
    })
}

macro_rules! narrowing {
    ($m:literal, $ry:literal, $rz:literal, $x:literal, $y:literal, $z:literal) => {
        forms![
            concat!($m, " ", $rz, "1, zmm3"),
            concat!($m, " ", $rz, "17 {k1}, zmm30"),
            concat!($m, " ", $rz, "17 {k2} {z}, zmm3"),
            concat!($m, " ", $ry, "17 {k3}, ymm3"),
            concat!($m, " xmm17 {k4}, xmm3"),
            concat!($m, " xmm1 {k4} {z}, xmm30"),
            concat!($m, " ", $z, " ptr [rdi + 16] {k5}, zmm3"),
            concat!($m, " ", $y, " ptr [rdi + 1] {k6}, ymm30"),
            concat!($m, " ", $x, " ptr [rdi + 8], xmm3"),
        ]
    };
}

#[test]
fn narrower_lanes() {
    macro_rules! row {
        ($cut:literal, $signed:literal, $unsigned:literal, $ry:literal, $rz:literal,
         $x:literal, $y:literal, $z:literal, $isa:expr, $from:ty, $ufrom:ty, $to:ty, $uto:ty) => {
            let forms = narrowing!($cut, $ry, $rz, $x, $y, $z);
            check(&forms, $isa, &narrow(|a: $from| a as $to));
            let forms = narrowing!($signed, $ry, $rz, $x, $y, $z);
            let saturate = |a: $from| a.clamp(<$to>::MIN.into(), <$to>::MAX.into()) as $to;
            check(&forms, $isa, &narrow(saturate));
            let forms = narrowing!($unsigned, $ry, $rz, $x, $y, $z);
            check(
                &forms,
                $isa,
                &narrow(|a: $ufrom| a.min(<$uto>::MAX.into()) as $uto),
            );
        };
    }
    row!(
        "vpmovwb",
        "vpmovswb",
        "vpmovuswb",
        "xmm",
        "ymm",
        "qword",
        "xmmword",
        "ymmword",
        BYTES,
        i16,
        u16,
        i8,
        u8
    );
    row!(
        "vpmovdb",
        "vpmovsdb",
        "vpmovusdb",
        "xmm",
        "xmm",
        "dword",
        "qword",
        "xmmword",
        INTEGER,
        i32,
        u32,
        i8,
        u8
    );
    row!(
        "vpmovqb",
        "vpmovsqb",
        "vpmovusqb",
        "xmm",
        "xmm",
        "word",
        "dword",
        "qword",
        INTEGER,
        i64,
        u64,
        i8,
        u8
    );
    row!(
        "vpmovdw",
        "vpmovsdw",
        "vpmovusdw",
        "xmm",
        "ymm",
        "qword",
        "xmmword",
        "ymmword",
        INTEGER,
        i32,
        u32,
        i16,
        u16
    );
    row!(
        "vpmovqw",
        "vpmovsqw",
        "vpmovusqw",
        "xmm",
        "xmm",
        "dword",
        "qword",
        "xmmword",
        INTEGER,
        i64,
        u64,
        i16,
        u16
    );
    row!(
        "vpmovqd",
        "vpmovsqd",
        "vpmovusqd",
        "xmm",
        "ymm",
        "qword",
        "xmmword",
        "ymmword",
        INTEGER,
        i64,
        u64,
        i32,
        u32
    );
}

#[test]
fn opmasks_into_lanes_and_back() {
    macro_rules! row {
        ($from_mask:literal, $to_mask:literal, $evex:literal, $t:ty) => {
            let isa = Isa {
                evex: $evex,
                ..INTEGER
            };
            let model = whole(1, 8, |inputs| {
                let mask: u64 = get(&inputs.sources[0], 0);
                build::<$t>(inputs.len, |lane| ((mask >> lane & 1) as $t).wrapping_neg())
            });
            let forms = forms![
                concat!($from_mask, " zmm17, k3"),
                concat!($from_mask, " ymm1, k0"),
                concat!($from_mask, " xmm31, k7"),
            ];
            check(&forms, isa, &model);
            let model = whole(1, 8, |inputs| {
                let lanes = inputs.source_len / <$t as Lane>::SIZE;
                let sign = |lane| get::<$t>(&inputs.sources[0], lane) >> (<$t>::BITS - 1);
                (0..lanes).fold(0u64, |mask, lane| mask | u64::from(sign(lane)) << lane)
            });
            let forms = forms![
                concat!($to_mask, " k3, zmm17"),
                concat!($to_mask, " k0, ymm1"),
                concat!($to_mask, " k7, xmm31"),
            ];
            check(&forms, isa, &model);
        };
    }
    row!("vpmovm2b", "vpmovb2m", "avx512bw", u8);
    row!("vpmovm2w", "vpmovw2m", "avx512bw", u16);
    row!("vpmovm2d", "vpmovd2m", "avx512dq", u32);
    row!("vpmovm2q", "vpmovq2m", "avx512dq", u64);
}

/// The low 8 or 16 bits of an opmask in every lane.
#[test]
fn opmasks_broadcast() {
    let isa = Isa {
        evex: "avx512cd",
        ..INTEGER
    };
    let model = whole(1, 8, |inputs| {
        let mask: u64 = get(&inputs.sources[0], 0);
        build::<u64>(inputs.len, |_| mask & 0xff)
    });
    let forms = forms!["vpbroadcastmb2q zmm17, k3", "vpbroadcastmb2q xmm1, k0"];
    check(&forms, isa, &model);
    let model = whole(1, 8, |inputs| {
        let mask: u64 = get(&inputs.sources[0], 0);
        build::<u32>(inputs.len, |_| mask as u32 & 0xffff)
    });
    let forms = forms!["vpbroadcastmw2d zmm17, k3", "vpbroadcastmw2d ymm1, k7"];
    check(&forms, isa, &model);
}
