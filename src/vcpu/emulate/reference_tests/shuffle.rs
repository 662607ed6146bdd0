//! Shuffles within 16 bytes: unpacking, packing, selecting by immediate or by bytes.

use super::forms::*;
use super::harness::{BYTES, FLOAT, INTEGER, Isa, check};
use super::model::*;

const SSSE3: Isa = Isa {
    sse: "ssse3",
    ..BYTES
};

/// Interleaves the low (0) or high (1) halves.
fn unpack<T: Lane>(half: usize) -> Model {
    blocks2(T::SIZE * 8, move |a, b, _| {
        block::<T>(|lane| {
            let from = if lane % 2 == 0 { &a } else { &b };
            get(from, half * (8 / T::SIZE) + lane / 2)
        })
    })
}

#[test]
fn interleaving() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $isa:expr, $model:expr) => {
            check(
                &[sse!($sse), vex!($vex), evex!($vex)].concat(),
                $isa,
                &$model,
            );
        };
    }
    row!("punpcklbw", "vpunpcklbw", BYTES, unpack::<u8>(0));
    row!("punpckhbw", "vpunpckhbw", BYTES, unpack::<u8>(1));
    row!("punpcklwd", "vpunpcklwd", BYTES, unpack::<u16>(0));
    row!("punpckhwd", "vpunpckhwd", BYTES, unpack::<u16>(1));
    row!("punpckldq", "vpunpckldq", INTEGER, unpack::<u32>(0));
    row!("punpckhdq", "vpunpckhdq", INTEGER, unpack::<u32>(1));
    row!("punpcklqdq", "vpunpcklqdq", INTEGER, unpack::<u64>(0));
    row!("punpckhqdq", "vpunpckhqdq", INTEGER, unpack::<u64>(1));
    row!("unpcklps", "vunpcklps", FLOAT, unpack::<u32>(0));
    row!("unpckhps", "vunpckhps", FLOAT, unpack::<u32>(1));
    row!("unpcklpd", "vunpcklpd", FLOAT, unpack::<u64>(0));
    row!("unpckhpd", "vunpckhpd", FLOAT, unpack::<u64>(1));
    let broadcasts = broadcast!("vpunpckldq", dword);
    check(&broadcasts, INTEGER, &unpack::<u32>(0));
    let broadcasts = broadcast!("vpunpckhqdq", qword);
    check(&broadcasts, INTEGER, &unpack::<u64>(1));
}

/// Narrows the lanes of the first source, then those of the second.
fn pack<From: Lane, To: Lane>(narrow: fn(From) -> To) -> Model {
    blocks2(To::SIZE * 8, move |a, b, _| {
        let half = 8 / To::SIZE;
        block::<To>(|lane| narrow(get(if lane < half { &a } else { &b }, lane % half)))
    })
}

#[test]
fn packing_with_saturation() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $isa:expr, $model:expr) => {
            check(
                &[sse!($sse), vex!($vex), evex!($vex)].concat(),
                $isa,
                &$model,
            );
        };
    }
    let bytes = pack(|a: i16| a.clamp(-128, 127) as i8);
    row!("packsswb", "vpacksswb", BYTES, bytes);
    let bytes = pack(|a: i16| a.clamp(0, 255) as u8);
    row!("packuswb", "vpackuswb", BYTES, bytes);
    let words = pack(|a: i32| a.clamp(-0x8000, 0x7fff) as i16);
    row!("packssdw", "vpackssdw", BYTES, words);
    check(
        &broadcast!("vpackssdw", dword),
        BYTES,
        &pack(|a: i32| a.clamp(-0x8000, 0x7fff) as i16),
    );
    let words = pack(|a: i32| a.clamp(0, 0xffff) as u16);
    let sse4 = Isa {
        sse: "sse4.1",
        ..BYTES
    };
    row!("packusdw", "vpackusdw", sse4, words);
}

#[test]
fn bytes_selected_by_bytes() {
    let model = blocks2(8, |a, select, _| {
        block(|lane| {
            if select[lane] & 0x80 == 0 {
                a[usize::from(select[lane] & 15)]
            } else {
                0
            }
        })
    });
    check(
        &[sse!("pshufb"), vex!("vpshufb"), evex!("vpshufb")].concat(),
        SSSE3,
        &model,
    );
}

/// Field `lane` of an immediate made of two-bit fields.
fn field(immediate: u8, lane: usize) -> usize {
    usize::from(immediate >> (2 * lane) & 3)
}

