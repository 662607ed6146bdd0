//! virtio-net: a network interface for the guest (virtio 1.2 §5.1).
//!
//! ```text
//!  guest driver ─ rings ─► one thread a queue pair ─► Port ─► tap, or passt's socket
//! ```

mod commands;
mod config_space;
mod control_queue;
mod counters;
mod course;
mod device;
#[cfg(test)]
mod device_testing;
pub mod direction;
mod endpoint;
mod features;
pub mod header;
pub mod link;
mod orders;
pub mod receive;
mod serve;
mod sleeper;
pub mod tap;
#[cfg(test)]
pub mod testing;
pub mod transmit;
pub mod user;
mod worker;

pub use counters::{NetCounters, NetTotals};
pub use device::{LimitsHandle, Net, NetError, NetOptions};
