//! virtio-net: a network interface for the guest (virtio 1.2 §5.1).
//!
//! ```text
//!  guest driver ─ rings ─► one thread a queue pair ─► Port ─► tap, or passt's socket
//! ```

pub mod link;
pub mod user;
