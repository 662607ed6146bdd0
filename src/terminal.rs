//! The user's terminal: raw mode that is always undone, and the escape key.
//!
//! | file               | subject                                              |
//! |--------------------|------------------------------------------------------|
//! | `raw.rs`           | [`RawMode`]: entering, leaving, job control          |
//! | `last_resort.rs`   | undoing it on panics, signals and `exit`             |
//! | `signal_stack.rs`  | where handlers run in a thread without stack left    |
//! | `escape.rs`        | [`EscapeFilter`]: `Ctrl-a` and what follows it       |

mod escape;
mod last_resort;
mod raw;
mod signal_stack;

pub use escape::{EscapeFilter, HELP, Key};
pub use last_resort::{guard_thread, restore};
pub use raw::{RawMode, in_foreground};
pub use signal_stack::SignalStack;
