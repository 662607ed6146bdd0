//! How vector instructions form addresses, and those without an operand that names what they do.

use super::super::exception::Exception;
use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, RIP};
use super::forms::*;
use super::harness::differences;
use super::processor::Processor;
use super::registers as guest;

/// 64 bytes that tell their places, at KERNEL_DATA + 0x200.
const HERE: u64 = KERNEL_DATA + 0x200;

fn machine() -> Machine {
    let machine = guest::machine();
    let bytes: [u8; 64] = std::array::from_fn(|at| at as u8 + 1);
    machine.ram.write(HERE, &bytes).unwrap();
    machine
}

fn loaded(machine: &mut Machine, code: &[u8]) -> [u8; 16] {
    machine.run(code).unwrap();
    guest::vector(machine, 1)[..16].try_into().unwrap()
}

const EXPECTED: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// Machine code with text that no assembler sees.
fn code(text: &'static str, code: &'static [u8]) -> Form {
    Form { text, code }
}

#[test]
fn addresses_add_up() {
    let mut machine = machine();
    (machine.regs.rbx, machine.regs.r9) = (HERE - 0x30, 8);
    // MOVDQU xmm1, [rbx + r9 * 4 + 0x10]
    let bytes = [0xf3, 0x42, 0x0f, 0x6f, 0x4c, 0x8b, 0x10];
    assert_eq!(loaded(&mut machine, &bytes), EXPECTED);
    assert_eq!(machine.regs.rip, RIP + 7);
}

#[test]
fn only_fs_and_gs_have_a_base() {
    let mut machine = machine();
    machine.sregs.gs.base = HERE - 0x40;
    machine.sregs.ds.base = 0x9990;
    machine.regs.rax = 0x40;
    // MOVDQU xmm1, gs:[rax]; the same with the prefix of DS.
    let bytes = [0x65, 0xf3, 0x0f, 0x6f, 0x08];
    assert_eq!(loaded(&mut machine, &bytes), EXPECTED);
    machine.regs.rax = HERE;
    let bytes = [0x3e, 0xf3, 0x0f, 0x6f, 0x08];
    assert_eq!(loaded(&mut machine, &bytes), EXPECTED);
}

#[test]
fn rip_relative_counts_from_the_next_instruction() {
    // PSHUFD xmm1, [rip - n], 0xe4: the immediate comes after the displacement.
    let mut machine = machine();
    let next = RIP + 9;
    let displacement = (HERE as i64 - next as i64) as i32;
    let mut bytes = vec![0x66, 0x0f, 0x70, 0x0d];
    bytes.extend(displacement.to_le_bytes());
    bytes.push(0xe4);
    assert_eq!(loaded(&mut machine, &bytes), EXPECTED);
    assert_eq!(machine.regs.rip, next);
}

#[test]
fn a_32_bit_address_drops_the_upper_half() {
    let mut machine = machine();
    machine.regs.rax = 5 << 32 | HERE;
    // MOVDQU xmm1, [eax]
    assert_eq!(
        loaded(&mut machine, &[0x67, 0xf3, 0x0f, 0x6f, 0x08]),
        EXPECTED
    );
}

#[test]
fn addresses_that_are_not_canonical() {
    let mut machine = machine();
    (machine.regs.rax, machine.regs.rsp) = (1 << 47, 1 << 47);
    // MOVDQU xmm1, [rax]; MOVDQU xmm1, [rsp]
    let fault = machine.fault(&[0xf3, 0x0f, 0x6f, 0x08]);
    assert_eq!(fault, Exception::general_protection());
    let fault = machine.fault(&[0xf3, 0x0f, 0x6f, 0x0c, 0x24]);
    assert_eq!(fault, Exception::stack_fault());
}

/// An 8-bit displacement of an EVEX instruction counts in units of its memory operand (SDM vol. 2 §2.7.5).
#[test]
fn compressed_displacements() {
    // VMOVDQU64 xmm1, [rax + 2 * 16]; VPBROADCASTD xmm1, [rax + 2 * 4]; VPORD xmm1, xmm1, [rax + 2 * 4]{1to4}
    let forms = [
        (
            code("vmovdqu64", &[0x62, 0xf1, 0xfe, 0x08, 0x6f, 0x48, 0x02]),
            32,
        ),
        (
            code("vpbroadcastd", &[0x62, 0xf2, 0x7d, 0x08, 0x58, 0x48, 0x02]),
            8,
        ),
        (
            code("vpord", &[0x62, 0xf1, 0x75, 0x18, 0xeb, 0x48, 0x02]),
            8,
        ),
    ];
    for (form, distance) in forms {
        let mut machine = machine();
        machine.regs.rax = HERE - distance;
        if !Processor::Host.has("avx512vl") {
            assert_eq!(machine.fault(form.code), Exception::invalid_opcode());
            continue;
        }
        assert_eq!(
            loaded(&mut machine, form.code)[..4],
            EXPECTED[..4],
            "{}",
            form.text
        );
    }
}

