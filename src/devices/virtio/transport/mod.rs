//! The transports: how a driver reaches a virtio device's registers.

pub mod mmio;
pub mod pci;

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// Where a queue's kicks are turned into events without an exit to Mayfly (KVM's
/// ioeventfd; tests and fuzzers have their own).
pub trait Doorbells: Send + Sync {
    /// From now on a write at guest-physical `addr` is an event at `fd`: with `queue`
    /// only a 4-byte write of that number, without it a write of any width and value.
    ///
    /// # Errors
    /// What KVM says; the write is an exit then, and reaches the transport's registers.
    fn register(&self, addr: u64, queue: Option<u32>, fd: &EventFd) -> io::Result<()>;

    /// Undoes [`register`](Self::register) with the same arguments.
    ///
    /// # Errors
    /// What KVM says, as when there was no such doorbell.
    fn unregister(&self, addr: u64, queue: Option<u32>, fd: &EventFd) -> io::Result<()>;
}
