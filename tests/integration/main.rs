//! What a user sees of Mayfly, tested from outside through its binary.
//!
//! The same tests run on the machine's own `/dev/kvm` and, by
//! `emulated_host`, on a host with hardware KVM.

mod bad_input;
mod bare;
mod boot;
mod common;
mod corpora;
mod disk;
mod disk_bare;
mod doctor;
mod emulated_host;
mod image;
mod json;
mod linux;
mod memory;
mod net;
mod net_bare;
mod pause;
mod profile;
mod serial;
mod startup;
mod terminal;
mod ticks;
