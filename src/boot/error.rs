//! Why a kernel, an initrd or a command line cannot be booted.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::kaslr::RelocationError;
use super::payload::Compression;
use crate::memory::MemoryError;

/// What a file is for; it names the file in error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// The kernel file.
    Kernel,
    /// The initial RAM disk.
    Initrd,
}

impl fmt::Display for FileRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        })
    }
}

/// Why booting cannot begin. Every variant is one line for the user; the
/// operating system's own words, where there are any, are the source.
#[derive(Debug, Error)]
pub enum BootError {
    /// The file cannot be opened.
    #[error("cannot open {role} '{}'", path.display())]
    Open {
        /// What the file is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path is a directory, a FIFO, a device or a socket.
    #[error("cannot use '{}' as the {role}: it is not a regular file", path.display())]
    NotRegular {
        /// What the file is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {role} '{}'", path.display())]
    Read {
        /// What the file is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("{role} '{}' is empty", path.display())]
    Empty {
        /// What the file is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than Mayfly reads.
    #[error("{role} '{}' is too large: {size} bytes, and at most {max} are read", path.display())]
    TooLarge {
        /// What the file is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The file ends before what its headers promise.
    #[error("kernel '{}' is truncated: it ends before its {what}; copy or build it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The part that is missing.
        what: &'static str,
    },
    /// The file is no kernel that Mayfly knows.
    #[error(
        "'{}' is not a kernel: expected an x86-64 ELF vmlinux or a bzImage (vmlinuz)",
        path.display()
    )]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// The kernel is for 32-bit processors.
    #[error("kernel '{}' is a 32-bit kernel; Mayfly boots x86-64 kernels", path.display())]
    Bits32 {
        /// The file.
        path: PathBuf,
    },
    /// The kernel is for another architecture.
    #[error("kernel '{}' is for {architecture}; Mayfly boots x86-64 kernels", path.display())]
    WrongArchitecture {
        /// The file.
        path: PathBuf,
        /// The architecture's name.
        architecture: String,
    },
    /// The ELF or setup header contradicts itself.
    #[error("kernel '{}' is malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A part of the kernel wants to be where Mayfly's own structures are.
    #[error(
        "kernel '{}' cannot be placed at {start:#x}..{end:#x}: {reason}",
        path.display()
    )]
    Placement {
        /// The file.
        path: PathBuf,
        /// Guest-physical start.
        start: u64,
        /// Guest-physical end (exclusive).
        end: u64,
        /// What is there instead.
        reason: &'static str,
    },
    /// The guest has too little memory for the kernel.
    #[error(
        "kernel '{}' needs at least {} MiB of guest memory, and there are {} MiB; raise --memory",
        path.display(), mib_up(*needed), available >> 20
    )]
    MemoryTooSmall {
        /// The file.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The compressed part of the file does not unpack.
    #[error(
        "cannot unpack {role} '{}': its {compression} data is corrupt; copy or build it again",
        path.display()
    )]
    Corrupt {
        /// What the file is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
        /// How it is compressed.
        compression: Compression,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// The compressed part of the file unpacks to more than is allowed.
    #[error(
        "cannot unpack {role} '{}': its {compression} data unpacks to more than the {limit} bytes allowed",
        path.display()
    )]
    Endless {
        /// What the file is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
        /// How it is compressed.
        compression: Compression,
        /// The limit in bytes.
        limit: u64,
    },
    /// The kernel has no entry for the protocol asked for.
    #[error("kernel '{}' has no {protocol} entry point; {hint}", path.display())]
    NoEntry {
        /// The file.
        path: PathBuf,
        /// The protocol's name.
        protocol: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// The initrd does not fit beside the kernel.
    #[error(
        "initrd '{}' does not fit: it has {size} bytes, and {room} are free beside the kernel; raise --memory",
        path.display()
    )]
    InitrdFit {
        /// The file.
        path: PathBuf,
        /// Its size in bytes, unpacked if it is to be unpacked.
        size: u64,
        /// The largest room the kernel's limits leave, in bytes.
        room: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line is too long: {len} bytes, and the kernel takes {max}")]
    CommandLineLength {
        /// Its length in bytes without the NUL.
        len: usize,
        /// The limit in bytes without the NUL.
        max: usize,
    },
    /// The command line holds a byte that would end or split it.
    #[error("the kernel command line contains {what} at byte {position}; remove it")]
    CommandLineByte {
        /// The name of what it contains.
        what: &'static str,
        /// Where it is.
        position: usize,
    },
    /// The kernel cannot be put at a random address, which was asked for.
    #[error("cannot put kernel '{}' at a random address (--kaslr=on): {reason}", path.display())]
    Unmovable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The kernel's relocation table cannot be applied.
    #[error(
        "kernel '{}' has a corrupt relocation table; copy or build it again, or use --kaslr=off",
        path.display()
    )]
    Relocations {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: RelocationError,
    },
    /// The host gave no random numbers.
    #[error("cannot get random numbers from the host for the kernel's start")]
    Random {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Guest memory refused a write.
    #[error("cannot place the {what} in guest memory")]
    Memory {
        /// What was being placed.
        what: &'static str,
        /// Why.
        #[source]
        source: MemoryError,
    },
}

/// `bytes` in MiB, rounded up.
fn mib_up(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_file_and_the_remedy() {
        let error = BootError::MemoryTooSmall {
            path: "vmlinux".into(),
            needed: (40 << 20) + 1,
            available: 16 << 20,
        };
        assert_eq!(
            error.to_string(),
            "kernel 'vmlinux' needs at least 41 MiB of guest memory, and there are 16 MiB; raise --memory"
        );
    }
}
