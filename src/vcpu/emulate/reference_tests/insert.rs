//! Parts of registers: inserted, extracted, broadcast, and moved between register files.

use super::forms::*;
use super::harness::{BYTES, INTEGER, Isa, check};
use super::model::*;

const SSE4: Isa = Isa {
    sse: "sse4.1",
    ..INTEGER
};
const DQ: Isa = Isa {
    evex: "avx512dq",
    ..INTEGER
};

/// The first source with one lane replaced by the second.
fn insert<T: Lane>() -> Model {
    whole(2, T::SIZE * 8, |inputs| {
        let lanes = inputs.len / T::SIZE;
        let mut value = inputs.sources[0];
        let at = usize::from(inputs.immediate) % lanes;
        set(&mut value, at, get::<T>(&inputs.sources[1], 0));
        value
    })
}

/// EVEX.128 without masks, whatever AVX-512VL says; the hosts that lack it lack AVX-512BW too.
macro_rules! insert_forms {
    ($m:literal, $r:literal, $size:literal) => {
        forms![
            concat!($m, " xmm1, ", $r, ", 1"),
            concat!($m, " xmm9, ", $size, " ptr [rdi + 3], 6"),
            concat!("v", $m, " xmm1, xmm3, ", $r, ", 7"),
            concat!("v", $m, " xmm9, xmm12, ", $size, " ptr [rdi + 1], 0"),
            concat!("v", $m, " xmm17, xmm30, ", $r, ", 255"),
            concat!("v", $m, " xmm17, xmm3, ", $size, " ptr [rdi + 16], 2"),
        ]
    };
}

#[test]
fn elements_inserted() {
    let sse4 = Isa {
        evex: "avx512bw",
        ..SSE4
    };
    check(
        &insert_forms!("pinsrb", "ebx", "byte"),
        sse4,
        &insert::<u8>(),
    );
    check(
        &insert_forms!("pinsrw", "ebx", "word"),
        BYTES,
        &insert::<u16>(),
    );
    check(
        &insert_forms!("pinsrd", "ebx", "dword"),
        dq(),
        &insert::<u32>(),
    );
    check(
        &insert_forms!("pinsrq", "rbx", "qword"),
        dq(),
        &insert::<u64>(),
    );
}

fn dq() -> Isa {
    Isa {
        evex: "avx512dq",
        ..SSE4
    }
}

fn extract<T: Lane>() -> Model {
    whole(1, 8, |inputs| {
        let lane = usize::from(inputs.immediate) % (16 / T::SIZE);
        let mut value = [0; 64];
        set(&mut value, 0, get::<T>(&inputs.sources[0], lane));
        value
    })
}

macro_rules! extract_forms {
    ($m:literal, $r:literal, $size:literal) => {
        forms![
            concat!($m, " ", $r, ", xmm1, 1"),
            concat!($m, " ", $size, " ptr [rdi + 3], xmm9, 6"),
            concat!("v", $m, " ", $r, ", xmm3, 7"),
            concat!("v", $m, " ", $size, " ptr [rdi + 1], xmm9, 0"),
            concat!("v", $m, " ", $r, ", xmm17, 3"),
            concat!("v", $m, " ", $size, " ptr [rdi + 8], xmm30, 2"),
        ]
    };
}

#[test]
fn elements_extracted() {
    let sse4 = Isa {
        evex: "avx512bw",
        ..SSE4
    };
    check(
        &extract_forms!("pextrb", "eax", "byte"),
        sse4,
        &extract::<u8>(),
    );
    // To a register it is an instruction of SSE2.
    let (to_register, to_memory): (Vec<Form>, Vec<Form>) = extract_forms!("pextrw", "ecx", "word")
        .into_iter()
        .partition(|form| !form.text.contains("ptr"));
    check(&to_register, BYTES, &extract::<u16>());
    check(&to_memory, sse4, &extract::<u16>());
    check(
        &extract_forms!("pextrd", "edx", "dword"),
        dq(),
        &extract::<u32>(),
    );
    check(
        &extract_forms!("pextrq", "rax", "qword"),
        dq(),
        &extract::<u64>(),
    );
    check(
        &extract_forms!("extractps", "eax", "dword"),
        SSE4,
        &extract::<u32>(),
    );
}

/// INSERTPS: which element of a register, where it goes, and what is zeroed then.
#[test]
fn single_inserted_and_others_zeroed() {
    let from_register = || {
        whole(2, 32, |inputs| {
            let imm = usize::from(inputs.immediate);
            let mut value = inputs.sources[0];
            set(
                &mut value,
                imm >> 4 & 3,
                get::<u32>(&inputs.sources[1], imm >> 6),
            );
            for lane in (0..4).filter(|lane| imm >> lane & 1 == 1) {
                set(&mut value, lane, 0u32);
            }
            value
        })
    };
    let forms = forms![
        "insertps xmm1, xmm2, 157",
        "insertps xmm1, xmm12, 98",
        "insertps xmm1, dword ptr [rdi + 1], 34",
        "vinsertps xmm1, xmm3, xmm2, 193",
        "vinsertps xmm1, xmm3, dword ptr [rdi + 1], 48",
        "vinsertps xmm17, xmm3, xmm30, 90",
    ];
    check(&forms, SSE4, &from_register());
}

