//! What the tests share: running the binary, the guests, the kind of host.

pub mod built;
pub mod disk;
pub mod floor;
pub mod guests;
pub mod host;
pub mod image;
pub mod netns;
pub mod pattern;
pub mod peer;
pub mod process;
pub mod run;
pub mod running;
pub mod startup;
pub mod terminal;
pub mod tiny;
pub mod tools;
pub mod trace;

pub use guests::bare;
pub use host::{HostKind, host_kind, is_emulated, tsc_is_trusted};
pub use run::{Mayfly, Outcome};
