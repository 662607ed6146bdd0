//! What the tests share: running the binary, the guests, the kind of host.

pub mod guests;
pub mod run;

pub use guests::bare;
pub use run::{Mayfly, Outcome};
