//! Moves, and what all vector instructions share.

use std::sync::{Arc, Mutex};

use super::super::exception::Exception;
use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, USER_DATA, assemble};
use super::super::xsave_layout;
use crate::devices::BusDevice;

assemble! { load: "movdqu xmm3, [rdi]" }
assemble! { load_256: "vmovdqu ymm3, [rdi]" }
assemble! { load_128: "vmovdqu xmm3, [rdi]" }
assemble! { load_aligned: "movaps xmm3, [rdi]" }
assemble! { store_256: "vmovdqu [rsi], ymm3" }
assemble! { store_halves: "vcvtps2ph [rsi], ymm3, 4" }
assemble! { copy_to_17: "vmovdqu64 zmm17, zmm3" }
assemble! { store_17: "vmovdqu64 [rsi], zmm17" }

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.state.xcr0 = 0xe7;
    (machine.regs.rdi, machine.regs.rsi) = (KERNEL_DATA, KERNEL_DATA + 0x100);
    let bytes: Vec<u8> = (1..=64).collect();
    machine.ram.write(KERNEL_DATA, &bytes).unwrap();
    machine
}

fn stored(machine: &Machine) -> [u8; 64] {
    let mut bytes = [0; 64];
    machine.ram.read(KERNEL_DATA + 0x100, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_loaded_is_stored() {
    let mut machine = machine();
    machine.run(load_256()).unwrap();
    machine.run(store_256()).unwrap();
    let expected: Vec<u8> = (1..=32).collect();
    assert_eq!(&stored(&machine)[..33], [&expected[..], &[0]].concat());
}

#[test]
fn sse_keeps_the_upper_half_and_vex_clears_it() {
    for (code, expected) in [(load(), 17), (load_128(), 0)] {
        let mut machine = machine();
        machine.run(load_256()).unwrap();
        machine.run(code).unwrap();
        machine.run(store_256()).unwrap();
        assert_eq!(stored(&machine)[16], expected);
    }
}

#[test]
fn a_conversion_whose_store_faults_raises_no_flag() {
    if !std::arch::is_x86_feature_detected!("f16c") {
        return;
    }
    let mut machine = machine();
    // 1/3, which is no half.
    let thirds = [0xab, 0xaa, 0xaa, 0x3e].repeat(8);
    machine.ram.write(KERNEL_DATA, &thirds).unwrap();
    machine.run(load_256()).unwrap();
    let before = *machine.xsave();
    machine.regs.rsi = END_OF_MAP - 8;
    let fault = machine.fault(store_halves());
    assert_eq!(fault, Exception::page_fault(END_OF_MAP, 2));
    assert!(*machine.xsave() == before);
    machine.regs.rsi = KERNEL_DATA;
    machine.run(store_halves()).unwrap();
    assert!(*machine.xsave() != before, "inexact");
}

#[test]
fn registers_past_15_have_their_own_component() {
    let mut machine = machine();
    if machine.host.xsave.component(7).is_none() {
        machine.host.xsave = xsave_layout::tests::sample();
    }
    machine.run(load_256()).unwrap();
    machine.run(copy_to_17()).unwrap();
    machine.run(store_17()).unwrap();
    assert_eq!((stored(&machine)[31], stored(&machine)[32]), (32, 0));
    assert_ne!(machine.state.image.in_use() & 1 << 7, 0);
}

assemble! { clear: "pxor xmm3, xmm3" }
assemble! { difference: "vpandn ymm3, ymm3, [rdx]" }
assemble! { either: "orps xmm3, [rdx]" }

#[test]
fn bits_are_combined() {
    let mut machine = machine();
    machine.regs.rdx = KERNEL_DATA + 0x200;
    machine.ram.write(machine.regs.rdx, &[0xff; 32]).unwrap();
    machine.run(load_256()).unwrap();
    machine.run(difference()).unwrap();
    machine.run(store_256()).unwrap();
    assert_eq!((stored(&machine)[0], stored(&machine)[31]), (!1, !32));
    machine.run(either()).unwrap();
    machine.run(store_256()).unwrap();
    assert_eq!((stored(&machine)[0], stored(&machine)[31]), (0xff, !32));
    machine.run(clear()).unwrap();
    machine.run(store_256()).unwrap();
    assert_eq!((stored(&machine)[0], stored(&machine)[31]), (0, !32));
    machine.regs.rdx += 1;
    assert_eq!(machine.fault(either()), Exception::general_protection());
}

assemble! { move_quad: "movq xmm3, rax" }
assemble! { move_quad_back: "movq rcx, xmm3" }
assemble! { move_double: "movd ecx, xmm3" }

#[test]
fn scalars_move_to_and_from_general_registers() {
    let mut machine = machine();
    machine.run(load_256()).unwrap();
    machine.regs.rax = 0x1122_3344_5566_7788;
    machine.run(move_quad()).unwrap();
    machine.run(move_quad_back()).unwrap();
    assert_eq!(machine.regs.rcx, machine.regs.rax);
    machine.run(move_double()).unwrap();
    assert_eq!(machine.regs.rcx, 0x5566_7788);
    machine.run(store_256()).unwrap();
    assert_eq!(stored(&machine)[8..16], [0; 8]);
    assert_eq!(stored(&machine)[16], 17, "SSE leaves the upper half");
}

#[test]
fn alignment_and_enablement_are_checked() {
    let mut machine = machine();
    machine.regs.rdi += 8;
    assert_eq!(
        machine.fault(load_aligned()),
        Exception::general_protection()
    );
    machine.run(load()).unwrap();
    machine.state.xcr0 = 3;
    assert_eq!(machine.fault(load_256()), Exception::invalid_opcode());
}

#[test]
fn user_code_reads_user_pages_only() {
    let mut machine = machine();
    machine.enter_user_mode();
    assert_eq!(machine.fault(load()), Exception::page_fault(KERNEL_DATA, 5));
    machine.regs.rdi = USER_DATA;
    machine.run(load()).unwrap();
}

/// Answers each access with its offset.
struct Offsets;

impl BusDevice for Offsets {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }
    fn write(&mut self, _: u64, _: &[u8]) {}
}

#[test]
fn devices_are_read_by_words() {
    let mut machine = machine();
    machine.ram.write_u64(0x3018, 0xc000_0083).unwrap();
    let device = Arc::new(Mutex::new(Offsets));
    machine.bus.insert(0xd000_0000, 0x1000, device).unwrap();
    machine.regs.rdi = 0xd000_0000;
    machine.run(load()).unwrap();
    assert_eq!(machine.state.image.number(160 + 48, 8), 0);
    assert_eq!(
        machine.state.image.number(160 + 56, 8),
        0x0808_0808_0808_0808
    );
}
