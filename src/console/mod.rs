//! The far side of the serial port: what the guest prints and what it is typed.
//!
//! [`Console::open`] leads it to standard input and output, a file, a
//! pseudo-terminal or nowhere; [`Console::split`] gives the event loop an [`Input`],
//! and keeps a [`ConsoleEnd`], which has an [`OutputWriter`] for the UART.

mod backend;
mod descriptor;
pub mod input;
pub mod output;
mod panic_watch;
pub mod patient;
mod pty;
mod ring;

pub use backend::{Console, ConsoleEnd, ConsoleError};
pub use descriptor::Descriptor;
pub use input::{Input, Received};
pub use output::{Finished, Output, OutputWriter};
pub use panic_watch::PanicWatch;
pub use patient::Patience;
