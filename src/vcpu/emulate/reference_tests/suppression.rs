//! Opmasks and faults, class by class of SDM vol. 2 §2.8; and encodings that no processor takes.

use super::super::error::Stop;
use super::super::exception::Exception;
use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine};
use super::forms::*;
use super::harness::{differences, same};
use super::processor::Processor;
use super::registers as guest;

fn machine(address: u64, mask: u64) -> Machine {
    let mut machine = guest::machine();
    machine.regs.rdi = address;
    guest::set_mask(&mut machine, 1, mask);
    for number in 0..32 {
        let vector = std::array::from_fn(|at| (at * 5 + number) as u8);
        guest::set_vector(&mut machine, number, &vector);
    }
    machine
}

/// `#UD` where the host lacks the instruction.
fn is_unknown(form: &Form, feature: &str) -> bool {
    let unknown = !(Processor::Host.has(feature) && Processor::Host.has("avx512vl"));
    if unknown {
        let fault = machine(KERNEL_DATA, 1).fault(form.code);
        assert_eq!(fault, Exception::invalid_opcode(), "{}", form.text);
    }
    unknown
}

fn assert_runs(form: &Form, address: u64, mask: u64) {
    if let Err(stop) = machine(address, mask).run(form.code) {
        panic!("{} with {mask:#x}: {stop:?}", form.text);
    }
}

fn assert_faults(form: &Form, address: u64, mask: u64, write: u32) {
    let mut machine = machine(address, mask);
    let mut before = guest::machine();
    same(&machine, &mut before);
    let fault = machine.fault(form.code);
    let expected = Exception::page_fault(END_OF_MAP, write);
    assert_eq!(fault, expected, "{} with {mask:#x}", form.text);
    differences(&mut machine, &before).unwrap_or_else(|text| panic!("{}: {text}", form.text));
}

/// As many elements lie in memory as the mask has bits, one after the other.
#[test]
fn compressed_elements_take_no_more_than_they_need() {
    let rows = [
        (
            forms!["vpcompressd zmmword ptr [rdi] {k1}, zmm17"],
            "avx512f",
            2,
            4,
        ),
        (
            forms!["vpcompressb zmmword ptr [rdi] {k1}, zmm17"],
            "avx512vbmi2",
            2,
            1,
        ),
        (
            forms!["vpexpandd zmm17 {k1}, zmmword ptr [rdi]"],
            "avx512f",
            0,
            4,
        ),
        (
            forms!["vpexpandd zmm17 {k1} {z}, zmmword ptr [rdi]"],
            "avx512f",
            0,
            4,
        ),
        (
            forms!["vpexpandb zmm17 {k1} {z}, zmmword ptr [rdi]"],
            "avx512vbmi2",
            0,
            1,
        ),
    ];
    for (forms, feature, write, size) in rows {
        let form = &forms[0];
        if is_unknown(form, feature) {
            continue;
        }
        // Four bits, far apart.
        let mask = 0b1001_0000_1000_0001;
        assert_runs(form, END_OF_MAP - 4 * size, mask);
        assert_faults(form, END_OF_MAP - 3 * size, mask, write);
        assert_runs(form, END_OF_MAP, 0);
    }
}

