//! Calls on made-up stacks, in made-up code.

use proptest::prelude::*;

use super::super::super::activity::Activity;
use super::super::super::samples::{Place, Samples};
use super::*;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const SHIFT: u64 = 0x200_0000;
const STACK: u64 = 0xffff_c900_0001_3000;

/// Code with an instruction here and there, as linked.
fn code(parts: &[(u64, &[u8])]) -> Vec<KernelSection> {
    let mut bytes = vec![0x90; 0x1000];
    for (at, part) in parts {
        bytes[*at as usize..][..part.len()].copy_from_slice(part);
    }
    vec![KernelSection {
        address: TEXT,
        bytes,
    }]
}

/// CALL or JMP rel32 at `from` to `to`.
fn near(opcode: u8, from: u64, to: u64) -> Vec<u8> {
    let distance = to.wrapping_sub(from + 5) as u32;
    [&[opcode][..], &distance.to_le_bytes()].concat()
}

fn table() -> SymbolTable {
    let names = [
        "root",
        "middle",
        "leaf",
        "tail",
        "__x86_indirect_thunk_rax",
        "hop",
    ];
    let places = names.iter().zip(0u64..);
    let functions: Vec<_> = places
        .map(|(name, at)| (TEXT + at * 0x100, *name))
        .collect();
    SymbolTable::of(&functions).shifted_by(SHIFT)
}

/// The callers of something in function `leaf`, as distances from TEXT.
fn callers(code: Vec<KernelSection>, leaf: u64, words: &[u64]) -> Vec<u64> {
    let mut work = Budget::of(1 << 20);
    let mut scan = Scan::new(code, SHIFT);
    found(&mut scan, &table(), leaf, words, &mut work)
}

fn found(
    scan: &mut Scan,
    table: &SymbolTable,
    leaf: u64,
    words: &[u64],
    work: &mut Budget,
) -> Vec<u64> {
    let run_time = |word: &u64| TEXT + SHIFT + word;
    let stack: Vec<u8> = words
        .iter()
        .flat_map(|word| run_time(word).to_le_bytes())
        .collect();
    let place = Place {
        rip: run_time(&leaf),
        rsp: STACK,
        ..Place::default()
    };
    let mut samples = Samples::new();
    samples.push(1, Activity::Guest, place, &stack);
    let sample = samples.iter().next().unwrap();
    let found = scan.callers(&sample, table, work);
    found.into_iter().map(|at| at - TEXT - SHIFT).collect()
}

/// root calls middle, middle calls leaf.
fn calls() -> Vec<(u64, Vec<u8>)> {
    vec![
        (0x10, near(0xe8, 0x10, 0x100)),
        (0x120, near(0xe8, 0x120, 0x200)),
    ]
}

fn with(more: &[(u64, Vec<u8>)]) -> Vec<KernelSection> {
    let parts = [&calls()[..], more].concat();
    let parts: Vec<_> = parts.iter().map(|(at, b)| (*at, b.as_slice())).collect();
    code(&parts)
}

#[test]
fn old_return_addresses_are_passed_over() {
    // 0x125 and 0x15 are returns; 0x130 follows no call, 0x15 is also there too early.
    let words = [0x130, 0x15, 0x125, 0x3, 0x15];
    assert_eq!(callers(with(&[]), 0x210, &words), [0x125, 0x15]);
    // Nobody called what was hit.
    assert_eq!(callers(with(&[]), 0x310, &[0x125]), [0u64; 0]);
}

#[test]
fn a_jump_at_the_end_of_a_function_is_followed() {
    let words = [0x125, 0x15];
    // leaf jumps to tail, or to hop by a short jump, which jumps to tail.
    let direct = with(&[(0x230, near(0xe9, 0x230, 0x300))]);
    assert_eq!(callers(direct, 0x310, &words), words);
    let short = (0x4f0u64, vec![0xeb, 0x0e]);
    let twice = with(&[
        (0x230, near(0xe9, 0x230, 0x400)),
        short,
        (0x520, near(0xe9, 0x520, 0x300)),
    ]);
    assert_eq!(callers(twice, 0x310, &words), words);
}

#[test]
fn so_many_jumps_in_a_row_are_followed() {
    // leaf to hop to the thunk to tail to root.
    let hops = |count: usize| {
        let all = [(0x230, 0x500), (0x510, 0x400), (0x410, 0x300), (0x310, 0)];
        let hops = all.iter().take(count);
        let hops = hops.map(|(from, to)| (*from, near(0xe9, *from, *to)));
        with(&hops.collect::<Vec<_>>())
    };
    assert_eq!(callers(hops(3), 0x310, &[0x125]), [0x125]);
    assert_eq!(callers(hops(4), 0x10, &[0x125]), [0u64; 0]);
}

