//! What a vCPU was doing when the VMM could not go on, in one line.

use std::fmt::Write;

use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::boot::Symbols;

/// The suberror of the KVM_EXIT_INTERNAL_ERROR that has just happened.
pub fn internal_suberror(fd: &mut VcpuFd) -> u32 {
    // SAFETY: the last exit was KVM_EXIT_INTERNAL_ERROR, for which the union
    // holds `internal`; all its bits are valid integers.
    unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror }
}

/// The instruction bytes of an emulation failure, as far as KVM fetched them.
fn failed_bytes(fd: &mut VcpuFd) -> Option<Vec<u8>> {
    const HAS_BYTES: u64 = kvm_bindings::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES as u64;
    let run = fd.get_kvm_run();
    if run.exit_reason != kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: for KVM_EXIT_INTERNAL_ERROR the union holds `emulation_failure`
    // (the same layout as `internal`); all its bits are valid integers.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    if failure.suberror != kvm_bindings::KVM_INTERNAL_ERROR_EMULATION
        || failure.ndata == 0
        || failure.flags & HAS_BYTES == 0
    {
        return None;
    }
    // SAFETY: the flag says that the union holds the byte array.
    let insn = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    insn.insn_bytes
        .get(..usize::from(insn.insn_size))
        .map(<[u8]>::to_vec)
}

/// ` (function+offset)` for RIP in the guest's kernel, if its name is known.
fn place(symbols: Option<&Symbols>, regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let in_kernel = sregs.cs.selector & 3 == 0;
    symbols
        .filter(|_| in_kernel)
        .and_then(|symbols| symbols.nearest(regs.rip))
        .map_or(String::new(), |symbol| format!(" ({symbol})"))
}

/// RIP with the kernel function it is in, the bytes there, and the registers that
/// tell the mode the vCPU is in.
pub fn describe(fd: &mut VcpuFd, symbols: Option<&Symbols>) -> String {
    let mut line = String::new();
    match (fd.get_regs(), fd.get_sregs()) {
        (Ok(regs), Ok(sregs)) => {
            // Writing to a String cannot fail.
            let _ = write!(
                line,
                "rip={:#x}{} rflags={:#x} rsp={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} \
                 rsi={:#x} rdi={:#x} cs={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
                regs.rip,
                place(symbols, &regs, &sregs),
                regs.rflags,
                regs.rsp,
                regs.rax,
                regs.rbx,
                regs.rcx,
                regs.rdx,
                regs.rsi,
                regs.rdi,
                sregs.cs.selector,
                sregs.cr0,
                sregs.cr2,
                sregs.cr3,
                sregs.cr4,
                sregs.efer
            );
        }
        _ => line.push_str("registers cannot be read"),
    }
    if let Some(bytes) = failed_bytes(fd) {
        line.push_str(" bytes=");
        for byte in bytes {
            let _ = write!(line, "{byte:02x}");
        }
    }
    line
}
