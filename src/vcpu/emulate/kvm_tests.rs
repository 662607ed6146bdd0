//! The emulator under the machine's own KVM, whichever kind that is.
//!
//! Each guest is a few instructions in long mode. Where KVM executes them by
//! itself the emulator stays idle and the guest must see the same.

mod guest;
mod instructions;
mod syscalls;
mod system;
mod user_mode;
mod vectors;
