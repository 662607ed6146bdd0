//! AES (FIPS 197), multiplication in GF(2^8) and carry-less multiplication.

use std::sync::LazyLock;

use super::super::testing::Machine;
use super::forms::*;
use super::harness::{Isa, check};
use super::model::*;
use super::registers as guest;

const AES: Isa = Isa {
    sse: "aes",
    vex_128: "aes",
    vex_256: "vaes",
    evex: "vaes",
};
const GFNI: Isa = Isa {
    sse: "gfni",
    vex_128: "gfni",
    vex_256: "gfni",
    evex: "gfni",
};
const PCLMUL: Isa = Isa {
    sse: "pclmulqdq",
    vex_128: "pclmulqdq",
    vex_256: "vpclmulqdq",
    evex: "vpclmulqdq",
};

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197 §4.2).
fn multiply(a: u8, b: u8) -> u8 {
    let (mut product, mut a) = (0, a);
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 == 0 { 0 } else { 0x1b };
    }
    product
}

/// Of each byte the inverse, 0 for 0.
static INVERSES: LazyLock<[u8; 256]> = LazyLock::new(|| {
    let mut inverses = [0; 256];
    for a in 1..=255u8 {
        let inverse = (1..=255).find(|b| multiply(a, *b) == 1).unwrap();
        inverses[usize::from(a)] = inverse;
    }
    inverses
});

fn inverse(a: u8) -> u8 {
    INVERSES[usize::from(a)]
}

/// FIPS 197 §5.1.1.
fn s_box(a: u8) -> u8 {
    let b = inverse(a);
    (1..5).fold(b ^ 0x63, |result, turn| result ^ b.rotate_left(turn))
}

fn inverse_s_box(a: u8) -> u8 {
    (0..=255).find(|b| s_box(*b) == a).unwrap()
}

/// Row `n` of the state (bytes n, n + 4 …) rotates left by `n`, or right.
fn shift_rows(state: Block, right: bool) -> Block {
    block(|at| {
        let (row, column) = (at % 4, at / 4);
        let by = if right { 4 - row } else { row };
        state[(column + by) % 4 * 4 + row]
    })
}

/// Multiplies each column by the polynomial with these coefficients (FIPS 197 §5.1.3, §5.3.3).
fn mix_columns(state: Block, coefficients: [u8; 4]) -> Block {
    block(|at| {
        let (row, column) = (at % 4, at / 4);
        (0..4).fold(0, |sum, other| {
            let coefficient = coefficients[(other + 4 - row) % 4];
            sum ^ multiply(coefficient, state[column * 4 + other])
        })
    })
}

const FORWARD: [u8; 4] = [2, 3, 1, 1];
const BACKWARD: [u8; 4] = [14, 11, 13, 9];

fn xor(a: Block, b: Block) -> Block {
    block(|at| a[at] ^ b[at])
}

fn encrypt(state: Block, key: Block, last: bool) -> Block {
    let state = shift_rows(state, false).map(s_box);
    xor(
        if last {
            state
        } else {
            mix_columns(state, FORWARD)
        },
        key,
    )
}

/// The equivalent inverse cipher (FIPS 197 §5.3.5).
fn decrypt(state: Block, key: Block, last: bool) -> Block {
    let state = shift_rows(state, true).map(inverse_s_box);
    xor(
        if last {
            state
        } else {
            mix_columns(state, BACKWARD)
        },
        key,
    )
}

/// EVEX forms of instructions that take no opmask.
macro_rules! unmasked {
    ($m:literal) => { unmasked!($m, "") };
    ($m:literal, $imm:literal) => {
        forms![
            concat!($m, " zmm1, zmm3, zmm24", $imm),
            concat!($m, " zmm17, zmm30, zmmword ptr [rdi + 64]", $imm),
            concat!($m, " ymm18, ymm3, ymm31", $imm),
            concat!($m, " xmm16, xmm17, xmmword ptr [rdi + 16]", $imm),
        ]
    };
}

