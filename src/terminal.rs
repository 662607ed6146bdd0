//! The user's terminal: raw mode that is always undone, and the escape key.
//!
//! | file               | subject                                              |
//! |--------------------|------------------------------------------------------|
//! | `raw.rs`           | [`RawMode`]: entering, leaving, job control          |
//! | `last_resort.rs`   | undoing it on panics, signals and `exit`             |
//! | `escape.rs`        | [`EscapeFilter`]: `Ctrl-a` and what follows it       |

mod escape;
mod last_resort;
mod raw;

pub use escape::{EscapeFilter, HELP, Key};
pub use last_resort::restore;
pub use raw::{RawMode, in_foreground};
