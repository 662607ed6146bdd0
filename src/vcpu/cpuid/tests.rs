//! The leaves, taken apart as guests do.

use super::timing::{APIC_BUS_KHZ, LEAF_HYPERVISOR};
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

/// What an Intel processor's KVM offers.
fn supported_by_intel() -> CpuId {
    CpuId::from_entries(&[
        leaf(0, 0, [0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        leaf(1, 0, [0x8_06f8, 0x5520_0800, 0, EDX_HTT]),
        leaf(4, 0, [0xfc00_4121, 0, 0, 0]),
        leaf(4, 2, [0xfc00_4143, 0, 0, 0]),
        leaf(4, 3, [0xfc1f_c163, 0, 0, 0]),
        leaf(4, 4, [0, 0, 0, 0]),
        leaf(0xb, 0, [1, 2, 0x100, 0x55]),
        leaf(0x1f, 0, [1, 2, 0x100, 0x55]),
        leaf(0x1f, 1, [7, 112, 0x201, 0x55]),
        leaf(0x8000_0008, 0, [0x3934, 0, 0, 0]),
    ])
    .unwrap()
}

/// What an AMD processor's KVM offers, caches and newer topology included.
fn supported_by_amd() -> CpuId {
    let mut entries = supported().as_slice().to_vec();
    entries.extend([
        leaf(0x8000_001d, 0, [0x4121, 0, 0, 0]),
        leaf(0x8000_001d, 3, [0x3_c163, 0, 0, 0]),
        leaf(0x8000_001d, 4, [0, 0, 0, 0]),
        leaf(0x8000_0026, 0, [1, 2, 0x100, 9]),
    ]);
    CpuId::from_entries(&entries).unwrap()
}

fn table(cpus: u32, apic_id: u32) -> Vec<kvm_cpuid_entry2> {
    shaped(&supported(), [1, cpus, 1], apic_id)
}

/// The table of a vCPU where there are `[sockets, cores, threads]`.
fn shaped(supported: &CpuId, shape: [u32; 3], apic_id: u32) -> Vec<kvm_cpuid_entry2> {
    let [sockets, cores, threads] = shape;
    let topology = Topology {
        sockets,
        cores,
        threads,
        tsc_deadline: true,
        tsc_khz: 2_596_120,
    };
    for_vcpu(supported, topology, apic_id)
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
fn intels_own_leaf_tells_it_too() {
    let table = shaped(&supported_by_intel(), [1, 1, 1], 0);
    let told = find(&table, 0x15, 0);
    let hertz = u64::from(told.ecx) * u64::from(told.ebx) / u64::from(told.eax);
    assert!(hertz.abs_diff(2_596_120_000) < 400_000, "{hertz}");
    let amd = shaped(&supported_by_amd(), [1, 1, 1], 0);
    assert!(!amd.iter().any(|e| e.function == 0x15));
}

#[test]
fn apic_ids_beyond_a_byte_do_not_disturb_leaf_1() {
    let table = table(300, 299);
    assert_eq!(find(&table, 1, 0).ebx >> 16 & 0xff, 0xff);
    assert_eq!(find(&table, 0xb, 0).edx, 299);
}

/// Each `[sockets, cores, threads]`, with each vCPU's number and `[socket, core, thread]`,
/// counted up from the innermost.
fn places() -> Vec<([u32; 3], u32, [u32; 3])> {
    let shapes = [
        [1, 1, 1],
        [1, 3, 1],
        [1, 1, 3],
        [2, 1, 2],
        [2, 2, 2],
        [3, 4, 2],
        [1, 5, 2],
        [4, 1, 1],
        [2, 4, 1],
        [2, 128, 2],
    ];
    let mut places = Vec::new();
    for shape in shapes {
        let mut number = 0;
        for socket in 0..shape[0] {
            for core in 0..shape[1] {
                for thread in 0..shape[2] {
                    places.push((shape, number, [socket, core, thread]));
                    number += 1;
                }
            }
        }
    }
    places
}

/// Socket, core and thread by leaf 0xb or 0x1f, as a guest takes the x2APIC id apart.
fn place_by_levels(table: &[kvm_cpuid_entry2], function: u32) -> [u32; 3] {
    let (threads, cores) = (find(table, function, 0), find(table, function, 1));
    assert_eq!((threads.ecx, cores.ecx), (0x100, 0x201), "SMT, then cores");
    let end = find(table, function, 2);
    assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
    assert_eq!((threads.edx, end.edx), (cores.edx, cores.edx));
    let id = cores.edx;
    let within = id % (1 << cores.eax);
    [
        id >> cores.eax,
        within >> threads.eax,
        within % (1 << threads.eax),
    ]
}

#[test]
fn the_levels_of_leaf_0xb_lead_to_each_vcpus_place() {
    for (shape, id, place) in places() {
        for supported in [supported_by_intel(), supported_by_amd()] {
            let table = shaped(&supported, shape, id);
            assert_eq!(find(&table, 0xb, 0).edx, id);
            assert_eq!(find(&table, 0xb, 0).ebx, shape[2], "{shape:?}");
            assert_eq!(find(&table, 0xb, 1).ebx, shape[1] * shape[2], "{shape:?}");
            assert_eq!(place_by_levels(&table, 0xb), place, "{shape:?} {id}");
        }
    }
}

#[test]
fn leaf_0x1f_is_like_0xb_where_the_processor_has_it() {
    for (shape, id, place) in places() {
        let table = shaped(&supported_by_intel(), shape, id);
        if shape[0] > 1 || shape[2] > 1 {
            assert_eq!(place_by_levels(&table, 0x1f), place, "{shape:?} {id}");
        } else {
            assert!(!table.iter().any(|e| e.function == 0x1f), "{shape:?}");
        }
        let table = shaped(&supported_by_amd(), shape, id);
        let foreign = |e: &kvm_cpuid_entry2| matches!(e.function, 0x1f | 0x8000_0026);
        assert!(!table.iter().any(foreign), "{shape:?}");
    }
}

/// Intel SDM vol. 3 §10.9.3: the widths are those of the counts, rounded up.
#[test]
fn leaves_1_and_4_lead_to_each_vcpus_place() {
    let width = |count: u32| count.next_power_of_two().trailing_zeros();
    for (shape, id, place) in places() {
        let table = shaped(&supported_by_intel(), shape, id);
        let one = find(&table, 1, 0);
        let cores = (find(&table, 4, 0).eax >> 26) + 1;
        if id > 255 || shape[1] > 64 {
            // More than these leaves can tell.
            continue;
        }
        let several = one.edx & EDX_HTT != 0;
        assert_eq!(several, shape[1] * shape[2] > 1, "{shape:?}");
        let in_socket = one.ebx >> 16 & 0xff;
        let id = one.ebx >> 24;
        let thread_bits = width(in_socket) - width(cores);
        let within = id % (1 << width(in_socket));
        let found = [
            id >> width(in_socket),
            within >> thread_bits,
            within % (1 << thread_bits),
        ];
        assert_eq!(found, place, "{shape:?} {id}");
    }
}

#[test]
fn amds_leaves_lead_to_each_vcpus_place() {
    for (shape, id, place) in places() {
        let table = shaped(&supported_by_amd(), shape, id);
        let (sizes, unit) = (find(&table, 0x8000_0008, 0), find(&table, 0x8000_001e, 0));
        let socket_bits = sizes.ecx >> 12 & 0xf;
        assert_eq!((sizes.ecx & 0xff) + 1, shape[1] * shape[2], "{shape:?}");
        let threads = (unit.ebx >> 8 & 0xff) + 1;
        assert_eq!((unit.eax, threads), (id, shape[2]), "{shape:?}");
        let found = [unit.eax >> socket_bits, unit.ebx & 0xff];
        assert_eq!(found, [place[0], place[1]], "{shape:?} {id}");
        assert_eq!(unit.ecx, place[0], "one node a socket");
        // What is left over is the thread.
        let within = unit.eax % (1 << socket_bits);
        assert_eq!(within - place[1] * shape[2], place[2], "{shape:?} {id}");
    }
}

#[test]
fn small_caches_are_a_cores_and_the_large_one_a_sockets() {
    for (shape, id, _) in places() {
        let others = |e: kvm_cpuid_entry2| e.eax >> 14 & 0xfff;
        let [_, cores, threads] = shape;
        let table = shaped(&supported_by_intel(), shape, id);
        assert_eq!(others(find(&table, 4, 0)) + 1, threads);
        assert_eq!(others(find(&table, 4, 2)) + 1, threads);
        assert_eq!(others(find(&table, 4, 3)) + 1, cores * threads);
        assert_eq!(find(&table, 4, 4).eax, 0, "the end of the list");
        // Type, level and the flags beside them are the processor's.
        assert_eq!(find(&table, 4, 3).eax & 0x3fff, 0x163);
        let table = shaped(&supported_by_amd(), shape, id);
        assert_eq!(others(find(&table, 0x8000_001d, 0)) + 1, threads);
        assert_eq!(others(find(&table, 0x8000_001d, 3)) + 1, cores * threads);
        assert_eq!(find(&table, 0x8000_001d, 4).eax, 0);
    }
}
