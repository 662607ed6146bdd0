//! Permutations across the whole register, and selection by opmask.

use super::forms::*;
use super::harness::{BYTES, INTEGER, Isa, check};
use super::model::*;

const AVX2: Isa = Isa {
    vex_128: "avx2",
    ..INTEGER
};
const VBMI: Isa = Isa {
    evex: "avx512vbmi",
    ..INTEGER
};

/// Forms of 256 and 512 bits: in 128 there is nothing to permute.
macro_rules! wide {
    ($m:literal) => { wide!($m, "") };
    ($m:literal, $imm:literal) => {
        forms![
            concat!($m, " zmm1, zmm3, zmm24", $imm),
            concat!($m, " zmm17 {k2}, zmm30, zmm4", $imm),
            concat!($m, " zmm1 {k3} {z}, zmm1, zmmword ptr [rdi + 64]", $imm),
            concat!($m, " ymm18 {k4}, ymm3, ymmword ptr [rdi]", $imm),
            concat!($m, " ymm1 {k5} {z}, ymm2, ymm31", $imm),
        ]
    };
}

macro_rules! wide_unary {
    ($m:literal, $imm:literal) => {
        forms![
            concat!($m, " ymm1, ymm13", $imm),
            concat!($m, " ymm1, ymmword ptr [rdi + 32]", $imm),
            concat!($m, " zmm1, zmm24", $imm),
            concat!($m, " zmm17 {k2}, zmm4", $imm),
            concat!($m, " zmm1 {k3} {z}, zmmword ptr [rdi + 64]", $imm),
            concat!($m, " ymm18 {k4}, ymmword ptr [rdi]", $imm),
            concat!($m, " zmm18 {k4}, qword ptr [rdi]{1to8}", $imm),
        ]
    };
}

macro_rules! vex_256 {
    ($m:literal) => {
        vex_256!($m, "")
    };
    ($m:literal, $imm:literal) => {
        forms![
            concat!($m, " ymm5, ymm3, ymm14", $imm),
            concat!($m, " ymm8, ymm8, ymmword ptr [rdi + 32]", $imm),
        ]
    };
}

