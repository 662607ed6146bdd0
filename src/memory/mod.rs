//! Guest-physical memory: the address map ([`layout`]) and the RAM in it ([`ram`]).

mod backing;
mod error;
mod io_buffers;
pub mod layout;
mod mapping;
mod options;
pub mod ram;
mod region;

pub use error::MemoryError;
pub use io_buffers::IoBuffers;
pub use options::{HugePages, NumaNodes, RamOptions};
pub use ram::GuestRam;
