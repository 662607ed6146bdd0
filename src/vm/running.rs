//! A VM that runs: its threads, pausing and resuming them, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use kvm_ioctls::VmFd;

use super::builder::BuiltVm;
use super::disks::DiskCounters;
use super::error::BuildError;
use super::exit::ExitReason;
use super::nets::RunningNet;
use super::report::{DiskReport, NetReport, millis};
use super::shares::Shares;
use super::virtio::Virtio;
use crate::console::{ConsoleEnd, Finished, Patience};
use crate::memory::GuestRam;
use crate::terminal;
use crate::vcpu::emulate::{Emulator, SharedHooks};
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
    disk_counters: Vec<DiskCounters>,
    nets: Vec<RunningNet>,
    output: Option<ConsoleEnd>,
    // Dropped in this order: KVM's side first, then the memory it maps.
    _vm: Arc<VmFd>,
    _ram: GuestRam,
    _shares: Arc<Shares>,
}

/// What a VM that has ended leaves behind.
pub struct Ended {
    /// Why it ended.
    pub reason: ExitReason,
    /// Exits by kind, over all vCPUs.
    pub exits: BTreeMap<String, u64>,
    /// Emulated instructions by mnemonic, over all vCPUs.
    pub emulated: BTreeMap<String, u64>,
    /// Breakpoints planted in the guest.
    pub hooks_planted: u64,
    /// Timer deadlines that were put off.
    pub ticks_held_back: u64,
    /// Instructions of user code that were not covered: the program got `#UD`.
    pub undefined_in_user_mode: u64,
    /// What became of the serial output.
    pub output: Option<Finished>,
    /// What each disk has served.
    pub disks: Vec<DiskReport>,
    /// What each network interface has carried.
    pub nets: Vec<NetReport>,
    /// When the guest sent its first byte, in milliseconds since the process started.
    pub first_serial_byte: Option<f64>,
}

impl RunningVm {
    /// Starts one thread a vCPU.
    ///
    /// # Errors
    /// [`BuildError`] if the host gives no thread; those that run are stopped.
    pub fn start(built: BuiltVm) -> Result<Self, BuildError> {
        kick::install_handler().map_err(BuildError::Kick)?;
        let lifecycle = &built.machine.lifecycle;
        lifecycle.first_instruction.reached(lifecycle.started());
        let mut vm = Self {
            machine: built.machine,
            threads: Vec::with_capacity(built.vcpus.len()),
            hooks: built.hooks,
            virtio: built.virtio,
            disk_counters: built.disk_counters,
            nets: built.nets,
            output: Some(built.output),
            _vm: built.vm,
            _ram: built.ram,
            _shares: built.shares.clone(),
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

    /// Starts the thread that writes the serial output, if it does not run yet.
    /// What a VM says that ends without one is written by [`RunningVm::finish`].
    ///
    /// # Errors
    /// [`BuildError::Writer`] if the host gives no thread.
    pub fn start_writer(&self) -> Result<(), BuildError> {
        match &self.output {
            Some(end) => end.output.start_writer().map_err(BuildError::Writer),
            None => Ok(()),
        }
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

    /// Waits for the vCPU threads of a VM that has ended, hands the rest of its
    /// serial output over, and tells what happened.
    pub fn finish(mut self) -> Ended {
        let vcpus = self.threads.len();
        let outcomes = self.join();
        let mut ended = Ended {
            reason: self
                .machine
                .lifecycle
                .reason()
                .unwrap_or(ExitReason::UserQuit),
            exits: BTreeMap::new(),
            emulated: BTreeMap::new(),
            hooks_planted: self.hooks.as_ref().map_or(0, |hooks| hooks.planted()),
            ticks_held_back: 0,
            undefined_in_user_mode: 0,
            output: None,
            disks: Vec::new(),
            nets: Vec::new(),
            first_serial_byte: None,
        };
        if outcomes.len() < vcpus {
            ended.reason = ExitReason::HostError {
                message: FAILURE.to_owned(),
            };
        }
        for outcome in &outcomes {
            outcome.counts.add_to(&mut ended.exits);
            ended.ticks_held_back += outcome.ticks_held_back;
            let emulated = outcome.emulator.as_ref().map(Emulator::counts);
            let emulated = emulated.unwrap_or_default();
            ended.undefined_in_user_mode = ended
                .undefined_in_user_mode
                .saturating_add(emulated.undefined_in_user_mode);
            for (mnemonic, count) in emulated.by_mnemonic {
                *ended.emulated.entry(mnemonic).or_default() += count;
            }
        }
        // Nothing is under way in a device any more, nor counted, once it is paused.
        self.virtio.pause();
        ended.disks = self
            .disk_counters
            .iter()
            .map(DiskCounters::report)
            .collect();
        ended.nets = self.nets.iter().map(RunningNet::report).collect();
        if let Some(output) = self.output.take() {
            let started = self.machine.lifecycle.started();
            ended.first_serial_byte = output
                .output
                .first_byte()
                .map(|at| millis(at.saturating_duration_since(started)));
            ended.reason = unmask_panic(ended.reason, output.output.panic_seen());
            ended.output = Some(output.finish(Patience::default()));
        }
        ended
    }
}

impl Drop for RunningVm {
    /// No vCPU thread outlives the memory it runs in.
    fn drop(&mut self) {
        self.join();
    }
}

/// A kernel that panics and has no pvpanic driver only seems to reboot; its
/// last words on the console tell the difference.
fn unmask_panic(reason: ExitReason, panic_seen: bool) -> ExitReason {
    match reason {
        ExitReason::Reset | ExitReason::TripleFault if panic_seen => ExitReason::KernelPanic,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_after_the_words_of_a_panic_is_a_panic() {
        assert_eq!(
            unmask_panic(ExitReason::Reset, true),
            ExitReason::KernelPanic
        );
        assert_eq!(unmask_panic(ExitReason::Reset, false), ExitReason::Reset);
        assert_eq!(unmask_panic(ExitReason::Timeout, true), ExitReason::Timeout);
    }
}
