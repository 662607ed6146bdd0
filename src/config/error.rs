//! What can be wrong with a configuration, one sentence each.

use thiserror::Error;

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No vCPU.
    #[error("a VM needs at least 1 CPU; use --cpus 1 or more")]
    NoCpu,
    /// More vCPUs than KVM gives.
    #[error(
        "{cpus} CPUs are more than the {max} that KVM on this host allows; use a smaller --cpus"
    )]
    TooManyCpus {
        /// Number asked for.
        cpus: u32,
        /// KVM's maximum.
        max: u32,
    },
    /// Less memory than the first megabyte that every PC has.
    #[error("a VM needs at least 1M of memory, not {size} bytes; use a larger --memory")]
    TooLittleMemory {
        /// Size asked for in bytes.
        size: u64,
    },
    /// Not a whole number of pages.
    #[error("the memory size must be a multiple of 4096 bytes, which {size} is not")]
    PartialPage {
        /// Size asked for in bytes.
        size: u64,
    },
    /// More memory than the processor can address.
    #[error(
        "{size} bytes of memory reach beyond the {bits} physical address bits of this host; use a smaller --memory"
    )]
    BeyondAddressWidth {
        /// Size asked for in bytes.
        size: u64,
        /// Width of a physical address in bits.
        bits: u8,
    },
    /// The text is not a size.
    #[error("'{given}' is not a size; write for example 512M, 2G or 1GiB")]
    Size {
        /// What was given.
        given: String,
    },
    /// The size does not fit in 64 bits.
    #[error("the size '{given}' is too large to be counted in bytes")]
    SizeOverflow {
        /// What was given.
        given: String,
    },
    /// The text is not a duration.
    #[error("'{given}' is not a duration; write for example 90s, 5m, 1h, 250ms or 1m30s")]
    Duration {
        /// What was given.
        given: String,
    },
    /// The duration is longer than can be counted.
    #[error("the duration '{given}' is too long; at most 10000 hours can be waited for")]
    DurationOverflow {
        /// What was given.
        given: String,
    },
    /// A timeout that would end the VM before it starts.
    #[error("the timeout must be longer than 0; leave --timeout out to wait for ever")]
    ZeroTimeout,
    /// The command line has a NUL in it, where the kernel would stop reading.
    #[error("the kernel command line contains a NUL character; remove it")]
    CmdlineNul,
    /// A path of no characters.
    #[error("the path of the {what} is empty; give a file name")]
    EmptyPath {
        /// Which file.
        what: &'static str,
    },
    /// A word out of a closed set was expected.
    #[error("{option} takes {expected}, not '{given}'")]
    Choice {
        /// The option.
        option: &'static str,
        /// What was given.
        given: String,
        /// The words it takes.
        expected: &'static str,
    },
}
