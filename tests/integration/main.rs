//! What a user sees of Mayfly, tested from outside through its binary.
//!
//! The same tests run on the machine's own `/dev/kvm` and, by
//! `emulated_host`, on a host with hardware KVM.

mod bad_input;
mod bare;
mod boot;
mod common;
mod corpora;
mod cpu_model;
mod cycles;
mod disk;
mod disk_bare;
mod doctor;
mod emulated_host;
mod image;
mod json;
mod kaslr;
mod linux;
mod memory;
mod memory_options;
mod net;
mod net_bare;
mod pause;
mod power;
mod profile;
mod reboot;
mod serial;
mod shares;
mod startup;
mod terminal;
mod ticks;
mod time;
