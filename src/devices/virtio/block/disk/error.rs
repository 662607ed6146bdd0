//! Why a disk cannot be opened or made, in words for the user.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::lock::Holder;
use super::open::Format;

/// Why a disk cannot be had. Every variant is one line for the user; the operating
/// system's own words, where there are any, are the source.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("cannot open disk '{}'", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file can be read, but not written.
    #[error(
        "cannot open disk '{}' for writing; add readonly, or ephemeral to throw the guest's writes away",
        path.display()
    )]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The host itself uses the block device.
    #[error(
        "cannot open disk '{}' for writing: the host uses it (mounted?); unmount it, or add readonly or ephemeral",
        path.display()
    )]
    DeviceInUse {
        /// The device.
        path: PathBuf,
    },
    /// The path is a directory, a FIFO, a character device or a socket.
    #[error("cannot use '{}' as a disk: it is neither a regular file nor a block device", path.display())]
    NotADisk {
        /// The path.
        path: PathBuf,
    },
    /// The file has no bytes.
    #[error("disk '{}' is empty; give it a size with 'mayfly image create' or 'truncate -s SIZE'", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read, or its size be found out.
    #[error("cannot read disk '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path led to another file when it was opened again.
    #[error("disk '{}' was replaced while it was being opened; try again", path.display())]
    Replaced {
        /// The path.
        path: PathBuf,
    },
    /// The file system has no O_DIRECT.
    #[error(
        "the file system of disk '{}' has no direct I/O (O_DIRECT); use cache=writeback",
        path.display()
    )]
    NoDirect {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has the file.
    #[error(
        "cannot lock disk '{}': {holder}; {}",
        path.display(),
        if *exclusive { "end that first, or add readonly or ephemeral if nobody writes it" }
        else { "end that first" }
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
        /// Whether it was to be written.
        exclusive: bool,
    },
    /// The file system does not lock.
    #[error("cannot lock disk '{}'", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file that is not named as an image begins like one.
    #[error(
        "disk '{}' begins like a {content} image, but is not named so; say format={content}, or format=raw if it is a raw disk into which a guest has written that",
        path.display()
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What its content looks like.
        content: Format,
    },
    /// The file is not what its name or `format=` says.
    #[error("disk '{}' is not a {format} image; say format=raw if it holds the disk's bytes", path.display())]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// What it was to be.
        format: Format,
    },
    /// A guest could turn the file into an image by what it writes.
    #[error(
        "disk '{}' is named as a {format} image, so it cannot be written as a raw disk; rename it, or add readonly or ephemeral",
        path.display()
    )]
    RawByImageName {
        /// The file.
        path: PathBuf,
        /// What its name says.
        format: Format,
    },
    /// The format is for reading only.
    #[error(
        "disk '{}' is a {format} image, which Mayfly only reads; add readonly or ephemeral, or convert it",
        path.display()
    )]
    ReadOnlyFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: Format,
    },
    /// The image's header or tables are wrong, or ask for what is not supported.
    #[error("cannot use {format} image '{}'", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// The image asks for more than Mayfly allows.
    #[error("cannot use {format} image '{}': {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What it asks for.
        reason: String,
    },
    /// A backing file or data file lies elsewhere.
    #[error(
        "disk '{}' needs '{}', which is not in its directory; add backing=any if the image is trusted",
        path.display(), wanted.display()
    )]
    Outside {
        /// The image.
        path: PathBuf,
        /// The file that it names.
        wanted: PathBuf,
    },
    /// The chain of backing files has no end.
    #[error("disk '{}' has more than {max} backing files, or they form a loop", path.display())]
    ChainTooLong {
        /// The image that the user gave.
        path: PathBuf,
        /// How many are followed.
        max: usize,
    },
    /// What the guest writes cannot be put aside.
    #[error("cannot make the scratch file of disk '{}'; choose another --scratch-dir", path.display())]
    Scratch {
        /// The disk.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file cannot be made.
    #[error("cannot create disk '{}'", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
