//! The far side of the serial port: what the guest prints and what it is typed.

pub mod output;
mod panic_watch;
pub mod patient;
mod ring;

pub use output::{Finished, Output, OutputWriter};
pub use panic_watch::PanicWatch;
pub use patient::Patience;