#[test]
fn rounds() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $round:expr) => {
            let forms = [sse!($sse), vex!($vex), unmasked!($vex)];
            check(&forms.concat(), AES, &blocks2(8, $round));
        };
    }
    row!("aesenc", "vaesenc", |a, key, _| encrypt(a, key, false));
    row!("aesenclast", "vaesenclast", |a, key, _| encrypt(
        a, key, true
    ));
    row!("aesdec", "vaesdec", |a, key, _| decrypt(a, key, false));
    row!("aesdeclast", "vaesdeclast", |a, key, _| decrypt(
        a, key, true
    ));
}

#[test]
fn keys() {
    let forms = [
        sse!("aesimc"),
        forms!["vaesimc xmm1, xmm3", "vaesimc xmm9, xmmword ptr [rdi]"],
    ];
    check(
        &forms.concat(),
        AES,
        &blocks1(8, |a, _| mix_columns(a, BACKWARD)),
    );
    let assist = blocks1(8, |a, imm| {
        let word = |lane| get::<u32>(&a, lane).to_le_bytes().map(s_box);
        let plain = |lane| u32::from_le_bytes(word(lane));
        let rotated = |lane| plain(lane).rotate_right(8) ^ u32::from(imm);
        block(|lane| [plain(1), rotated(1), plain(3), rotated(3)][lane])
    });
    let forms = [
        sse!("aeskeygenassist", ", 27"),
        forms![
            "vaeskeygenassist xmm1, xmm3, 54",
            "vaeskeygenassist xmm9, xmmword ptr [rdi], 1",
        ],
    ];
    check(&forms.concat(), AES, &assist);
}

/// The cipher example of FIPS 197 appendix B.
#[test]
fn fips_197_example() {
    let key = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes();
    let plain = 0x3243_f6a8_885a_308d_3131_98a2_e037_0734_u128.to_be_bytes();
    let cipher = 0x3925_841d_02dc_09fb_dc11_8597_196a_0b32_u128.to_be_bytes();
    let steps = forms![
        "pxor xmm0, xmm1",
        "aesenc xmm0, xmm1",
        "aesenclast xmm0, xmm1"
    ];
    if !std::arch::is_x86_feature_detected!("aes") {
        let mut machine = guest::machine();
        let unknown = super::super::exception::Exception::invalid_opcode();
        assert_eq!(machine.fault(steps[1].code), unknown);
        return;
    }
    let mut machine = guest::machine();
    set_block(&mut machine, 0, plain);
    set_block(&mut machine, 1, key);
    machine.run(steps[0].code).unwrap();
    let mut round_key = key;
    let mut constant = 1;
    for round in 1..=10 {
        round_key = next_round_key(round_key, constant);
        constant = multiply(constant, 2);
        set_block(&mut machine, 1, round_key);
        let step = if round == 10 { 2 } else { 1 };
        machine.run(steps[step].code).unwrap();
    }
    assert_eq!(guest::vector(&machine, 0)[..16], cipher);
}

fn set_block(machine: &mut Machine, number: usize, value: Block) {
    let mut vector = [0; 64];
    vector[..16].copy_from_slice(&value);
    guest::set_vector(machine, number, &vector);
}

/// FIPS 197 §5.2 for 128-bit keys.
fn next_round_key(key: Block, constant: u8) -> Block {
    let mut word: [u8; 4] = key[12..].try_into().unwrap();
    word.rotate_left(1);
    word = word.map(s_box);
    word[0] ^= constant;
    let mut next = key;
    for column in 0..4 {
        for row in 0..4 {
            word[row] ^= key[column * 4 + row];
        }
        next[column * 4..][..4].copy_from_slice(&word);
    }
    next
}

#[test]
fn products_in_the_field() {
    let forms = [sse!("gf2p8mulb"), vex!("vgf2p8mulb"), evex!("vgf2p8mulb")];
    check(&forms.concat(), GFNI, &lanes2(multiply));
}

/// Bit `n` of the result: parity of the byte with row 7 - `n` of the matrix, and a bit of the immediate.
fn affine(byte: u8, matrix: [u8; 8], immediate: u8) -> u8 {
    (0..8).fold(immediate, |result, bit| {
        let parity = (matrix[7 - bit] & byte).count_ones() as u8 & 1;
        result ^ parity << bit
    })
}

