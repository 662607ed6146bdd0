//! Mayfly.

pub mod config;
pub mod console;
pub mod devices;
pub mod host;
pub mod memory;
pub mod terminal;
pub mod vm;
