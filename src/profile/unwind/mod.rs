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
use super::samples::Sample;

/// Callers of a sample at most.
const MAX_DEPTH: usize = 128;

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

    /// The return addresses of a sample in kernel mode, the innermost first.
    pub(super) fn callers(&mut self, sample: &Sample<'_>, table: &SymbolTable) -> Vec<u64> {
        match self {
            Self::Orc(orc) => orc.callers(sample),
            Self::Scan(scan) => scan.callers(sample, table),
        }
    }
}
