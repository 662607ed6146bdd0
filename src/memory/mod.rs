//! Guest-physical memory: the address map ([`layout`]) and the RAM in it ([`ram`]).

pub mod layout;
pub mod ram;

pub use ram::{GuestRam, MemoryError};
