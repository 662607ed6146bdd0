//! The program: the C library's entry, what a process of ours needs, and the
//! command line.
//!
//! Rust's own entry is left out. It reads `/proc/self/maps` and gives every thread
//! a second stack so that a stack overflow can be told from other faults, which
//! would be a tenth of the system calls of a start (docs/decisions.md).

#![cfg_attr(not(test), no_main)]

/// What the C library calls. A panic ends with the exit code that Rust's entry
/// gives one.
// SAFETY: the C library calls the one `main` there is, once, with the arguments
// that the standard library has taken note of before.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(
    _count: std::ffi::c_int,
    _arguments: *const *const std::ffi::c_char,
) -> std::ffi::c_int {
    const PANICKED: u8 = 101;
    let started = std::time::Instant::now();
    mayfly::process::prepare();
    let code = std::panic::catch_unwind(|| mayfly::cli::main(std::env::args_os(), started));
    code.unwrap_or(PANICKED).into()
}
