//! From a sample's registers and stack to the functions that called each other.
//!
//! Linux kernels are built without frame pointers. Those of distributions carry
//! tables that say for each instruction where the caller's frame is ([`orc`]): a stack
//! found by them is right. Where there are none, return addresses are looked for on the
//! stack and believed if the code before each calls the function below ([`scan`]).
//! Without either a sample is the function it hit, which is always right.

mod orc;
mod scan;

use crate::boot::{SymbolTable, Symbols};

use self::orc::Orc;
use self::scan::Scan;
use super::budget::Budget;
use super::samples::Sample;

/// Callers of a sample at most.
const MAX_DEPTH: usize = 128;
/// Look-ups that a frame takes by ORC.
const ORC_WORK: u64 = 4;

/// How stacks are unwound.
pub(super) enum Unwinder {
    /// By the kernel's own tables.
    Orc(Orc),
    /// By looking for calls.
    Scan(Scan),
}

impl Unwinder {
    /// What suits the kernel.
    pub(super) fn of(symbols: &Symbols) -> Self {
        match Orc::of(symbols) {
            Some(orc) => Self::Orc(orc),
            None => Self::Scan(Scan::new(symbols.code(), symbols.shift())),
        }
    }

    /// One that finds no callers, for tests.
    #[cfg(test)]
    pub(super) fn without_code() -> Self {
        Self::Scan(Scan::new(Vec::new(), 0))
    }

    /// The return addresses of a sample in kernel mode, the innermost first. `None` if
    /// there is too little left of `work` to say.
    pub(super) fn callers(
        &mut self,
        sample: &Sample<'_>,
        table: &SymbolTable,
        work: &mut Budget,
    ) -> Option<Vec<u64>> {
        if work.is_used_up() {
            return None;
        }
        let callers = match self {
            Self::Orc(orc) => {
                let callers = orc.callers(sample);
                let steps = (callers.len() as u64).saturating_add(1);
                work.spend(steps.saturating_mul(ORC_WORK));
                callers
            }
            Self::Scan(scan) => scan.callers(sample, table, work),
        };
        // What used it up may have stopped half-way.
        (!work.is_used_up()).then_some(callers)
    }
}
