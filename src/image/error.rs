//! Why an image cannot be made, read, converted, committed or checked.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Format;

/// One sentence each; the operating system's words, where there are any, are the source.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file cannot be opened.
    #[error("cannot open image '{}'", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The new file cannot be made or named.
    #[error("cannot create image '{}'", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The name is taken.
    #[error("cannot create image '{}': it exists; add --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// What was asked for cannot be.
    #[error("cannot create image '{}': {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// Reading failed.
    #[error("cannot read image '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system or the format's library said.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write image '{}'", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system or the format's library said.
        #[source]
        source: io::Error,
    },
    /// A directory, a FIFO, a socket or a character device.
    #[error("cannot use '{}' as an image: it is neither a regular file nor a block device", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("cannot lock image '{}': {holder}", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who has it, and what to do.
        holder: String,
    },
    /// The file system does not lock.
    #[error("cannot lock image '{}'", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Name and content do not agree.
    #[error(
        "cannot tell what '{}' is: it begins like a {content} image, but is not named so; say {option} {content}, or {option} raw if it holds a disk's bytes",
        path.display()
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What it begins like.
        content: Format,
        /// The option that decides.
        option: &'static str,
    },
    /// The file is not what was said.
    #[error("cannot use image '{}': it is not a {format} image", path.display())]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// What it was to be.
        format: Format,
    },
    /// The image is damaged, hostile, or uses what is not supported.
    #[error("cannot use {format} image '{}': {reason}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What is wrong.
        reason: String,
    },
    /// A file that the image names lies elsewhere.
    #[error(
        "cannot use image '{}': it needs '{}', which is not in its directory; add --backing-any if the image is trusted",
        path.display(), wanted.display()
    )]
    Outside {
        /// The image.
        path: PathBuf,
        /// The file that it names.
        wanted: PathBuf,
    },
    /// The chain has no end.
    #[error("cannot use image '{}': it has more than {max} backing files, or they form a loop", path.display())]
    ChainTooLong {
        /// The image.
        path: PathBuf,
        /// How many are followed.
        max: usize,
    },
    /// Nothing to commit to, or it would lose something.
    #[error("cannot commit image '{}': {reason}", path.display())]
    Commit {
        /// The overlay.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The check cannot be done.
    #[error("cannot check image '{}': {reason}", path.display())]
    Check {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl ImageError {
    /// Whether the user can mend it with another command line, or another image;
    /// else the host has failed or refused.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Create { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Locked { .. }
            | Self::Lock { .. } => false,
            _ => true,
        }
    }
}
