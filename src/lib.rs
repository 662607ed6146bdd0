//! Mayfly.

pub mod devices;
pub mod memory;
pub mod vcpu;
pub mod vm;
