//! Fetching a vCPU thread out of guest mode.
//!
//! A signal interrupts `KVM_RUN`; so that one that arrives just before the call
//! is not lost, its handler sets `kvm_run.immediate_exit`, and the next
//! `KVM_RUN` returns EINTR at once (Linux Documentation/virt/kvm/api.rst §5).
//!
//! The signal is a standard one: a real-time signal is refused when its user has as many
//! waiting as RLIMIT_SIGPENDING allows, over all processes, and a standard one then
//! comes without its particulars (signal(7), Linux kernel/signal.c). Two
//! that wait are one, which is enough.
//!
//! No kick is lost. Whoever kicks has changed the gate before, and the thread looks at
//! the gate after everything that may swallow a kick: after it has made its
//! [`KickSlot`] (a kick before that finds none), and after it has taken
//! `immediate_exit` back (which may undo a second kick). A kick at any other time has
//! `immediate_exit` set on the next entry; if there was no need for it, that entry is
//! in vain, and that is all.

use std::cell::Cell;
use std::ptr;
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use libc::c_int;
use vmm_sys_util::signal::{Killable, register_signal_handler};

thread_local! {
    /// The `kvm_run` page of the vCPU that runs on this thread. Constant
    /// initialisation and no destructor: the signal handler may read it.
    static KVM_RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// The kick signal. A stray one does nothing to a process without a handler.
pub const SIGNAL: c_int = libc::SIGURG;

/// Installs the handler of the kick signal, for the whole process.
///
/// # Errors
/// What sigaction says.
pub fn install_handler() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(SIGNAL, on_kick)
}

extern "C" fn on_kick(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    call_out();
}

/// Has KVM_RUN return on this thread as soon as it is entered, as a kick does, and gives
/// the `kvm_run` page of the vCPU that runs here; null where none does. For signal handlers:
/// it is no more than a store.
pub fn call_out() -> *const kvm_run {
    let run = KVM_RUN.with(Cell::get);
    if !run.is_null() {
        // SAFETY: a non-null pointer is the mapped `kvm_run` of the vCPU
        // whose `KickSlot` lives on this very thread; the kernel reads this
        // byte only on entry to KVM_RUN, so a volatile store is all it takes.
        unsafe { ptr::addr_of_mut!((*run).immediate_exit).write_volatile(1) };
    }
    run
}

/// While it lives, kicks of this thread reach the vCPU it was made for.
pub struct KickSlot(());

impl KickSlot {
    /// Makes this thread the one that runs `vcpu`.
    pub fn enter(vcpu: &mut VcpuFd) -> Self {
        KVM_RUN.with(|slot| slot.set(vcpu.get_kvm_run()));
        Self(())
    }
}

impl Drop for KickSlot {
    fn drop(&mut self) {
        KVM_RUN.with(|slot| slot.set(ptr::null_mut()));
    }
}

/// Kicks the vCPU that runs on `thread`; a thread that has ended is left alone.
pub fn kick<T>(thread: &JoinHandle<T>) {
    if !thread.is_finished() {
        // It fails for a signal that is none, or one that has to queue.
        let _ = thread.kill(SIGNAL);
    }
}
