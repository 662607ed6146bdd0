//! SHA-1 and SHA-256 (FIPS 180-4, and SDM vol. 2 for how their parts are cut into instructions).

use super::super::exception::Exception;
use super::super::testing::Machine;
use super::forms::*;
use super::harness::{INTEGER, Isa, check};
use super::model::*;
use super::registers as guest;

const SHA: Isa = Isa {
    sse: "sha",
    ..INTEGER
};

/// Doublewords, the most significant first, as the manual writes them.
fn words(block: &[u8]) -> [u32; 4] {
    [3, 2, 1, 0].map(|lane| get(block, lane))
}

fn from_words(words: [u32; 4]) -> Block {
    block(|lane| words[3 - lane])
}

fn two(function: fn([u32; 4], [u32; 4]) -> [u32; 4]) -> Model {
    blocks2(32, move |a, b, _| {
        from_words(function(words(&a), words(&b)))
    })
}

/// FIPS 180-4 §4.1.1 and §4.2.1 for rounds 20·`part` to 20·`part` + 19.
fn sha1_function(part: u8, b: u32, c: u32, d: u32) -> u32 {
    match part {
        0 => ((b & c) ^ (!b & d)).wrapping_add(0x5a82_7999),
        1 => (b ^ c ^ d).wrapping_add(0x6ed9_eba1),
        2 => ((b & c) ^ (b & d) ^ (c & d)).wrapping_add(0x8f1b_bcdc),
        _ => (b ^ c ^ d).wrapping_add(0xca62_c1d6),
    }
}

fn sha1_rounds(state: [u32; 4], message: [u32; 4], part: u8) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = state;
    // The first word has E added to it already.
    let mut e = 0;
    for word in message {
        let next = sha1_function(part, b, c, d)
            .wrapping_add(a.rotate_left(5))
            .wrapping_add(word)
            .wrapping_add(e);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    [a, b, c, d]
}

#[test]
fn sha1_parts() {
    macro_rules! rounds {
        ($imm:literal) => {
            let model = blocks2(32, |a, b, part| {
                from_words(sha1_rounds(words(&a), words(&b), part & 3))
            });
            check(&sse!("sha1rnds4", $imm), SHA, &model);
        };
    }
    rounds!(", 0");
    rounds!(", 1");
    rounds!(", 2");
    rounds!(", 3");
    let next = two(|a, b| [b[0].wrapping_add(a[0].rotate_left(30)), b[1], b[2], b[3]]);
    check(&sse!("sha1nexte"), SHA, &next);
    let first = two(|a, b| [a[2] ^ a[0], a[3] ^ a[1], b[0] ^ a[2], b[1] ^ a[3]]);
    check(&sse!("sha1msg1"), SHA, &first);
    let second = two(|a, b| {
        let first = (a[0] ^ b[1]).rotate_left(1);
        let [second, third] = [a[1] ^ b[2], a[2] ^ b[3]].map(|word| word.rotate_left(1));
        [first, second, third, (a[3] ^ first).rotate_left(1)]
    });
    check(&sse!("sha1msg2"), SHA, &second);
}

/// FIPS 180-4 §4.1.2.
fn small_sigma_0(x: u32) -> u32 {
    x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3
}

fn small_sigma_1(x: u32) -> u32 {
    x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10
}

fn big_sigma_0(x: u32) -> u32 {
    x.rotate_right(2) ^ x.rotate_right(13) ^ x.rotate_right(22)
}

fn big_sigma_1(x: u32) -> u32 {
    x.rotate_right(6) ^ x.rotate_right(11) ^ x.rotate_right(25)
}

/// One round (FIPS 180-4 §6.2.2) of the state A to H, the word with its constant added.
fn sha256_round(state: [u32; 8], word: u32) -> [u32; 8] {
    let [a, b, c, d, e, f, g, h] = state;
    let first = [big_sigma_1(e), (e & f) ^ (!e & g), word]
        .into_iter()
        .fold(h, u32::wrapping_add);
    let second = big_sigma_0(a).wrapping_add((a & b) ^ (a & c) ^ (b & c));
    let (a_next, e_next) = (first.wrapping_add(second), d.wrapping_add(first));
    [a_next, a, b, c, e_next, e, f, g]
}

