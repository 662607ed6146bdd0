//! Bitwise operations, counts of bits, and moves of whole registers.

use super::forms::*;
use super::harness::{BYTES, FLOAT, INTEGER, Isa, check};
use super::model::*;

#[test]
fn bitwise_operations() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $d:literal, $q:literal, $operation:expr) => {
            let forms = [sse!($sse), vex!($vex)].concat();
            check(&forms, INTEGER, &lanes2::<u32>($operation));
            let forms = [evex!($d), broadcast!($d, dword)].concat();
            check(&forms, INTEGER, &lanes2::<u32>($operation));
            let forms = [evex!($q), broadcast!($q, qword)].concat();
            check(&forms, INTEGER, &lanes2::<u64>($operation));
        };
    }
    row!("pand", "vpand", "vpandd", "vpandq", |a, b| a & b);
    row!("pandn", "vpandn", "vpandnd", "vpandnq", |a, b| !a & b);
    row!("por", "vpor", "vpord", "vporq", |a, b| a | b);
    row!("pxor", "vpxor", "vpxord", "vpxorq", |a, b| a ^ b);
}

#[test]
fn bitwise_operations_of_floating_point_registers() {
    let isa = Isa {
        evex: "avx512dq",
        ..FLOAT
    };
    macro_rules! row {
        ($sse:literal, $vex:literal, $t:ty, $size:ident, $operation:expr) => {
            let forms = [sse!($sse), vex!($vex), evex!($vex), broadcast!($vex, $size)].concat();
            check(&forms, isa, &lanes2::<$t>($operation));
        };
    }
    row!("andps", "vandps", u32, dword, |a, b| a & b);
    row!("andpd", "vandpd", u64, qword, |a, b| a & b);
    row!("andnps", "vandnps", u32, dword, |a, b| !a & b);
    row!("andnpd", "vandnpd", u64, qword, |a, b| !a & b);
    row!("orps", "vorps", u32, dword, |a, b| a | b);
    row!("orpd", "vorpd", u64, qword, |a, b| a | b);
    row!("xorps", "vxorps", u32, dword, |a, b| a ^ b);
    row!("xorpd", "vxorpd", u64, qword, |a, b| a ^ b);
}

/// Bit `n` of the table is the result for the bits `n` = first · 4 + second · 2 + third.
fn ternary(a: u64, b: u64, c: u64, table: u8) -> u64 {
    (0..64).fold(0, |result, bit| {
        let of = |word: u64| word >> bit & 1;
        let entry = of(a) << 2 | of(b) << 1 | of(c);
        result | u64::from(table >> entry & 1) << bit
    })
}

#[test]
fn ternary_logic() {
    macro_rules! row {
        ($imm:literal) => {
            let forms = [
                evex!("vpternlogd", $imm),
                broadcast!("vpternlogd", dword, $imm),
            ];
            let model =
                lanes3(|a: u32, b, c, table| ternary(a.into(), b.into(), c.into(), table) as u32);
            check(&forms.concat(), INTEGER, &model);
            let forms = [
                evex!("vpternlogq", $imm),
                broadcast!("vpternlogq", qword, $imm),
            ];
            check(&forms.concat(), INTEGER, &lanes3(ternary));
        };
    }
    row!(", 150");
    row!(", 202");
    row!(", 255");
    row!(", 27");
}

#[test]
fn counts_of_ones() {
    macro_rules! row {
        ($m:literal, $isa:literal, $t:ty) => {
            let isa = Isa {
                evex: $isa,
                ..INTEGER
            };
            check(&evex_unary!($m), isa, &lanes1(|a: $t| a.count_ones() as $t));
        };
    }
    row!("vpopcntb", "avx512bitalg", u8);
    row!("vpopcntw", "avx512bitalg", u16);
    row!("vpopcntd", "avx512vpopcntdq", u32);
    row!("vpopcntq", "avx512vpopcntdq", u64);
    let isa = Isa {
        evex: "avx512vpopcntdq",
        ..INTEGER
    };
    let model = lanes1(|a: u64| a.count_ones().into());
    check(&broadcast_unary!("vpopcntq", qword), isa, &model);
}

