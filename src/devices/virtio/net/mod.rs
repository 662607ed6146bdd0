//! virtio-net: a network interface for the guest (virtio 1.2 §5.1).
//!
//! ```text
//!  guest driver ─ rings ─► one thread a queue pair ─► Port ─► tap, or passt's socket
//! ```

pub mod direction;
pub mod header;
pub mod link;
pub mod receive;
pub mod tap;
#[cfg(test)]
pub mod testing;
pub mod transmit;
pub mod user;
