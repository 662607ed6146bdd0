//! The virtual machine as a whole: how it is built, lives and ends.

pub mod exit;
pub mod report;

pub use report::{Milestones, Report};

use std::time::Instant;

use crate::config::VmConfig;

/// Builds and runs the VM (placeholder of this branch: the real one is in `lifecycle`).
pub fn run(config: &VmConfig, started: Instant) -> Report {
    let message = format!("cannot boot '{}' yet", config.kernel.display());
    Report::of_failure(exit::ExitReason::HostError { message }, started)
}
