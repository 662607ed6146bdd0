//! Why guest memory could not be made or reached.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::options::NumaNodes;

/// Why guest memory could not be made or reached.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// mmap refused the range.
    #[error("cannot reserve {size} bytes of guest memory; choose a smaller --memory")]
    Reserve {
        /// Size asked for in bytes.
        size: u64,
        /// What mmap said.
        #[source]
        source: io::Error,
    },
    /// The host promises no more than it has.
    #[error(
        "cannot reserve {size} bytes of guest memory, because this host promises no more than it has (vm.overcommit_memory=2); choose a smaller --memory or run 'sysctl vm.overcommit_memory=0'"
    )]
    Promise {
        /// Size asked for in bytes.
        size: u64,
    },
    /// The regions do not make a memory map.
    #[error("cannot lay out {size} bytes of guest memory; choose a smaller --memory")]
    Layout {
        /// Size asked for in bytes.
        size: u64,
    },
    /// The file behind shared memory.
    #[error("cannot make a file in memory (memfd) for {size} bytes of shared guest memory")]
    Memfd {
        /// Size asked for in bytes.
        size: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The host has no huge pages of that size.
    #[error(
        "this host has no pool of {} MiB huge pages; use another size, hugepages=thp or none", page >> 20
    )]
    NoHugePages {
        /// Size of a page in bytes.
        page: u64,
    },
    /// Fewer huge pages are free than guest memory is made of.
    #[error(
        "guest memory needs {needed} huge pages of {} MiB, of which this host has {free} to give; run 'echo {total} > {}' or choose a smaller --memory", page >> 20, pool.display()
    )]
    FewHugePages {
        /// Pages wanted.
        needed: u64,
        /// Size of a page in bytes.
        page: u64,
        /// Pages that are free and promised to nobody.
        free: u64,
        /// Pages that the pool would need to have.
        total: u64,
        /// The file that says how many it has.
        pool: PathBuf,
    },
    /// The kernel does not merge pages.
    #[error(
        "the kernel of this host cannot merge equal pages (it has no KSM); leave mergeable out"
    )]
    NoKsm,
    /// More is to be taken from the host than it has.
    #[error(
        "cannot take {} MiB of guest memory at the start, because {holder} has {} MiB left; choose a smaller --memory or leave prealloc out", size >> 20, left >> 20
    )]
    TooMuchAtOnce {
        /// Size asked for in bytes.
        size: u64,
        /// What is left in bytes.
        left: u64,
        /// Whose limit that is.
        holder: String,
    },
    /// The host did not give the pages.
    #[error("cannot take {size} bytes of guest memory from the host")]
    Populate {
        /// Size asked for in bytes.
        size: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// More is to be locked than this user may.
    #[error(
        "cannot lock {size} bytes of guest memory, because this user may lock {limit} (RLIMIT_MEMLOCK); raise the limit ('ulimit -l', LimitMEMLOCK= of a service) or leave lock out"
    )]
    LockLimit {
        /// Size asked for in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The pages cannot be locked.
    #[error("cannot lock {size} bytes of guest memory; leave lock out")]
    Lock {
        /// Size asked for in bytes.
        size: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The kernel knows no nodes.
    #[error("the kernel of this host knows no NUMA nodes; leave numa= out")]
    NoNuma,
    /// A node that is not there.
    #[error("this host has no NUMA node {node} with memory; it has {present}")]
    NoSuchNode {
        /// The node asked for.
        node: u16,
        /// Those that are there, as the kernel lists them.
        present: String,
    },
    /// The memory cannot be bound to its nodes.
    #[error("cannot bind guest memory to NUMA node {nodes}; use one that this process may use")]
    Bind {
        /// The nodes asked for.
        nodes: NumaNodes,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The file that was to fill guest memory could not be read.
    #[error("cannot fill guest memory {addr:#x}..+{len:#x} from a file")]
    Fill {
        /// Guest-physical start.
        addr: u64,
        /// Length in bytes.
        len: usize,
        /// Why reading failed.
        #[source]
        source: io::Error,
    },
    /// The host did not take the pages back.
    #[error("cannot clear {size} bytes of guest memory")]
    Clear {
        /// Size of all guest memory in bytes.
        size: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The range is not (wholly) RAM.
    #[error("guest memory {addr:#x}..+{len:#x} is not RAM")]
    NotRam {
        /// Guest-physical start.
        addr: u64,
        /// Length in bytes.
        len: usize,
    },
}

impl MemoryError {
    /// Whether the words of the command can never mean anything on this host. The others
    /// are what the host has not got, or does not give, now.
    pub fn is_usage(&self) -> bool {
        match self {
            // Too small for what a PC has in its memory, or larger than any address space.
            Self::NotRam { .. } | Self::Layout { .. } | Self::NoSuchNode { .. } => true,
            Self::Reserve { .. }
            | Self::Promise { .. }
            | Self::Memfd { .. }
            | Self::NoHugePages { .. }
            | Self::FewHugePages { .. }
            | Self::NoKsm
            | Self::TooMuchAtOnce { .. }
            | Self::Populate { .. }
            | Self::LockLimit { .. }
            | Self::Lock { .. }
            | Self::NoNuma
            | Self::Bind { .. }
            | Self::Fill { .. }
            | Self::Clear { .. } => false,
        }
    }
}