/// Dirty only what was written, accessed what was read (SDM vol. 3 §4.8).
#[test]
fn accessed_and_dirty_bits() {
    const ENTRY: u64 = 0x4000;
    let forms = forms![
        "movdqu xmm1, xmmword ptr [rdi]",
        "movdqu xmmword ptr [rdi], xmm1",
        "vmovdqu32 zmmword ptr [rdi] {k1}, zmm1",
    ];
    for (form, bits) in forms.iter().zip([0x20, 0x60, 0]) {
        let mut machine = machine();
        machine.regs.rdi = HERE;
        machine.ram.write_u64(ENTRY, 0x83).unwrap();
        if form.is_evex() && !Processor::Host.has("avx512f") {
            assert_eq!(machine.fault(form.code), Exception::invalid_opcode());
            continue;
        }
        machine.run(form.code).unwrap();
        let entry = machine.ram.read_u64(ENTRY).unwrap();
        assert_eq!(entry & 0x60, bits, "{}", form.text);
    }
}

#[test]
fn registers_are_cleared_all_at_once() {
    // VZEROUPPER, VZEROALL: registers 0 to 15 alone, above their first 16 bytes or whole.
    for (bytes, kept) in [([0xc5, 0xf8, 0x77], 16), ([0xc5, 0xfc, 0x77], 0)] {
        let (mut machine, mut expected) = (machine(), machine());
        for number in 0..32 {
            let value = [number as u8 + 1; 64];
            guest::set_vector(&mut machine, number, &value);
            let mut value = value;
            if number < 16 {
                value[kept..].fill(0);
            }
            guest::set_vector(&mut expected, number, &value);
        }
        expected.regs.rip += 3;
        if !Processor::Host.has("avx") {
            assert_eq!(machine.fault(&bytes), Exception::invalid_opcode());
            continue;
        }
        machine.run(&bytes).unwrap();
        differences(&mut machine, &expected).unwrap();
        machine.state.xcr0 = 3;
        assert_eq!(machine.fault(&bytes), Exception::invalid_opcode());
    }
}

/// MASKMOVDQU: the bytes whose mask has its sign set, at RDI.
#[test]
fn bytes_stored_by_sign() {
    let mut machine = machine();
    let mask = std::array::from_fn(|at| if at % 3 == 0 { 0x80 } else { 0x7f });
    guest::set_vector(&mut machine, 1, &[0xaa; 64]);
    guest::set_vector(&mut machine, 2, &mask);
    machine.regs.rdi = HERE + 1;
    // MASKMOVDQU xmm1, xmm2
    let bytes = [0x66, 0x0f, 0xf7, 0xca];
    machine.run(&bytes).unwrap();
    let mut found = [0; 18];
    machine.ram.read(HERE, &mut found).unwrap();
    for (at, byte) in found.into_iter().enumerate() {
        let stored = (1..17).contains(&at) && (at - 1) % 3 == 0;
        assert_eq!(byte, if stored { 0xaa } else { at as u8 + 1 }, "byte {at}");
    }
    // The third byte of those stored is the first past the end.
    machine.regs.rdi = END_OF_MAP - 6;
    let fault = machine.fault(&bytes);
    assert_eq!(fault, Exception::page_fault(END_OF_MAP, 2));
}

/// The VEX forms of VNNI are an extension of their own.
#[test]
fn a_host_may_have_one_encoding_and_not_the_other() {
    // VPDPBUSD ymm1, ymm2, ymm3 with VEX.
    let bytes = [0xc4, 0xe2, 0x6d, 0x50, 0xcb];
    let mut machine = machine();
    let result = machine.run(&bytes);
    if Processor::Host.has("avxvnni") {
        result.unwrap();
    } else {
        let mut again = guest::machine();
        assert_eq!(again.fault(&bytes), Exception::invalid_opcode());
    }
}
