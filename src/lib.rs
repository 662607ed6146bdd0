//! Mayfly.

pub mod boot;
pub mod cli;
pub mod config;
pub mod console;
pub mod devices;
pub mod guest;
pub mod host;
pub mod interrupts;
pub mod memory;
pub mod terminal;
pub mod vcpu;
pub mod vm;