/// Lane `n` gets a bit for each earlier lane that equals it.
fn conflicts<T: Lane + PartialEq + From<u32>>() -> Model {
    whole(1, T::SIZE * 8, |inputs| {
        let lane = |index| get::<T>(&inputs.sources[0], index);
        build(inputs.len, |index| {
            let equal = (0..index).filter(|earlier| lane(*earlier) == lane(index));
            T::from(equal.fold(0u32, |bits, earlier| bits | 1 << earlier))
        })
    })
}

#[test]
fn leading_zeros_and_conflicts() {
    let isa = Isa {
        evex: "avx512cd",
        ..INTEGER
    };
    macro_rules! row {
        ($m:literal, $size:ident, $model:expr) => {
            let forms = [evex_unary!($m), broadcast_unary!($m, $size)].concat();
            check(&forms, isa, &$model);
        };
    }
    row!("vplzcntd", dword, lanes1(|a: u32| a.leading_zeros()));
    row!("vplzcntq", qword, lanes1(|a: u64| a.leading_zeros().into()));
    row!("vpconflictd", dword, conflicts::<u32>());
    row!("vpconflictq", qword, conflicts::<u64>());
}

#[test]
fn loads_and_copies() {
    macro_rules! row {
        ($sse:literal, $vex:literal) => {
            let forms = [sse!($sse), vex_unary!($vex)].concat();
            check(&forms, FLOAT, &lanes1(|a: u8| a));
        };
    }
    row!("movdqu", "vmovdqu");
    row!("movups", "vmovups");
    row!("movupd", "vmovupd");
    check(&evex_unary!("vmovdqu8"), BYTES, &lanes1(|a: u8| a));
    check(&evex_unary!("vmovdqu16"), BYTES, &lanes1(|a: u16| a));
    check(&evex_unary!("vmovdqu32"), INTEGER, &lanes1(|a: u32| a));
    check(&evex_unary!("vmovdqu64"), INTEGER, &lanes1(|a: u64| a));
    check(&evex_unary!("vmovups"), INTEGER, &lanes1(|a: u32| a));
    check(&evex_unary!("vmovupd"), INTEGER, &lanes1(|a: u64| a));
    let aligned = forms![
        "movdqa xmm1, xmm9",
        "movaps xmm8, xmmword ptr [rdi]",
        "movapd xmm1, xmm2"
    ];
    check(&aligned, FLOAT, &lanes1(|a: u8| a));
}

/// EVEX stores under a mask: what is masked out stays as it is in memory.
macro_rules! stores {
    ($m:literal) => {
        forms![
            concat!($m, " zmmword ptr [rdi + 64], zmm3"),
            concat!($m, " zmmword ptr [rdi + 1] {k2}, zmm30"),
            concat!($m, " ymmword ptr [rdi] {k3}, ymm17"),
            concat!($m, " xmmword ptr [rdi + 16] {k4}, xmm7"),
        ]
    };
}

#[test]
fn stores() {
    check(&stores!("vmovdqu8"), BYTES, &lanes1(|a: u8| a));
    check(&stores!("vmovdqu16"), BYTES, &lanes1(|a: u16| a));
    check(&stores!("vmovdqu32"), INTEGER, &lanes1(|a: u32| a));
    check(&stores!("vmovdqu64"), INTEGER, &lanes1(|a: u64| a));
    let whole = forms![
        "movdqu xmmword ptr [rdi], xmm9",
        "movups xmmword ptr [rdi + 16], xmm1",
        "movntdq xmmword ptr [rdi], xmm1",
        "vmovdqu xmmword ptr [rdi + 16], xmm11",
        "vmovdqu ymmword ptr [rdi + 32], ymm1",
        "vmovups ymmword ptr [rdi], ymm15",
    ];
    check(&whole, FLOAT, &lanes1(|a: u8| a));
}
