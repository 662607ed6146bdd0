//! Moves of whole vector registers: what user and kernel code reads a device's memory with.
//!
//! Registers lie in pieces in the XSAVE image (SDM vol. 1 §13.4, §13.5):
//! bits 127:0 in the legacy region, 255:128 in component 2, 511:256 in
//! component 6; registers 16 to 31 whole in component 7.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::cpu::{Cpu, Host};
use super::error::Stop;
use super::exception::Exception;
use super::state::XsaveImage;
use super::xsave_layout::{AVX, SSE};

const XMM_REGISTERS: usize = 160;
const YMM_UPPER: u32 = 2;
const ZMM_UPPER: u32 = 6;
const ZMM_16_TO_31: u32 = 7;
/// XCR0 bits that AVX-512 needs: SSE, AVX, opmasks and both ZMM components.
const AVX512: u64 = SSE | AVX | 0xe0;

/// Executes one of the moves; forms with an opmask are not covered.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if insn.op_count() != 2 || insn.op_mask() != Register::None {
        return Err(Stop::NotCovered);
    }
    cpu.require_sse()?;
    let kind = Kind::of(insn);
    let len = vector_operand(insn).ok_or(Stop::NotCovered)?.size();
    if kind.needed != 0 {
        cpu.require_osxsave()?;
        if cpu.state.xcr0()? & kind.needed != kind.needed {
            return Err(Exception::invalid_opcode().into());
        }
    }
    let mut data = [0; 64];
    let data = data.get_mut(..len).ok_or(Stop::NotCovered)?;
    let mut image = cpu.state.xsave()?;
    match insn.op_kind(1) {
        OpKind::Register => {
            let number = number(insn.op_register(1))?;
            for (from, to, part) in pieces(cpu.host, number, len) {
                copy(data, to, image.get(from, part));
            }
        }
        _ => {
            let at = address(cpu, insn, 1, len, kind.aligned)?;
            cpu.read(at, data)?;
        }
    }
    if insn.op_kind(0) != OpKind::Register {
        let at = address(cpu, insn, 0, len, kind.aligned)?;
        return cpu.write(at, data);
    }
    let number = number(insn.op_register(0))?;
    // A VEX or EVEX form clears the register above what it writes.
    let whole = if kind.needed != 0 { 64 } else { len };
    for (to, from, part) in pieces(cpu.host, number, whole) {
        let piece: Vec<u8> = (from..from + part)
            .map(|at| data.get(at).copied().unwrap_or(0))
            .collect();
        image.put(to, &piece);
    }
    mark_in_use(&mut image, number, len);
    Ok(cpu.state.set_xsave(&image)?)
}

struct Kind {
    /// XCR0 bits without which the form is `#UD`; none for the SSE forms.
    needed: u64,
    /// The memory operand must be aligned to its size.
    aligned: bool,
}

impl Kind {
    fn of(insn: &Instruction) -> Self {
        use Mnemonic::*;
        let mnemonic = insn.mnemonic();
        let sse = matches!(
            mnemonic,
            Movups
                | Movupd
                | Movdqu
                | Lddqu
                | Movaps
                | Movapd
                | Movdqa
                | Movntps
                | Movntpd
                | Movntdq
                | Movntdqa
        );
        let evex = matches!(
            mnemonic,
            Vmovdqu8 | Vmovdqu16 | Vmovdqu32 | Vmovdqu64 | Vmovdqa32 | Vmovdqa64
        ) || uses_avx512_registers(insn);
        let unaligned = matches!(
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
        );
        Self {
            needed: match (sse, evex) {
                (true, _) => 0,
                (_, true) => AVX512,
                _ => SSE | AVX,
            },
            aligned: !unaligned,
        }
    }
}

/// ZMM, and registers 16 to 31 of any width, have only EVEX encodings.
fn uses_avx512_registers(insn: &Instruction) -> bool {
    (0..insn.op_count())
        .filter(|index| insn.op_kind(*index) == OpKind::Register)
        .map(|index| insn.op_register(index))
        .any(|register| register.is_zmm() || register.number() >= 16)
}

fn vector_operand(insn: &Instruction) -> Option<Register> {
    (0..insn.op_count())
        .filter(|index| insn.op_kind(*index) == OpKind::Register)
        .map(|index| insn.op_register(index))
        .find(|register| register.is_vector_register())
}

fn number(register: Register) -> Result<usize, Stop> {
    if register.is_vector_register() {
        Ok(register.number())
    } else {
        Err(Stop::NotCovered)
    }
}

fn address(
    cpu: &Cpu<'_>,
    insn: &Instruction,
    index: u32,
    len: usize,
    aligned: bool,
) -> Result<u64, Stop> {
    cpu.aligned_address(insn, index, if aligned { len as u64 } else { 1 })
}

/// The first `len` bytes of register `number`, as (offset in the image, offset in the register, length).
fn pieces(host: &Host, number: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let place = |component, each: usize, index: usize| {
        host.xsave
            .component(component)
            .map(|component| component.offset + each * index)
    };
    let all = if number < 16 {
        [
            Some((XMM_REGISTERS + 16 * number, 0, 16)),
            place(YMM_UPPER, 16, number).map(|at| (at, 16, 16)),
            place(ZMM_UPPER, 32, number).map(|at| (at, 32, 32)),
        ]
    } else {
        let at = place(ZMM_16_TO_31, 64, number & 15);
        [at.map(|at| (at, 0, len.max(16))), None, None]
    };
    all.into_iter()
        .flatten()
        .filter(move |(_, from, _)| *from < len)
}

fn copy(to: &mut [u8], at: usize, from: &[u8]) {
    for (to, from) in to.iter_mut().skip(at).zip(from) {
        *to = *from;
    }
}

fn mark_in_use(image: &mut XsaveImage, number: usize, len: usize) {
    let bits = match (number < 16, len) {
        (true, 16) => SSE,
        (true, 32) => SSE | AVX,
        (true, _) => SSE | AVX | 1 << ZMM_UPPER,
        (false, _) => 1 << ZMM_16_TO_31,
    };
    image.set_in_use(image.in_use() | bits);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::testing::{KERNEL_DATA, Machine, USER_DATA, assemble};
    use super::*;
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
        if machine.host.xsave.component(ZMM_16_TO_31).is_none() {
            machine.host.xsave = super::super::xsave_layout::tests::sample();
        }
        machine.run(load_256()).unwrap();
        machine.run(copy_to_17()).unwrap();
        machine.run(store_17()).unwrap();
        assert_eq!((stored(&machine)[31], stored(&machine)[32]), (32, 0));
        assert_ne!(machine.state.image.in_use() & 1 << ZMM_16_TO_31, 0);
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
