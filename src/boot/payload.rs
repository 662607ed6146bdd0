//! Compressed contents: what format they are in, and unpacking them.

use std::fmt;

/// The compression formats Linux uses for kernels and initrds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// LZMA in its old `.lzma` container.
    Lzma,
    /// xz.
    Xz,
    /// lz4 in its legacy frame format.
    Lz4,
    /// zstd (RFC 8878).
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}
