//! x87 and SSE control: FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, FWAIT, FNINIT and kin.
//!
//! All work on the legacy region of KVM's XSAVE image (SDM vol. 1 §10.5.1).

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::state::XsaveImage;
use super::xsave_layout::{SSE, X87};

/// Offsets in the legacy region.
const FCW: usize = 0;
const FSW: usize = 2;
const FTW: usize = 4;
/// Opcode, instruction pointer and data pointer follow the tags.
const POINTERS: (usize, usize) = (6, 18);
const REGISTERS: (usize, usize) = (32, 128);
/// What FXSAVE writes of its 512 bytes.
const FXSAVE_LEN: usize = 416;
/// Offset of MXCSR; its mask follows.
pub(super) const MXCSR: usize = 24;
/// MXCSR after reset: all exceptions masked.
pub(super) const MXCSR_INITIAL: u32 = 0x1f80;
/// Valid MXCSR bits of a processor that reports a mask of zero.
const MXCSR_DEFAULT_MASK: u32 = 0xffbf;
/// FCW after FNINIT: extended precision, all exceptions masked.
const FCW_INITIAL: u16 = 0x037f;
/// FSW: exception flags, stack fault, error summary and busy.
const FSW_EXCEPTIONS: u16 = 0x80ff;
const FSW_ERROR_SUMMARY: u64 = 1 << 7;
const CR0_NE: u64 = 1 << 5;

/// Executes one of the group.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    match insn.mnemonic() {
        Mnemonic::Wait => {
            cpu.require_wait()?;
            pending_fault(cpu)
        }
        Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => {
            cpu.require_sse()?;
            let value = cpu.value(insn, 0)? as u32;
            let mut image = cpu.state.xsave()?;
            let value = checked_mxcsr(&image, value)?;
            set_mxcsr(&mut image, value);
            Ok(cpu.state.set_xsave(&image)?)
        }
        Mnemonic::Stmxcsr | Mnemonic::Vstmxcsr => {
            cpu.require_sse()?;
            let value = cpu.state.xsave()?.number(MXCSR, 4);
            cpu.set_value(insn, 0, value)
        }
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => fxsave(cpu, insn),
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => fxrstor(cpu, insn),
        _ => control(cpu, insn),
    }
}

/// FNINIT, FNCLEX, EMMS, FLDCW, FNSTCW and FNSTSW.
fn control(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    cpu.require_x87()?;
    let mut image = cpu.state.xsave()?;
    match insn.mnemonic() {
        Mnemonic::Fninit => {
            image.put(FCW, &FCW_INITIAL.to_le_bytes());
            image.put(FSW, &[0; 3]);
            image.put(POINTERS.0, &[0; POINTERS.1]);
        }
        Mnemonic::Fnclex => {
            let status = image.number(FSW, 2) as u16 & !FSW_EXCEPTIONS;
            image.put(FSW, &status.to_le_bytes());
        }
        Mnemonic::Emms => {
            pending_fault(cpu)?;
            image.put(FTW, &[0]);
        }
        Mnemonic::Fldcw => {
            pending_fault(cpu)?;
            let word = cpu.value(insn, 0)? as u16;
            image.put(FCW, &word.to_le_bytes());
        }
        Mnemonic::Fnstcw => return cpu.set_value(insn, 0, image.number(FCW, 2)),
        Mnemonic::Fnstsw => return cpu.set_value(insn, 0, image.number(FSW, 2)),
        _ => return Err(Stop::NotCovered),
    }
    image.set_in_use(image.in_use() | X87);
    Ok(cpu.state.set_xsave(&image)?)
}

/// `#MF` if an unmasked x87 exception waits. (With CR0.NE clear it is an
/// interrupt from outside, which no chipset of ours raises.)
fn pending_fault(cpu: &mut Cpu<'_>) -> Result<(), Stop> {
    let status = cpu.state.xsave()?.number(FSW, 2);
    if cpu.sregs.cr0 & CR0_NE != 0 && status & FSW_ERROR_SUMMARY != 0 {
        return Err(Exception::x87_floating_point().into());
    }
    Ok(())
}

fn fxsave(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    cpu.require_x87()?;
    let linear = cpu.aligned_address(insn, 0, 16)?;
    let image = cpu.state.xsave()?;
    let mut area = [0; FXSAVE_LEN];
    for (to, from) in area.iter_mut().zip(image.get(0, FXSAVE_LEN)) {
        *to = *from;
    }
    let wide = insn.mnemonic() == Mnemonic::Fxsave64;
    for (to, from) in area.iter_mut().zip(control_words(&image, wide)) {
        *to = from;
    }
    cpu.write(linear, &area)
}

fn fxrstor(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    cpu.require_x87()?;
    let linear = cpu.aligned_address(insn, 0, 16)?;
    let mut area = [0; FXSAVE_LEN];
    cpu.read(linear, &mut area)?;
    let mut image = cpu.state.xsave()?;
    let mxcsr = area
        .get(MXCSR..MXCSR + 4)
        .unwrap_or(&[])
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte));
    let mxcsr = checked_mxcsr(&image, mxcsr)?;
    let wide = insn.mnemonic() == Mnemonic::Fxrstor64;
    set_control_words(&mut image, &area, wide);
    image.put(REGISTERS.0, area.get(REGISTERS.0..).unwrap_or(&[]));
    image.set_in_use(image.in_use() | X87 | SSE);
    set_mxcsr(&mut image, mxcsr);
    Ok(cpu.state.set_xsave(&image)?)
}

/// The value, or `#GP(0)` if it sets a reserved bit.
pub(super) fn checked_mxcsr(image: &XsaveImage, value: u32) -> Result<u32, Stop> {
    let mask = match image.number(MXCSR + 4, 4) as u32 {
        0 => MXCSR_DEFAULT_MASK,
        mask => mask,
    };
    if value & !mask != 0 {
        return Err(Exception::general_protection().into());
    }
    Ok(value)
}

/// Writes MXCSR so that KVM takes it over: it does only if SSE state counts as in use.
pub(super) fn set_mxcsr(image: &mut XsaveImage, value: u32) {
    image.put(MXCSR, &value.to_le_bytes());
    if value != MXCSR_INITIAL {
        image.set_in_use(image.in_use() | SSE);
    }
}

/// The x87 state in its initial configuration.
pub(super) fn initialise_x87(image: &mut XsaveImage) {
    image.put(FCW, &FCW_INITIAL.to_le_bytes());
    image.put(FSW, &[0; 22]);
    image.put(REGISTERS.0, &[0; REGISTERS.1]);
}

/// The first 24 bytes of the legacy region. The narrow form has selectors where
/// the wide one has the upper halves of the pointers; they are saved as zero
/// (CPUID.7.EBX\[13\], deprecated FCS and FDS).
pub(super) fn control_words(image: &XsaveImage, wide: bool) -> [u8; 24] {
    let mut words = [0; 24];
    for (at, (to, from)) in words.iter_mut().zip(image.get(0, 24)).enumerate() {
        if wide || !is_upper_half(at) {
            *to = *from;
        }
    }
    words
}

/// Takes over the first 24 bytes of a legacy region in either form.
pub(super) fn set_control_words(image: &mut XsaveImage, words: &[u8], wide: bool) {
    for (at, byte) in words.iter().take(24).enumerate() {
        let byte = if wide || !is_upper_half(at) { *byte } else { 0 };
        image.put(at, &[byte]);
    }
}

fn is_upper_half(offset: usize) -> bool {
    matches!(offset, 12..16 | 20..24)
}
