//! What CPUID tells the guest: KVM's supported leaves, with the topology and
//! the APIC ids of this machine written in.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use thiserror::Error;

/// Leaf 1 ECX: x2APIC.
const ECX_X2APIC: u32 = 1 << 21;
/// Leaf 1 ECX: TSC deadline timer.
const ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: running under a hypervisor.
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: more than one logical processor in the package.
const EDX_HTT: u32 = 1 << 28;
/// The leaf that tells TSC and APIC bus frequency in kHz (the convention VMware introduced).
const LEAF_TIMING: u32 = 0x4000_0010;
/// First hypervisor leaf: EAX is the highest one.
const LEAF_HYPERVISOR: u32 = 0x4000_0000;
/// KVM's local APIC timer ticks every nanosecond.
const APIC_BUS_KHZ: u32 = 1_000_000;

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
    /// Number of vCPUs: one socket of so many single-threaded cores.
    pub cpus: u32,
    /// Whether KVM's APIC timer has the TSC-deadline mode.
    pub tsc_deadline: bool,
    /// TSC frequency in kHz, 0 if unknown.
    pub tsc_khz: u32,
}

/// The CPUID table of the vCPU with APIC id `apic_id`, made from what KVM supports.
///
/// # Errors
/// [`CpuidError::TooManyLeaves`] if the result does not fit KVM's table.
pub fn for_vcpu(supported: &CpuId, topology: Topology, apic_id: u32) -> Result<CpuId, CpuidError> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f | LEAF_TIMING))
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
        entries.extend(extended_topology(topology.cpus, apic_id));
    }
    add_timing_leaf(&mut entries, topology.tsc_khz);
    CpuId::from_entries(&entries).map_err(|_| CpuidError::TooManyLeaves(entries.len()))
}

/// "AuthenticAMD" or "HygonGenuine" in EBX, EDX, ECX of leaf 0.
fn is_amd(leaf0: &kvm_cpuid_entry2) -> bool {
    leaf0.ebx == 0x6874_7541 || leaf0.ebx == 0x6f67_7948
}

/// Writes what depends on the vCPU into one leaf (Intel SDM vol. 2, CPUID; AMD APM vol. 3 app. E).
fn set_topology(entry: &mut kvm_cpuid_entry2, topology: Topology, apic_id: u32, amd: bool) {
    let cpus = topology.cpus;
    match entry.function {
        0x1 => {
            let count = cpus.min(0xff);
            entry.ebx = (entry.ebx & 0xffff) | count << 16 | (apic_id & 0xff) << 24;
            entry.ecx |= ECX_HYPERVISOR | ECX_X2APIC;
            set_bit(&mut entry.ecx, ECX_TSC_DEADLINE, topology.tsc_deadline);
            set_bit(&mut entry.edx, EDX_HTT, cpus > 1);
        }
        // Caches: levels 1 and 2 belong to a core, level 3 to the socket.
        0x4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 { cpus - 1 } else { 0 };
            let cores = (cpus - 1).min(0x3f);
            entry.eax = (entry.eax & 0x3fff) | sharing.min(0xfff) << 14 | cores << 26;
        }
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 { cpus - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | sharing.min(0xfff) << 14;
        }
        // ECX: cores in the package less one, and the width of the core part of the APIC id.
        0x8000_0008 if amd => {
            entry.ecx = (entry.ecx & !0xf0ff) | (cpus - 1).min(0xff) | core_bits(cpus) << 12;
        }
        // EAX: APIC id; EBX: core id, one thread a core; ECX: node 0, one node.
        0x8000_001e => {
            entry.eax = apic_id;
            entry.ebx = apic_id & 0xff;
            entry.ecx = 0;
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

/// Bits of the APIC id that number the cores of the one socket.
fn core_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

/// Leaf 0xb: an SMT level with one thread, a core level with all vCPUs, and the end.
fn extended_topology(cpus: u32, apic_id: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: apic_id,
        ..Default::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, core_bits(cpus), cpus, 2),
        level(2, 0, 0, 0),
    ]
}

