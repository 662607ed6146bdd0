//! The guest's time stands still while its VM is paused.
//!
//! A guest has two clocks that tell the time since its start: kvmclock, which belongs to
//! the VM, and each vCPU's TSC. Both would go on while no vCPU runs, and a guest
//! that is resumed would see a jump: its watchdogs would bark, and all its timers
//! fire at once.
//!
//! ```text
//!  all vCPUs at the gate    hold      what kvmclock and the host's TSC tell is noted
//!  resuming                 release   kvmclock is set to what it told then, and what the
//!                                     TSC has gone on meanwhile is to be taken back
//!  each vCPU, then          GuestTsc  takes it back, before it runs
//! ```
//!
//! Every vCPU takes the same amount back, so that their TSCs stay as much in step as the guest
//! had them. The time of day is another matter: the RTC shows the host's, while what
//! the guest's kernel has counted is behind by the pause, until it asks a time server or
//! the RTC.

use std::arch::x86_64::_rdtsc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;

use crate::one_line::one_line;

/// A call that took more host TSC cycles has been interrupted: the two clocks were not
/// read, or set, at one moment.
const AT_ONCE: u64 = 100_000;
/// How often it is tried again.
const ATTEMPTS: u32 = 4;

/// What the clocks told when the VM was paused.
#[derive(Clone, Copy)]
struct Held {
    /// kvmclock, in nanoseconds.
    nanoseconds: u64,
    /// The host's TSC.
    tsc: u64,
}

/// Both clocks of a VM. Making it costs no system call.
pub struct Clock {
    vm: Arc<VmFd>,
    held: Mutex<Option<Held>>,
    /// Cycles that the TSC has gone on during pauses, all of them together.
    skipped: AtomicU64,
}

impl Clock {
    /// The clocks of `vm`.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
            held: Mutex::new(None),
            skipped: AtomicU64::new(0),
        }
    }

    /// Notes the time, when all vCPUs stand at the gate. What cannot be held goes on, with
    /// a warning.
    pub fn hold(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return;
        }
        match at_once(|| self.vm.get_clock()) {
            (Ok(clock), tsc) => {
                *held = Some(Held {
                    nanoseconds: clock.clock,
                    tsc,
                });
            }
            (Err(error), _) => log::warn!("cannot stop the guest's clock: {}", one_line(&error)),
        }
    }

    /// Sets the time to what it was, before the gate opens.
    pub fn release(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Held { nanoseconds, tsc }) = held.take() else {
            return;
        };
        // Without KVM_CLOCK_REALTIME: KVM would add the time that has passed.
        let clock = kvm_clock_data {
            clock: nanoseconds,
            ..Default::default()
        };
        let (set, now) = at_once(|| self.vm.set_clock(&clock));
        if let Err(error) = set {
            log::warn!("cannot set the guest's clock back: {}", one_line(&error));
        }
        // Where the host's TSC has been set back itself, nothing has been skipped.
        let gone_on = now.saturating_sub(tsc);
        self.skipped.fetch_add(gone_on, Ordering::Release);
    }

    /// Cycles of the host's TSC that the guest is not to see, since the VM was made.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Acquire)
    }
}

/// Makes `call`, and reads the host's TSC at the same moment: over again, a few times,
/// if something came between.
fn at_once<T>(call: impl Fn() -> T) -> (T, u64) {
    let mut attempt = 0;
    loop {
        let before = host_tsc();
        let result = call();
        let after = host_tsc();
        attempt += 1;
        if after.saturating_sub(before) < AT_ONCE || attempt == ATTEMPTS {
            return (result, after);
        }
    }
}

fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and no host of ours forbids it to
    // programs, whose vDSO uses it.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod kvm_tests {
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use kvm_ioctls::Kvm;

    use super::*;

    fn clock() -> Clock {
        let kvm = Kvm::new().expect("this test needs a /dev/kvm that may be opened");
        Clock::new(Arc::new(kvm.create_vm().unwrap()))
    }

    #[test]
    fn kvmclock_stands_still_between_hold_and_release() {
        let clock = clock();
        let tsc = host_tsc();
        let started = Instant::now();
        clock.hold();
        let before = clock.held.lock().unwrap().unwrap().nanoseconds;
        sleep(Duration::from_millis(50));
        let released = Instant::now();
        clock.release();
        let after = clock.vm.get_clock().unwrap().clock;
        let most = released.elapsed();
        assert!(after >= before, "{before} {after}");
        assert!(
            u128::from(after - before) <= most.as_nanos(),
            "{before} {after}"
        );
        // The TSC has gone on for as long as it was held: 50 ms out of the whole time.
        let skipped = u128::from(clock.skipped());
        let all = u128::from(host_tsc() - tsc);
        assert!(skipped <= all);
        let least = all * 50_000_000 / started.elapsed().as_nanos();
        assert!(
            skipped * 100 >= least * 99,
            "{skipped} of {all}, at least {least}"
        );
    }

    #[test]
    fn pauses_add_up_and_a_second_hold_changes_nothing() {
        let clock = clock();
        clock.release();
        assert_eq!(clock.skipped(), 0);
        clock.hold();
        let first = clock.held.lock().unwrap().unwrap();
        clock.hold();
        assert_eq!(clock.held.lock().unwrap().unwrap().tsc, first.tsc);
        clock.release();
        let once = clock.skipped();
        clock.release();
        assert_eq!(clock.skipped(), once);
        clock.hold();
        clock.release();
        assert!(clock.skipped() > once);
    }
}
