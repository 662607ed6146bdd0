//! The clock that calls a vCPU's thread out of the guest to be looked at.
//!
//! A POSIX timer signals the thread itself, so there is no thread that does it and
//! nobody has to know which threads are still there. The handler makes KVM_RUN
//! return, as a [kick](crate::vcpu::kick) does, and notes what the thread was doing:
//! `kvm_run` still has the reason of the last exit, unless it was KVM_RUN that
//! the signal interrupted.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvm_bindings::{
    KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO, KVM_EXIT_X86_RDMSR,
    KVM_EXIT_X86_WRMSR, kvm_run,
};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::activity::Activity;
use crate::vcpu::kick;

thread_local! {
    /// What the handler of this thread works with. Constant initialisation and no
    /// destructor: the signal handler may use it.
    static NOTE: Note = const { Note {
        seen: Cell::new(Activity::Guest),
        is_due: AtomicBool::new(false),
    } };
}

/// Used by one thread and its signal handler, which never interrupts itself.
struct Note {
    /// What was going on when the timer went off: the handler's while nothing is due,
    /// the thread's afterwards.
    seen: Cell<Activity>,
    /// The timer has gone off since the thread last looked.
    is_due: AtomicBool,
}

/// Not the signal of kicks: those are not to pass for samples.
fn signal() -> libc::c_int {
    SIGRTMIN().saturating_add(1)
}

/// Installs the handler, for the whole process.
///
/// # Errors
/// What sigaction says.
pub(super) fn install_handler() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(signal(), on_alarm)
}

extern "C" fn on_alarm(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = kick::call_out();
    NOTE.with(|note| {
        if !run.is_null() && !note.is_due.load(Ordering::Acquire) {
            note.seen.set(activity(run));
            note.is_due.store(true, Ordering::Release);
        }
    });
}

/// What the thread does now, by the last exit's reason.
fn activity(run: *const kvm_run) -> Activity {
    // SAFETY: `run` is the mapped `kvm_run` of a vCPU of this thread; nothing else
    // writes to it while a handler runs. Each member of the union that is read is the
    // one that its exit reason stands for, and consists of plain integers.
    unsafe {
        match (*run).exit_reason {
            KVM_EXIT_IO => {
                let io = (*run).__bindgen_anon_1.io;
                Activity::Port {
                    port: io.port,
                    is_out: u32::from(io.direction) == KVM_EXIT_IO_OUT,
                }
            }
            KVM_EXIT_MMIO => {
                let mmio = (*run).__bindgen_anon_1.mmio;
                Activity::Mmio {
                    address: mmio.phys_addr,
                    is_write: mmio.is_write != 0,
                }
            }
            KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => {
                let msr = (*run).__bindgen_anon_1.msr;
                Activity::Msr { index: msr.index }
            }
            KVM_EXIT_INTERNAL_ERROR => {
                let failure = (*run).__bindgen_anon_1.emulation_failure;
                let insn = failure.__bindgen_anon_1.__bindgen_anon_1;
                Activity::Emulation {
                    bytes: insn.insn_bytes,
                    len: insn.insn_size,
                }
            }
            reason => Activity::of_exit(reason),
        }
    }
}

/// While it lives, the thread's vCPU is called out of the guest again and again. It has
/// the timer's id, which the C library calls a pointer.
pub(super) struct Alarm(usize);

impl Alarm {
    /// Starts the timer of this thread, which is one that [kicks](kick::KickSlot) reach.
    ///
    /// # Errors
    /// What timer_create(2) or timer_settime(2) says.
    pub(super) fn start(period: Duration) -> io::Result<Self> {
        let alarm = Self(create_timer()?.addr());
        alarm.arm(period)?;
        Ok(alarm)
    }

    fn id(&self) -> libc::timer_t {
        ptr::without_provenance_mut(self.0)
    }

    fn arm(&self, period: Duration) -> io::Result<()> {
        let period = libc::timespec {
            tv_sec: libc::time_t::try_from(period.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(period.subsec_nanos().cast_signed()),
        };
        let times = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the timer is one that timer_create made, the times are a valid
        // structure, and the old ones are not asked for.
        match unsafe { libc::timer_settime(self.id(), 0, &times, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What the thread did when the timer went off, if it has since the last call.
    pub(super) fn take(&self) -> Option<Activity> {
        NOTE.with(|note| {
            let seen = note.is_due.load(Ordering::Acquire).then(|| note.seen.get());
            note.is_due.store(false, Ordering::Release);
            seen
        })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is one that timer_create made, and is deleted once.
        unsafe { libc::timer_delete(self.id()) };
    }
}

/// A timer whose signal goes to this thread.
fn create_timer() -> io::Result<libc::timer_t> {
    let mut event = MaybeUninit::<libc::sigevent>::zeroed();
    let mut timer = MaybeUninit::<libc::timer_t>::uninit();
    // SAFETY: a `sigevent` of zeros is a valid one, of which what SIGEV_THREAD_ID
    // needs is filled in; timer_create writes the timer's id when it succeeds, and only
    // then is it read.
    unsafe {
        let event = event.assume_init_mut();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = libc::gettid();
        match libc::timer_create(libc::CLOCK_MONOTONIC, event, timer.as_mut_ptr()) {
            0 => Ok(timer.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
