//! virtio-block: a disk for the guest (virtio 1.2 §5.2).
//!
//! ```text
//!  device    registers, activation, reset, pause
//!  worker    one thread a queue: serve (take chains, begin requests), answer (end them)
//!  sleeper   how it sleeps: ring (io_uring) or poll; pool makes what a ring cannot
//!  request   what a chain asks for; config_space: what the driver reads
//!  disk      the files
//! ```

mod answer;
pub mod config_space;
pub mod counters;
pub mod device;
pub mod disk;
mod poll;
mod pool;
mod report;
pub mod request;
mod ring;
mod serve;
mod sleeper;
mod slots;
#[cfg(test)]
mod testing;
mod worker;

pub use counters::{BlockCounters, BlockTotals};
pub use device::{Block, BlockError, BlockOptions, Engine, LimitsHandle};
