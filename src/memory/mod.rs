//! Guest-physical memory: the address map ([`layout`]) and the RAM in it ([`ram`]).

mod io_buffers;
pub mod layout;
pub mod ram;

pub use io_buffers::IoBuffers;
pub use ram::{GuestRam, MemoryError};
