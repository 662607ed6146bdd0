//! What the tests share: running the binary, the guests, the kind of host.

pub mod guests;
pub mod host;
pub mod image;
pub mod run;
pub mod terminal;
pub mod tiny;

pub use guests::bare;
pub use host::{HostKind, host_kind};
pub use run::{Mayfly, Outcome};
