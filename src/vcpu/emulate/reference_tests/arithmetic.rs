//! Integer arithmetic and logic, lane by lane (SDM vol. 2, PADDB and kin).

use super::forms::*;
use super::harness::{BYTES, INTEGER, Isa, check};
use super::model::*;

const SSSE3: Isa = Isa {
    sse: "ssse3",
    ..BYTES
};
const SSE4_BYTES: Isa = Isa {
    sse: "sse4.1",
    ..BYTES
};
const SSE4: Isa = Isa {
    sse: "sse4.1",
    ..INTEGER
};

/// A row for lanes of 8 or 16 bits, which are not broadcast.
macro_rules! small {
    ($isa:expr, $sse:literal, $vex:literal, $model:expr) => {
        let forms = [sse!($sse), vex!($vex), evex!($vex)].concat();
        check(&forms, $isa, &$model);
    };
}

/// A row for lanes of 32 or 64 bits.
macro_rules! large {
    ($isa:expr, $sse:literal, $vex:literal, $size:ident, $model:expr) => {
        let forms = [sse!($sse), vex!($vex), evex!($vex), broadcast!($vex, $size)].concat();
        check(&forms, $isa, &$model);
    };
}

/// A row for what came with AVX-512, and is broadcast.
macro_rules! evex_only {
    ($isa:expr, $evex:literal, $size:ident, $model:expr) => {
        let forms = [evex!($evex), broadcast!($evex, $size)].concat();
        check(&forms, $isa, &$model);
    };
}

#[test]
fn sums() {
    small!(BYTES, "paddb", "vpaddb", lanes2(u8::wrapping_add));
    small!(BYTES, "paddw", "vpaddw", lanes2(u16::wrapping_add));
    large!(INTEGER, "paddd", "vpaddd", dword, lanes2(u32::wrapping_add));
    large!(INTEGER, "paddq", "vpaddq", qword, lanes2(u64::wrapping_add));
    small!(BYTES, "paddsb", "vpaddsb", lanes2(i8::saturating_add));
    small!(BYTES, "paddsw", "vpaddsw", lanes2(i16::saturating_add));
    small!(BYTES, "paddusb", "vpaddusb", lanes2(u8::saturating_add));
    small!(BYTES, "paddusw", "vpaddusw", lanes2(u16::saturating_add));
}

#[test]
fn differences() {
    small!(BYTES, "psubb", "vpsubb", lanes2(u8::wrapping_sub));
    small!(BYTES, "psubw", "vpsubw", lanes2(u16::wrapping_sub));
    large!(INTEGER, "psubd", "vpsubd", dword, lanes2(u32::wrapping_sub));
    large!(INTEGER, "psubq", "vpsubq", qword, lanes2(u64::wrapping_sub));
    small!(BYTES, "psubsb", "vpsubsb", lanes2(i8::saturating_sub));
    small!(BYTES, "psubsw", "vpsubsw", lanes2(i16::saturating_sub));
    small!(BYTES, "psubusb", "vpsubusb", lanes2(u8::saturating_sub));
    small!(BYTES, "psubusw", "vpsubusw", lanes2(u16::saturating_sub));
}

fn average(a: u32, b: u32) -> u32 {
    (a + b + 1) >> 1
}

#[test]
fn averages() {
    let bytes = lanes2(|a: u8, b: u8| average(a.into(), b.into()) as u8);
    small!(BYTES, "pavgb", "vpavgb", bytes);
    let words = lanes2(|a: u16, b: u16| average(a.into(), b.into()) as u16);
    small!(BYTES, "pavgw", "vpavgw", words);
}

#[test]
fn minima() {
    small!(BYTES, "pminub", "vpminub", lanes2(|a: u8, b| a.min(b)));
    small!(SSE4_BYTES, "pminsb", "vpminsb", lanes2(|a: i8, b| a.min(b)));
    small!(
        SSE4_BYTES,
        "pminuw",
        "vpminuw",
        lanes2(|a: u16, b| a.min(b))
    );
    small!(BYTES, "pminsw", "vpminsw", lanes2(|a: i16, b| a.min(b)));
    large!(
        SSE4,
        "pminud",
        "vpminud",
        dword,
        lanes2(|a: u32, b| a.min(b))
    );
    large!(
        SSE4,
        "pminsd",
        "vpminsd",
        dword,
        lanes2(|a: i32, b| a.min(b))
    );
    evex_only!(INTEGER, "vpminuq", qword, lanes2(|a: u64, b| a.min(b)));
    evex_only!(INTEGER, "vpminsq", qword, lanes2(|a: i64, b| a.min(b)));
}

