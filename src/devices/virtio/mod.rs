//! Virtio devices (virtio 1.2): one contract, several devices, two transports.
//!
//! ```text
//!  guest driver ─ registers ─► transport (mmio, pci) ─► Front ─► VirtioDevice
//!               ─ rings in guest memory, kicks by ioeventfd ───► the device's own thread
//!               ◄─ interrupts by irqfd ───────────────────────── VirtioInterrupt
//! ```
//!
//! A device knows no transport, and a transport knows no vCPU.

pub mod block;
pub mod chain;
pub mod control;
pub mod device;
pub mod front;
pub mod lent;
mod lookout;
pub mod net;
pub mod queue;
pub mod queue_thread;
pub mod rate_limiter;
pub mod rng;
#[cfg(test)]
pub mod testing;
pub mod transport;
