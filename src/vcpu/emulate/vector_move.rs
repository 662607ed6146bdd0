//! Moves of vector registers (what user and kernel code reads a device's
//! memory with), and the bitwise operations that come with them.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::cpu::Cpu;
use super::error::Stop;
use super::vectors::{self, Form};

/// MOVUPS, MOVDQA and kin: a whole register to or from memory or another register.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let form = Form::enabled(cpu, insn)?;
    if insn.op_count() != 2 {
        return Err(Stop::NotCovered);
    }
    let len = vectors::length(insn)?;
    let alignment = if is_unaligned(insn.mnemonic()) {
        1
    } else {
        len as u64
    };
    let mut image = cpu.state.xsave()?;
    let value = vectors::operand(cpu, &image, insn, 1, len, alignment)?;
    if insn.op_kind(0) == OpKind::Register {
        return vectors::set_register(cpu, &mut image, insn.op_register(0), form, &value, len);
    }
    let at = cpu.aligned_address(insn, 0, alignment)?;
    cpu.write(at, value.get(..len).ok_or(Stop::NotCovered)?)
}

/// MOVD and MOVQ: the low 4 or 8 bytes of a vector register.
///
/// The destination is cleared above them: all of it by the VEX forms, up to 16 bytes by the SSE forms.
pub(super) fn scalar(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    let form = Form::enabled(cpu, insn)?;
    let is_xmm =
        |index| insn.op_kind(index) == OpKind::Register && insn.op_register(index).is_xmm();
    let (to_vector, from_vector) = (is_xmm(0), is_xmm(1));
    let len = match insn.mnemonic() {
        Mnemonic::Movd | Mnemonic::Vmovd => 4,
        _ => 8,
    };
    let mut image = cpu.state.xsave()?;
    let value = if from_vector {
        vectors::operand(cpu, &image, insn, 1, 16, 1)?
            .iter()
            .take(len)
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    } else {
        cpu.value(insn, 1)?
    };
    if !to_vector {
        return cpu.set_value(insn, 0, value);
    }
    let mut vector = [0; 64];
    for (to, from) in vector.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
    vectors::set_register(cpu, &mut image, insn.op_register(0), form, &vector, 16)
}

/// PXOR, ANDPS and kin, of two operands or three.
pub(super) fn bitwise(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    use Mnemonic::*;
    let operation: fn(u8, u8) -> u8 = match insn.mnemonic() {
        Pxor | Xorps | Xorpd | Vpxor | Vxorps | Vxorpd | Vpxord | Vpxorq => |a, b| a ^ b,
        Por | Orps | Orpd | Vpor | Vorps | Vorpd | Vpord | Vporq => |a, b| a | b,
        Pand | Andps | Andpd | Vpand | Vandps | Vandpd | Vpandd | Vpandq => |a, b| a & b,
        Pandn | Andnps | Andnpd | Vpandn | Vandnps | Vandnpd | Vpandnd | Vpandnq => |a, b| !a & b,
        _ => return Err(Stop::NotCovered),
    };
    let form = Form::enabled(cpu, insn)?;
    let len = vectors::length(insn)?;
    // Only the SSE forms have the destination as a source, and ask for alignment.
    let (first, alignment) = if form == Form::Sse {
        (0, len as u64)
    } else {
        (1, 1)
    };
    let mut image = cpu.state.xsave()?;
    let mut value = vectors::operand(cpu, &image, insn, first, len, 1)?;
    let second = vectors::operand(cpu, &image, insn, first + 1, len, alignment)?;
    for (a, b) in value.iter_mut().zip(second) {
        *a = operation(*a, b);
    }
    vectors::set_register(cpu, &mut image, insn.op_register(0), form, &value, len)
}

fn is_unaligned(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Movups
            | Movupd
            | Movdqu
            | Lddqu
            | Vmovups
            | Vmovupd
            | Vmovdqu
            | Vlddqu
            | Vmovdqu8
            | Vmovdqu16
            | Vmovdqu32
            | Vmovdqu64
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::exception::Exception;
    use super::super::testing::{KERNEL_DATA, Machine, USER_DATA, assemble};
    use super::super::xsave_layout;
    use crate::devices::BusDevice;

    assemble! { load: "movdqu xmm3, [rdi]" }
    assemble! { load_256: "vmovdqu ymm3, [rdi]" }
    assemble! { load_128: "vmovdqu xmm3, [rdi]" }
    assemble! { load_aligned: "movaps xmm3, [rdi]" }
    assemble! { store_256: "vmovdqu [rsi], ymm3" }
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
}