trait Index: Lane {
    fn index(self) -> usize;
}
macro_rules! index {
    ($($t:ty),*) => {$(
        impl Index for $t {
            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}
index!(u8, u16, u32, u64);

/// The first source selects lanes of the second.
fn permute<T: Index>() -> Model {
    whole(2, T::SIZE * 8, |inputs| {
        let lanes = inputs.len / T::SIZE;
        build(inputs.len, |lane| {
            let index = get::<T>(&inputs.sources[0], lane).index() % lanes;
            get::<T>(&inputs.sources[1], index)
        })
    })
}

#[test]
fn lanes_selected_by_lanes() {
    let forms = [vex_256!("vpermd"), wide!("vpermd")].concat();
    check(&forms, AVX2, &permute::<u32>());
    let forms = [vex_256!("vpermps"), wide!("vpermps")].concat();
    check(&forms, AVX2, &permute::<u32>());
    check(&wide!("vpermq"), AVX2, &permute::<u64>());
    check(&wide!("vpermpd"), AVX2, &permute::<u64>());
    check(&evex!("vpermw"), BYTES, &permute::<u16>());
    check(&evex!("vpermb"), VBMI, &permute::<u8>());
}

/// Selects from two tables: `selector` tells which of the three sources has the indexes.
fn permute_two<T: Index>(selector: usize, tables: [usize; 2]) -> Model {
    whole(3, T::SIZE * 8, move |inputs| {
        let lanes = inputs.len / T::SIZE;
        build(inputs.len, |lane| {
            let index = get::<T>(&inputs.sources[selector], lane).index() % (2 * lanes);
            get::<T>(&inputs.sources[tables[index / lanes]], index % lanes)
        })
    })
}

#[test]
fn lanes_of_two_tables() {
    macro_rules! row {
        ($over_index:literal, $over_table:literal, $isa:expr, $t:ty) => {
            check(&evex!($over_index), $isa, &permute_two::<$t>(0, [1, 2]));
            check(&evex!($over_table), $isa, &permute_two::<$t>(1, [0, 2]));
        };
    }
    row!("vpermi2d", "vpermt2d", INTEGER, u32);
    row!("vpermi2q", "vpermt2q", INTEGER, u64);
    row!("vpermi2ps", "vpermt2ps", INTEGER, u32);
    row!("vpermi2pd", "vpermt2pd", INTEGER, u64);
    row!("vpermi2w", "vpermt2w", BYTES, u16);
    row!("vpermi2b", "vpermt2b", VBMI, u8);
    check(
        &broadcast!("vpermi2d", dword),
        INTEGER,
        &permute_two::<u32>(0, [1, 2]),
    );
    check(
        &broadcast!("vpermt2q", qword),
        INTEGER,
        &permute_two::<u64>(1, [0, 2]),
    );
}

#[test]
fn quadwords_selected_by_an_immediate() {
    macro_rules! row {
        ($imm:literal) => {
            let model = || {
                whole(1, 64, |inputs| {
                    build::<u64>(inputs.len, |lane| {
                        let field = usize::from(inputs.immediate >> (lane % 4 * 2) & 3);
                        get(&inputs.sources[0], lane / 4 * 4 + field)
                    })
                })
            };
            check(&wide_unary!("vpermq", $imm), AVX2, &model());
            check(&wide_unary!("vpermpd", $imm), AVX2, &model());
        };
    }
    row!(", 27");
    row!(", 216");
    row!(", 14");
}

/// Each half is one of four, or zero.
#[test]
fn halves_of_two_sources() {
    macro_rules! row {
        ($imm:literal) => {
            let model = || {
                whole(2, 128, |inputs| {
                    build::<u128>(32, |half| {
                        let field = inputs.immediate >> (4 * half);
                        let from = &inputs.sources[usize::from(field >> 1 & 1)];
                        if field & 8 == 0 {
                            get(from, usize::from(field & 1))
                        } else {
                            0
                        }
                    })
                })
            };
            check(&vex_256!("vperm2i128", $imm), INTEGER, &model());
            let avx = Isa {
                vex_256: "avx",
                ..INTEGER
            };
            check(&vex_256!("vperm2f128", $imm), avx, &model());
        };
    }
    row!(", 32");
    row!(", 49");
    row!(", 19");
    row!(", 130");
    row!(", 8");
}

#[test]
fn quarters_of_two_sources() {
    fn model(bits: usize) -> Model {
        whole(2, bits, |inputs| {
            let parts = inputs.len / 16;
            let width = parts / 2;
            build::<u128>(inputs.len, |part| {
                let index = usize::from(inputs.immediate) >> (width * part) & (parts - 1);
                get(&inputs.sources[part * 2 / parts], index)
            })
        })
    }
    macro_rules! row {
        ($imm:literal) => {
            check(&wide!("vshufi32x4", $imm), INTEGER, &model(32));
            check(&wide!("vshufi64x2", $imm), INTEGER, &model(64));
            check(&wide!("vshuff32x4", $imm), INTEGER, &model(32));
            check(&wide!("vshuff64x2", $imm), INTEGER, &model(64));
        };
    }
    row!(", 78");
    row!(", 177");
    row!(", 3");
}

#[test]
fn lanes_of_two_sources_are_aligned() {
    fn model<T: Lane>() -> Model {
        whole(2, T::SIZE * 8, |inputs| {
            let lanes = inputs.len / T::SIZE;
            build::<T>(inputs.len, |lane| {
                let at = lane + usize::from(inputs.immediate) % lanes;
                get(&inputs.sources[usize::from(at < lanes)], at % lanes)
            })
        })
    }
    macro_rules! row {
        ($imm:literal) => {
            let forms = [evex!("valignd", $imm), broadcast!("valignd", dword, $imm)].concat();
            check(&forms, INTEGER, &model::<u32>());
            let forms = [evex!("valignq", $imm), broadcast!("valignq", qword, $imm)].concat();
            check(&forms, INTEGER, &model::<u64>());
        };
    }
    row!(", 1");
    row!(", 7");
    row!(", 30");
}

/// The second source where the mask has a bit; the first, or zero, where not.
fn mask_blend<T: Lane>() -> Model {
    whole(2, 8, |inputs| {
        build::<T>(inputs.len, |lane| {
            let chosen = inputs.mask >> lane & 1 == 1;
            if chosen || !inputs.zeroing {
                get(&inputs.sources[usize::from(chosen)], lane)
            } else {
                T::default()
            }
        })
    })
    .own_masking()
}

#[test]
fn blends_by_opmask() {
    check(&evex!("vpblendmb"), BYTES, &mask_blend::<u8>());
    check(&evex!("vpblendmw"), BYTES, &mask_blend::<u16>());
    let forms = [evex!("vpblendmd"), broadcast!("vpblendmd", dword)].concat();
    check(&forms, INTEGER, &mask_blend::<u32>());
    let forms = [evex!("vpblendmq"), broadcast!("vpblendmq", qword)].concat();
    check(&forms, INTEGER, &mask_blend::<u64>());
    check(&evex!("vblendmps"), INTEGER, &mask_blend::<u32>());
    check(&evex!("vblendmpd"), INTEGER, &mask_blend::<u64>());
}

/// By the sign of each lane of XMM0, or of the last operand.
#[test]
fn blends_by_sign() {
    fn model<T: Lane>() -> Model {
        whole(3, T::SIZE * 8, |inputs| {
            build::<T>(inputs.len, |lane| {
                let sign = inputs.sources[2][lane * T::SIZE + T::SIZE - 1] >> 7;
                get(&inputs.sources[usize::from(sign)], lane)
            })
        })
    }
    macro_rules! row {
        ($sse:literal, $vex:literal, $vex_256:literal, $t:ty) => {
            let forms = forms![
                concat!($sse, " xmm1, xmm4, xmm0"),
                concat!($sse, " xmm9, xmmword ptr [rdi], xmm0"),
                concat!($vex, " xmm1, xmm3, xmm4, xmm12"),
                concat!($vex, " ymm1, ymm13, ymm4, ymm2"),
                concat!($vex, " ymm1, ymm13, ymmword ptr [rdi + 32], ymm2"),
            ];
            let isa = Isa {
                sse: "sse4.1",
                vex_256: $vex_256,
                ..INTEGER
            };
            check(&forms, isa, &model::<$t>());
        };
    }
    row!("pblendvb", "vpblendvb", "avx2", u8);
    row!("blendvps", "vblendvps", "avx", u32);
    row!("blendvpd", "vblendvpd", "avx", u64);
}

/// Byte `n` of each quadword is 8 bits of the second source's, from a bit the first tells.
#[test]
fn bits_selected_by_bytes() {
    let model = whole(2, 8, |inputs| {
        build::<u8>(inputs.len, |at| {
            let from: u64 = get(&inputs.sources[1], at / 8);
            from.rotate_right(u32::from(inputs.sources[0][at] & 63)) as u8
        })
    });
    let forms = [evex!("vpmultishiftqb"), broadcast!("vpmultishiftqb", qword)].concat();
    check(&forms, VBMI, &model);
}

/// The chosen lanes next to each other, what is above them kept or zeroed.
fn compress<T: Lane>() -> Model {
    whole(1, 8, |inputs| {
        let lanes = inputs.len / T::SIZE;
        let chosen = (0..lanes).filter(|lane| inputs.mask >> lane & 1 == 1);
        let mut value = if inputs.zeroing { [0; 64] } else { inputs.old };
        for (to, from) in chosen.enumerate() {
            set(&mut value, to, get::<T>(&inputs.sources[0], from));
        }
        value
    })
    .own_masking()
}

/// Consecutive lanes go where the mask has bits.
fn expand<T: Lane>() -> Model {
    whole(1, T::SIZE * 8, |inputs| {
        let before = |lane: usize| (inputs.mask & ((1u64 << lane) - 1)).count_ones() as usize;
        build::<T>(inputs.len, |lane| get(&inputs.sources[0], before(lane)))
    })
}

#[test]
fn compressing_and_expanding() {
    macro_rules! row {
        ($compress:literal, $expand:literal, $evex:literal, $t:ty) => {
            let isa = Isa {
                evex: $evex,
                ..INTEGER
            };
            let forms = forms![
                concat!($compress, " zmm1 {k1}, zmm24"),
                concat!($compress, " zmm17 {k2} {z}, zmm4"),
                concat!($compress, " ymm8 {k3} {z}, ymm4"),
                concat!($compress, " xmm31 {k4}, xmm30"),
                concat!($compress, " xmm3, xmm30"),
                concat!($compress, " zmmword ptr [rdi + 1] {k5}, zmm9"),
                concat!($compress, " xmmword ptr [rdi + 16] {k6}, xmm9"),
            ];
            check(&forms, isa, &compress::<$t>());
            check(&evex_unary!($expand), isa, &expand::<$t>());
        };
    }
    row!("vpcompressb", "vpexpandb", "avx512vbmi2", u8);
    row!("vpcompressw", "vpexpandw", "avx512vbmi2", u16);
    row!("vpcompressd", "vpexpandd", "avx512f", u32);
    row!("vpcompressq", "vpexpandq", "avx512f", u64);
    row!("vcompressps", "vexpandps", "avx512f", u32);
    row!("vcompresspd", "vexpandpd", "avx512f", u64);
}