#[test]
fn lanes_selected_by_an_immediate() {
    macro_rules! row {
        ($imm:literal) => {
            let doublewords = blocks1(32, |a, imm| block::<u32>(|lane| get(&a, field(imm, lane))));
            let forms = [
                sse!("pshufd", $imm),
                vex_unary!("vpshufd", $imm),
                evex_unary!("vpshufd", $imm),
                broadcast_unary!("vpshufd", dword, $imm),
            ];
            check(&forms.concat(), INTEGER, &doublewords);
            let low = blocks1(16, |a, imm| {
                block::<u16>(|lane| get(&a, if lane < 4 { field(imm, lane) } else { lane }))
            });
            let forms = [
                sse!("pshuflw", $imm),
                vex_unary!("vpshuflw", $imm),
                evex_unary!("vpshuflw", $imm),
            ];
            check(&forms.concat(), BYTES, &low);
            let high = blocks1(16, |a, imm| {
                block::<u16>(|lane| {
                    get(
                        &a,
                        if lane < 4 {
                            lane
                        } else {
                            4 + field(imm, lane - 4)
                        },
                    )
                })
            });
            let forms = [
                sse!("pshufhw", $imm),
                vex_unary!("vpshufhw", $imm),
                evex_unary!("vpshufhw", $imm),
            ];
            check(&forms.concat(), BYTES, &high);
            let two_sources = blocks2(32, |a, b, imm| {
                block::<u32>(|lane| get(if lane < 2 { &a } else { &b }, field(imm, lane)))
            });
            let forms = [
                sse!("shufps", $imm),
                vex!("vshufps", $imm),
                evex!("vshufps", $imm),
                broadcast!("vshufps", dword, $imm),
            ];
            check(&forms.concat(), FLOAT, &two_sources);
        };
    }
    row!(", 27");
    row!(", 228");
    row!(", 78");
    row!(", 177");
}

/// One bit for each lane of the whole register, not only of its first 16 bytes.
#[test]
fn quadwords_of_two_sources() {
    macro_rules! row {
        ($imm:literal) => {
            let model = whole(2, 64, |inputs| {
                build(inputs.len, |lane| {
                    let bit = usize::from(inputs.immediate >> lane & 1);
                    get::<u64>(&inputs.sources[lane % 2], lane / 2 * 2 + bit)
                })
            });
            let forms = [
                sse!("shufpd", $imm),
                vex!("vshufpd", $imm),
                evex!("vshufpd", $imm),
                broadcast!("vshufpd", qword, $imm),
            ];
            check(&forms.concat(), FLOAT, &model);
            let model = whole(1, 64, |inputs| {
                build(inputs.len, |lane| {
                    let bit = usize::from(inputs.immediate >> lane & 1);
                    get::<u64>(&inputs.sources[0], lane / 2 * 2 + bit)
                })
            });
            let forms = [
                vex_unary!("vpermilpd", $imm),
                evex_unary!("vpermilpd", $imm),
            ];
            check(&forms.concat(), FLOAT, &model);
        };
    }
    row!(", 1");
    row!(", 165");
    row!(", 94");
}

#[test]
fn bytes_of_two_sources_are_aligned() {
    macro_rules! row {
        ($imm:literal) => {
            let model = blocks2(8, |a, b, imm| {
                block(|lane| {
                    let at = lane + usize::from(imm);
                    [&b[..], &a[..]].concat().get(at).copied().unwrap_or(0)
                })
            });
            let forms = [
                sse!("palignr", $imm),
                vex!("vpalignr", $imm),
                evex!("vpalignr", $imm),
            ];
            check(&forms.concat(), SSSE3, &model);
        };
    }
    row!(", 0");
    row!(", 5");
    row!(", 16");
    row!(", 27");
    row!(", 32");
    row!(", 200");
}

#[test]
fn lanes_selected_by_lanes() {
    let model = blocks2(32, |a, select, _| {
        block::<u32>(|lane| get(&a, (get::<u32>(&select, lane) & 3) as usize))
    });
    let forms = [
        vex!("vpermilps"),
        evex!("vpermilps"),
        broadcast!("vpermilps", dword),
    ];
    check(&forms.concat(), FLOAT, &model);
    // Bit 1 selects, not bit 0.
    let model = blocks2(64, |a, select, _| {
        block::<u64>(|lane| get(&a, (get::<u64>(&select, lane) >> 1 & 1) as usize))
    });
    let forms = [
        vex!("vpermilpd"),
        evex!("vpermilpd"),
        broadcast!("vpermilpd", qword),
    ];
    check(&forms.concat(), FLOAT, &model);
    let model = blocks1(32, |a, imm| block::<u32>(|lane| get(&a, field(imm, lane))));
    let forms = [
        vex_unary!("vpermilps", ", 141"),
        evex_unary!("vpermilps", ", 141"),
    ];
    check(&forms.concat(), FLOAT, &model);
}

