//! Undoing raw mode where no destructor runs: panics, signals, `exit`.
//!
//! The one global of the program: signal handlers have nothing else to hold on to.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Once, OnceLock};

use super::raw::Saved;
use super::signal_stack::SignalStack;

/// The terminal that is in raw mode, if one is.
static CURRENT: AtomicPtr<Saved> = AtomicPtr::new(ptr::null_mut());

/// Signals that end a process by default, save those nobody can catch.
const FATAL: [c_int; 18] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGSYS,
    libc::SIGTRAP,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// What each of [`FATAL`] did before.
static PREVIOUS: [OnceLock<libc::sigaction>; FATAL.len()] =
    [const { OnceLock::new() }; FATAL.len()];

/// Puts the terminal back as it was before raw mode, if it is in raw mode.
/// Async-signal-safe, and harmless when called twice.
pub fn restore() {
    let saved = CURRENT.swap(ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: the pointer is null or comes from a `&'static Saved` (`announce`),
    // which is never freed and never written to.
    if let Some(saved) = unsafe { saved.as_ref() } {
        saved.put_back();
    }
}

/// Lets a stack overflow of the calling thread be a way out like the others, as
/// long as the answer lives. Nothing where no terminal is in raw mode.
pub fn guard_thread() -> Option<SignalStack> {
    if CURRENT.load(Ordering::Acquire).is_null() {
        return None;
    }
    SignalStack::install()
}

/// Makes `saved` what [`restore`] puts back, and sees that every way out calls it.
pub(super) fn announce(saved: &'static Saved) {
    static INSTALLED: Once = Once::new();
    CURRENT.store(ptr::from_ref(saved).cast_mut(), Ordering::Release);
    INSTALLED.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
        // SAFETY: the function does not unwind and touches only atomics and the terminal.
        unsafe { libc::atexit(at_exit) };
        for (signal, previous) in FATAL.iter().zip(&PREVIOUS) {
            catch(*signal, previous);
        }
    });
}

extern "C" fn at_exit() {
    restore();
}

/// Puts [`on_fatal`] before what `signal` does now. Signals that the program
/// handles or ignores end nothing and are left alone; faults are taken in any
/// case, for a handler of stack overflows, where Rust has one, ends the process too.
fn catch(signal: c_int, previous: &OnceLock<libc::sigaction>) {
    let Some(current) = replace_action(signal, None) else {
        return;
    };
    if current.sa_sigaction != libc::SIG_DFL && !is_fault(signal) {
        return;
    }
    if previous.set(current).is_err() {
        return;
    }
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fatal;
    let ours = libc::sigaction {
        sa_sigaction: handler as usize,
        // On the thread's `SignalStack`: its own stack may be what is broken.
        sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK,
        ..current
    };
    replace_action(signal, Some(&ours));
}

/// Restores the terminal, then lets the signal do what it would have done.
extern "C" fn on_fatal(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    restore();
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let by_kernel = unsafe { info.as_ref() }.is_some_and(|info| info.si_code > 0);
    if by_kernel && is_fault(signal) {
        // The instruction faults again as soon as this returns, and whoever
        // handled that before (Rust, for stack overflows) gets to see it.
        let mut slots = FATAL.iter().zip(&PREVIOUS);
        let slot = slots.find(|(caught, _)| **caught == signal);
        if let Some(previous) = slot.and_then(|(_, previous)| previous.get()) {
            replace_action(signal, Some(previous));
        }
        return;
    }
    // What was sent must be sent again, and arrives when this returns.
    // SAFETY: signal and raise are async-signal-safe and take any signal number.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Signals whose cause is an instruction that would be executed again.
fn is_fault(signal: c_int) -> bool {
    matches!(
        signal,
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE
    )
}

/// Sets what `signal` does, if `new` is given; tells what it did until now.
fn replace_action(signal: c_int, new: Option<&libc::sigaction>) -> Option<libc::sigaction> {
    // SAFETY: a sigaction is integers and an optional function pointer; zero is valid.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or valid, `old` is valid for writing; the call is async-signal-safe.
    let result = unsafe { libc::sigaction(signal, new, &mut old) };
    (result == 0).then_some(old)
}
