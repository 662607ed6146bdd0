//! Memory operands: alignment, pages that are missing, elements left out, devices.

use std::sync::{Arc, Mutex};

use super::super::exception::Exception;
use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, USER_DATA};
use super::forms::*;
use super::harness::{differences, randomize, same};
use super::processor::Processor;
use super::random::Random;
use super::registers as guest;
use crate::devices::BusDevice;

/// A machine with random registers, RDI at `address`, and one like it to compare with.
fn machines(form: &Form, address: u64) -> (Machine, Machine) {
    let (mut machine, mut copy) = (guest::machine(), guest::machine());
    randomize(&mut machine, form, &mut Random::new(7));
    machine.regs.rdi = address;
    same(&machine, &mut copy);
    (machine, copy)
}

/// What the host cannot execute must be `#UD`; true if that was it.
fn is_unknown(form: &Form, feature: &str) -> bool {
    if Processor::Host.has(feature) {
        return false;
    }
    let fault = machines(form, KERNEL_DATA).0.fault(form.code);
    assert_eq!(fault, Exception::invalid_opcode(), "{}", form.text);
    true
}

/// Runs `form`, which must fault and change nothing a guest can see.
fn assert_faults(form: &Form, address: u64, prepare: impl Fn(&mut Machine), fault: Exception) {
    let (mut machine, mut before) = machines(form, address);
    prepare(&mut machine);
    prepare(&mut before);
    assert_eq!(machine.fault(form.code), fault, "{}", form.text);
    if let Err(difference) = differences(&mut machine, &before) {
        panic!("{}: {difference}", form.text);
    }
}

fn assert_runs(form: &Form, address: u64) -> Machine {
    let (mut machine, _) = machines(form, address);
    if let Err(stop) = machine.run(form.code) {
        panic!("{}: {stop:?}", form.text);
    }
    machine
}

#[test]
fn sse_operands_of_16_bytes_are_aligned() {
    let forms = forms![
        "paddd xmm1, xmmword ptr [rdi]",
        "pshufd xmm1, xmmword ptr [rdi], 27",
        "pxor xmm1, xmmword ptr [rdi]",
        "addps xmm1, xmmword ptr [rdi]",
        "movaps xmm1, xmmword ptr [rdi]",
        "movdqa xmm1, xmmword ptr [rdi]",
        "movdqa xmmword ptr [rdi], xmm1",
        "movntdq xmmword ptr [rdi], xmm1",
        "movntdqa xmm1, xmmword ptr [rdi]",
        "psllw xmm1, xmmword ptr [rdi]",
        "punpcklbw xmm1, xmmword ptr [rdi]",
        "movshdup xmm1, xmmword ptr [rdi]",
        "cvtdq2ps xmm1, xmmword ptr [rdi]",
    ];
    for form in &forms {
        for offset in [1, 4, 8, 15] {
            let address = KERNEL_DATA + offset;
            assert_faults(form, address, |_| {}, Exception::general_protection());
        }
        assert_runs(form, KERNEL_DATA + 16);
    }
    for (form, feature) in forms![
        "ptest xmm1, xmmword ptr [rdi]",
        "aesenc xmm1, xmmword ptr [rdi]",
        "pclmulqdq xmm1, xmmword ptr [rdi], 1",
        "sha256msg1 xmm1, xmmword ptr [rdi]",
        "gf2p8mulb xmm1, xmmword ptr [rdi]",
    ]
    .iter()
    .zip(["sse4.1", "aes", "pclmulqdq", "sha", "gfni"])
    {
        if !is_unknown(form, feature) {
            assert_faults(
                form,
                KERNEL_DATA + 8,
                |_| {},
                Exception::general_protection(),
            );
            assert_runs(form, KERNEL_DATA + 32);
        }
    }
}

/// Alignment comes before the page walk.
#[test]
fn misaligned_and_missing_is_general_protection() {
    let form = &forms!["paddd xmm1, xmmword ptr [rdi]"][0];
    assert_faults(
        form,
        END_OF_MAP + 4,
        |_| {},
        Exception::general_protection(),
    );
    assert_faults(
        form,
        END_OF_MAP,
        |_| {},
        Exception::page_fault(END_OF_MAP, 0),
    );
    assert_faults(form, 1 << 47, |_| {}, Exception::general_protection());
}

