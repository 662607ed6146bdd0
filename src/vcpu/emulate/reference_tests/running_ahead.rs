//! Loops as kernels have them, run ahead: what is done at a fault is what precedes it, no more and no less.

use super::super::error::Stop;
use super::super::exception::Exception;
use super::super::run_ahead;
use super::super::testing::{KERNEL_DATA, Machine, RIP, USER_DATA};
use super::forms::*;
use super::registers as guest;

/// RAID's parity: four sources of 64 bytes each into a fifth, RCX times.
fn parity() -> Vec<Form> {
    forms![
        "movdqu xmm0, xmmword ptr [rdi]",
        "movdqu xmm1, xmmword ptr [rsi]",
        "pxor xmm0, xmm1",
        "movdqu xmm2, xmmword ptr [rdx]",
        "pxor xmm0, xmm2",
        "movdqu xmmword ptr [rbx], xmm0",
        "add rdi, 16",
        "add rsi, 16",
        "add rdx, 16",
        "add rbx, 16",
        "inc r8",
        "cmp r8, rcx",
    ]
}

/// The loop in memory, closed by JNE and followed by HLT, which KVM executes.
fn load(machine: &mut Machine, body: &[Form]) -> Vec<u64> {
    let mut code = Vec::new();
    let mut starts = Vec::new();
    for form in body {
        starts.push(RIP + code.len() as u64);
        code.extend_from_slice(form.code);
    }
    starts.push(RIP + code.len() as u64);
    let back = -(code.len() as i8) - 2;
    code.extend([0x75, back as u8, 0xf4]);
    machine.ram.write(RIP, &code).unwrap();
    machine.regs.rip = RIP;
    starts
}

fn go(machine: &mut Machine) -> Result<(), Stop> {
    let mut counts = vec![0; iced_x86::Mnemonic::values().len()];
    let mut cpu = machine.cpu();
    let result = run_ahead::run(&mut cpu, &mut counts);
    let (regs, sregs) = (cpu.regs, cpu.sregs);
    (machine.regs, machine.sregs) = (regs, sregs);
    result
}

/// Goes on until the HLT, as KVM would by failing again.
fn finish(machine: &mut Machine) {
    for _ in 0..64 {
        go(machine).unwrap();
        let mut byte = [0];
        machine.ram.read(machine.regs.rip, &mut byte).unwrap();
        if byte == [0xf4] {
            return;
        }
    }
    panic!("no end at {:#x}", machine.regs.rip);
}

const ROUNDS: u64 = 40;
const FIRST: u64 = KERNEL_DATA;
const SECOND: u64 = KERNEL_DATA + 0x1000;
/// The third source ends, and the destination begins, beside the page that goes missing.
const THIRD: u64 = USER_DATA - 16 * 25;
const RESULT: u64 = KERNEL_DATA + 0x4008;

