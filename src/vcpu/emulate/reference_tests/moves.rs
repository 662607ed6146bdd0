//! Moves of parts of registers, and broadcasts.

use super::forms::*;
use super::harness::{BYTES, FLOAT, INTEGER, Isa, check};
use super::model::*;

/// The first source, with its low `T` from the second.
fn low<T: Lane>() -> Model {
    whole(2, 8, |inputs| {
        let mut value = inputs.sources[0];
        set(&mut value, 0, get::<T>(&inputs.sources[1], 0));
        value
    })
    .scalar(T::SIZE * 8)
}

/// The low `T` of the source, zeros above.
fn load<T: Lane>() -> Model {
    whole(1, 8, |inputs| {
        build::<T>(T::SIZE, |_| get(&inputs.sources[0], 0))
    })
    .scalar(T::SIZE * 8)
}

#[test]
fn to_and_from_general_registers() {
    let forms = forms![
        "movd xmm1, ebx",
        "movd xmm9, dword ptr [rdi + 1]",
        "vmovd xmm1, ecx",
        "vmovd xmm1, dword ptr [rdi]",
        "vmovd xmm17, edx",
        "vmovd xmm17, dword ptr [rdi + 4]",
        "movd eax, xmm1",
        "vmovd ecx, xmm9",
        "vmovd ebx, xmm19",
        "movd dword ptr [rdi + 1], xmm3",
        "vmovd dword ptr [rdi + 4], xmm31",
    ];
    check(&forms, FLOAT, &load::<u32>());
    let forms = forms![
        "movq xmm1, rbx",
        "movq xmm9, qword ptr [rdi + 1]",
        "movq xmm9, xmm3",
        "vmovq xmm1, rcx",
        "vmovq xmm1, xmm2",
        "vmovq xmm1, qword ptr [rdi]",
        "vmovq xmm17, rdx",
        "vmovq xmm17, xmm3",
        "vmovq xmm17, qword ptr [rdi + 8]",
        "movq rax, xmm1",
        "vmovq rcx, xmm9",
        "vmovq rbx, xmm19",
        "movq qword ptr [rdi + 1], xmm3",
        "vmovq qword ptr [rdi + 8], xmm31",
    ];
    check(&forms, FLOAT, &load::<u64>());
}

#[test]
fn scalars() {
    let registers = forms![
        "movss xmm1, xmm2",
        "vmovss xmm1, xmm3, xmm12",
        "vmovss xmm17, xmm3, xmm12",
        "vmovss xmm17 {k1}, xmm3, xmm12",
        "vmovss xmm1 {k2} {z}, xmm3, xmm19",
    ];
    check(&registers, FLOAT, &low::<u32>());
    let memory = forms![
        "movss xmm1, dword ptr [rdi + 1]",
        "vmovss xmm9, dword ptr [rdi + 4]",
        "vmovss xmm19 {k1} {z}, dword ptr [rdi + 4]",
        "movss dword ptr [rdi + 1], xmm3",
        "vmovss dword ptr [rdi], xmm9",
        "vmovss dword ptr [rdi + 4] {k3}, xmm19",
    ];
    check(&memory, FLOAT, &load::<u32>());
    let registers = forms![
        "movsd xmm1, xmm2",
        "vmovsd xmm1, xmm3, xmm12",
        "vmovsd xmm17 {k1}, xmm3, xmm12",
        "vmovsd xmm1 {k2} {z}, xmm3, xmm19",
    ];
    check(&registers, FLOAT, &low::<u64>());
    let memory = forms![
        "movsd xmm1, qword ptr [rdi + 1]",
        "vmovsd xmm9, qword ptr [rdi + 4]",
        "vmovsd xmm19 {k1} {z}, qword ptr [rdi + 8]",
        "movsd qword ptr [rdi + 1], xmm3",
        "vmovsd qword ptr [rdi], xmm9",
        "vmovsd qword ptr [rdi + 8] {k3}, xmm19",
    ];
    check(&memory, FLOAT, &load::<u64>());
}

/// A masked load of a scalar keeps the low element, and zeroes what is above it.
#[test]
fn a_masked_scalar_load_keeps_the_low_element_only() {
    let forms = forms!["vmovss xmm19 {k1}, dword ptr [rdi + 4]"];
    check(&forms, FLOAT, &load::<u32>());
    let forms = forms!["vmovsd xmm19 {k1}, qword ptr [rdi + 8]"];
    check(&forms, FLOAT, &load::<u64>());
}