#[test]
fn vex_and_evex_moves_that_say_so_are_aligned_to_their_length() {
    let forms = forms![
        "vmovdqa xmm1, xmmword ptr [rdi]",
        "vmovaps ymm1, ymmword ptr [rdi]",
        "vmovdqa ymmword ptr [rdi], ymm1",
        "vmovntdq ymmword ptr [rdi], ymm1",
        "vmovntdqa ymm1, ymmword ptr [rdi]",
    ];
    for form in forms.iter().filter(|form| !is_unknown(form, "avx2")) {
        assert_faults(
            form,
            KERNEL_DATA + 8,
            |_| {},
            Exception::general_protection(),
        );
        assert_runs(form, KERNEL_DATA + 32);
    }
    assert_runs(&forms[0], KERNEL_DATA + 16);
    let fault = Exception::general_protection();
    assert_faults(&forms[1], KERNEL_DATA + 16, |_| {}, fault);
    let forms = forms![
        "vmovdqa64 zmm17, zmmword ptr [rdi]",
        "vmovdqa32 zmmword ptr [rdi] {k1}, zmm17",
        "vmovaps zmm17 {k1} {z}, zmmword ptr [rdi]",
        "vmovntdq zmmword ptr [rdi], zmm3",
    ];
    for form in forms.iter().filter(|form| !is_unknown(form, "avx512f")) {
        assert_faults(
            form,
            KERNEL_DATA + 32,
            |_| {},
            Exception::general_protection(),
        );
        assert_runs(form, KERNEL_DATA + 64);
    }
}

#[test]
fn other_operands_lie_anywhere() {
    let forms = forms![
        "movdqu xmm1, xmmword ptr [rdi]",
        "lddqu xmm1, xmmword ptr [rdi]",
        "movupd xmmword ptr [rdi], xmm1",
        "movss xmm1, dword ptr [rdi]",
        "movq xmm1, qword ptr [rdi]",
        "movhps xmm1, qword ptr [rdi]",
        "pinsrw xmm1, word ptr [rdi], 3",
        "addss xmm1, dword ptr [rdi]",
        "cvtps2pd xmm1, qword ptr [rdi]",
    ];
    for form in &forms {
        assert_runs(form, KERNEL_DATA + 4091);
    }
    let forms = forms![
        "vpaddd ymm1, ymm2, ymmword ptr [rdi]",
        "vpshufb xmm1, xmm2, xmmword ptr [rdi]",
        "vaddps ymm1, ymm2, ymmword ptr [rdi]",
    ];
    for form in forms.iter().filter(|form| !is_unknown(form, "avx2")) {
        assert_runs(form, KERNEL_DATA + 4091);
    }
}

/// Error codes are those of SDM vol. 3 §4.7: 1 present, 2 write, 4 user.
#[test]
fn missing_pages_fault_at_the_first_missing_byte() {
    let forms = forms![
        "movdqu xmm1, xmmword ptr [rdi]",
        "movdqu xmmword ptr [rdi], xmm1",
        "movups xmmword ptr [rdi], xmm9",
        "movq qword ptr [rdi], xmm1",
    ];
    for (form, code) in forms.iter().zip([0, 2, 2, 2]) {
        let fault = Exception::page_fault(END_OF_MAP, code);
        assert_faults(form, END_OF_MAP - 5, |_| {}, fault);
        let fault = Exception::page_fault(END_OF_MAP + 3, code);
        assert_faults(form, END_OF_MAP + 3, |_| {}, fault);
    }
    let forms = forms![
        "vpaddd ymm1, ymm2, ymmword ptr [rdi]",
        "vmovdqu ymmword ptr [rdi], ymm2",
    ];
    for (form, code) in forms.iter().zip([0, 2]) {
        if !is_unknown(form, "avx2") {
            let fault = Exception::page_fault(END_OF_MAP, code);
            assert_faults(form, END_OF_MAP - 31, |_| {}, fault);
        }
    }
    let forms = forms![
        "vpaddq zmm17, zmm2, zmmword ptr [rdi]",
        "vmovdqu64 zmmword ptr [rdi], zmm18",
        "vpaddq zmm17, zmm2, qword ptr [rdi + 24]{1to8}",
    ];
    for (form, code) in forms.iter().zip([0, 2, 0]) {
        if !is_unknown(form, "avx512f") {
            let fault = Exception::page_fault(END_OF_MAP, code);
            assert_faults(form, END_OF_MAP - 31, |_| {}, fault);
        }
    }
}

#[test]
fn nothing_is_written_before_a_fault() {
    let form = &forms!["movdqu xmmword ptr [rdi], xmm1"][0];
    let (mut machine, _) = machines(form, END_OF_MAP - 8);
    machine.ram.write(END_OF_MAP - 8, &[0x5a; 8]).unwrap();
    machine.fault(form.code);
    let mut bytes = [0; 8];
    machine.ram.read(END_OF_MAP - 8, &mut bytes).unwrap();
    assert_eq!(bytes, [0x5a; 8]);
}

