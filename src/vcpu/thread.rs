//! The exit loop: one thread a vCPU.
//!
//! `KVM_RUN` returns with an exit reason (Linux Documentation/virt/kvm/api.rst
//! §5); the loop serves it and enters the guest again. Between two entries
//! there is no allocation, no contended lock and no system call other than
//! those the addressed device needs itself.

use std::sync::Arc;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::counts::{ExitCounts, ExitKind};
use super::emulate::Emulator;
use super::gate::GateState;
use super::guest_tsc::GuestTsc;
use super::kick::KickSlot;
use super::report;
use super::tick_pacing::{IA32_TSC_DEADLINE, TickPacing};
use crate::boot::Symbols;
use crate::devices::bus::Bus;
use crate::interrupts::Interrupts;
use crate::one_line::one_line;
use crate::profile::{Sampler, SamplerPlan, Samples};
use crate::vm::clock::Clock;
use crate::vm::exit::ExitReason;
use crate::vm::lifecycle::Lifecycle;

/// What KVM_EXIT_HYPERCALL answers for a call nobody serves (`KVM_ENOSYS`).
const KVM_ENOSYS: u64 = 1000;

/// What is told of a VM one of whose vCPU threads has panicked.
pub const FAILURE: &str = "a vCPU thread of Mayfly has failed; this is a bug";

/// What all vCPUs of a VM share.
pub struct Machine {
    /// Port space.
    pub pio: Arc<Bus>,
    /// Guest-physical addresses that are not RAM.
    pub mmio: Arc<Bus>,
    /// The interrupt controllers, for end-of-interrupt exits.
    pub interrupts: Arc<Interrupts>,
    /// Whether the VM runs, and why it ended.
    pub lifecycle: Arc<Lifecycle>,
    /// The guest's time, which stands still while the VM is paused.
    pub clock: Clock,
    /// Names for addresses in the guest's kernel, where its code is interpreted.
    pub symbols: Option<Arc<Symbols>>,
}

/// A vCPU, owned by the thread that runs it.
pub struct Vcpu {
    id: u32,
    fd: VcpuFd,
    machine: Arc<Machine>,
    emulator: Option<Emulator>,
    /// Made when the guest first arms a timer that is watched.
    tick_pacing: Option<TickPacing>,
    tsc: GuestTsc,
    counts: ExitCounts,
    /// Taken when the vCPU starts.
    sampler_plan: Option<SamplerPlan>,
    /// Present while the vCPU is sampled.
    sampler: Option<Box<Sampler>>,
}

/// What a vCPU leaves behind when its thread ends.
pub struct VcpuOutcome {
    /// Exits by kind.
    pub counts: ExitCounts,
    /// The fallback emulator with its own counters, where the host needs one.
    pub emulator: Option<Emulator>,
    /// Timer deadlines that were put off.
    pub ticks_held_back: u64,
    /// What was sampled, if anything was.
    pub samples: Option<Samples>,
}

/// Whether to enter the guest again.
enum Next {
    Enter,
    /// A signal or `immediate_exit`: no access is half done.
    Interrupted,
    End(ExitReason),
}

/// Says that a vCPU's thread has left, however it does: whoever waits for it at
/// the gate, or for the end of the VM, would wait for ever.
struct Departure(Arc<Machine>);

impl Drop for Departure {
    fn drop(&mut self) {
        let lifecycle = &self.0.lifecycle;
        if std::thread::panicking() {
            lifecycle.end_from_vcpu(ExitReason::HostError {
                message: FAILURE.to_owned(),
            });
        }
        lifecycle.vcpu_left();
    }
}

impl Vcpu {
    /// A vCPU ready to run. `emulator` is given on hosts whose KVM hands
    /// instructions back.
    pub fn new(id: u32, fd: VcpuFd, machine: Arc<Machine>, emulator: Option<Emulator>) -> Self {
        Self {
            id,
            fd,
            machine,
            emulator,
            tick_pacing: None,
            tsc: GuestTsc::default(),
            counts: ExitCounts::default(),
            sampler_plan: None,
            sampler: None,
        }
    }

    /// The same vCPU, to be sampled while it runs.
    pub fn sampled(self, plan: Option<SamplerPlan>) -> Self {
        Self {
            sampler_plan: plan,
            ..self
        }
    }

    /// Runs guest code until the VM ends.
    pub fn run(mut self) -> VcpuOutcome {
        let departure = Departure(self.machine.clone());
        let slot = KickSlot::enter(&mut self.fd);
        let reason = match self.start_sampling() {
            Ok(()) => self.run_until_stopped(),
            Err(reason) => Some(reason),
        };
        drop(slot);
        let samples = self.sampler.take().map(|sampler| sampler.finish());
        if let Some(reason) = reason {
            self.machine.lifecycle.end_from_vcpu(reason);
        }
        drop(departure);
        VcpuOutcome {
            counts: self.counts,
            emulator: self.emulator,
            ticks_held_back: self.tick_pacing.map_or(0, |pacing| pacing.held_back()),
            samples,
        }
    }

