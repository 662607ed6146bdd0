//! Mayfly.

pub mod boot;
pub mod devices;
pub mod memory;
pub mod vm;
