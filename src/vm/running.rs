//! A VM that runs: its threads, pausing and resuming them, and its end.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use kvm_ioctls::VmFd;

use super::builder::BuiltVm;
use super::error::BuildError;
use super::exit::ExitReason;
use super::tally::Tally;
use super::virtio::Virtio;
use crate::boot::Symbols;
use crate::memory::GuestRam;
use crate::profile::Samples;
use crate::terminal;
use crate::vcpu::emulate::SharedHooks;
use crate::vcpu::kick;
use crate::vcpu::thread::{FAILURE, Machine, VcpuOutcome};

/// A vCPU thread's stack in bytes: less than a huge page, which hosts that give
/// those unasked would take for the first byte of a larger one.
const STACK_SIZE: usize = 1 << 20;

/// A VM whose vCPU threads have started.
pub struct RunningVm {
    machine: Arc<Machine>,
    threads: Vec<JoinHandle<VcpuOutcome>>,
    hooks: Option<Arc<SharedHooks>>,
    virtio: Virtio,
    // Dropped in this order: KVM's side first, then the memory it maps.
    _vm: Arc<VmFd>,
    _ram: GuestRam,
}

/// What a VM that has ended leaves behind.
pub struct Ended {
    /// Why it ended.
    pub reason: ExitReason,
    /// What was counted.
    pub tally: Tally,
    /// What was sampled of each vCPU, where a profile was asked for.
    pub samples: Vec<Samples>,
    /// Names for the addresses in it.
    pub symbols: Option<Arc<Symbols>>,
}

impl RunningVm {
    /// Starts one thread a vCPU.
    ///
    /// # Errors
    /// [`BuildError`] if the host gives no thread; those that run are stopped.
    pub fn start(built: BuiltVm) -> Result<Self, BuildError> {
        kick::install_handler().map_err(BuildError::Kick)?;
        let history = built.machine.lifecycle.history();
        history.first_instruction.reached(history.started());
        let mut vm = Self {
            machine: built.machine,
            threads: Vec::with_capacity(built.vcpus.len()),
            hooks: built.hooks,
            virtio: built.virtio,
            _vm: built.vm,
            _ram: built.ram,
        };
        for (id, vcpu) in (0u32..).zip(built.vcpus) {
            let builder = Builder::new()
                .name(format!("vcpu{id}"))
                .stack_size(STACK_SIZE);
            let shares = built.shares.clone();
            let thread = builder.spawn(move || {
                shares.enter_vcpu_thread(id);
                let _stack = terminal::guard_thread();
                vcpu.run()
            });
            match thread {
                Ok(thread) => vm.threads.push(thread),
                Err(source) => {
                    vm.machine.lifecycle.end(ExitReason::Reset);
                    vm.join();
                    return Err(BuildError::Thread { id, source });
                }
            }
        }
        Ok(vm)
    }

    /// Stops all vCPUs at their gate, with no access half done, nothing in flight in
    /// a device and nothing planted in the guest. False, with nothing undone, if the VM has ended.
    pub fn pause(&self) -> bool {
        let paused = self.machine.lifecycle.gate().pause(|| self.kick());
        if paused {
            self.machine.clock.hold();
            self.virtio.pause();
            if let Some(hooks) = &self.hooks {
                hooks.unplant();
            }
        }
        paused
    }

    /// Lets paused vCPUs go on.
    pub fn resume(&self) {
        if let Some(hooks) = &self.hooks {
            hooks.replant();
        }
        self.virtio.resume();
        self.machine.clock.release();
        self.machine.lifecycle.gate().resume();
    }

    fn kick(&self) {
        self.threads.iter().for_each(kick::kick);
    }

    fn join(&mut self) -> Vec<VcpuOutcome> {
        let gate = self.machine.lifecycle.gate();
        gate.stop();
        // A single vCPU that has ended the VM itself has left already.
        if !gate.all_left() {
            self.kick();
        }
        let threads = std::mem::take(&mut self.threads);
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    }

    /// Waits for the vCPU threads of a VM that has ended, and tells what happened.
    pub fn finish(mut self) -> Ended {
        let vcpus = self.threads.len();
        let mut outcomes = self.join();
        let samples = outcomes.iter_mut().filter_map(|vcpu| vcpu.samples.take());
        let samples = samples.collect();
        let mut reason = self.machine.lifecycle.reason();
        if outcomes.len() < vcpus {
            let message = FAILURE.to_owned();
            reason = Some(ExitReason::HostError { message });
        }
        let mut tally = Tally::default();
        outcomes.iter().for_each(|outcome| tally.add_vcpu(outcome));
        tally.hooks_planted = self.hooks.as_ref().map_or(0, |hooks| hooks.planted());
        // Nothing is under way in a device any more, nor counted, once it is paused.
        self.virtio.pause();
        Ended {
            reason: reason.unwrap_or(ExitReason::UserQuit),
            tally,
            samples,
            symbols: self.machine.symbols.clone(),
        }
    }
}

impl Drop for RunningVm {
    /// No vCPU thread outlives the memory it runs in.
    fn drop(&mut self) {
        self.join();
    }
}