#[test]
fn halves_of_16_bytes() {
    fn halves(from: [(usize, usize); 2]) -> Model {
        whole(2, 64, move |inputs| {
            build::<u64>(16, |half| {
                let (source, lane) = from[half];
                get(&inputs.sources[source], lane)
            })
        })
        .own_masking()
    }
    let forms = forms![
        "movlps xmm1, qword ptr [rdi + 1]",
        "movlpd xmm9, qword ptr [rdi]",
        "vmovlps xmm1, xmm3, qword ptr [rdi + 1]",
        "vmovlpd xmm18, xmm3, qword ptr [rdi + 8]",
    ];
    check(&forms, FLOAT, &halves([(1, 0), (0, 1)]));
    let forms = forms![
        "movhps xmm1, qword ptr [rdi + 1]",
        "movhpd xmm9, qword ptr [rdi]",
        "movlhps xmm1, xmm2",
        "vmovhps xmm1, xmm3, qword ptr [rdi + 1]",
        "vmovhpd xmm18, xmm3, qword ptr [rdi + 8]",
        "vmovlhps xmm1, xmm3, xmm2",
        "vmovlhps xmm21, xmm3, xmm2",
    ];
    check(&forms, FLOAT, &halves([(0, 0), (1, 0)]));
    let forms = forms![
        "movhlps xmm1, xmm2",
        "vmovhlps xmm1, xmm3, xmm2",
        "vmovhlps xmm21, xmm3, xmm2",
    ];
    check(&forms, FLOAT, &halves([(1, 1), (0, 1)]));
    let forms = forms![
        "movlps qword ptr [rdi + 1], xmm1",
        "movlpd qword ptr [rdi], xmm9",
        "vmovlps qword ptr [rdi + 8], xmm18",
    ];
    check(&forms, FLOAT, &load::<u64>());
    let high = whole(1, 64, |inputs| {
        build::<u64>(8, |_| get(&inputs.sources[0], 1))
    });
    let forms = forms![
        "movhps qword ptr [rdi + 1], xmm1",
        "movhpd qword ptr [rdi], xmm9",
        "vmovhps qword ptr [rdi + 8], xmm18",
    ];
    check(&forms, FLOAT, &high);
}

/// The first element of the source in every lane; lanes of `bits` are masked.
fn broadcast_of<T: Lane>(bits: usize) -> Model {
    whole(1, bits, |inputs| {
        build::<T>(inputs.len, |_| get(&inputs.sources[0], 0))
    })
}

#[test]
fn elements_in_every_lane() {
    macro_rules! row {
        ($m:literal, $size:literal, $r:literal, $isa:expr, $t:ty) => {
            let avx2 = Isa {
                vex_128: "avx2",
                ..$isa
            };
            let forms = forms![
                concat!($m, " xmm1, xmm2"),
                concat!($m, " ymm1, xmm12"),
                concat!($m, " xmm9, ", $size, " ptr [rdi + 1]"),
                concat!($m, " ymm9, ", $size, " ptr [rdi]"),
                concat!($m, " zmm1, xmm24"),
                concat!($m, " zmm17 {k2}, ", $size, " ptr [rdi + 8]"),
                concat!($m, " ymm17 {k3} {z}, xmm1"),
                concat!($m, " xmm17 {k3} {z}, ", $size, " ptr [rdi + 1]"),
                concat!($m, " zmm1, ", $r),
                concat!($m, " zmm31 {k2}, ", $r),
                concat!($m, " ymm31 {k2} {z}, ", $r),
                concat!($m, " xmm3, ", $r),
            ];
            check(&forms, avx2, &broadcast_of::<$t>(<$t as Lane>::SIZE * 8));
        };
    }
    row!("vpbroadcastb", "byte", "ebx", BYTES, u8);
    row!("vpbroadcastw", "word", "ecx", BYTES, u16);
    row!("vpbroadcastd", "dword", "edx", INTEGER, u32);
    row!("vpbroadcastq", "qword", "rax", INTEGER, u64);
}

