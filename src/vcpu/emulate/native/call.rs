//! The way into a stub and back: the one place here that is `unsafe`.

use std::arch::asm;

/// What a stub works on. Vectors are taken in pieces of 16 bytes.
#[repr(C, align(16))]
pub(super) struct Frame {
    /// Xmm0, piece by piece: the first source, and the result.
    pub a: [u8; 64],
    /// Xmm1: the second source.
    pub b: [u8; 64],
    /// Xmm2: the third source.
    pub c: [u8; 64],
    /// RAX, in and out.
    pub general: u64,
    /// MXCSR while the stubs run, and as they leave it.
    pub mxcsr: u32,
    host_mxcsr: u32,
}

impl Frame {
    /// All zero, all floating-point exceptions masked.
    pub fn new() -> Self {
        Self {
            a: [0; 64],
            b: [0; 64],
            c: [0; 64],
            general: 0,
            mxcsr: 0x1f80,
            host_mxcsr: 0,
        }
    }
}

/// A stub's code: `instruction; ret` on xmm0 to xmm3 and RAX.
#[derive(Clone, Copy)]
pub(super) struct Stub(*const u8);

/// Stubs stand at multiples of so many bytes.
pub(super) const STRIDE: usize = 16;

impl Stub {
    /// Stub `index` of the table that begins at `base`.
    ///
    /// # Safety
    /// `base` is a table of more than `index` stubs, each of which ends with RET,
    /// touches no memory but the stack below it, and changes no register but
    /// xmm0 to xmm3 (upper parts included), RAX and the flags.
    pub unsafe fn at(base: *const u8, index: usize) -> Self {
        Self(base.wrapping_add(index * STRIDE))
    }
}

/// Calls `stub` for each of the first `count` (1 to 4) pieces of `frame`.
///
/// # Safety
/// This processor has the instruction, and the operating system has enabled its
/// registers. `mxcsr` has no reserved bit and masks all exceptions.
pub(super) unsafe fn call(stub: Stub, frame: &mut Frame, count: usize) {
    // SAFETY: the loop stays within `a`, `b` and `c`, since `count` is bounded
    // here; the stub is as `Stub::at` demands, and what it changes is declared.
    // MXCSR is the compiler's again before anything else runs. Without `nostack`
    // the compiler keeps the red zone free for the call.
    unsafe {
        asm!(
            "stmxcsr [rdi + 204]",
            "ldmxcsr [rdi + 200]",
            "2:",
            "movups xmm0, [rdx]",
            "movups xmm1, [rdx + 64]",
            "movups xmm2, [rdx + 128]",
            "mov rax, [rdi + 192]",
            "call rsi",
            "movups [rdx], xmm0",
            "add rdx, 16",
            "dec ecx",
            "jnz 2b",
            "mov [rdi + 192], rax",
            "stmxcsr [rdi + 200]",
            "ldmxcsr [rdi + 204]",
            in("rdi") &raw mut *frame,
            in("rsi") stub.0,
            inout("rdx") &raw mut *frame => _,
            inout("ecx") count.clamp(1, 4) as u32 => _,
            out("rax") _,
            out("xmm0") _,
            out("xmm1") _,
            out("xmm2") _,
            out("xmm3") _,
        );
    }
}

const _: () = {
    assert!(std::mem::offset_of!(Frame, general) == 192);
    assert!(std::mem::offset_of!(Frame, mxcsr) == 200);
    assert!(std::mem::offset_of!(Frame, host_mxcsr) == 204);
};