/// Classes E5 and E6: an element of memory for each of the destination or of the source.
#[test]
fn elements_of_another_size_are_left_out_too() {
    let rows = [
        (
            forms!["vpmovzxbd zmm17 {k1}, xmmword ptr [rdi]"],
            "avx512f",
            0,
            1,
        ),
        (
            forms!["vpmovsxwq zmm17 {k1} {z}, xmmword ptr [rdi]"],
            "avx512f",
            0,
            2,
        ),
        (
            forms!["vcvtdq2pd zmm17 {k1}, ymmword ptr [rdi]"],
            "avx512f",
            0,
            4,
        ),
        (
            forms!["vcvtps2pd zmm17 {k1}, ymmword ptr [rdi]"],
            "avx512f",
            0,
            4,
        ),
        (
            forms!["vpmovqb qword ptr [rdi] {k1}, zmm17"],
            "avx512f",
            2,
            1,
        ),
        (
            forms!["vpmovdw ymmword ptr [rdi] {k1}, zmm17"],
            "avx512f",
            2,
            2,
        ),
        (
            forms!["vmovdqu8 zmm17 {k1}, zmmword ptr [rdi]"],
            "avx512bw",
            0,
            1,
        ),
        (
            forms!["vmovdqu16 zmmword ptr [rdi] {k1}, zmm17"],
            "avx512bw",
            2,
            2,
        ),
        (
            forms!["vpaddb zmm17 {k1}, zmm3, zmmword ptr [rdi]"],
            "avx512bw",
            0,
            1,
        ),
        (
            forms!["vpcmpub k2 {k1}, zmm3, zmmword ptr [rdi], 1"],
            "avx512bw",
            0,
            1,
        ),
        (
            forms!["vpabsd zmm17 {k1}, zmmword ptr [rdi]"],
            "avx512f",
            0,
            4,
        ),
        (
            forms!["vprold zmm17 {k1}, zmmword ptr [rdi], 7"],
            "avx512f",
            0,
            4,
        ),
        (
            forms!["vpmadd52luq zmm17 {k1}, zmm3, zmmword ptr [rdi]"],
            "avx512ifma",
            0,
            8,
        ),
        (
            forms!["vfmadd231pd zmm17 {k1}, zmm3, zmmword ptr [rdi]"],
            "avx512f",
            0,
            8,
        ),
    ];
    for (forms, feature, write, size) in rows {
        let form = &forms[0];
        if is_unknown(form, feature) {
            continue;
        }
        assert_runs(form, END_OF_MAP - 3 * size, 0b111);
        assert_faults(form, END_OF_MAP - 3 * size, 0b1111, write);
        assert_runs(form, END_OF_MAP, 0);
    }
}

#[test]
fn single_elements_are_left_out_too() {
    let rows = [
        (forms!["vmovss xmm17 {k1}, dword ptr [rdi]"], 0),
        (forms!["vmovsd qword ptr [rdi] {k1}, xmm17"], 2),
        (forms!["vaddss xmm17 {k1}, xmm3, dword ptr [rdi]"], 0),
        (forms!["vsqrtsd xmm17 {k1} {z}, xmm3, qword ptr [rdi]"], 0),
        (forms!["vpbroadcastd zmm17 {k1}, dword ptr [rdi]"], 0),
        (forms!["vbroadcasti32x4 zmm17 {k1}, xmmword ptr [rdi]"], 0),
        (forms!["vpord zmm17 {k1}, zmm3, dword ptr [rdi]{1to16}"], 0),
    ];
    for (forms, write) in rows {
        let form = &forms[0];
        if is_unknown(form, "avx512f") {
            continue;
        }
        // Of a scalar's mask only bit 0 counts; of 16 elements the low 16.
        let beyond = if form.text.contains("zmm17") {
            1 << 16
        } else {
            2
        };
        assert_runs(form, END_OF_MAP, beyond);
        assert_faults(form, END_OF_MAP, 1, write);
    }
}

fn feature_of(form: &Form) -> &'static str {
    match form.mnemonic() {
        "vpconflictd" => "avx512cd",
        "vpmultishiftqb" => "avx512vbmi",
        "vgf2p8affineqb" => "gfni",
        _ => "avx512bw",
    }
}