    fn start_sampling(&mut self) -> Result<(), ExitReason> {
        let Some(plan) = self.sampler_plan.take() else {
            return Ok(());
        };
        let sampler = plan.start();
        self.sampler = Some(Box::new(sampler.map_err(|error| {
            ExitReason::HostError {
                message: format!(
                    "cannot start the timer that samples vCPU {}: {error}",
                    self.id
                ),
            }
        })?));
        Ok(())
    }

    /// Returns why the VM has to end, if it is this vCPU that found out.
    fn run_until_stopped(&mut self) -> Option<ExitReason> {
        loop {
            let next = match self.machine.lifecycle.gate().state() {
                GateState::Running => self.enter_guest(),
                GateState::Paused => self.pause(),
                GateState::Stopped => return None,
            };
            if let Next::End(reason) = next {
                return Some(reason);
            }
        }
    }

    /// Finishes what the last exit left half done, then stands at the gate.
    ///
    /// KVM completes a port or MMIO access only on the next entry; with
    /// `immediate_exit` it does so without running guest code. An instruction
    /// with several accesses (`rep movsb` from a device, a wide vector) exits
    /// again at the next of them, which must be served as well; KVM breaks off
    /// a string instruction after 1024 at the latest.
    fn pause(&mut self) -> Next {
        loop {
            self.fd.set_kvm_immediate_exit(1);
            match self.enter_guest() {
                Next::Enter => {}
                Next::Interrupted => break,
                Next::End(reason) => return Next::End(reason),
            }
        }
        if let GateState::Running = self.machine.lifecycle.gate().park() {
            self.resume_time();
        }
        if let Some(sampler) = &mut self.sampler {
            sampler.stood_still();
        }
        Next::Enter
    }

    /// Has the guest's time go on from where it stood, and tells its kernel, so that
    /// no watchdog of it wonders.
    fn resume_time(&mut self) {
        // Kernel code that is interpreted shares the host's TSC with user code that is not.
        if self.emulator.is_none() {
            self.tsc.take_back(&self.fd, self.machine.clock.skipped());
        }
        // KVM_KVMCLOCK_CTRL is refused while the guest has no kvmclock: nobody to tell.
        let _ = self.fd.kvmclock_ctrl();
    }

