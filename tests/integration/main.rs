//! What a user sees of Mayfly, tested from outside through its binary.
//!
//! The same tests run on the machine's own `/dev/kvm` and, by
//! `emulated_host.rs`, on a host with hardware KVM.

mod bare;
mod common;
mod emulated_host;
mod pause;