#[test]
fn floating_point_elements_in_every_lane() {
    let forms = forms![
        "vbroadcastss xmm1, dword ptr [rdi + 1]",
        "vbroadcastss ymm1, dword ptr [rdi]",
        "vbroadcastss zmm17 {k1}, dword ptr [rdi + 4]",
        "vbroadcastss zmm17 {k1} {z}, xmm3",
    ];
    check(&forms, FLOAT, &broadcast_of::<u32>(32));
    let forms = forms![
        "vbroadcastsd ymm1, qword ptr [rdi]",
        "vbroadcastsd zmm17 {k1}, qword ptr [rdi + 8]",
        "vbroadcastsd ymm17 {k1} {z}, xmm3",
    ];
    check(&forms, FLOAT, &broadcast_of::<u64>(64));
}

#[test]
fn blocks_in_every_lane() {
    macro_rules! row {
        ($m:literal, $evex:literal, $bits:literal) => {
            let isa = Isa {
                evex: $evex,
                ..INTEGER
            };
            let forms = forms![
                concat!($m, " zmm1, xmmword ptr [rdi + 16]"),
                concat!($m, " zmm17 {k2}, xmmword ptr [rdi + 1]"),
                concat!($m, " ymm17 {k2} {z}, xmmword ptr [rdi + 1]"),
            ];
            check(&forms, isa, &broadcast_of::<u128>($bits));
        };
    }
    row!("vbroadcasti32x4", "avx512f", 32);
    row!("vbroadcasti64x2", "avx512dq", 64);
    row!("vbroadcastf32x4", "avx512f", 32);
    row!("vbroadcastf64x2", "avx512dq", 64);
    let vex = forms![
        "vbroadcasti128 ymm1, xmmword ptr [rdi + 1]",
        "vbroadcastf128 ymm9, xmmword ptr [rdi]",
    ];
    check(&vex, INTEGER, &broadcast_of::<u128>(8));
    fn halves(bits: usize) -> Model {
        whole(1, bits, |inputs| {
            build::<u64>(inputs.len, |lane| get(&inputs.sources[0], lane % 4))
        })
    }
    let forms = forms![
        "vbroadcasti64x4 zmm1, ymmword ptr [rdi + 32]",
        "vbroadcasti64x4 zmm17 {k2}, ymmword ptr [rdi]",
    ];
    check(&forms, INTEGER, &halves(64));
    let dq = Isa {
        evex: "avx512dq",
        ..INTEGER
    };
    let forms = forms!["vbroadcasti32x8 zmm17 {k2} {z}, ymmword ptr [rdi]"];
    check(&forms, dq, &halves(32));
    // Pairs of doublewords.
    let pairs = whole(1, 32, |inputs| {
        build::<u64>(inputs.len, |_| get(&inputs.sources[0], 0))
    });
    let forms = forms![
        "vbroadcasti32x2 zmm17 {k2}, xmm3",
        "vbroadcasti32x2 xmm17 {k2} {z}, qword ptr [rdi + 8]",
        "vbroadcastf32x2 ymm17 {k2}, xmm3",
    ];
    check(&forms, dq, &pairs);
}

/// A sign bit in the mask lets an element through: loads zero the others, stores leave memory.
#[test]
fn moves_masked_by_signs() {
    fn model<T: Lane>(store: bool) -> Model {
        whole(2, 8, move |inputs| {
            // A load's mask comes before its memory, as does a store's.
            let (mask, data) = (&inputs.sources[0], &inputs.sources[1]);
            build::<T>(inputs.len, |lane| {
                let sign = mask[(lane + 1) * T::SIZE - 1] >> 7;
                match (sign, store) {
                    (1, _) => get(data, lane),
                    (_, true) => get(&inputs.old, lane),
                    (_, false) => T::default(),
                }
            })
        })
    }
    macro_rules! row {
        ($m:literal, $isa:expr, $t:ty) => {
            let loads = forms![
                concat!($m, " xmm1, xmm2, xmmword ptr [rdi + 1]"),
                concat!($m, " ymm9, ymm12, ymmword ptr [rdi]"),
            ];
            check(&loads, $isa, &model::<$t>(false));
            let stores = forms![
                concat!($m, " xmmword ptr [rdi + 1], xmm2, xmm3"),
                concat!($m, " ymmword ptr [rdi], ymm12, ymm1"),
            ];
            check(&stores, $isa, &model::<$t>(true));
        };
    }
    let avx2 = Isa {
        vex_128: "avx2",
        ..INTEGER
    };
    row!("vpmaskmovd", avx2, u32);
    row!("vpmaskmovq", avx2, u64);
    row!("vmaskmovps", FLOAT, u32);
    row!("vmaskmovpd", FLOAT, u64);
}
