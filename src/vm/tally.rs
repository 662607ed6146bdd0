//! What is counted while vCPUs run, over all of them and over all starts of a VM.

use std::collections::BTreeMap;

use crate::vcpu::emulate::Emulator;
use crate::vcpu::thread::VcpuOutcome;

/// Sums; the report has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Exits from KVM_RUN by kind.
    pub exits: BTreeMap<String, u64>,
    /// Instructions that the fallback emulator executed, by mnemonic.
    pub emulated: BTreeMap<String, u64>,
    /// Breakpoints that Mayfly planted in the guest.
    pub hooks_planted: u64,
    /// Timer deadlines that were put off because the guest could not afford them.
    pub ticks_held_back: u64,
    /// Instructions of user code that nobody knew how to interpret: the program got `#UD`.
    pub undefined_in_user_mode: u64,
}

impl Tally {
    /// Adds what a vCPU leaves behind.
    pub fn add_vcpu(&mut self, outcome: &VcpuOutcome) {
        outcome.counts.add_to(&mut self.exits);
        self.ticks_held_back = self.ticks_held_back.saturating_add(outcome.ticks_held_back);
        let emulated = outcome.emulator.as_ref().map(Emulator::counts);
        let emulated = emulated.unwrap_or_default();
        self.undefined_in_user_mode = self
            .undefined_in_user_mode
            .saturating_add(emulated.undefined_in_user_mode);
        add_all(&mut self.emulated, emulated.by_mnemonic);
    }

    /// Adds what an earlier or later start has counted.
    pub fn add(&mut self, other: &Self) {
        add_all(&mut self.exits, other.exits.clone());
        add_all(&mut self.emulated, other.emulated.clone());
        self.hooks_planted = self.hooks_planted.saturating_add(other.hooks_planted);
        self.ticks_held_back = self.ticks_held_back.saturating_add(other.ticks_held_back);
        self.undefined_in_user_mode = self
            .undefined_in_user_mode
            .saturating_add(other.undefined_in_user_mode);
    }
}

fn add_all(sums: &mut BTreeMap<String, u64>, counts: impl IntoIterator<Item = (String, u64)>) {
    for (name, count) in counts {
        let sum = sums.entry(name).or_default();
        *sum = sum.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_over_starts() {
        let counted = |count: u64| Tally {
            exits: BTreeMap::from([("io-out".to_owned(), count)]),
            emulated: BTreeMap::from([("movaps".to_owned(), count * 10)]),
            hooks_planted: count * 100,
            ticks_held_back: count * 1000,
            undefined_in_user_mode: count * 10_000,
        };
        let mut sum = Tally::default();
        sum.add(&counted(1));
        sum.add(&counted(2));
        assert_eq!(sum, counted(3));
    }
}
