//! Mayfly.

pub mod devices;
pub mod memory;
pub mod vm;
