//! A virtual processor: its first state, its CPUID and MSRs, and the thread
//! that runs it.

pub mod counts;
pub mod cpuid;
pub mod emulate;
pub mod gate;
pub mod guest_tsc;
pub mod kick;
pub mod msr;
pub mod report;
pub mod setup;
pub mod thread;
pub mod tick_pacing;