/// 1,024 functions that each call one and jump to 16 others.
fn jumpy() -> (Scan, SymbolTable) {
    const COUNT: u64 = 1024;
    let names: Vec<String> = (0..COUNT).map(|number| format!("f{number}")).collect();
    let functions: Vec<_> = (0..COUNT)
        .map(|number| (TEXT + number * 0x100, names[number as usize].as_str()))
        .collect();
    let mut bytes = vec![0x90; 0x100 * COUNT as usize];
    let mut put = |at: u64, opcode, to: u64| {
        bytes[at as usize..][..5].copy_from_slice(&near(opcode, at, to % COUNT * 0x100));
    };
    for number in 0..COUNT {
        put(number * 0x100, 0xe8, number * 7 + 1);
        for jump in 0..16 {
            put(
                number * 0x100 + 0x10 + jump * 5,
                0xe9,
                number + 3 + jump * 61,
            );
        }
    }
    let code = vec![KernelSection {
        address: TEXT,
        bytes,
    }];
    let table = SymbolTable::of(&functions).shifted_by(SHIFT);
    (Scan::new(code, SHIFT), table)
}

#[test]
fn what_was_found_out_once_is_not_looked_for_again() {
    let (mut scan, table) = jumpy();
    let words: Vec<u64> = (0..100).map(|number| number * 0x300 + 5).collect();
    let mut work = Budget::of(1 << 30);
    let mut took = || {
        let before = work.left();
        found(&mut scan, &table, 0x3_ff20, &words, &mut work);
        before - work.left()
    };
    let first = took();
    // Each word, and each pair of the 64 candidates and the function that was hit.
    let pairs = 100 + 64 * 63 / 2 + 64;
    assert!(first > pairs);
    // Each byte of the code once, at most.
    assert!(first <= pairs + 1024 * 0x100, "{first}");
    assert_eq!(took(), pairs);
    let reached = scan.reached.values().map(Vec::len);
    assert_eq!(reached.max(), Some(MAX_REACHED));
}

#[test]
fn looking_for_jumps_ends_when_there_is_no_work_left() {
    let (mut scan, table) = jumpy();
    let words: Vec<u64> = (0..64).map(|number| number * 0x300 + 5).collect();
    let mut work = Budget::of(3000);
    found(&mut scan, &table, 0x3_ff20, &words, &mut work);
    assert!(work.is_used_up());
    // The bytes of one function more than there was work for, at most.
    assert!(scan.jumps.len() <= 3000 / 0x100 + 1, "{}", scan.jumps.len());
    let place = Place {
        rip: TEXT + SHIFT,
        ..Place::default()
    };
    let mut samples = Samples::new();
    samples.push(1, Activity::Guest, place, &[]);
    let sample = samples.iter().next().unwrap();
    let mut unwinder = super::super::Unwinder::Scan(scan);
    assert_eq!(unwinder.callers(&sample, &table, &mut work), None);
    let mut plenty = Budget::of(1000);
    assert_eq!(unwinder.callers(&sample, &table, &mut plenty), Some(vec![]));
}

#[test]
fn indirect_calls_and_their_thunks_are_calls() {
    for call in [
        vec![0xff, 0xd0],
        vec![0xff, 0x50, 8],
        vec![0xff, 0x54, 0x24, 8],
        vec![0xff, 0x93, 0, 1, 0, 0],
        vec![0xff, 0x15, 0, 1, 0, 0],
        vec![0x41, 0xff, 0xd4],
        near(0xe8, 0x140, 0x400),
    ] {
        let end = 0x140 + call.len() as u64;
        let words = [end, 0x15];
        assert_eq!(callers(with(&[(0x140, call)]), 0x310, &words), words);
    }
    // JMP and PUSH have the same opcode.
    for other in [vec![0xff, 0xe0], vec![0xff, 0x70, 8]] {
        let words = [0x140 + other.len() as u64];
        let found = callers(with(&[(0x140, other)]), 0x310, &words);
        assert_eq!(found, [0u64; 0]);
    }
}

proptest! {
    #[test]
    fn hostile_code_and_stacks_end(
        bytes in prop::collection::vec(any::<u8>(), 0x600),
        words in prop::collection::vec(0u64..0x700, 0..300),
        leaf in 0u64..0x600,
    ) {
        let found = callers(code(&[(0, &bytes)]), leaf, &words);
        prop_assert!(found.len() <= MAX_CANDIDATES);
    }
}