#[test]
fn duplicated_lanes() {
    let sse3 = Isa {
        sse: "sse3",
        ..FLOAT
    };
    macro_rules! row {
        ($sse:literal, $vex:literal, $t:ty, $from:expr) => {
            let forms = [sse!($sse), vex_unary!($vex), evex_unary!($vex)];
            let forms = forms.concat();
            let bits = size_of::<$t>() * 8;
            let model = blocks1(bits, |a, _| block::<$t>(|lane| get(&a, $from(lane))));
            check(&forms, sse3, &model);
        };
    }
    row!("movshdup", "vmovshdup", u32, |lane| lane | 1);
    row!("movsldup", "vmovsldup", u32, |lane| lane & !1);
    let model = blocks1(64, |a, _| block::<u64>(|_| get(&a, 0)));
    let forms = forms![
        "movddup xmm1, xmm4",
        "movddup xmm9, qword ptr [rdi + 8]",
        "vmovddup xmm1, xmm4",
        "vmovddup xmm9, qword ptr [rdi]",
        "vmovddup ymm9, ymmword ptr [rdi]",
        "vmovddup zmm17 {k1}, zmm3",
        "vmovddup zmm17 {k1} {z}, zmmword ptr [rdi + 64]",
        "vmovddup xmm17 {k1} {z}, qword ptr [rdi + 8]",
    ];
    check(&forms, sse3, &model);
}

#[test]
fn blends_by_an_immediate() {
    let sse4 = Isa {
        sse: "sse4.1",
        ..INTEGER
    };
    macro_rules! row {
        ($imm:literal) => {
            // The same eight bits for each 16 bytes.
            let words = blocks2(16, |a, b, imm| {
                block::<u16>(|lane| get(if imm >> lane & 1 == 0 { &a } else { &b }, lane))
            });
            check(
                &[sse!("pblendw", $imm), vex!("vpblendw", $imm)].concat(),
                sse4,
                &words,
            );
            let by_lane = |inputs: &Inputs, lane: usize| {
                inputs.sources[usize::from(inputs.immediate >> lane & 1)]
            };
            let singles = move || {
                whole(2, 32, move |inputs| {
                    build::<u32>(inputs.len, |lane| get(&by_lane(inputs, lane), lane))
                })
            };
            let doubles = whole(2, 64, move |inputs| {
                build::<u64>(inputs.len, |lane| get(&by_lane(inputs, lane), lane))
            });
            let avx = Isa {
                vex_256: "avx",
                ..sse4
            };
            let avx2 = Isa {
                vex_128: "avx2",
                ..sse4
            };
            check(&vex!("vpblendd", $imm), avx2, &singles());
            check(
                &[sse!("blendps", $imm), vex!("vblendps", $imm)].concat(),
                avx,
                &singles(),
            );
            check(
                &[sse!("blendpd", $imm), vex!("vblendpd", $imm)].concat(),
                avx,
                &doubles,
            );
        };
    }
    row!(", 170");
    row!(", 1");
    row!(", 60");
}

#[test]
fn sums_of_shifted_differences() {
    // MPSADBW: the immediate's low three bits for even blocks, the next three for odd ones.
    macro_rules! row {
        ($imm:literal) => {
            let model = whole(2, 16, |inputs| {
                let [a, b] = [&inputs.sources[0], &inputs.sources[1]];
                build::<u16>(inputs.len, |lane| {
                    let (of_16, lane) = (lane / 8, lane % 8);
                    let imm = usize::from(inputs.immediate >> (3 * of_16) & 7);
                    let (first, second) = (imm >> 2 & 1, imm & 3);
                    (0..4)
                        .map(|byte| {
                            let a = a[16 * of_16 + 4 * first + lane + byte];
                            u16::from(a.abs_diff(b[16 * of_16 + 4 * second + byte]))
                        })
                        .sum()
                })
            });
            let isa = Isa {
                sse: "sse4.1",
                ..INTEGER
            };
            check(
                &[sse!("mpsadbw", $imm), vex!("vmpsadbw", $imm)].concat(),
                isa,
                &model,
            );
        };
    }
    row!(", 0");
    row!(", 29");
    row!(", 54");
}
