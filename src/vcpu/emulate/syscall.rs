//! What SYSCALL does to a vCPU, and the proof that a page fault came from one.

use kvm_bindings::kvm_segment;

use super::cpu::Cpu;
use super::error::EmulateError;
use super::paging::bits::EFER_SCE;
use super::paging::code;
use super::regs::rflags;
use super::state::VcpuState;

/// STAR: selectors.
pub(super) const IA32_STAR: u32 = 0xc000_0081;
/// LSTAR: where SYSCALL from 64-bit code goes.
pub(super) const IA32_LSTAR: u32 = 0xc000_0082;
/// SFMASK (FMASK): the RFLAGS bits SYSCALL clears.
pub(super) const IA32_SFMASK: u32 = 0xc000_0084;

/// The MSRs SYSCALL works by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SyscallMsrs {
    pub star: u64,
    pub lstar: u64,
    pub sfmask: u64,
}

impl SyscallMsrs {
    /// The vCPU's.
    pub fn read(state: &mut dyn VcpuState) -> Result<Self, EmulateError> {
        Ok(Self {
            star: state.msr(IA32_STAR)?.unwrap_or(0),
            lstar: state.msr(IA32_LSTAR)?.unwrap_or(0),
            sfmask: state.msr(IA32_SFMASK)?.unwrap_or(0),
        })
    }

    /// Takes over a write of one of them.
    pub fn write(&mut self, index: u32, value: u64) {
        match index {
            IA32_STAR => self.star = value,
            IA32_LSTAR => self.lstar = value,
            IA32_SFMASK => self.sfmask = value,
            _ => {}
        }
    }
}

/// What a page fault pushes on the handler's stack (SDM vol. 3 §6.14.2).
#[derive(Clone, Copy, Debug)]
struct Frame {
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
}

impl Frame {
    /// The frame at RSP; `None` if it cannot be read.
    fn read(cpu: &mut Cpu<'_>) -> Option<Self> {
        let mut bytes = [0; 40];
        cpu.read(cpu.regs.rsp, &mut bytes).ok()?;
        let mut words = bytes.chunks_exact(8).map(|word| {
            word.iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte))
        });
        Some(Self {
            error: words.next()?,
            rip: words.next()?,
            cs: words.next()?,
            rflags: words.next()?,
            rsp: words.next()?,
        })
    }

    /// Whether only a SYSCALL can have led here, not a jump of user code to LSTAR.
    fn is_of_syscall(&self, msrs: &SyscallMsrs) -> bool {
        let fetch = u64::from(code::FETCH);
        let user_fault = u64::from(code::PRESENT | code::USER);
        // The fault itself sets RF, which Linux has in SFMASK.
        let masked = msrs.sfmask & !rflags::RF;
        self.rip == msrs.lstar
            && self.cs & 3 == 3
            && self.error & !fetch == user_fault
            // User code can clear any flag but IF, and IF too if IOPL allows it.
            && masked & rflags::IF != 0
            && self.rflags & (masked | rflags::IOPL) == 0
    }
}

/// Finishes the SYSCALL if the page fault whose handler begins at RIP was one. False if not.
pub(super) fn complete(cpu: &mut Cpu<'_>, msrs: &SyscallMsrs) -> bool {
    if cpu.sregs.cr2 != msrs.lstar || cpu.sregs.efer & EFER_SCE == 0 {
        return false;
    }
    let Some(frame) = Frame::read(cpu) else {
        return false;
    };
    if !frame.is_of_syscall(msrs) {
        return false;
    }
    cpu.regs.rip = msrs.lstar;
    cpu.regs.rsp = frame.rsp;
    cpu.regs.rflags = frame.rflags & !rflags::RF;
    let selector = (msrs.star >> 32) as u16;
    let (code, stack) = flat_segments(selector);
    cpu.sregs.cs = code;
    cpu.sregs.ss = stack;
    true
}

/// CS and SS as SYSCALL loads them: fixed, but for the selectors.
fn flat_segments(selector: u16) -> (kvm_segment, kvm_segment) {
    const CODE_READ_ACCESSED: u8 = 11;
    const DATA_WRITE_ACCESSED: u8 = 3;
    let flat = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        present: 1,
        dpl: 0,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment {
        selector: selector & !3,
        type_: CODE_READ_ACCESSED,
        l: 1,
        ..flat
    };
    let stack = kvm_segment {
        selector: (selector & !3).wrapping_add(8),
        type_: DATA_WRITE_ACCESSED,
        db: 1,
        ..flat
    };
    (code, stack)
}