/// Tells the TSC frequency, so that no guest calibrates its clock against a timer.
fn add_timing_leaf(entries: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32) {
    let Some(first) = entries.iter_mut().find(|e| e.function == LEAF_HYPERVISOR) else {
        return;
    };
    if tsc_khz == 0 {
        return;
    }
    first.eax = first.eax.max(LEAF_TIMING);
    entries.push(kvm_cpuid_entry2 {
        function: LEAF_TIMING,
        eax: tsc_khz,
        ebx: APIC_BUS_KHZ,
        ..Default::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: regs[0],
            ebx: regs[1],
            ecx: regs[2],
            edx: regs[3],
            ..Default::default()
        }
    }

    fn supported() -> CpuId {
        CpuId::from_entries(&[
            leaf(0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            leaf(1, 0, [0xa2_0f10, 0x5500_0800, 0, EDX_HTT]),
            leaf(4, 0, [1 << 5 | 1, 0, 0, 0]),
            leaf(4, 3, [3 << 5 | 3, 0, 0, 0]),
            leaf(0xb, 0, [9, 9, 9, 9]),
            leaf(LEAF_HYPERVISOR, 0, [0x4000_0001, 0x4b4d_564b, 0, 0]),
            leaf(0x8000_0008, 0, [0x3030, 0, 0x700f, 0]),
            leaf(0x8000_001e, 0, [7, 7, 7, 7]),
        ])
        .unwrap()
    }

    fn table(cpus: u32, apic_id: u32) -> Vec<kvm_cpuid_entry2> {
        let topology = Topology {
            cpus,
            tsc_deadline: true,
            tsc_khz: 2_596_120,
        };
        for_vcpu(&supported(), topology, apic_id)
            .unwrap()
            .as_slice()
            .to_vec()
    }

    fn find(table: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn every_leaf_that_has_an_apic_id_tells_the_same() {
        let table = table(4, 3);
        assert_eq!(find(&table, 1, 0).ebx >> 24, 3);
        assert_eq!(find(&table, 0xb, 0).edx, 3);
        assert_eq!(find(&table, 0xb, 1).edx, 3);
        assert_eq!(find(&table, 0x8000_001e, 0).eax, 3);
    }

    #[test]
    fn one_cpu_is_no_multiprocessor() {
        let table = table(1, 0);
        let one = find(&table, 1, 0);
        assert_eq!(one.edx & EDX_HTT, 0);
        assert_eq!(one.ebx >> 16 & 0xff, 1);
        assert_ne!(one.ecx & ECX_HYPERVISOR, 0);
        assert_eq!(find(&table, 0x8000_0008, 0).ecx, 0);
    }

    #[test]
    fn topology_leaves_agree_on_three_cpus() {
        let table = table(3, 2);
        assert_eq!(find(&table, 1, 0).ebx >> 16 & 0xff, 3);
        assert_eq!(find(&table, 4, 3).eax >> 26, 2);
        assert_eq!(find(&table, 4, 3).eax >> 14 & 0xfff, 2, "L3 is shared");
        assert_eq!(find(&table, 4, 0).eax >> 14 & 0xfff, 0, "L1 is not");
        let cores = find(&table, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx), (2, 3));
        assert_eq!(find(&table, 0xb, 2).ecx, 2, "level type 0 ends the list");
        assert_eq!(find(&table, 0x8000_0008, 0).ecx, 2 | 2 << 12);
    }

    #[test]
    fn the_tsc_frequency_stands_in_the_timing_leaf() {
        let table = table(1, 0);
        assert_eq!(find(&table, LEAF_HYPERVISOR, 0).eax, LEAF_TIMING);
        let timing = find(&table, LEAF_TIMING, 0);
        assert_eq!((timing.eax, timing.ebx), (2_596_120, APIC_BUS_KHZ));
    }

    #[test]
    fn apic_ids_beyond_a_byte_do_not_disturb_leaf_1() {
        let table = table(300, 299);
        assert_eq!(find(&table, 1, 0).ebx >> 16 & 0xff, 0xff);
        assert_eq!(find(&table, 0xb, 0).edx, 299);
    }
}
