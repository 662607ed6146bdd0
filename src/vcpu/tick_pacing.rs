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
/// What a tick costs at most: with [`REST`], as long as a deadline is put off.
const MAX_COST_US: u64 = 10_000;
/// So many ticks in a row are taken to cost what the cheapest of them did: the others
/// may have waited for the host's scheduler, or for the guest to allow interrupts.
const OBSERVED: usize = 4;
/// Ticks this much ahead of their share are not held back yet.
const CREDIT_US: u64 = 40_000;
/// No deadline is put off by more than this from when it is armed.
const MAX_HOLD_US: u64 = 100_000;

/// Why the timer could not be armed.
#[derive(Debug, Error)]
pub enum PacingError {
    /// The arguments of KVM_GET_MSRS and KVM_SET_MSRS.
    #[error("cannot make a list of one model-specific register")]
    List,
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
    /// For `vcpu`. Nothing is ever held back if KVM does not know the frequency of its TSC.
    ///
    /// # Errors
    /// [`PacingError::List`], which does not happen.
    pub fn new(vcpu: &VcpuFd) -> Result<Self, PacingError> {
        let one = |index| {
            Msrs::from_entries(&[kvm_msr_entry {
                index,
                ..Default::default()
            }])
            .map_err(|_| PacingError::List)
        };
        Ok(Self {
            budget: Budget::new(vcpu.get_tsc_khz().unwrap_or(0)),
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
    /// What the latest ticks seem to have cost.
    costs: [u64; OBSERVED],
    /// Until when the ticks so far use up their share of the time.
    spent_until: u64,
}

impl Budget {
    fn new(tsc_khz: u32) -> Self {
        let ticks = |us: u64| us.saturating_mul(u64::from(tsc_khz)) / 1000;
        Self {
            max_cost: ticks(MAX_COST_US),
            credit: ticks(CREDIT_US),
            max_hold: ticks(MAX_HOLD_US),
            armed: None,
            costs: [0; OBSERVED],
            spent_until: 0,
        }
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
            let price = self.cost_of_tick(late).saturating_mul(REST);
            self.spent_until = self.spent_until.saturating_add(price).min(ceiling);
        }
        if requested == 0 {
            return 0;
        }
        let earliest = self.spent_until.saturating_sub(self.credit);
        let deadline = if earliest > now {
            requested.max(earliest)
        } else {
            requested
        };
        self.armed = Some(deadline.max(now));
        deadline
    }

    /// What a tick costs, one more of which was over `late` after its deadline.
    fn cost_of_tick(&mut self, late: u64) -> u64 {
        self.costs.rotate_right(1);
        if let Some(latest) = self.costs.first_mut() {
            *latest = late;
        }
        let cheapest = self.costs.iter().min().copied().unwrap_or(0);
        cheapest.min(self.max_cost)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A TSC of 1 GHz: a microsecond is 1000.
    const KHZ: u32 = 1_000_000;
    const US: u64 = 1_000;
    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000_000;
    /// 250 Hz.
    const PERIOD: u64 = 4 * MS;
    /// A TSC that is not at its start.
    const START: u64 = 77 * SECOND;

    fn budget() -> Budget {
        Budget::new(KHZ)
    }

    /// What a kernel of 250 Hz went through.
    #[derive(Default)]
    struct Ticked {
        ticks: u64,
        held_back: u64,
        /// Time outside the tick handler.
        rest: u64,
    }

    /// Ticks until `end`, each of which takes `cost` and arms the next multiple of
    /// the period, as Linux's hrtimer_forward does.
    fn tick_until(budget: &mut Budget, start: u64, end: u64, cost: u64) -> Ticked {
        let mut so_far = Ticked::default();
        let mut now = start;
        while now < end {
            let requested = (now / PERIOD + 1) * PERIOD;
            let deadline = budget.admit(requested, now);
            so_far.held_back += u64::from(deadline != requested);
            so_far.ticks += 1;
            so_far.rest += deadline - now;
            now = deadline + cost;
        }
        so_far
    }

    #[test]
    fn cheap_ticks_are_left_alone() {
        let ticked = tick_until(&mut budget(), START, START + SECOND, 50 * US);
        assert_eq!((ticked.ticks, ticked.held_back), (250, 0));
    }

    #[test]
    fn dear_ticks_take_a_tenth_of_the_time() {
        let ticked = tick_until(&mut budget(), START, START + 10 * SECOND, 2 * MS);
        // One in 20 ms, and some more for the credit and before costs are known.
        assert!((499..=506).contains(&ticked.ticks), "{}", ticked.ticks);
        assert!(ticked.rest > 8_900 * MS, "{}", ticked.rest);
    }

    #[test]
    fn ticks_that_last_longer_than_their_period_leave_time_for_the_rest() {
        for cost in [4 * MS, 5 * MS, 8 * MS, 10 * MS] {
            let ticked = tick_until(&mut budget(), START, START + 10 * SECOND, cost);
            assert!(ticked.rest > 8_500 * MS, "{cost}: {}", ticked.rest);
            assert!(ticked.ticks > 90, "{cost}: {}", ticked.ticks);
        }
    }

    #[test]
    fn now_and_then_a_late_one_does_not_make_ticks_dear() {
        let mut budget = budget();
        let mut held_back = 0;
        for tick in 1..=250 {
            let deadline = START + tick * PERIOD;
            let late = if tick % 3 == 0 { 3 * MS } else { 50 * US };
            let armed_at = deadline - PERIOD + late;
            held_back += u64::from(budget.admit(deadline, armed_at) != deadline);
        }
        assert_eq!(held_back, 0);
    }

    #[test]
    fn rest_earns_a_few_exact_ticks() {
        let mut budget = budget();
        tick_until(&mut budget, START, START + SECOND, 3 * MS);
        let idle = START + 2 * SECOND;
        let wakeup = idle + 123 * MS;
        assert_eq!(budget.admit(wakeup, idle), wakeup);
        assert_eq!(budget.admit(wakeup + 5 * MS, wakeup + MS), wakeup + 5 * MS);
    }

    #[test]
    fn a_deadline_far_off_is_not_moved_whatever_was_spent() {
        let mut budget = budget();
        tick_until(&mut budget, START, START + SECOND, 4 * MS);
        let now = START + SECOND + 10 * MS;
        assert_eq!(budget.admit(now + 200 * MS, now), now + 200 * MS);
    }

    #[test]
    fn a_timer_armed_anew_before_it_fires_costs_nothing() {
        let mut budget = budget();
        for step in 0..1000 {
            let now = START + step * MS;
            assert_eq!(budget.admit(now + 2 * MS, now), now + 2 * MS);
        }
    }

    #[test]
    fn zero_disarms_and_idle_time_after_it_is_no_tick() {
        let mut budget = budget();
        budget.admit(START + MS, START);
        assert_eq!(budget.admit(0, START + MS), 0);
        let later = START + 3 * SECOND;
        assert_eq!(budget.admit(later + MS, later), later + MS);
        assert_eq!(budget.spent_until, later);
    }

    #[test]
    fn a_tsc_set_back_does_not_stop_the_timer() {
        let mut budget = budget();
        tick_until(&mut budget, START, START + SECOND, 4 * MS);
        let deadline = budget.admit(5 * MS, MS);
        assert!(deadline <= MS + 100 * MS, "{deadline}");
    }

    #[test]
    fn without_a_frequency_there_is_no_pacing() {
        let mut budget = Budget::new(0);
        let ticked = tick_until(&mut budget, START, START + SECOND, 5 * MS);
        assert_eq!(ticked.held_back, 0);
    }

    proptest! {
        #[test]
        fn no_deadline_comes_early_or_much_too_late(
            khz: u32,
            calls in proptest::collection::vec((edge(), edge()), 1..50),
        ) {
            let mut budget = Budget::new(khz);
            for (requested, now) in calls {
                let deadline = budget.admit(requested, now);
                let latest = now.saturating_add(100 * u64::from(khz));
                prop_assert!(deadline >= requested);
                prop_assert!(deadline == requested || deadline <= latest);
                prop_assert!(requested != 0 || deadline == 0);
            }
        }
    }

    /// Any TSC value, the ends of the range more often.
    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            Just(u64::MAX),
            0..SECOND,
            (u64::MAX - SECOND)..=u64::MAX,
            any::<u64>(),
        ]
    }
}
