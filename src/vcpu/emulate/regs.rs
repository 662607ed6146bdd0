//! The register file by iced-x86's names, with the processor's rules for partial writes.

use iced_x86::Register;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// Bits of RFLAGS.
pub(super) mod rflags {
    pub const CF: u64 = 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    /// The six that arithmetic writes.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

/// All ones in the low `size` bytes.
pub(super) fn mask(size: usize) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn slot(regs: &kvm_regs, full: Register) -> Option<u64> {
    Some(match full {
        Register::RAX => regs.rax,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RBX => regs.rbx,
        Register::RSP => regs.rsp,
        Register::RBP => regs.rbp,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        _ => return None,
    })
}

fn slot_mut(regs: &mut kvm_regs, full: Register) -> Option<&mut u64> {
    Some(match full {
        Register::RAX => &mut regs.rax,
        Register::RCX => &mut regs.rcx,
        Register::RDX => &mut regs.rdx,
        Register::RBX => &mut regs.rbx,
        Register::RSP => &mut regs.rsp,
        Register::RBP => &mut regs.rbp,
        Register::RSI => &mut regs.rsi,
        Register::RDI => &mut regs.rdi,
        Register::R8 => &mut regs.r8,
        Register::R9 => &mut regs.r9,
        Register::R10 => &mut regs.r10,
        Register::R11 => &mut regs.r11,
        Register::R12 => &mut regs.r12,
        Register::R13 => &mut regs.r13,
        Register::R14 => &mut regs.r14,
        Register::R15 => &mut regs.r15,
        _ => return None,
    })
}

fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}

/// The value of a general-purpose register of any width, zero-extended. `None` for others.
pub(super) fn read(regs: &kvm_regs, register: Register) -> Option<u64> {
    if !register.is_gpr() {
        return None;
    }
    let full = slot(regs, register.full_register())?;
    let shifted = if is_high_byte(register) {
        full >> 8
    } else {
        full
    };
    Some(shifted & mask(register.size()))
}

/// Writes a general-purpose register: 8- and 16-bit writes leave the rest,
/// 32-bit writes clear the upper half (SDM vol. 1 §3.4.1.1). `None` for others.
pub(super) fn write(regs: &mut kvm_regs, register: Register, value: u64) -> Option<()> {
    if !register.is_gpr() {
        return None;
    }
    let full = slot_mut(regs, register.full_register())?;
    *full = match register.size() {
        1 if is_high_byte(register) => (*full & !0xff00) | (value & 0xff) << 8,
        size @ (1 | 2) => (*full & !mask(size)) | (value & mask(size)),
        4 => value & mask(4),
        _ => value,
    };
    Some(())
}

/// The segment register's cached descriptor. `None` for other registers.
pub(super) fn segment(sregs: &kvm_sregs, register: Register) -> Option<&kvm_segment> {
    Some(match register {
        Register::CS => &sregs.cs,
        Register::SS => &sregs.ss,
        Register::DS => &sregs.ds,
        Register::ES => &sregs.es,
        Register::FS => &sregs.fs,
        Register::GS => &sregs.gs,
        _ => return None,
    })
}

/// Replaces the flags in `which` by those of `value`.
pub(super) fn set_flags(regs: &mut kvm_regs, which: u64, value: u64) {
    regs.rflags = (regs.rflags & !which) | (value & which);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_writes_follow_the_manual() {
        let mut regs = kvm_regs {
            rax: 0x1122_3344_5566_7788,
            ..Default::default()
        };
        write(&mut regs, Register::AL, 0xaa).unwrap();
        assert_eq!(regs.rax, 0x1122_3344_5566_77aa);
        write(&mut regs, Register::AH, 0xbb).unwrap();
        assert_eq!(regs.rax, 0x1122_3344_5566_bbaa);
        assert_eq!(read(&regs, Register::AH), Some(0xbb));
        write(&mut regs, Register::AX, 0x1_cccc).unwrap();
        assert_eq!(regs.rax, 0x1122_3344_5566_cccc);
        write(&mut regs, Register::EAX, 0xffff_ffff_0000_0001).unwrap();
        assert_eq!(regs.rax, 1);
    }

    #[test]
    fn every_general_register_has_its_own_slot() {
        let mut regs = kvm_regs::default();
        let all: Vec<Register> = Register::values()
            .filter(|register| register.is_gpr() && register.size() == 8)
            .collect();
        assert_eq!(all.len(), 16);
        for (value, register) in (1..).zip(&all) {
            write(&mut regs, *register, value).unwrap();
        }
        for (value, register) in (1..).zip(&all) {
            assert_eq!(read(&regs, *register), Some(value));
        }
    }

    #[test]
    fn vector_registers_are_not_general() {
        assert_eq!(read(&kvm_regs::default(), Register::XMM0), None);
        assert_eq!(write(&mut kvm_regs::default(), Register::CR0, 1), None);
    }
}