#[test]
fn parts_inserted() {
    // Lanes of the mask are those of the instruction's name.
    fn part<T: Lane>(bits: usize) -> Model {
        Model {
            masking: Masking::Lanes(bits),
            ..insert::<T>()
        }
    }
    macro_rules! row {
        ($m:literal, $isa:expr, $model:expr) => {
            let forms = forms![
                concat!($m, " zmm1, zmm3, xmm4, 1"),
                concat!($m, " zmm17 {k2}, zmm30, xmm4, 3"),
                concat!($m, " zmm1 {k3} {z}, zmm1, xmmword ptr [rdi + 16], 2"),
                concat!($m, " ymm18 {k4}, ymm3, xmmword ptr [rdi], 1"),
                concat!($m, " ymm1, ymm2, xmm31, 0"),
            ];
            check(&forms, $isa, &$model);
        };
    }
    row!("vinserti32x4", INTEGER, part::<u128>(32));
    row!("vinserti64x2", DQ, part::<u128>(64));
    row!("vinsertf32x4", INTEGER, part::<u128>(32));
    row!("vinsertf64x2", DQ, part::<u128>(64));
    let vex = forms![
        "vinserti128 ymm1, ymm3, xmm4, 1",
        "vinserti128 ymm9, ymm13, xmmword ptr [rdi + 1], 0",
        "vinsertf128 ymm1, ymm3, xmm14, 0",
        "vinsertf128 ymm9, ymm13, xmmword ptr [rdi + 16], 1",
    ];
    check(&vex, INTEGER, &insert::<u128>());
}

#[test]
fn halves_inserted_and_extracted() {
    macro_rules! row {
        ($insert:literal, $extract:literal, $isa:expr, $bits:literal) => {
            let model = whole(2, $bits, |inputs| {
                let mut value = inputs.sources[0];
                let at = 32 * usize::from(inputs.immediate & 1);
                value[at..at + 32].copy_from_slice(&inputs.sources[1][..32]);
                value
            });
            let forms = forms![
                concat!($insert, " zmm1, zmm3, ymm4, 1"),
                concat!($insert, " zmm17 {k2}, zmm30, ymm4, 0"),
                concat!($insert, " zmm1 {k3} {z}, zmm1, ymmword ptr [rdi + 32], 1"),
            ];
            check(&forms, $isa, &model);
            let model = whole(1, $bits, |inputs| {
                let mut value = [0; 64];
                let at = 32 * usize::from(inputs.immediate & 1);
                value[..32].copy_from_slice(&inputs.sources[0][at..at + 32]);
                value
            });
            let forms = forms![
                concat!($extract, " ymm1, zmm3, 1"),
                concat!($extract, " ymm17 {k2}, zmm30, 0"),
                concat!($extract, " ymm1 {k2} {z}, zmm30, 1"),
                concat!($extract, " ymmword ptr [rdi + 32] {k3}, zmm1, 1"),
            ];
            check(&forms, $isa, &model);
        };
    }
    row!("vinserti64x4", "vextracti64x4", INTEGER, 64);
    row!("vinserti32x8", "vextracti32x8", DQ, 32);
    row!("vinsertf64x4", "vextractf64x4", INTEGER, 64);
    row!("vinsertf32x8", "vextractf32x8", DQ, 32);
}

#[test]
fn parts_extracted() {
    fn part(bits: usize) -> Model {
        whole(1, bits, |inputs| {
            let parts = inputs.source_len / 16;
            let mut value = [0; 64];
            let from = usize::from(inputs.immediate) % parts;
            set(&mut value, 0, get::<u128>(&inputs.sources[0], from));
            value
        })
    }
    macro_rules! row {
        ($m:literal, $isa:expr, $bits:literal) => {
            let forms = forms![
                concat!($m, " xmm1, zmm3, 3"),
                concat!($m, " xmm17 {k2}, zmm30, 1"),
                concat!($m, " xmm17 {k2} {z}, ymm30, 1"),
                concat!($m, " xmmword ptr [rdi + 16] {k3}, zmm1, 2"),
                concat!($m, " xmmword ptr [rdi + 1], ymm18, 0"),
            ];
            check(&forms, $isa, &part($bits));
        };
    }
    row!("vextracti32x4", INTEGER, 32);
    row!("vextracti64x2", DQ, 64);
    row!("vextractf32x4", INTEGER, 32);
    row!("vextractf64x2", DQ, 64);
    let vex = forms![
        "vextracti128 xmm1, ymm3, 1",
        "vextracti128 xmmword ptr [rdi + 1], ymm9, 1",
        "vextractf128 xmm1, ymm13, 0",
        "vextractf128 xmmword ptr [rdi + 16], ymm9, 1",
    ];
    check(&vex, INTEGER, &part(8));
}