#[test]
fn user_code_has_a_users_rights() {
    let forms = forms![
        "movdqu xmm1, xmmword ptr [rdi]",
        "movdqu xmmword ptr [rdi], xmm1",
    ];
    let user = |machine: &mut Machine| machine.enter_user_mode();
    for (form, write) in forms.iter().zip([0, 2]) {
        let at = USER_DATA - 8;
        assert_faults(form, at, user, Exception::page_fault(at, 5 | write));
        let at = END_OF_MAP - 8;
        assert_faults(form, at, user, Exception::page_fault(END_OF_MAP, 4 | write));
        let (mut machine, _) = machines(form, USER_DATA);
        machine.enter_user_mode();
        machine.run(form.code).unwrap();
    }
    // Read-only for all.
    let read_only = |machine: &mut Machine| machine.ram.write_u64(0x4008, 0x20_0085).unwrap();
    let fault = Exception::page_fault(USER_DATA, 3);
    assert_faults(&forms[1], USER_DATA, read_only, fault);
}

/// SDM vol. 1 §15.6.4: elements that the mask leaves out cannot fault.
#[test]
fn elements_left_out_do_not_fault() {
    let forms = forms![
        "vmovdqu32 zmm17 {k1}, zmmword ptr [rdi]",
        "vmovdqu32 zmm17 {k1} {z}, zmmword ptr [rdi]",
        "vpaddd zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpternlogd zmm17 {k1}, zmm3, zmmword ptr [rdi], 150",
        "vaddps zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpcmpud k2 {k1}, zmm3, zmmword ptr [rdi], 1",
        "vpblendmd zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpsrlvd zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vmovdqu32 zmmword ptr [rdi] {k1}, zmm17",
    ];
    for form in forms.iter().filter(|form| !is_unknown(form, "avx512f")) {
        let write = if form.operands()[0].mask == Some(1) && form.text.contains("[rdi] {k1}") {
            2
        } else {
            0
        };
        let mask = |mask: u64| move |machine: &mut Machine| guest::set_mask(machine, 1, mask);
        let (mut machine, _) = machines(form, END_OF_MAP - 32);
        // Bits above the 16 elements mean nothing.
        guest::set_mask(&mut machine, 1, 0xffff_ffff_ffff_00ff);
        if let Err(stop) = machine.run(form.code) {
            panic!("{}: {stop:?}", form.text);
        }
        let fault = Exception::page_fault(END_OF_MAP, write);
        assert_faults(form, END_OF_MAP - 32, mask(0x1ff), fault);
        // The element that lies in both pages.
        let fault = Exception::page_fault(END_OF_MAP, write);
        assert_faults(form, END_OF_MAP - 30, mask(0x80), fault);
        let (mut machine, _) = machines(form, END_OF_MAP + 8);
        mask(0)(&mut machine);
        if let Err(stop) = machine.run(form.code) {
            panic!("{} with an empty mask: {stop:?}", form.text);
        }
    }
}

#[test]
fn a_broadcast_that_no_element_takes_does_not_fault() {
    let form = &forms!["vpaddd ymm17 {k1}, ymm3, dword ptr [rdi]{1to8}"][0];
    if is_unknown(form, "avx512vl") {
        return;
    }
    let mask = |mask: u64| move |machine: &mut Machine| guest::set_mask(machine, 1, mask);
    let (mut machine, _) = machines(form, END_OF_MAP);
    mask(0xff00)(&mut machine);
    machine.run(form.code).unwrap();
    let fault = Exception::page_fault(END_OF_MAP, 0);
    assert_faults(form, END_OF_MAP, mask(0x40), fault);
}

/// Exception class E4NF: these read the whole operand whatever the mask says.
#[test]
fn shuffles_read_all_of_their_operand() {
    let forms = forms![
        "vpshufd zmm17 {k1}, zmmword ptr [rdi], 27",
        "vpermd zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpunpckldq zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vpermi2d zmm17 {k1}, zmm3, zmmword ptr [rdi]",
        "vshufps zmm17 {k1}, zmm3, zmmword ptr [rdi], 3",
    ];
    for form in forms.iter().filter(|form| !is_unknown(form, "avx512f")) {
        let mask = |machine: &mut Machine| guest::set_mask(machine, 1, 1);
        let fault = Exception::page_fault(END_OF_MAP, 0);
        assert_faults(form, END_OF_MAP - 32, mask, fault);
    }
}

