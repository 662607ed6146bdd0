//! Mayfly: a type-2 hypervisor for Linux/KVM on x86-64 that boots disposable
//! test VMs.
//!
//! The binary is a few lines over this library; tests, benches and fuzzers
//! reach the parts through it. docs/architecture.md tells the same at length.
//!
//! ```text
//!  command line ─► cli ─► config ─► vm::builder ─► vm::running ─► exit code
//!                                        │
//!              boot, memory, devices ◄───┘
//!
//!  vCPU thread:  KVM_RUN ─► exit ─► devices::bus ─► device register
//!                             └──► vcpu::emulate (what KVM could not run)
//!  main thread:  epoll ─► vm::control (end, timeout, signals, keyboard)
//! ```
//!
//! | room           | what is in it                                              |
//! |----------------|------------------------------------------------------------|
//! | [`cli`]        | one file a subcommand: flags → configuration               |
//! | [`config`]     | what a VM is made of, checked once                         |
//! | [`vm`]         | building a machine, its life, its end                      |
//! | [`boot`]       | kernel and initrd files → guest memory and an entry point  |
//! | [`memory`]     | the guest-physical map, and the one way to write to RAM    |
//! | [`profile`]    | where the guest's time goes: samples, stacks, flame graphs   |
//! | [`vcpu`]       | first state, CPUID, MSRs, the exit loop, the emulator      |
//! | [`interrupts`] | interrupt controllers and the lines into them              |
//! | [`devices`]    | the buses and what is on them                              |
//! | [`console`]    | the far side of the serial port                            |
//! | [`terminal`]   | raw mode that is always undone; the escape key             |
//! | [`host`]       | what this host offers: KVM and its kind                    |
//! | [`image`]      | disk images as files: made, converted, checked             |
//! | [`guest`]      | the default guest, built on demand                         |
//! | [`user_cache`] | where guests and unpacked kernels are kept                 |
//! | [`one_line`]   | errors as people are told them                             |
//!
//! Nothing knows what is above it: devices and boot know no command line, a
//! device knows no vCPU. A value is checked where it enters and is a good type
//! from there on.

pub mod boot;
pub mod cli;
pub mod config;
pub mod console;
pub mod devices;
pub mod guest;
pub mod host;
pub mod image;
pub mod interrupts;
pub mod memory;
pub mod one_line;
pub mod process;
pub mod profile;
pub mod terminal;
#[cfg(test)]
#[path = "../tests/integration/common/tools.rs"]
mod tools_for_tests;
pub mod user_cache;
pub mod vcpu;
pub mod vm;