#[test]
fn sha256_parts() {
    let rounds = whole(3, 32, |inputs| {
        let [c, d, g, h] = words(&inputs.sources[0]);
        let [a, b, e, f] = words(&inputs.sources[1]);
        let [.., second, first] = words(&inputs.sources[2]);
        let state = sha256_round([a, b, c, d, e, f, g, h], first);
        let [a, b, _, _, e, f, _, _] = sha256_round(state, second);
        let mut value = [0; 64];
        value[..16].copy_from_slice(&from_words([a, b, e, f]));
        value
    });
    let forms = forms![
        "sha256rnds2 xmm1, xmm4, xmm0",
        "sha256rnds2 xmm9, xmm12, xmm0",
        "sha256rnds2 xmm15, xmmword ptr [rdi + 16], xmm0",
    ];
    check(&forms, SHA, &rounds);
    let first = two(|a, b| {
        let [w3, w2, w1, w0] = a;
        let w4 = b[3];
        [[w3, w4], [w2, w3], [w1, w2], [w0, w1]]
            .map(|[word, next]| word.wrapping_add(small_sigma_0(next)))
    });
    check(&sse!("sha256msg1"), SHA, &first);
    let second = two(|a, b| {
        let [w15, w14, ..] = b;
        let w16 = a[3].wrapping_add(small_sigma_1(w14));
        let w17 = a[2].wrapping_add(small_sigma_1(w15));
        let w18 = a[1].wrapping_add(small_sigma_1(w16));
        [a[0].wrapping_add(small_sigma_1(w17)), w18, w17, w16]
    });
    check(&sse!("sha256msg2"), SHA, &second);
}

/// The padded block of the message "abc" (FIPS 180-4 §5.1.1).
fn message() -> [u32; 16] {
    let mut words = [0; 16];
    (words[0], words[15]) = (0x6162_6380, 24);
    words
}

fn set_words(machine: &mut Machine, number: usize, words: [u32; 4]) {
    let mut vector = [0; 64];
    vector[..16].copy_from_slice(&from_words(words));
    guest::set_vector(machine, number, &vector);
}

/// Runs `form`, which is on XMM1 and XMM2, and gives XMM1.
fn execute(form: &Form, first: [u32; 4], second: [u32; 4]) -> [u32; 4] {
    let mut machine = guest::machine();
    set_words(&mut machine, 1, first);
    set_words(&mut machine, 2, second);
    machine.run(form.code).unwrap();
    words(&guest::vector(&machine, 1))
}

fn host_lacks_sha(form: &Form) -> bool {
    let lacks = !std::arch::is_x86_feature_detected!("sha");
    if lacks {
        assert_eq!(
            guest::machine().fault(form.code),
            Exception::invalid_opcode()
        );
    }
    lacks
}

fn add(a: [u32; 4], b: [u32; 4]) -> [u32; 4] {
    [0, 1, 2, 3].map(|lane| a[lane].wrapping_add(b[lane]))
}