#[test]
fn signs_leave_elements_out_too() {
    let forms = forms![
        "vpmaskmovd ymm1, ymm2, ymmword ptr [rdi]",
        "vpmaskmovd ymmword ptr [rdi], ymm2, ymm1",
    ];
    for (form, write) in forms.iter().zip([0, 2]) {
        if is_unknown(form, "avx2") {
            continue;
        }
        let signs = |from: u8, to: u8| {
            move |machine: &mut Machine| {
                let mut mask = [0; 64];
                mask[usize::from(from)..usize::from(to)].fill(0x80);
                guest::set_vector(machine, 2, &mask);
            }
        };
        let (mut machine, _) = machines(form, END_OF_MAP - 16);
        signs(0, 16)(&mut machine);
        machine.run(form.code).unwrap();
        let fault = Exception::page_fault(END_OF_MAP, write);
        assert_faults(form, END_OF_MAP - 16, signs(12, 20), fault);
    }
}

/// Answers reads with the offset in each byte, and remembers writes.
#[derive(Default)]
struct Recorder {
    reads: Vec<(u64, usize)>,
    writes: Vec<(u64, Vec<u8>)>,
}

impl BusDevice for Recorder {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.reads.push((offset, data.len()));
        for (at, byte) in (offset..).zip(data) {
            *byte = at as u8;
        }
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.writes.push((offset, data.to_vec()));
    }
}

const DEVICE: u64 = 0xd000_0000;

fn with_device(form: &Form) -> (Machine, Arc<Mutex<Recorder>>) {
    let (mut machine, _) = machines(form, DEVICE);
    machine.ram.write_u64(0x3018, 0xc000_0083).unwrap();
    let device = Arc::new(Mutex::new(Recorder::default()));
    let on_bus = device.clone();
    machine.bus.insert(DEVICE, 0x1000, on_bus).unwrap();
    (machine, device)
}

/// All bytes of the accesses, in order of their offsets.
fn written(device: &Mutex<Recorder>) -> Vec<(u64, u8)> {
    let device = device.lock().unwrap();
    let mut bytes: Vec<_> = device
        .writes
        .iter()
        .flat_map(|(offset, data)| (*offset..).zip(data.iter().copied()))
        .collect();
    bytes.sort_unstable();
    bytes
}

#[test]
fn devices_are_sources() {
    let form = &forms!["paddb xmm1, xmmword ptr [rdi + 32]"][0];
    let (mut machine, _device) = with_device(form);
    let before = guest::vector(&machine, 1);
    machine.run(form.code).unwrap();
    let after = guest::vector(&machine, 1);
    for at in 0..16 {
        assert_eq!(after[at], before[at].wrapping_add(32 + at as u8));
    }
    assert_eq!(after[16..], before[16..]);
}

#[test]
fn devices_see_each_byte_once() {
    let forms = forms![
        "movdqu xmm1, xmmword ptr [rdi]",
        "movups xmmword ptr [rdi + 16], xmm1",
    ];
    let (mut machine, device) = with_device(&forms[0]);
    machine.run(forms[0].code).unwrap();
    let total: usize = device.lock().unwrap().reads.iter().map(|read| read.1).sum();
    assert_eq!(total, 16);
    machine.run(forms[1].code).unwrap();
    let expected: Vec<_> = (16..32).zip(0..16).collect();
    assert_eq!(written(&device), expected);
}

#[test]
fn devices_see_no_element_that_the_mask_leaves_out() {
    let forms = forms![
        "vmovdqu32 zmm17 {k1} {z}, zmmword ptr [rdi]",
        "vmovdqu32 zmmword ptr [rdi] {k1}, zmm3",
    ];
    if is_unknown(&forms[0], "avx512f") {
        return;
    }
    let (mut machine, device) = with_device(&forms[0]);
    guest::set_mask(&mut machine, 1, 0b1000_0000_0000_0110);
    machine.run(forms[0].code).unwrap();
    let mut read: Vec<_> = device.lock().unwrap().reads.clone();
    read.sort_unstable();
    let total: usize = read.iter().map(|read| read.1).sum();
    assert_eq!((read[0].0, total), (4, 12), "{read:?}");
    let mut expected = [0; 64];
    for at in [4..12, 60..64] {
        at.for_each(|byte: usize| expected[byte] = byte as u8);
    }
    assert_eq!(guest::vector(&machine, 17), expected);
    let stored = guest::vector(&machine, 3);
    machine.run(forms[1].code).unwrap();
    let expected: Vec<_> = [4..12, 60..64]
        .into_iter()
        .flatten()
        .map(|at: usize| (at as u64, stored[at]))
        .collect();
    assert_eq!(written(&device), expected);
}
