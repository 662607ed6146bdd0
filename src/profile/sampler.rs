//! One vCPU's part of the profiler, on the vCPU's own thread.

use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED, KVM_SYNC_X86_REGS,
    KVM_SYNC_X86_SREGS, kvm_regs, kvm_sregs,
};
use kvm_ioctls::VcpuFd;

use super::activity::Activity;
use super::alarm::Alarm;
use super::guest_stack;
use super::samples::{MAX_STACK, Place, Samples};
use crate::memory::GuestRam;

/// What a vCPU's thread needs to be sampled.
pub struct SamplerPlan {
    ram: GuestRam,
    period: Duration,
}

impl SamplerPlan {
    /// Samples `hz` times a second; stacks are read from `ram`.
    pub fn new(ram: GuestRam, hz: u32) -> Self {
        Self {
            ram,
            period: Duration::from_secs(1) / hz.max(1),
        }
    }

    /// Starts to sample the vCPU of this thread, which has its
    /// [`KickSlot`](crate::vcpu::kick::KickSlot).
    ///
    /// # Errors
    /// What the host says of the timer.
    pub fn start(self) -> io::Result<Sampler> {
        Ok(Sampler {
            alarm: Alarm::start(self.period)?,
            ram: self.ram,
            period: self.period,
            started: Instant::now(),
            counted: 0,
            samples: Samples::new(),
            stack: vec![0; MAX_STACK],
        })
    }
}

/// Samples the vCPU of this thread.
pub struct Sampler {
    alarm: Alarm,
    ram: GuestRam,
    period: Duration,
    started: Instant,
    /// Periods since `started` that samples stand for.
    counted: u64,
    samples: Samples,
    /// Room for a copy of the top of the stack.
    stack: Vec<u8>,
}

impl Sampler {
    /// To be called when KVM_RUN was interrupted: nothing is half done then, so the
    /// registers are those of one moment.
    pub fn interrupted(&mut self, vcpu: &mut VcpuFd) {
        let Some(activity) = self.alarm.take() else {
            return;
        };
        // A thread that the host let wait has missed some alarms.
        let weight = self.periods().saturating_sub(self.counted);
        if weight < self.samples.stride() {
            return;
        }
        self.counted = self.counted.saturating_add(weight);
        if let Some((regs, sregs)) = registers(vcpu) {
            let activity = match activity {
                Activity::Guest => in_kvm_run(vcpu),
                other => other,
            };
            let place = Place {
                rip: regs.rip,
                rsp: regs.rsp,
                rbp: regs.rbp,
                user: sregs.cr0 & 1 != 0 && sregs.cs.selector & 3 == 3,
            };
            let len = match place.user {
                true => 0,
                false => guest_stack::read(&self.ram, &sregs, regs.rsp, &mut self.stack),
            };
            let stack = self.stack.get(..len).unwrap_or_default();
            self.samples.push(weight, activity, place, stack);
        }
    }

    /// To be called when the vCPU has stood still for a while that is not to count.
    pub fn stood_still(&mut self) {
        self.alarm.take();
        self.counted = self.periods();
    }

    /// Whole periods since the beginning.
    fn periods(&self) -> u64 {
        let periods = self.started.elapsed().as_nanos() / self.period.as_nanos().max(1);
        u64::try_from(periods).unwrap_or(u64::MAX)
    }

    /// Ends sampling.
    pub fn finish(self) -> Samples {
        self.samples
    }
}

/// What a vCPU does whose thread is in KVM_RUN.
fn in_kvm_run(vcpu: &VcpuFd) -> Activity {
    match vcpu.get_mp_state().map(|state| state.mp_state) {
        Ok(KVM_MP_STATE_HALTED) => Activity::Halted,
        Ok(KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED) => Activity::NotStarted,
        _ => Activity::Guest,
    }
}

/// The registers, from the `kvm_run` page where KVM leaves them there.
fn registers(vcpu: &mut VcpuFd) -> Option<(kvm_regs, kvm_sregs)> {
    const BOTH: u64 = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS) as u64;
    if vcpu.get_kvm_run().kvm_valid_regs & BOTH == BOTH {
        let synced = vcpu.sync_regs_mut();
        return Some((synced.regs, synced.sregs));
    }
    Some((vcpu.get_regs().ok()?, vcpu.get_sregs().ok()?))
}