fn machine() -> Machine {
    let mut machine = guest::machine();
    for (base, seed) in [(FIRST, 3u64), (SECOND, 5), (THIRD, 7)] {
        for word in 0..ROUNDS * 2 {
            let value = (word + 1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(seed as u32);
            machine.ram.write_u64(base + word * 8, value).unwrap();
        }
    }
    let regs = &mut machine.regs;
    (regs.rdi, regs.rsi, regs.rdx, regs.rbx) = (FIRST, SECOND, THIRD, RESULT);
    (regs.rcx, regs.r8) = (ROUNDS, 0);
    machine
}

fn expected(machine: &Machine, word: u64) -> u64 {
    [FIRST, SECOND, THIRD]
        .iter()
        .map(|base| machine.ram.read_u64(base + word * 8).unwrap())
        .fold(0, |sum, word| sum ^ word)
}

fn assert_rounds_done(machine: &Machine, rounds: u64) {
    for word in 0..ROUNDS * 2 {
        let should = if word < rounds * 2 {
            expected(machine, word)
        } else {
            0
        };
        let is = machine.ram.read_u64(RESULT + word * 8).unwrap();
        assert_eq!(is, should, "word {word} of {rounds} rounds");
    }
}

#[test]
fn a_parity_loop_runs_to_its_end() {
    let mut machine = machine();
    load(&mut machine, &parity());
    finish(&mut machine);
    assert_rounds_done(&machine, ROUNDS);
    assert_eq!(machine.regs.r8, ROUNDS);
    assert_eq!(machine.regs.rbx, RESULT + 16 * ROUNDS);
}

#[test]
fn a_missing_page_stops_it_where_it_is_read() {
    let mut machine = machine();
    let body = parity();
    let starts = load(&mut machine, &body);
    // From round 25 on the third source is missing.
    machine.ram.write_u64(0x4008, 0).unwrap();
    let result = go(&mut machine);
    let fault = Exception::page_fault(USER_DATA, 0);
    assert!(
        matches!(result, Err(Stop::Fault(found)) if found == fault),
        "{result:?}"
    );
    assert_eq!(machine.regs.rip, starts[3], "the load of the third source");
    assert_eq!(machine.regs.r8, 25);
    assert_eq!(machine.regs.rdi, FIRST + 16 * 25, "not yet advanced");
    assert_rounds_done(&machine, 25);
    // XMM0 has the first two sources of this round, XMM2 still that of the last.
    let word = |base: u64| machine.ram.read_u64(base + 16 * 25).unwrap();
    let partial = word(FIRST) ^ word(SECOND);
    assert_eq!(guest::vector(&machine, 0)[..8], partial.to_le_bytes());
    let last = machine.ram.read_u64(THIRD + 16 * 24).unwrap();
    assert_eq!(guest::vector(&machine, 2)[..8], last.to_le_bytes());
    // The guest mends it and runs the instruction anew.
    machine.ram.write_u64(0x4008, 0x20_0083).unwrap();
    finish(&mut machine);
    assert_rounds_done(&machine, ROUNDS);
}

#[test]
fn a_read_only_page_stops_it_before_the_store() {
    let mut machine = machine();
    let body = parity();
    let starts = load(&mut machine, &body);
    // Ten rounds fit before the page boundary, the eleventh lies across it.
    machine.regs.rbx = USER_DATA - 168;
    // The third source lies elsewhere, for it would be written over.
    machine.regs.rdx = SECOND;
    machine.ram.write_u64(0x4008, 0x20_0081).unwrap();
    let result = go(&mut machine);
    let fault = Exception::page_fault(USER_DATA, 3);
    assert!(
        matches!(result, Err(Stop::Fault(found)) if found == fault),
        "{result:?}"
    );
    assert_eq!((machine.regs.rip, machine.regs.r8), (starts[5], 10));
    // The second and third sources being the same, the first is the result.
    for word in 0..20 {
        let is = machine.ram.read_u64(USER_DATA - 168 + word * 8).unwrap();
        assert_eq!(is, machine.ram.read_u64(FIRST + word * 8).unwrap());
    }
    let untouched = machine.ram.read_u64(USER_DATA).unwrap();
    assert_eq!(
        untouched,
        machine_word(USER_DATA),
        "no part of the eleventh is written"
    );
}

/// What a fresh machine has in memory.
fn machine_word(at: u64) -> u64 {
    machine().ram.read_u64(at).unwrap()
}

#[test]
fn an_unmasked_floating_point_exception_stops_it() {
    let mut machine = guest::machine();
    machine.sregs.cr4 |= 1 << 10;
    let body = forms![
        "paddd xmm3, xmm3",
        "divss xmm1, xmm2",
        "paddd xmm3, xmm3",
        "cmp rcx, rcx",
    ];
    let starts = load(&mut machine, &body);
    let mut ones = [0; 64];
    ones[..4].copy_from_slice(&1u32.to_le_bytes());
    guest::set_vector(&mut machine, 3, &ones);
    let mut one = [0; 64];
    one[..4].copy_from_slice(&1f32.to_le_bytes());
    guest::set_vector(&mut machine, 1, &one);
    guest::set_mxcsr(&mut machine, 0x1f80 & !(4 << 7));
    let result = go(&mut machine);
    assert!(
        matches!(result, Err(Stop::Fault(Exception { vector: 19, .. }))),
        "{result:?}"
    );
    assert_eq!(machine.regs.rip, starts[1]);
    assert_eq!(guest::vector(&machine, 3)[0], 2, "one of two sums is done");
    assert_eq!(guest::vector(&machine, 1), one);
    assert_eq!(guest::mxcsr(&machine) & 0x3f, 4);
}

#[test]
fn what_is_not_enabled_stops_it() {
    let mut machine = guest::machine();
    machine.state.xcr0 = 7;
    let body = forms![
        "paddd xmm3, xmm3",
        "kmovw k1, eax",
        "paddd xmm3, xmm3",
        "cmp rcx, rcx",
    ];
    let starts = load(&mut machine, &body);
    guest::set_vector(&mut machine, 3, &[1; 64]);
    let result = go(&mut machine);
    let unknown = Exception::invalid_opcode();
    assert!(
        matches!(result, Err(Stop::Fault(found)) if found == unknown),
        "{result:?}"
    );
    assert_eq!(machine.regs.rip, starts[1]);
    assert_eq!(guest::vector(&machine, 3)[..16], [2; 16]);
}
