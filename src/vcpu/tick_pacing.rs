//! Holding back timer interrupts where one costs more than a kernel can afford.
//!
//! On kvm-pvm hosts a guest kernel's code is interpreted, and one timer tick
//! takes milliseconds: a kernel of 250 Hz may never leave its tick handler. A
//! kernel that ticks by the TSC deadline (Intel SDM vol. 3 §12.5.4.1) arms
//! every tick anew by a WRMSR, which an MSR filter shows us. The time from a
//! deadline's expiry to the WRMSR that follows is what the tick costs; a vCPU
//! whose ticks take more than their share of the time is given its next
//! deadline later than it asked for. Clocks are not touched: the kernel sees that
//! it is late, as it would after any long stretch without interrupts, and counts
//! all the ticks that were due.
//!
//! Ticks pay in advance, with a credit: a timer that runs now and then, or after
//! idle time, is exact.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use thiserror::Error;

/// IA32_TSC_DEADLINE: the TSC value at which the local APIC's timer fires; 0 disarms it.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// IA32_TIME_STAMP_COUNTER.
const IA32_TSC: u32 = 0x10;

/// For each unit of time spent in ticks so many pass until the next one. The
/// handler works on after it has armed the timer (softirqs), about as long again.
const REST: u64 = 10;
/// Ticks that came later than so cost no more: interrupts were off, or the vCPU stood still.
const MAX_COST_US: u64 = 4_000;
/// Ticks this much ahead of their share are not held back yet.
const CREDIT_US: u64 = 40_000;
/// No deadline is put off by more than this from when it is armed.
const MAX_HOLD_US: u64 = 40_000;

/// Why the timer could not be armed.
#[derive(Debug, Error)]
pub enum PacingError {
    /// KVM_GET_MSRS.
    #[error("cannot read the TSC of a vCPU")]
    Tsc(#[source] kvm_ioctls::Error),
}

/// One vCPU's timer: its deadlines come by the filter of [`IA32_TSC_DEADLINE`].
pub struct TickPacing {
    budget: Budget,
    held_back: u64,
    /// The calls' arguments, made once.
    tsc: Msrs,
    deadline: Msrs,
}

impl TickPacing {
    /// For a vCPU whose TSC runs at `tsc_khz`; `None` if that is not known (0).
    pub fn new(tsc_khz: u32) -> Option<Self> {
        let one = |index| {
            Msrs::from_entries(&[kvm_msr_entry {
                index,
                ..Default::default()
            }])
            .ok()
        };
        Some(Self {
            budget: Budget::new(tsc_khz)?,
            held_back: 0,
            tsc: one(IA32_TSC)?,
            deadline: one(IA32_TSC_DEADLINE)?,
        })
    }

    /// Deadlines that were given later than the guest asked for.
    pub fn held_back(&self) -> u64 {
        self.held_back
    }

    /// The guest writes `requested` to [`IA32_TSC_DEADLINE`]: arms its timer,
    /// later if it must be. False if KVM refuses: the guest is then to get `#GP`.
    ///
    /// # Errors
    /// [`PacingError::Tsc`] if the vCPU's TSC cannot be read.
    pub fn arm(&mut self, vcpu: &VcpuFd, requested: u64) -> Result<bool, PacingError> {
        vcpu.get_msrs(&mut self.tsc).map_err(PacingError::Tsc)?;
        let now = self.tsc.as_slice().first().map_or(0, |entry| entry.data);
        let deadline = self.budget.admit(requested, now);
        if deadline != requested {
            self.held_back = self.held_back.wrapping_add(1);
        }
        if let Some(entry) = self.deadline.as_mut_slice().first_mut() {
            entry.data = deadline;
        }
        Ok(vcpu.set_msrs(&self.deadline).is_ok_and(|set| set == 1))
    }
}

/// The arithmetic, in units of the guest's TSC. All of it saturates: the guest
/// chooses the deadlines, and may set its TSC.
struct Budget {
    max_cost: u64,
    credit: u64,
    max_hold: u64,
    /// When the timer fires or has fired; `None` if it is not armed.
    armed: Option<u64>,
    /// Until when the ticks so far use up their share of the time.
    spent_until: u64,
}

impl Budget {
    fn new(tsc_khz: u32) -> Option<Self> {
        if tsc_khz == 0 {
            return None;
        }
        let ticks = |us: u64| us.saturating_mul(u64::from(tsc_khz)) / 1000;
        Some(Self {
            max_cost: ticks(MAX_COST_US),
            credit: ticks(CREDIT_US),
            max_hold: ticks(MAX_HOLD_US),
            armed: None,
            spent_until: 0,
        })
    }

    /// The deadline for the guest's `requested` one, at `now`.
    fn admit(&mut self, requested: u64, now: u64) -> u64 {
        // Further off than this is nothing that ticks here could have spent; it
        // comes of a TSC that was set back.
        let ceiling = now
            .saturating_add(self.credit)
            .saturating_add(self.max_hold);
        self.spent_until = self.spent_until.clamp(now, ceiling);
        if let Some(late) = self.armed.take().and_then(|armed| now.checked_sub(armed)) {
            let price = late.min(self.max_cost).saturating_mul(REST);
            self.spent_until = self.spent_until.saturating_add(price).min(ceiling);
        }
        if requested == 0 {
            return 0;
        }
        let earliest = self.spent_until.saturating_sub(self.credit);
        let deadline = requested.max(earliest);
        self.armed = Some(deadline.max(now));
        deadline
    }
}
