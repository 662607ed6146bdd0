//! Disk images as files: making, showing, converting, committing and checking them.
//!
//! ```text
//!  create   format ──────────────────────────► NewFile ─► its name
//!  info     link  (header, lock, host's view)
//!  convert  Chain ─► extents ─► data, no zeros ─► NewFile ─► its name
//!  commit   Chain ─► overlay's data ─► backing file, flushed ─► NewFile ─► overlay
//!  check    header ─► tables ─► counts ═ refcounts?
//! ```
//!
//! | file          | subject                                                       |
//! |---------------|---------------------------------------------------------------|
//! | `format.rs`   | formats, and how a file's is found out                        |
//! | `source.rs`   | reading a file that may have holes and lies about its length  |
//! | `header.rs`   | a qcow2 file's header and header extensions                   |
//! | `link.rs`     | one file of a chain, opened and locked                        |
//! | `chain.rs`    | an image with its backing files, ready to be read             |
//! | `new_file.rs` | files that get their name when they are whole                 |
//! | `check/`      | is a qcow2 file consistent?                                   |
//!
//! qcow2 and VMDK are read and qcow2 is written by the library imago. What it gets
//! has been through [`header`], and it opens no file by itself but through our rules:
//! an image is untrusted, whoever made it.

pub mod chain;
pub mod check;
pub mod commit;
pub mod convert;
pub mod create;
mod error;
pub mod format;
pub mod header;
pub mod info;
mod link;
mod new_file;
pub mod source;

pub use error::ImageError;
pub use format::Format;
pub use link::OpenRules;

/// Called with how many bytes are done, and of how many.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// What virtual sizes are multiples of, in bytes.
pub const SECTOR: u64 = 512;
