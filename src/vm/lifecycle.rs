//! The life of a VM: it runs, may be paused, and ends once, for one reason.
//!
//! ```text
//!  Running ⇄ Paused ─► Stopped (ExitReason)
//! ```
//!
//! Whoever has a reason to end the VM (a device, a vCPU, a signal, the timer)
//! calls [`Lifecycle::end`]; the first reason counts. Devices do so through
//! [`EventSink`].

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

/// The state of a VM as a whole, shared by its threads.
pub struct Lifecycle {
    started: Instant,
    gate: Gate,
    reason: Mutex<Option<ExitReason>>,
    wake_up: Arc<EventFd>,
    /// When the first vCPU entered the guest.
    pub first_instruction: Moment,
    /// When the guest wrote the boot timer.
    pub userspace: Moment,
    /// The guest has reported a panic after which it runs on.
    crash_loaded: Once,
}

impl Lifecycle {
    /// A VM about to run on `vcpus` threads, in a process that started at `started`.
    ///
    /// # Errors
    /// What eventfd says.
    pub fn new(started: Instant, vcpus: usize) -> std::io::Result<Self> {
        Ok(Self {
            started,
            gate: Gate::new(vcpus),
            reason: Mutex::new(None),
            wake_up: Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?),
            first_instruction: Moment::default(),
            userspace: Moment::default(),
            crash_loaded: Once::new(),
        })
    }

    /// When the process started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The gate of the vCPU threads.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Written to when the main thread is to look: the VM has ended, or the
    /// serial port has room for input.
    pub fn wake_up(&self) -> &Arc<EventFd> {
        &self.wake_up
    }

    /// Ends the VM. The first reason stays, later ones are dropped; false says
    /// that there was one before.
    pub fn end(&self, reason: ExitReason) -> bool {
        let is_first = self.end_from_vcpu(reason);
        self.wake_main_thread();
        is_first
    }

    /// The same for a vCPU's own thread, which leaves then and wakes the main thread
    /// as it does ([`Lifecycle::vcpu_left`]): earlier, that would find it still there.
    pub fn end_from_vcpu(&self, reason: ExitReason) -> bool {
        let mut slot = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = slot.is_none();
        if is_first {
            *slot = Some(reason);
        }
        drop(slot);
        self.gate.stop();
        is_first
    }

    /// A vCPU's thread is about to end.
    pub fn vcpu_left(&self) {
        self.gate.leave();
        self.wake_main_thread();
    }

    fn wake_main_thread(&self) {
        // An eventfd write of 1 fails only if the counter is full, and then it is readable.
        let _ = self.wake_up.write(1);
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
                    .crash_loaded
                    .call_once(|| log::warn!("the guest kernel has panicked"));
            }
            GuestEvent::UserspaceReached => return self.userspace.reached(self.started),
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

    fn lifecycle() -> Lifecycle {
        Lifecycle::new(Instant::now(), 1).unwrap()
    }

    #[test]
    fn the_first_reason_counts() {
        let vm = lifecycle();
        assert_eq!(vm.reason(), None);
        assert!(vm.end(ExitReason::GuestStatus { status: 3 }));
        assert!(!vm.end(ExitReason::Timeout));
        vm.guest_event(GuestEvent::Reset);
        assert_eq!(vm.reason(), Some(ExitReason::GuestStatus { status: 3 }));
        assert_eq!(vm.gate().state(), GateState::Stopped);
        assert_eq!(vm.wake_up().read().unwrap(), 2);
        vm.vcpu_left();
        assert_eq!(vm.wake_up().read().unwrap(), 1);
        assert!(vm.gate().all_left());
    }

    #[test]
    fn milestones_do_not_end_a_vm_and_keep_their_first_moment() {
        let vm = lifecycle();
        vm.guest_event(GuestEvent::UserspaceReached);
        let first = vm.userspace.ms().unwrap();
        vm.guest_event(GuestEvent::UserspaceReached);
        vm.guest_event(GuestEvent::CrashLoaded);
        assert_eq!(vm.userspace.ms(), Some(first));
        assert_eq!(vm.reason(), None);
        assert_eq!(vm.first_instruction.ms(), None);
    }
}
