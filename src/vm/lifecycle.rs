//! The life of a VM from one reset to the next: it runs, may be paused, and ends once,
//! for one reason.
//!
//! ```text
//!  Running ⇄ Paused ─► Stopped (ExitReason)
//! ```
//!
//! Whoever has a reason to end the VM (a device, a vCPU, a signal, the timer)
//! calls [`Lifecycle::end`]; the first reason counts. Devices do so through
//! [`EventSink`]. Where a reset is not the end (`--reboot`), what follows it is a
//! [`Lifecycle`] of its own; a [`History`] goes through all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Instant;

use vmm_sys_util::eventfd::EventFd;

use super::exit::{ExitReason, GUEST_STATUS_MAX};
use crate::devices::{EventSink, GuestEvent};
use crate::vcpu::gate::Gate;

/// A moment, in nanoseconds since the process started; 0 means not yet.
#[derive(Default)]
pub struct Moment(AtomicU64);

impl Moment {
    /// Notes that it is now, the first time it is called.
    pub fn reached(&self, started: Instant) {
        let now = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let _ = self
            .0
            .compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Milliseconds since the process started, if the moment has come.
    pub fn ms(&self) -> Option<f64> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(nanos as f64 / 1e6),
        }
    }
}

/// What goes on when a guest resets: the clock of the report, and what was told.
pub struct History {
    started: Instant,
    wake_up: Arc<EventFd>,
    /// Whether a VM starts again after a reset.
    reboots: bool,
    /// When the first vCPU entered the guest.
    pub first_instruction: Moment,
    /// When the guest wrote the boot timer.
    pub userspace: Moment,
    /// The guest has reported a panic after which it runs on.
    crash_loaded: Once,
}

impl History {
    /// Of a process that started at `started`. `reboots` is whether a reset is
    /// followed by another start, and so not yet an end.
    ///
    /// # Errors
    /// What eventfd says.
    pub fn new(started: Instant, reboots: bool) -> std::io::Result<Self> {
        Ok(Self {
            started,
            wake_up: Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?),
            reboots,
            first_instruction: Moment::default(),
            userspace: Moment::default(),
            crash_loaded: Once::new(),
        })
    }

    /// When the process started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Written to when the main thread is to look: the VM has ended, or the
    /// serial port has room for input.
    pub fn wake_up(&self) -> &Arc<EventFd> {
        &self.wake_up
    }

    /// Has the main thread look.
    pub fn wake_main_thread(&self) {
        // An eventfd write of 1 fails only if the counter is full, and then it is readable.
        let _ = self.wake_up.write(1);
    }
}

/// The state of a VM as a whole, shared by its threads.
pub struct Lifecycle {
    history: Arc<History>,
    gate: Gate,
    reason: Mutex<Option<ExitReason>>,
}

impl Lifecycle {
    /// A VM about to run on `vcpus` threads.
    pub fn new(history: Arc<History>, vcpus: usize) -> Self {
        Self {
            history,
            gate: Gate::new(vcpus),
            reason: Mutex::new(None),
        }
    }

    /// What goes on when the guest resets.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The gate of the vCPU threads.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Ends the VM. The first reason stays, later ones are dropped; false says
    /// that there was one before. A reset that is not the end is no such reason: a
    /// guest that resets all the time could not be ended otherwise.
    pub fn end(&self, reason: ExitReason) -> bool {
        let is_first = self.note(reason, self.history.reboots);
        self.history.wake_main_thread();
        is_first
    }

    /// The same for a vCPU's own thread, which leaves then and wakes the main thread
    /// as it does ([`Lifecycle::vcpu_left`]): earlier, that would find it still there.
    /// Of what the guest asks for the first counts in any case.
    pub fn end_from_vcpu(&self, reason: ExitReason) -> bool {
        self.note(reason, false)
    }

    fn note(&self, reason: ExitReason, over_reset: bool) -> bool {
        let mut slot = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = match &*slot {
            None => true,
            Some(ExitReason::Reset) => over_reset,
            Some(_) => false,
        };
        if is_free {
            *slot = Some(reason);
        }
        drop(slot);
        self.gate.stop();
        is_free
    }

    /// A vCPU's thread is about to end.
    pub fn vcpu_left(&self) {
        self.gate.leave();
        self.history.wake_main_thread();
    }

    /// Why the VM ended, once it has.
    pub fn reason(&self) -> Option<ExitReason> {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl EventSink for Lifecycle {
    /// Called on the thread of the vCPU that runs the device. Warns once of each
    /// thing, however often the guest repeats it: a warning is written there.
    fn guest_event(&self, event: GuestEvent) {
        let reason = match event {
            GuestEvent::Reset => ExitReason::Reset,
            GuestEvent::PowerOff => ExitReason::PowerOff,
            GuestEvent::Panicked => ExitReason::KernelPanic,
            GuestEvent::Status(value) => ExitReason::from_guest_status(value),
            GuestEvent::CrashLoaded => {
                return self
                    .history
                    .crash_loaded
                    .call_once(|| log::warn!("the guest kernel has panicked"));
            }
            GuestEvent::UserspaceReached => {
                return self.history.userspace.reached(self.history.started);
            }
        };
        if let (true, GuestEvent::Status(value)) = (self.end_from_vcpu(reason), event)
            && value > u32::from(GUEST_STATUS_MAX)
        {
            log::warn!("guest status {value} is passed on as {GUEST_STATUS_MAX}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::gate::GateState;

    fn lifecycle(reboots: bool) -> Lifecycle {
        Lifecycle::new(Arc::new(History::new(Instant::now(), reboots).unwrap()), 1)
    }

    #[test]
    fn the_first_reason_counts() {
        let vm = lifecycle(false);
        assert_eq!(vm.reason(), None);
        assert!(vm.end(ExitReason::GuestStatus { status: 3 }));
        assert!(!vm.end(ExitReason::Timeout));
        vm.guest_event(GuestEvent::Reset);
        assert_eq!(vm.reason(), Some(ExitReason::GuestStatus { status: 3 }));
        assert_eq!(vm.gate().state(), GateState::Stopped);
        assert_eq!(vm.history().wake_up().read().unwrap(), 2);
        vm.vcpu_left();
        assert_eq!(vm.history().wake_up().read().unwrap(), 1);
        assert!(vm.gate().all_left());
    }

    #[test]
    fn a_reset_that_is_not_the_end_keeps_nobody_from_ending_the_vm() {
        let vm = lifecycle(true);
        vm.guest_event(GuestEvent::Reset);
        vm.guest_event(GuestEvent::PowerOff);
        assert_eq!(vm.reason(), Some(ExitReason::Reset));
        assert!(vm.end(ExitReason::UserQuit));
        assert!(!vm.end(ExitReason::Timeout));
        vm.guest_event(GuestEvent::Reset);
        assert_eq!(vm.reason(), Some(ExitReason::UserQuit));
    }

    #[test]
    fn milestones_do_not_end_a_vm_and_keep_their_first_moment() {
        let vm = lifecycle(false);
        vm.guest_event(GuestEvent::UserspaceReached);
        let first = vm.history().userspace.ms().unwrap();
        vm.guest_event(GuestEvent::UserspaceReached);
        vm.guest_event(GuestEvent::CrashLoaded);
        assert_eq!(vm.history().userspace.ms(), Some(first));
        assert_eq!(vm.reason(), None);
        assert_eq!(vm.history().first_instruction.ms(), None);
    }
}