/// Classes E4NF, E5NF and E6NF: all of the operand is read, or could be written.
#[test]
fn some_use_all_of_their_operand() {
    let half_a_register = forms![
        "vpshufb zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpunpcklbw zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpackssdw zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpackuswb zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "valignd zmm17 {k1}, zmm3, zmmword ptr [rdi], 1",
        "vpalignr zmm17 {k1}, zmm3, zmmword ptr [rdi], 1",
        "vpermw zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpermq zmm17 {k1}, zmmword ptr [rdi], 27",
        "vpermt2w zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpermilps zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vshufi32x4 zmm17 {k1}, zmm3, zmmword ptr [rdi], 27",
        "vpmaddwd zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpmaddubsw zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vdbpsadbw zmm17 {k1}, zmm3, zmmword ptr [rdi], 1",
        "vmovddup zmm17 {k1}, zmmword ptr [rdi]",
        "vmovshdup zmm17 {k1}, zmmword ptr [rdi]",
        "vpconflictd zmm17 {k1}, zmmword ptr [rdi]",
        "vpmultishiftqb zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vgf2p8affineqb zmm17 {k1}, zmm3, zmmword ptr [rdi], 1",
    ];
    let half_a_block = forms![
        "vpslld zmm17 {k1}, zmm3, xmmword ptr [rdi]",
        "vpsraw zmm17 {k1}, zmm3, xmmword ptr [rdi]",
        "vinserti32x4 zmm17 {k1}, zmm3, xmmword ptr [rdi], 1",
        "vextracti32x4 xmmword ptr [rdi] {k1}, zmm3, 1",
    ];
    let mut wrong = Vec::new();
    for (forms, beyond) in [(half_a_register, 32), (half_a_block, 8)] {
        for form in &forms {
            if is_unknown(form, feature_of(form)) {
                continue;
            }
            let write = if form.text.starts_with("vextract") {
                2
            } else {
                0
            };
            let result = machine(END_OF_MAP - beyond, 1).run(form.code);
            let fault = Exception::page_fault(END_OF_MAP, write);
            if !matches!(result, Err(Stop::Fault(found)) if found == fault) {
                wrong.push(format!("{}: {result:?}", form.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Combinations that the manual reserves.
#[test]
fn reserved_encodings_are_unknown() {
    let codes: [(&str, &[u8]); 12] = [
        ("LOCK PADDD xmm1, xmm2", &[0xf0, 0x66, 0x0f, 0xfe, 0xca]),
        (
            "LOCK VPADDD xmm1, xmm2, xmm3",
            &[0xf0, 0xc5, 0xe9, 0xfe, 0xcb],
        ),
        ("66 before VEX", &[0x66, 0xc5, 0xe9, 0xfe, 0xcb]),
        ("REX before VEX", &[0x48, 0xc5, 0xe9, 0xfe, 0xcb]),
        ("VPSHUFD with VEX.vvvv", &[0xc5, 0xe9, 0x70, 0xcb, 0x1b]),
        ("VMOVD with VEX.L", &[0xc5, 0xfd, 0x6e, 0xc8]),
        ("VPADDD zmm1 {k0}{z}", &[0x62, 0xf1, 0x65, 0xc8, 0xfe, 0xcc]),
        (
            "VMOVDQU32 [rdi] {k1}{z}",
            &[0x62, 0xf1, 0x7e, 0xc9, 0x7f, 0x0f],
        ),
        (
            "VPADDD with EVEX.b on registers",
            &[0x62, 0xf1, 0x65, 0x58, 0xfe, 0xcc],
        ),
        (
            "VPADDB with EVEX.b on memory",
            &[0x62, 0xf1, 0x65, 0x58, 0xfc, 0x0f],
        ),
        (
            "VPADDD with EVEX.L'L = 3",
            &[0x62, 0xf1, 0x65, 0x68, 0xfe, 0xcc],
        ),
        (
            "VPCMPUD k1 {z}",
            &[0x62, 0xf3, 0x65, 0xc9, 0x1e, 0xcc, 0x00],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, code) in codes {
        let mut machine = machine(KERNEL_DATA, 1);
        let result = machine.run(code);
        let unknown = Exception::invalid_opcode();
        if !matches!(result, Err(Stop::Fault(fault)) if fault == unknown) {
            wrong.push(format!("{name}: {result:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// 32-bit code has the same instructions, and 32-bit addresses.
#[test]
fn code_of_32_bits() {
    let mut machine = machine(KERNEL_DATA, 1);
    machine.sregs.cs.l = 0;
    machine.sregs.cs.db = 1;
    machine.ram.write(KERNEL_DATA, &[0x11; 32]).unwrap();
    machine.regs.rax = KERNEL_DATA;
    // PADDB xmm1, [eax]
    machine.run(&[0x66, 0x0f, 0xfc, 0x08]).unwrap();
    let expected: [u8; 16] = std::array::from_fn(|at| (at * 5 + 1) as u8 + 0x11);
    assert_eq!(guest::vector(&machine, 1)[..16], expected);
}
