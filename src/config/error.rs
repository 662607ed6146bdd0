//! What can be wrong with a configuration, one sentence each.

use thiserror::Error;

use super::CpusConfig;
use super::net::NetConfigError;

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
    /// Sockets, cores and threads that are not as many vCPUs.
    #[error(
        "sockets={},cores={},threads={} make {product} CPUs, not {}; use --cpus {product},… or leave one of them out",
        cpus.sockets(), cpus.cores(), cpus.threads(), cpus.count()
    )]
    CpusProduct {
        /// What was given, and worked out from it.
        cpus: CpusConfig,
        /// The vCPUs that it makes.
        product: u128,
    },
    /// vCPUs that cannot be divided evenly.
    #[error("{count} CPUs cannot be divided evenly by {parts}; use a multiple of {unit}")]
    CpusUneven {
        /// Number of vCPUs.
        count: u32,
        /// By what they are divided.
        parts: String,
        /// The product of those.
        unit: u64,
    },
    /// A count that would leave APIC ids out.
    #[error(
        "{part}={count} is not possible here: within a larger part the number must be a power of two; use {part}={below} or {part}={above}"
    )]
    CpusPowerOfTwo {
        /// Whose number.
        part: &'static str,
        /// The number.
        count: u32,
        /// The next smaller power of two.
        below: u32,
        /// The next larger one.
        above: u64,
    },
    /// A part of `--cpus` twice.
    #[error("--cpus has {option} twice; leave one of them out")]
    CpusOptionTwice {
        /// The part.
        option: &'static str,
    },
    /// A vCPU that there is not.
    #[error(
        "--cpu-pin names vCPU {vcpu}, but the VM has {cpus} CPUs, counted from 0; use more --cpus or leave it out"
    )]
    PinNoVcpu {
        /// The vCPU.
        vcpu: u32,
        /// vCPUs of the VM.
        cpus: u32,
    },
    /// A vCPU's host CPUs twice.
    #[error("--cpu-pin names vCPU {vcpu} twice; give all its host CPUs at once, as in {vcpu}:2+3")]
    PinTwice {
        /// The vCPU.
        vcpu: u32,
    },
    /// A host CPU that there is not, or that is kept from this process.
    #[error(
        "cannot pin vCPU {vcpu} to host CPU {cpu}: the host lets Mayfly run on {allowed}; choose among those"
    )]
    PinHostCpu {
        /// The vCPU.
        vcpu: u32,
        /// The host CPU.
        cpu: u32,
        /// The host CPUs that there are for this process.
        allowed: String,
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
    /// A part of `--memory` that is none of its options.
    #[error(
        "'{given}' is not an option of --memory; after the size it takes hugepages=, shared, mergeable, prealloc, lock and numa="
    )]
    MemoryOption {
        /// What was given.
        given: String,
    },
    /// An option of `--memory` twice.
    #[error("--memory has {option} twice; leave one of them out")]
    MemoryOptionTwice {
        /// The option.
        option: &'static str,
    },
    /// A size that the huge pages do not make.
    #[error("{size} is not a multiple of the huge pages' {page}; use --memory {above}")]
    PartialHugePage {
        /// Size asked for.
        size: String,
        /// Size of a huge page.
        page: String,
        /// The next size that is possible.
        above: String,
    },
    /// `shared` and `mergeable` at once.
    #[error(
        "shared memory cannot be mergeable, because KSM merges only private anonymous memory; leave shared or mergeable out"
    )]
    MergeableShared,
    /// `mergeable` with pages out of a pool.
    #[error(
        "huge pages out of the host's pool cannot be mergeable, because KSM merges only ordinary pages; leave mergeable out or use hugepages=thp"
    )]
    MergeableHugePages,
    /// `mergeable` with `prealloc`.
    #[error(
        "mergeable memory cannot be prealloc, which takes every page at the start so that none is missing later, while KSM gives equal ones away again; leave mergeable or prealloc out"
    )]
    MergeablePrealloc,
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
    /// A part of a `--disk` that is none of its options.
    #[error(
        "'{given}' is not an option of --disk; it takes path=FILE, readonly, ephemeral, format=, cache=, aio=, backing=, queues=, serial=, iops= and bandwidth= (a comma in a path is written twice)"
    )]
    DiskOption {
        /// What was given.
        given: String,
    },
    /// An option of `--disk` twice.
    #[error("--disk has {option} twice; leave one of them out")]
    DiskOptionTwice {
        /// The option.
        option: &'static str,
    },
    /// A `--disk` without a file.
    #[error("a disk needs a file; write for example --disk path=disk.img")]
    DiskWithoutPath,
    /// `readonly` and `ephemeral` at once.
    #[error(
        "a disk is either readonly or ephemeral: with ephemeral the guest may write, and the file is never changed; leave one of them out"
    )]
    ReadOnlyEphemeral,
    /// A serial number that the device cannot carry.
    #[error(
        "'{given}' cannot be the serial number of a disk; use at most 20 letters, digits and signs"
    )]
    DiskSerial {
        /// What was given.
        given: String,
    },
    /// No queue, or more than vCPUs.
    #[error("{queues} queues do not suit a disk of a VM with {cpus} CPUs; use 1 to {cpus}")]
    DiskQueues {
        /// Number asked for.
        queues: u16,
        /// vCPUs of the VM.
        cpus: u32,
    },
    /// A limit at which nothing would ever be served.
    #[error("a disk with {limit}=0 would never answer; leave it out for no limit")]
    ZeroLimit {
        /// Which limit.
        limit: &'static str,
    },
    /// A network interface.
    #[error(transparent)]
    Net(#[from] NetConfigError),
    /// A name that cannot be told.
    #[error("'{given}' cannot be the name of a VM; use 1 to 63 letters, digits, '-', '_' and '.'")]
    Name {
        /// What was given.
        given: String,
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
