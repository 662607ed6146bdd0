//! What CPUID tells the guest: KVM's supported leaves, with the topology and
//! the APIC ids of this machine written in.
//!
//! | file          | subject                                             |
//! |---------------|-----------------------------------------------------|
//! | `mod.rs`      | what depends on the machine and the vCPU            |
//! | `model.rs`    | `--cpu`: what is left of KVM's offer at a level     |
//! | `features.rs` | the bits of each level, one a line                  |
//! | `timing.rs`   | how fast the TSC is, for all who may ask            |

mod features;
pub mod model;
mod timing;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use thiserror::Error;

use timing::LEAF_TIMING;

/// Leaf 1 ECX: x2APIC.
const ECX_X2APIC: u32 = 1 << 21;
/// Leaf 1 ECX: TSC deadline timer.
const ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: running under a hypervisor.
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: more than one logical processor in the package.
const EDX_HTT: u32 = 1 << 28;

/// Why the CPUID table could not be made.
#[derive(Debug, Error)]
pub enum CpuidError {
    /// More leaves than KVM takes.
    #[error("cannot hold {0} CPUID leaves")]
    TooManyLeaves(usize),
}

/// The facts about a machine that CPUID repeats.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Number of sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
    /// Whether KVM's APIC timer has the TSC-deadline mode.
    pub tsc_deadline: bool,
    /// TSC frequency in kHz, 0 if unknown.
    pub tsc_khz: u32,
}

impl Topology {
    /// vCPUs of a socket.
    fn in_socket(&self) -> u32 {
        self.cores.saturating_mul(self.threads)
    }

    /// Bits of an APIC id that number the threads of a core: the lowest.
    fn thread_bits(&self) -> u32 {
        bits_for(self.threads)
    }

    /// Bits of an APIC id that number the vCPUs of a socket; the socket is above.
    fn socket_bits(&self) -> u32 {
        self.thread_bits() + bits_for(self.cores)
    }
}

/// Bits that number `count` things.
fn bits_for(count: u32) -> u32 {
    u32::BITS - count.saturating_sub(1).leading_zeros()
}

/// The lowest `bits` bits of `value`, and what is above them.
fn split_at(value: u32, bits: u32) -> (u32, u32) {
    let above = value.checked_shr(bits).unwrap_or(0);
    (value - above.checked_shl(bits).unwrap_or(0), above)
}

/// The CPUID table of the vCPU with APIC id `apic_id`, made from what KVM supports.
///
/// # Errors
/// [`CpuidError::TooManyLeaves`] if the result does not fit KVM's table.
pub fn for_vcpu(supported: &CpuId, topology: Topology, apic_id: u32) -> Result<CpuId, CpuidError> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f | 0x8000_0026 | LEAF_TIMING))
        .copied()
        .collect();
    let amd = entries.iter().any(|e| e.function == 0 && is_amd(e));
    let max_leaf = entries
        .iter()
        .find(|e| e.function == 0)
        .map_or(0, |e| e.eax);
    for entry in &mut entries {
        set_topology(entry, topology, apic_id, amd);
    }
    if max_leaf >= 0xb {
        entries.extend(extended_topology(0xb, topology, apic_id));
    }
    // Its first levels are the same, so that leaf 0xb alone does for cores of one socket: a
    // guest that finds nothing here looks there (Intel SDM vol. 2, CPUID, leaf 0x1f).
    if max_leaf >= 0x1f && (topology.sockets > 1 || topology.threads > 1) {
        entries.extend(extended_topology(0x1f, topology, apic_id));
    }
    timing::add_timing_leaf(&mut entries, topology.tsc_khz);
    if max_leaf >= timing::LEAF_TSC && !amd {
        timing::tell_tsc_ratio(&mut entries, topology.tsc_khz);
    }
    CpuId::from_entries(&entries).map_err(|_| CpuidError::TooManyLeaves(entries.len()))
}

/// "AuthenticAMD" or "HygonGenuine" in EBX, EDX, ECX of leaf 0.
fn is_amd(leaf0: &kvm_cpuid_entry2) -> bool {
    leaf0.ebx == 0x6874_7541 || leaf0.ebx == 0x6f67_7948
}

/// Writes what depends on the vCPU into one leaf (Intel SDM vol. 2, CPUID; AMD APM vol. 3 app. E).
fn set_topology(entry: &mut kvm_cpuid_entry2, topology: Topology, apic_id: u32, amd: bool) {
    let in_socket = topology.in_socket();
    match entry.function {
        // EBX: vCPUs of the socket.
        0x1 => {
            let count = in_socket.min(0xff);
            entry.ebx = (entry.ebx & 0xffff) | count << 16 | (apic_id & 0xff) << 24;
            entry.ecx |= ECX_HYPERVISOR | ECX_X2APIC;
            set_bit(&mut entry.ecx, ECX_TSC_DEADLINE, topology.tsc_deadline);
            set_bit(&mut entry.edx, EDX_HTT, in_socket > 1);
        }
        // Caches: with whom they are shared, and the cores of the socket.
        0x4 if entry.eax & 0x1f != 0 => {
            let cores = topology.cores.saturating_sub(1).min(0x3f);
            entry.eax = (entry.eax & 0x3fff) | sharing(entry.eax, topology) << 14 | cores << 26;
        }
        0x8000_001d if entry.eax & 0x1f != 0 => {
            entry.eax = (entry.eax & 0x3fff) | sharing(entry.eax, topology) << 14;
        }
        // ECX: vCPUs of the socket less one, and how many bits of the APIC id number them.
        0x8000_0008 if amd => {
            let others = in_socket.saturating_sub(1).min(0xff);
            entry.ecx = (entry.ecx & !0xf0ff) | others | topology.socket_bits().min(0xf) << 12;
        }
        // EAX: APIC id; EBX: threads of a core less one, core in the socket; ECX: one node
        // a socket, of the socket's number.
        0x8000_001e => {
            let (within, socket) = split_at(apic_id, topology.socket_bits());
            let (_, core) = split_at(within, topology.thread_bits());
            let siblings = topology.threads.saturating_sub(1).min(0xff);
            entry.eax = apic_id;
            entry.ebx = siblings << 8 | core & 0xff;
            entry.ecx = socket & 0xff;
        }
        _ => {}
    }
}

fn set_bit(register: &mut u32, bit: u32, on: bool) {
    *register = if on {
        *register | bit
    } else {
        *register & !bit
    };
}

/// How many vCPUs besides one itself share the cache that `eax` of leaf 4 or 0x8000_001d
/// describes: levels 1 and 2 belong to a core, level 3 to the socket.
fn sharing(eax: u32, topology: Topology) -> u32 {
    let level = eax >> 5 & 0x7;
    let all = if level >= 3 {
        topology.in_socket()
    } else {
        topology.threads
    };
    all.saturating_sub(1).min(0xfff)
}

/// Leaf 0xb or 0x1f (the first levels of which are the same): the threads of a core, the
/// vCPUs of a socket, and the end.
fn extended_topology(function: u32, topology: Topology, apic_id: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: apic_id,
        ..Default::default()
    };
    [
        level(0, topology.thread_bits(), topology.threads, 1),
        level(1, topology.socket_bits(), topology.in_socket(), 2),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests;
