//! Mayfly.

pub mod cli;
pub mod config;
pub mod console;
pub mod devices;
pub mod guest;
pub mod host;
pub mod memory;
pub mod terminal;
pub mod vm;