#[test]
fn maxima() {
    small!(BYTES, "pmaxub", "vpmaxub", lanes2(|a: u8, b| a.max(b)));
    small!(SSE4_BYTES, "pmaxsb", "vpmaxsb", lanes2(|a: i8, b| a.max(b)));
    small!(
        SSE4_BYTES,
        "pmaxuw",
        "vpmaxuw",
        lanes2(|a: u16, b| a.max(b))
    );
    small!(BYTES, "pmaxsw", "vpmaxsw", lanes2(|a: i16, b| a.max(b)));
    large!(
        SSE4,
        "pmaxud",
        "vpmaxud",
        dword,
        lanes2(|a: u32, b| a.max(b))
    );
    large!(
        SSE4,
        "pmaxsd",
        "vpmaxsd",
        dword,
        lanes2(|a: i32, b| a.max(b))
    );
    evex_only!(INTEGER, "vpmaxuq", qword, lanes2(|a: u64, b| a.max(b)));
    evex_only!(INTEGER, "vpmaxsq", qword, lanes2(|a: i64, b| a.max(b)));
}

#[test]
fn absolute_values() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $model:expr) => {
            let forms = [sse!($sse), vex_unary!($vex), evex_unary!($vex)].concat();
            check(&forms, SSSE3, &$model);
        };
    }
    row!("pabsb", "vpabsb", lanes1(i8::wrapping_abs));
    row!("pabsw", "vpabsw", lanes1(i16::wrapping_abs));
    row!("pabsd", "vpabsd", lanes1(i32::wrapping_abs));
    let forms = broadcast_unary!("vpabsd", dword);
    check(&forms, INTEGER, &lanes1(i32::wrapping_abs));
    let forms = [evex_unary!("vpabsq"), broadcast_unary!("vpabsq", qword)].concat();
    check(&forms, INTEGER, &lanes1(i64::wrapping_abs));
}

fn times(a: i16, b: i16) -> i32 {
    i32::from(a) * i32::from(b)
}

#[test]
fn products_of_words() {
    small!(
        BYTES,
        "pmullw",
        "vpmullw",
        lanes2(|a, b| times(a, b) as i16)
    );
    small!(
        BYTES,
        "pmulhw",
        "vpmulhw",
        lanes2(|a, b| (times(a, b) >> 16) as i16)
    );
    let unsigned = lanes2(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16);
    small!(BYTES, "pmulhuw", "vpmulhuw", unsigned);
    let rounded = lanes2(|a, b| (((times(a, b) >> 14) + 1) >> 1) as i16);
    small!(SSSE3, "pmulhrsw", "vpmulhrsw", rounded);
}

#[test]
fn products_of_doublewords() {
    large!(SSE4, "pmulld", "vpmulld", dword, lanes2(u32::wrapping_mul));
    let dq = Isa {
        evex: "avx512dq",
        ..INTEGER
    };
    evex_only!(dq, "vpmullq", qword, lanes2(u64::wrapping_mul));
    let unsigned = lanes2(|a: u64, b: u64| (a & 0xffff_ffff) * (b & 0xffff_ffff));
    large!(INTEGER, "pmuludq", "vpmuludq", qword, unsigned);
    let signed = lanes2(|a: i64, b: i64| i64::from(a as i32) * i64::from(b as i32));
    large!(SSE4, "pmuldq", "vpmuldq", qword, signed);
}

#[test]
fn products_that_are_summed() {
    let words = lanes2(|a: u32, b: u32| {
        let low = times(a as i16, b as i16);
        low.wrapping_add(times((a >> 16) as i16, (b >> 16) as i16)) as u32
    });
    small!(BYTES, "pmaddwd", "vpmaddwd", words);
    // Unsigned bytes of the first source, signed ones of the second.
    let bytes = lanes2(|a: u16, b: u16| {
        let product = |shift: u32| i32::from((a >> shift) as u8) * i32::from((b >> shift) as i8);
        (product(0) + product(8)).clamp(-0x8000, 0x7fff) as i16 as u16
    });
    small!(SSSE3, "pmaddubsw", "vpmaddubsw", bytes);
}

