//! The virtual machine as a whole: how it is built, lives and ends.

pub mod exit;
pub mod report;

pub use report::{Milestones, Report};
