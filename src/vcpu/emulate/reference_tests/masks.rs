//! Instructions on opmask registers (SDM vol. 2, KADDW and kin).

use super::forms::*;
use super::harness::{INTEGER, Isa, check};
use super::model::*;

fn isa(feature: &'static str) -> Isa {
    Isa {
        vex_128: feature,
        vex_256: feature,
        ..INTEGER
    }
}

fn cut(value: u64, bits: u32) -> u64 {
    value & u64::MAX >> (64 - bits)
}

/// Of the low `bits` of the sources; the rest of the destination is zero.
fn operation(sources: usize, bits: u32, function: fn(u64, u64) -> u64) -> Model {
    whole(sources, 8, move |inputs| {
        let source = |index: usize| {
            let vector = inputs.sources.get(index).unwrap_or(&[0; 64]);
            cut(get(vector, 0), bits)
        };
        cut(function(source(0), source(1)), bits)
    })
}

macro_rules! two_sources {
    ($b:literal, $w:literal, $d:literal, $q:literal, $word:literal, $function:expr) => {
        two_sources!($b, 8, "avx512dq", $function);
        two_sources!($w, 16, $word, $function);
        two_sources!($d, 32, "avx512bw", $function);
        two_sources!($q, 64, "avx512bw", $function);
    };
    ($m:literal, $bits:literal, $feature:literal, $function:expr) => {
        let forms = forms![
            concat!($m, " k1, k2, k3"),
            concat!($m, " k0, k7, k0"),
            concat!($m, " k5, k5, k5"),
        ];
        check(&forms, isa($feature), &operation(2, $bits, $function));
    };
}

#[test]
fn two_sources() {
    two_sources!("kandb", "kandw", "kandd", "kandq", "avx512f", |a, b| a & b);
    two_sources!("kandnb", "kandnw", "kandnd", "kandnq", "avx512f", |a, b| !a
        & b);
    two_sources!("korb", "korw", "kord", "korq", "avx512f", |a, b| a | b);
    two_sources!("kxorb", "kxorw", "kxord", "kxorq", "avx512f", |a, b| a ^ b);
    two_sources!("kxnorb", "kxnorw", "kxnord", "kxnorq", "avx512f", |a, b| {
        !(a ^ b)
    });
    two_sources!("kaddb", "kaddw", "kaddd", "kaddq", "avx512dq", |a, b| a
        .wrapping_add(b));
}

#[test]
fn complement() {
    macro_rules! row {
        ($m:literal, $bits:literal, $feature:literal) => {
            let forms = forms![concat!($m, " k1, k2"), concat!($m, " k0, k0")];
            check(&forms, isa($feature), &operation(1, $bits, |a, _| !a));
        };
    }
    row!("knotb", 8, "avx512dq");
    row!("knotw", 16, "avx512f");
    row!("knotd", 32, "avx512bw");
    row!("knotq", 64, "avx512bw");
}

#[test]
fn shifts() {
    macro_rules! row {
        ($left:literal, $right:literal, $bits:literal, $feature:literal, $imm:literal) => {
            let model = whole(1, 8, |inputs| {
                let a = cut(get(&inputs.sources[0], 0), $bits);
                let left = a.checked_shl(inputs.immediate.into()).unwrap_or(0);
                cut(left, $bits)
            });
            let forms = forms![
                concat!($left, " k1, k2, ", $imm),
                concat!($left, " k0, k0, ", $imm),
            ];
            check(&forms, isa($feature), &model);
            let model = whole(1, 8, |inputs| {
                let a = cut(get(&inputs.sources[0], 0), $bits);
                a.checked_shr(inputs.immediate.into()).unwrap_or(0)
            });
            let forms = forms![
                concat!($right, " k1, k2, ", $imm),
                concat!($right, " k7, k7, ", $imm),
            ];
            check(&forms, isa($feature), &model);
        };
    }
    row!("kshiftlb", "kshiftrb", 8, "avx512dq", "3");
    row!("kshiftlb", "kshiftrb", 8, "avx512dq", "8");
    row!("kshiftlw", "kshiftrw", 16, "avx512f", "15");
    row!("kshiftlw", "kshiftrw", 16, "avx512f", "200");
    row!("kshiftld", "kshiftrd", 32, "avx512bw", "31");
    row!("kshiftlq", "kshiftrq", 64, "avx512bw", "63");
    row!("kshiftlq", "kshiftrq", 64, "avx512bw", "64");
}

/// The second source below, the first above.
#[test]
fn unpacking() {
    macro_rules! row {
        ($m:literal, $half:literal, $feature:literal) => {
            let model = whole(2, 8, |inputs| {
                let [a, b] = [0, 1].map(|source| cut(get(&inputs.sources[source], 0), $half));
                a << $half | b
            });
            let forms = forms![concat!($m, " k1, k2, k3"), concat!($m, " k6, k6, k0")];
            check(&forms, isa($feature), &model);
        };
    }
    row!("kunpckbw", 8, "avx512f");
    row!("kunpckwd", 16, "avx512bw");
    row!("kunpckdq", 32, "avx512bw");
}

#[test]
fn moves() {
    macro_rules! row {
        ($m:literal, $bits:literal, $r:literal, $size:literal, $feature:literal) => {
            let forms = forms![
                concat!($m, " k1, k2"),
                concat!($m, " k0, k7"),
                concat!($m, " k3, ", $r, "x"),
                concat!($m, " ", $r, "x, k4"),
                concat!($m, " k5, ", $size, " ptr [rdi + 1]"),
                concat!($m, " ", $size, " ptr [rdi + 1], k6"),
            ];
            check(&forms, isa($feature), &operation(1, $bits, |a, _| a));
        };
    }
    row!("kmovb", 8, "eb", "byte", "avx512dq");
    row!("kmovw", 16, "ec", "word", "avx512f");
    row!("kmovd", 32, "ed", "dword", "avx512bw");
    row!("kmovq", 64, "ra", "qword", "avx512bw");
}

const ZF: u64 = 1 << 6;
const CF: u64 = 1;

/// Writes flags alone; both operands are sources.
fn flags(bits: u32, function: fn(u64, u64, u64) -> [bool; 2]) -> Model {
    whole(2, 8, move |inputs| {
        let [a, b] = [0, 1].map(|source| cut(get(&inputs.sources[source], 0), bits));
        let [zero, carry] = function(a, b, cut(u64::MAX, bits));
        Output {
            value: inputs.old,
            len: Some(0),
            flags: Some(if zero { ZF } else { 0 } | if carry { CF } else { 0 }),
        }
    })
}

#[test]
fn into_flags() {
    macro_rules! row {
        ($or:literal, $test:literal, $bits:literal, $or_feature:literal, $test_feature:literal) => {
            let forms = forms![concat!($or, " k1, k2"), concat!($or, " k0, k0")];
            let model = flags($bits, |a, b, all| [a | b == 0, a | b == all]);
            check(&forms, isa($or_feature), &model);
            let forms = forms![concat!($test, " k1, k2"), concat!($test, " k0, k0")];
            let model = flags($bits, |a, b, _| [a & b == 0, !a & b == 0]);
            check(&forms, isa($test_feature), &model);
        };
    }
    row!("kortestb", "ktestb", 8, "avx512dq", "avx512dq");
    row!("kortestw", "ktestw", 16, "avx512f", "avx512dq");
    row!("kortestd", "ktestd", 32, "avx512bw", "avx512bw");
    row!("kortestq", "ktestq", 64, "avx512bw", "avx512bw");
}
