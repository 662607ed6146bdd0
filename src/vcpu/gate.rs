//! The gate every vCPU thread passes before it enters guest mode.
//!
//! ```text
//!            pause()                      stop()
//!  Running ──────────► Paused ──────────────────► Stopped
//!     ▲                  │ resume()                   ▲
//!     └──────────────────┘        Running ────────────┘
//! ```
//!
//! Pausing is a request that each thread acknowledges at the gate: [`Gate::pause`]
//! returns when all of them stand there, with nothing half done. A thread in
//! guest mode is fetched by a signal ([`kick`](super::kick)).

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the vCPUs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GateState {
    /// Run guest code.
    Running = 0,
    /// Stand at the gate until told otherwise.
    Paused = 1,
    /// Leave for good.
    Stopped = 2,
}

#[derive(Default)]
struct Threads {
    /// vCPU threads that have entered and not left.
    alive: usize,
    /// Those of them that stand at the gate.
    parked: usize,
}

/// One gate for all vCPUs of a VM.
pub struct Gate {
    state: AtomicU8,
    threads: Mutex<Threads>,
    changed: Condvar,
}

impl Gate {
    /// A gate for `vcpus` threads, which count as alive from now on.
    pub fn new(vcpus: usize) -> Self {
        Self {
            state: AtomicU8::new(GateState::Running as u8),
            threads: Mutex::new(Threads {
                alive: vcpus,
                parked: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// What the vCPUs are to do now: one atomic load, for the exit loop.
    pub fn state(&self) -> GateState {
        match self.state.load(Ordering::Acquire) {
            0 => GateState::Running,
            1 => GateState::Paused,
            _ => GateState::Stopped,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the state unless the gate is stopped, which is for good.
    fn set(&self, state: GateState) {
        let _threads = self.lock();
        let before = self.state();
        if before != GateState::Stopped {
            self.state.store(state as u8, Ordering::Release);
        }
        self.tell_waiters(before);
    }

    /// Wakes whoever waits, to be called with the lock held. Threads wait only
    /// while the gate is paused, and each wake-up is a system call.
    fn tell_waiters(&self, state: GateState) {
        if state == GateState::Paused {
            self.changed.notify_all();
        }
    }

    /// Asks all vCPUs to the gate and waits until they are there. `kick` makes
    /// them leave guest mode; it runs after the request can be seen. False if
    /// the VM ends instead: some may then still be in guest mode.
    pub fn pause(&self, kick: impl FnOnce()) -> bool {
        self.set(GateState::Paused);
        kick();
        let mut threads = self.lock();
        while self.state() == GateState::Paused && threads.parked < threads.alive {
            threads = self
                .changed
                .wait(threads)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.state() == GateState::Paused
    }

    /// Lets paused vCPUs run again.
    pub fn resume(&self) {
        self.set(GateState::Running);
    }

    /// Tells all vCPUs to leave; whoever may be in guest mode must be kicked after this.
    pub fn stop(&self) {
        self.set(GateState::Stopped);
    }

    /// A vCPU thread acknowledges a pause and stands here until it is over.
    /// Returns what it is to do then.
    pub fn park(&self) -> GateState {
        let mut threads = self.lock();
        threads.parked += 1;
        self.changed.notify_all();
        while self.state() == GateState::Paused {
            threads = self
                .changed
                .wait(threads)
                .unwrap_or_else(PoisonError::into_inner);
        }
        threads.parked -= 1;
        self.state()
    }

    /// A vCPU thread leaves for good.
    pub fn leave(&self) {
        let mut threads = self.lock();
        threads.alive = threads.alive.saturating_sub(1);
        self.tell_waiters(self.state());
    }

    /// Whether all vCPU threads have left for good.
    pub fn all_left(&self) -> bool {
        self.lock().alive == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    /// A thread that counts while the gate is open, as a vCPU would.
    fn worker(gate: Arc<Gate>, count: Arc<AtomicU64>) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            loop {
                match gate.state() {
                    GateState::Running => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    GateState::Paused => {
                        gate.park();
                    }
                    GateState::Stopped => break,
                }
            }
            gate.leave();
        })
    }

    #[test]
    fn nothing_runs_between_pause_and_resume() {
        let gate = Arc::new(Gate::new(2));
        let count = Arc::new(AtomicU64::new(0));
        let threads = [0, 1].map(|_| worker(gate.clone(), count.clone()));
        for _ in 0..1000 {
            assert!(gate.pause(|| ()));
            let before = count.load(Ordering::Relaxed);
            std::thread::yield_now();
            assert_eq!(count.load(Ordering::Relaxed), before);
            gate.resume();
        }
        gate.stop();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn pausing_a_vm_whose_vcpus_have_left_returns() {
        let gate = Gate::new(1);
        gate.leave();
        gate.pause(|| ());
        assert_eq!(gate.state(), GateState::Paused);
    }

    #[test]
    fn stopped_is_for_good() {
        let gate = Gate::new(0);
        gate.stop();
        gate.resume();
        assert!(!gate.pause(|| ()));
        assert_eq!(gate.state(), GateState::Stopped);
    }
}