#[test]
fn products_of_52_bits() {
    const LOW: u64 = (1 << 52) - 1;
    let ifma = Isa {
        evex: "avx512ifma",
        ..INTEGER
    };
    let product = |a: u64, b: u64| u128::from(a & LOW) * u128::from(b & LOW);
    let low = lanes3(move |c: u64, a, b, _| c.wrapping_add(product(a, b) as u64 & LOW));
    evex_only!(ifma, "vpmadd52luq", qword, low);
    let high = lanes3(move |c: u64, a, b, _| c.wrapping_add((product(a, b) >> 52) as u64));
    evex_only!(ifma, "vpmadd52huq", qword, high);
}

#[test]
fn dot_products() {
    let vnni = Isa {
        evex: "avx512vnni",
        ..INTEGER
    };
    let bytes = |a: u32, b: u32| -> i64 {
        (0..4)
            .map(|n| i64::from((a >> (8 * n)) as u8) * i64::from((b >> (8 * n)) as i8))
            .sum()
    };
    let words = |a: u32, b: u32| -> i64 {
        (0..2)
            .map(|n| i64::from((a >> (16 * n)) as i16) * i64::from((b >> (16 * n)) as i16))
            .sum()
    };
    fn saturated(sum: i64) -> u32 {
        sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32
    }
    let wrapping = lanes3(move |c: u32, a, b, _| c.wrapping_add(bytes(a, b) as u32));
    evex_only!(vnni, "vpdpbusd", dword, wrapping);
    let saturating = lanes3(move |c: u32, a, b, _| saturated(i64::from(c as i32) + bytes(a, b)));
    evex_only!(vnni, "vpdpbusds", dword, saturating);
    let wrapping = lanes3(move |c: u32, a, b, _| c.wrapping_add(words(a, b) as u32));
    evex_only!(vnni, "vpdpwssd", dword, wrapping);
    let saturating = lanes3(move |c: u32, a, b, _| saturated(i64::from(c as i32) + words(a, b)));
    evex_only!(vnni, "vpdpwssds", dword, saturating);
}

#[test]
fn signs() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $t:ty) => {
            let model = lanes2(|a: $t, b: $t| match b.signum() {
                -1 => a.wrapping_neg(),
                sign => a * sign,
            });
            check(&[sse!($sse), vex!($vex)].concat(), SSSE3, &model);
        };
    }
    row!("psignb", "vpsignb", i8);
    row!("psignw", "vpsignw", i16);
    row!("psignd", "vpsignd", i32);
}

/// Sums or differences of neighbours: those of the first source, then those of the second.
fn horizontal<T: Lane>(combine: fn(T, T) -> T) -> Model {
    blocks2(8, move |a, b, _| {
        let half = 8 / T::SIZE;
        block(|lane| {
            let from = if lane < half { &a } else { &b };
            let first = lane % half * 2;
            combine(get(from, first), get(from, first + 1))
        })
    })
}

#[test]
fn horizontal_sums() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $combine:expr) => {
            let model = horizontal($combine);
            check(&[sse!($sse), vex!($vex)].concat(), SSSE3, &model);
        };
    }
    row!("phaddw", "vphaddw", u16::wrapping_add);
    row!("phaddd", "vphaddd", u32::wrapping_add);
    row!("phaddsw", "vphaddsw", i16::saturating_add);
    row!("phsubw", "vphsubw", u16::wrapping_sub);
    row!("phsubd", "vphsubd", u32::wrapping_sub);
    row!("phsubsw", "vphsubsw", i16::saturating_sub);
}

#[test]
fn sums_of_absolute_differences() {
    let model = lanes2(|a: u64, b: u64| {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(b))).sum()
    });
    let evex = forms![
        "vpsadbw zmm1, zmm3, zmm24",
        "vpsadbw ymm17, ymm3, ymmword ptr [rdi + 32]",
        "vpsadbw xmm17, xmm3, xmm2",
    ];
    let forms = [sse!("psadbw"), vex!("vpsadbw"), evex].concat();
    check(&forms, BYTES, &model);
}

#[test]
fn smallest_word_and_its_place() {
    let model = whole(1, 8, |inputs| {
        let words: Vec<u16> = (0..8).map(|n| get(&inputs.sources[0], n)).collect();
        let least = *words.iter().min().unwrap();
        let place = words.iter().position(|word| *word == least).unwrap();
        u64::from(least) | (place as u64) << 16
    });
    let vex = forms![
        "vphminposuw xmm1, xmm3",
        "vphminposuw xmm9, xmmword ptr [rdi]"
    ];
    check(&[sse!("phminposuw"), vex].concat(), SSE4, &model);
}