#[test]
fn affine_maps() {
    macro_rules! row {
        ($sse:literal, $vex:literal, $imm:literal, $prepare:expr) => {
            // Masked by bytes, though the broadcast is by quadwords.
            let model = whole(2, 8, |inputs| {
                build::<u8>(inputs.len, |at| {
                    let matrix: u64 = get(&inputs.sources[1], at / 8);
                    let byte = $prepare(inputs.sources[0][at]);
                    affine(byte, matrix.to_le_bytes(), inputs.immediate)
                })
            });
            let forms = [
                sse!($sse, $imm),
                vex!($vex, $imm),
                evex!($vex, $imm),
                broadcast!($vex, qword, $imm),
            ];
            check(&forms.concat(), GFNI, &model);
        };
    }
    row!("gf2p8affineqb", "vgf2p8affineqb", ", 99", |byte| byte);
    row!("gf2p8affineinvqb", "vgf2p8affineinvqb", ", 5", inverse);
}

fn carry_less(a: u64, b: u64) -> u128 {
    (0..64)
        .filter(|bit| b >> bit & 1 == 1)
        .fold(0, |product, bit| product ^ u128::from(a) << bit)
}

#[test]
fn carry_less_products() {
    macro_rules! row {
        ($imm:literal) => {
            let model = blocks2(128, |a, b, imm| {
                let a: u64 = get(&a, usize::from(imm & 1));
                let b: u64 = get(&b, usize::from(imm >> 4 & 1));
                carry_less(a, b).to_le_bytes()
            });
            let forms = [
                sse!("pclmulqdq", $imm),
                vex!("vpclmulqdq", $imm),
                unmasked!("vpclmulqdq", $imm),
            ];
            check(&forms.concat(), PCLMUL, &model);
        };
    }
    row!(", 0");
    row!(", 1");
    row!(", 16");
    row!(", 17");
    row!(", 238");
}

/// Test case 2 of the GCM specification (McGrew, Viega): one block times the hash key.
#[test]
fn ghash_of_a_published_block() {
    const KEY: u128 = 0x66e9_4bd4_ef8a_2c3b_884c_fa59_ca34_2b2e;
    const BLOCK: u128 = 0x0388_dace_60b6_a392_f328_c2b9_71b2_fe78;
    const PRODUCT: u128 = 0x5e2e_c746_9170_6288_2c85_b068_5353_deb7;
    let parts = forms![
        "pclmulqdq xmm0, xmm1, 0",
        "pclmulqdq xmm0, xmm1, 1",
        "pclmulqdq xmm0, xmm1, 16",
        "pclmulqdq xmm0, xmm1, 17",
    ];
    let mut machine = guest::machine();
    if !std::arch::is_x86_feature_detected!("pclmulqdq") {
        let unknown = super::super::exception::Exception::invalid_opcode();
        assert_eq!(machine.fault(parts[0].code), unknown);
        return;
    }
    // The first bit of a block is the coefficient of x^0.
    let product = [0, 1, 2, 3].map(|part: usize| {
        set_block(&mut machine, 0, BLOCK.reverse_bits().to_le_bytes());
        set_block(&mut machine, 1, KEY.reverse_bits().to_le_bytes());
        machine.run(parts[part].code).unwrap();
        get::<u128>(&guest::vector(&machine, 0), 0)
    });
    let middle = product[1] ^ product[2];
    let (mut low, mut high) = (product[0] ^ middle << 64, product[3] ^ middle >> 64);
    // Modulo x^128 + x^7 + x^2 + x + 1, from the highest coefficient down.
    for bit in (0..128).rev() {
        if high >> bit & 1 == 1 {
            high ^= 1 << bit;
            low ^= 0x87_u128.checked_shl(bit).unwrap_or(0);
            high ^= 0x87_u128.checked_shr(128 - bit).unwrap_or(0);
        }
    }
    assert_eq!(low.reverse_bits(), PRODUCT);
}
