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
        let [star, lstar, sfmask] = state.three_msrs([IA32_STAR, IA32_LSTAR, IA32_SFMASK])?;
        Ok(Self {
            star,
            lstar,
            sfmask,
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
    // The fault's delivery has loaded the kernel's code segment already and a
    // null SS, which 64-bit code does not tell from another. It stays: writing
    // segment registers just here gives the guest a double fault now and then
    // on kvm-pvm, if signals have cut into the guest before.
    if cpu.sregs.cs.selector != selector & !3 {
        (cpu.sregs.cs, cpu.sregs.ss) = flat_segments(selector);
    }
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

#[cfg(test)]
mod tests {
    use super::super::testing::{KERNEL_DATA, Machine};
    use super::*;

    const LSTAR: u64 = 0xffff_ffff_8180_0080;
    /// Linux's: all but the flags user code may keep.
    const SFMASK: u64 = 0x25_7fd5;
    const USER_RSP: u64 = 0x7ffd_0000_1000;

    const MSRS: SyscallMsrs = SyscallMsrs {
        star: 0x23_0010 << 32,
        lstar: LSTAR,
        sfmask: SFMASK,
    };

    /// What a SYSCALL from 64-bit user code leaves on the handler's stack.
    const GENUINE: [u64; 6] = [5, LSTAR, 0x33, 0x1_0002, USER_RSP, 0x2b];

    fn at_handler(frame: [u64; 6]) -> Machine {
        let mut machine = Machine::new();
        for (at, word) in (KERNEL_DATA..).step_by(8).zip(frame) {
            machine.ram.write_u64(at, word).unwrap();
        }
        machine.regs.rsp = KERNEL_DATA;
        machine.sregs.cr2 = LSTAR;
        machine
    }

    fn completes(mut machine: Machine, msrs: &SyscallMsrs) -> bool {
        let mut cpu = machine.cpu();
        let before = cpu.regs;
        let done = complete(&mut cpu, msrs);
        assert_eq!(done, cpu.regs != before, "all or nothing");
        done
    }

    #[test]
    fn a_genuine_frame_becomes_the_state_after_syscall() {
        let mut machine = at_handler(GENUINE);
        (machine.regs.rcx, machine.regs.r11) = (0x40_1000, 0x246);
        let mut cpu = machine.cpu();
        assert!(complete(&mut cpu, &MSRS));
        let (regs, sregs) = (cpu.regs, cpu.sregs);
        assert_eq!((regs.rip, regs.rsp, regs.rflags), (LSTAR, USER_RSP, 2));
        assert_eq!((regs.rcx, regs.r11), (0x40_1000, 0x246));
        assert_eq!((sregs.cs.selector, sregs.ss.selector), (0x10, 0x18));
        assert_eq!((sregs.cs.l, sregs.cs.dpl, sregs.cs.type_), (1, 0, 11));
        assert_eq!((sregs.ss.db, sregs.ss.dpl, sregs.ss.type_), (1, 0, 3));
    }

    #[test]
    fn the_error_code_may_tell_a_fetch() {
        let mut frame = GENUINE;
        frame[0] = 0x15;
        assert!(completes(at_handler(frame), &MSRS));
    }

    #[test]
    fn forged_frames_are_page_faults() {
        let forgeries: [(&str, usize, u64); 10] = [
            ("interrupts on: a jump of user code", 3, 0x1_0202),
            ("trap flag", 3, 0x1_0102),
            ("direction flag", 3, 0x1_0402),
            ("a carry that SFMASK clears", 3, 0x1_0003),
            ("IOPL 3, with which CLI works", 3, 0x1_3002),
            ("another RIP", 1, LSTAR + 1),
            ("from kernel mode", 2, 0x10),
            ("a page that is not there", 0, 4),
            ("a write", 0, 7),
            ("a reserved bit", 0, 0xd),
        ];
        for (what, index, value) in forgeries {
            let mut frame = GENUINE;
            frame[index] = value;
            assert!(!completes(at_handler(frame), &MSRS), "{what}");
        }
    }

    #[test]
    fn cr2_must_be_lstar() {
        let mut machine = at_handler(GENUINE);
        machine.sregs.cr2 = LSTAR + 8;
        assert!(!completes(machine, &MSRS));
    }

    #[test]
    fn without_interrupts_masked_there_is_no_proof() {
        for sfmask in [0, SFMASK & !rflags::IF] {
            let msrs = SyscallMsrs { sfmask, ..MSRS };
            assert!(!completes(at_handler(GENUINE), &msrs));
        }
    }

    #[test]
    fn syscall_must_be_enabled() {
        let mut machine = at_handler(GENUINE);
        machine.sregs.efer &= !EFER_SCE;
        assert!(!completes(machine, &MSRS));
    }

    #[test]
    fn a_stack_that_is_not_mapped_is_no_frame() {
        for rsp in [
            super::super::testing::END_OF_MAP - 16,
            1 << 47,
            u64::MAX - 3,
        ] {
            let mut machine = at_handler(GENUINE);
            machine.regs.rsp = rsp;
            assert!(!completes(machine, &MSRS), "{rsp:#x}");
        }
    }
}