    fn enter_guest(&mut self) -> Next {
        let run: *const kvm_run = self.fd.get_kvm_run();
        let next = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                self.counts.count(ExitKind::IoOut);
                // A string instruction comes as one exit with many units.
                for unit in data.chunks(io_unit(run)) {
                    self.machine.pio.write(u64::from(port), unit);
                }
                Next::Enter
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                self.counts.count(ExitKind::IoIn);
                for unit in data.chunks_mut(io_unit(run)) {
                    self.machine.pio.read(u64::from(port), unit);
                }
                Next::Enter
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                self.counts.count(ExitKind::MmioRead);
                self.machine.mmio.read(address, data);
                Next::Enter
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                self.counts.count(ExitKind::MmioWrite);
                self.machine.mmio.write(address, data);
                Next::Enter
            }
            Ok(VcpuExit::IoapicEoi(vector)) => {
                self.counts.count(ExitKind::IoapicEoi);
                self.machine.interrupts.end_of_interrupt(vector);
                Next::Enter
            }
            Ok(VcpuExit::X86Rdmsr(exit)) => {
                // Only filtered registers come here, and no read is filtered: #GP.
                self.counts.count(ExitKind::Rdmsr);
                *exit.error = 1;
                Next::Enter
            }
            Ok(VcpuExit::X86Wrmsr(exit)) => {
                self.counts.count(ExitKind::Wrmsr);
                let (index, value) = (exit.index, exit.data);
                self.filtered_wrmsr(index, value)
            }
            Ok(VcpuExit::InternalError) => self.internal_error(),
            Ok(VcpuExit::Shutdown) => Next::End(ExitReason::TripleFault),
            Ok(VcpuExit::SystemEvent(kind, _)) => system_event(kind),
            Ok(VcpuExit::Hypercall(exit)) => {
                self.counts.count(ExitKind::Other);
                *exit.ret = KVM_ENOSYS.wrapping_neg();
                Next::Enter
            }
            // An interrupt window opened or a signal came: nothing to serve.
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr | VcpuExit::Nmi) => {
                self.counts.count(ExitKind::Other);
                Next::Enter
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                let what = format!("KVM_EXIT_FAIL_ENTRY, reason {reason:#x} on host CPU {cpu}");
                self.fail(&what)
            }
            Ok(VcpuExit::MemoryFault { flags, gpa, size }) => {
                let what = format!("KVM_EXIT_MEMORY_FAULT at {gpa:#x}+{size:#x}, flags {flags:#x}");
                self.fail(&what)
            }
            // Exits that KVM makes only on request or on other architectures.
            Ok(other) => {
                let what = format!("unexpected exit {other:?}");
                self.fail(&what)
            }
            Err(error) => return self.run_error(error.errno()),
        };
        if let Next::Enter = next
            && let Some(emulator) = &mut self.emulator
            && let Err(error) = emulator.before_run(&mut self.fd)
        {
            let what = one_line(&error);
            return self.fail(&what);
        }
        next
    }

    /// KVM_RUN itself failed.
    fn run_error(&mut self, errno: i32) -> Next {
        match errno {
            libc::EINTR => {
                self.counts.count(ExitKind::Interrupted);
                self.fd.set_kvm_immediate_exit(0);
                if let Some(sampler) = &mut self.sampler {
                    sampler.interrupted(&mut self.fd);
                }
                Next::Interrupted
            }
            // An application processor was woken by INIT.
            libc::EAGAIN => {
                self.counts.count(ExitKind::Again);
                Next::Enter
            }
            errno => {
                let error = std::io::Error::from_raw_os_error(errno);
                self.fail(&format!("KVM_RUN: {error}"))
            }
        }
    }

    fn filtered_wrmsr(&mut self, index: u32, value: u64) -> Next {
        // No filter is installed without the emulator.
        let written = match &mut self.emulator {
            Some(_) if index == IA32_TSC_DEADLINE => self.arm_timer(value),
            Some(emulator) => emulator
                .on_wrmsr(&mut self.fd, index, value)
                .map_err(|error| one_line(&error)),
            None => Ok(false),
        };
        match written {
            Ok(true) => Next::Enter,
            Ok(false) => {
                // The guest gets #GP.
                self.fd.get_kvm_run().__bindgen_anon_1.msr.error = 1;
                Next::Enter
            }
            Err(what) => self.fail(&what),
        }
    }

    /// The guest writes `deadline` to its timer; false if KVM refuses that.
    fn arm_timer(&mut self, deadline: u64) -> Result<bool, String> {
        let pacing = match &mut self.tick_pacing {
            Some(pacing) => pacing,
            none => none.insert(TickPacing::new(&self.fd).map_err(|error| one_line(&error))?),
        };
        pacing
            .arm(&self.fd, deadline)
            .map_err(|error| one_line(&error))
    }

    fn internal_error(&mut self) -> Next {
        let suberror = report::internal_suberror(&mut self.fd);
        if suberror != KVM_INTERNAL_ERROR_EMULATION {
            return self.fail(&format!("KVM_EXIT_INTERNAL_ERROR, suberror {suberror}"));
        }
        self.counts.count(ExitKind::EmulationFailure);
        let outcome = match &mut self.emulator {
            Some(emulator) => emulator
                .on_emulation_failure(&mut self.fd)
                .map_err(|error| one_line(&error)),
            None => Err("KVM cannot emulate an instruction".to_owned()),
        };
        match outcome {
            Ok(()) => Next::Enter,
            Err(what) => self.fail(&what),
        }
    }

    /// Ends the VM with one line that names the exit, the registers and the bytes at RIP.
    fn fail(&mut self, what: &str) -> Next {
        let state = report::describe(&mut self.fd, self.machine.symbols.as_deref());
        Next::End(ExitReason::HostError {
            message: format!("cannot go on with vCPU {}: {what} ({state})", self.id),
        })
    }
}

/// What a system event (KVM_EXIT_SYSTEM_EVENT) means for the VM.
fn system_event(kind: u32) -> Next {
    Next::End(match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => ExitReason::PowerOff,
        KVM_SYSTEM_EVENT_RESET => ExitReason::Reset,
        KVM_SYSTEM_EVENT_CRASH => ExitReason::KernelPanic,
        other => ExitReason::HostError {
            message: format!("cannot serve KVM system event {other}"),
        },
    })
}

/// Bytes of one unit of the port access that `run` tells of: 1, 2 or 4.
fn io_unit(run: *const kvm_run) -> usize {
    // SAFETY: `run` is the mapped `kvm_run` of a vCPU that has just exited with
    // KVM_EXIT_IO, for which the union holds `io`; the size is one byte of it,
    // which does not overlap the data buffer behind the structure.
    let size = unsafe { (*run).__bindgen_anon_1.io.size };
    usize::from(size.max(1))
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