/// SHA-256 of "abc", all of it by the instructions.
#[test]
fn published_sha256_digest() {
    let parts = forms![
        "sha256msg1 xmm1, xmm2",
        "sha256msg2 xmm1, xmm2",
        "sha256rnds2 xmm1, xmm2, xmm0"
    ];
    if host_lacks_sha(&parts[0]) {
        return;
    }
    let mut schedule = message().to_vec();
    let four = |schedule: &[u32], at: usize| [3, 2, 1, 0].map(|lane| schedule[at + lane]);
    for at in 0..12 {
        let at = 4 * at;
        let first = execute(&parts[0], four(&schedule, at), four(&schedule, at + 4));
        let sum = add(first, four(&schedule, at + 9));
        let next = execute(&parts[1], sum, four(&schedule, at + 12));
        schedule.extend(next.iter().rev());
    }
    let initial = INITIAL_256;
    let [a, b, c, d, e, f, g, h] = initial;
    let (mut abef, mut cdgh) = ([a, b, e, f], [c, d, g, h]);
    let constants = sha256_constants();
    for round in 0..32 {
        let word = |number: usize| schedule[number].wrapping_add(constants[number]);
        let mut machine = guest::machine();
        set_words(
            &mut machine,
            0,
            [0, 0, word(2 * round + 1), word(2 * round)],
        );
        set_words(&mut machine, 1, cdgh);
        set_words(&mut machine, 2, abef);
        machine.run(parts[2].code).unwrap();
        (cdgh, abef) = (abef, words(&guest::vector(&machine, 1)));
    }
    let state = [
        abef[0], abef[1], cdgh[0], cdgh[1], abef[2], abef[3], cdgh[2], cdgh[3],
    ];
    let digest = [0, 1, 2, 3, 4, 5, 6, 7].map(|word| initial[word].wrapping_add(state[word]));
    assert_eq!(
        digest,
        [
            0xba78_16bf,
            0x8f01_cfea,
            0x4141_40de,
            0x5dae_2223,
            0xb003_61a3,
            0x9617_7a9c,
            0xb410_ff61,
            0xf200_15ad
        ]
    );
}

const INITIAL_256: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4 §4.2.2).
fn sha256_constants() -> Vec<u32> {
    let is_prime = |n: &u128| (2..*n).all(|divisor| !n.is_multiple_of(divisor));
    let root = |prime: u128| {
        // floor(2^32 · cube root), bit by bit.
        (0..36).rev().fold(0u128, |root, bit| {
            let next = root | 1 << bit;
            if next * next * next <= prime << 96 {
                next
            } else {
                root
            }
        })
    };
    (2..)
        .filter(is_prime)
        .take(64)
        .map(|prime| root(prime) as u32)
        .collect()
}

/// SHA-1 of "abc", all of it by the instructions.
#[test]
fn published_sha1_digest() {
    let parts = forms![
        "sha1msg1 xmm1, xmm2",
        "sha1msg2 xmm1, xmm2",
        "sha1nexte xmm1, xmm2",
        "sha1rnds4 xmm1, xmm2, 0",
        "sha1rnds4 xmm1, xmm2, 1",
        "sha1rnds4 xmm1, xmm2, 2",
        "sha1rnds4 xmm1, xmm2, 3",
    ];
    if host_lacks_sha(&parts[0]) {
        return;
    }
    let mut schedule = message().to_vec();
    let four = |schedule: &[u32], at: usize| [0, 1, 2, 3].map(|lane| schedule[at + lane]);
    for at in 0..16 {
        let at = 4 * at;
        let first = execute(&parts[0], four(&schedule, at), four(&schedule, at + 4));
        let other = four(&schedule, at + 8);
        let sum = [0, 1, 2, 3].map(|lane| first[lane] ^ other[lane]);
        schedule.extend(execute(&parts[1], sum, four(&schedule, at + 12)));
    }
    let initial = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let initial_e = 0xc3d2_e1f0_u32;
    let mut state = initial;
    let mut message = four(&schedule, 0);
    message[0] = message[0].wrapping_add(initial_e);
    for group in 0..20 {
        let next = execute(&parts[3 + group / 5], state, message);
        // E of the next four rounds is A of these, rotated.
        let words = if group == 19 {
            [0; 4]
        } else {
            four(&schedule, 4 * group + 4)
        };
        message = execute(&parts[2], state, words);
        state = next;
    }
    let digest = [0, 1, 2, 3].map(|word| initial[word].wrapping_add(state[word]));
    assert_eq!(digest, [0xa999_3e36, 0x4706_816a, 0xba3e_2571, 0x7850_c26c]);
    assert_eq!(message[0].wrapping_add(initial_e), 0x9cd0_d89d);
}
