//! Each level on two processors, register by register. What is expected was worked out by
//! hand from the psABI's list and the manuals' bit numbers.

use proptest::prelude::*;

use super::*;

/// Leaf, subleaf, EAX to EDX.
type Row = (u32, u32, [u32; 4]);

/// What KVM of Linux 6.1 offers on a Sapphire Rapids, with AVX-512 and AMX; and leaves of
/// performance counters, SGX, trace and key locker, which others offer.
const SAPPHIRE_RAPIDS: &[Row] = &[
    (0, 0, [0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
    (1, 0, [0x8_06f8, 0x1_0800, 0xf7fa_3223, 0x0f8b_fbff]),
    (2, 0, [0x00fe_ff01, 0xf0, 0, 0]),
    (4, 0, [0x121, 0x02c0_003f, 0x3f, 0]),
    (6, 0, [4, 0, 0, 0]),
    (7, 0, [2, 0xf1bf_23eb, 0x1b41_5f4e, 0xafc1_4410]),
    (7, 1, [0x30, 0, 0, 0]),
    (7, 2, [0, 0, 0, 0x17]),
    (0xa, 0, [0x0830_0802, 0, 0xf, 0x8604]),
    (0xd, 0, [0x6_02e7, 0x240, 0x2b00, 0]),
    (0xd, 1, [0x1f, 0x240, 0, 0]),
    (0xd, 2, [0x100, 0x240, 0, 0]),
    (0xd, 5, [0x40, 0x440, 0, 0]),
    (0xd, 6, [0x200, 0x480, 0, 0]),
    (0xd, 7, [0x400, 0x680, 0, 0]),
    (0xd, 9, [8, 0xa80, 0, 0]),
    (0xd, 0x11, [0x40, 0xac0, 2, 0]),
    (0xd, 0x12, [0x2000, 0xb00, 6, 0]),
    (0x12, 0, [1, 0, 0, 0x2f1f]),
    (0x14, 0, [1, 0xf, 7, 0]),
    (0x19, 0, [7, 0x14, 3, 0]),
    (0x1d, 0, [1, 0, 0, 0]),
    (0x1d, 1, [0x0400_2000, 0x8_0040, 0x10, 0]),
    (0x1e, 0, [0, 0x4010, 0, 0]),
    (
        0x4000_0000,
        0,
        [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
    ),
    (0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
    (0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
    (0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800]),
    (0x8000_0007, 0, [0, 0, 0, 0x100]),
    (0x8000_0008, 0, [0x3934, 0x0100_d200, 0, 0]),
];

/// What KVM of Linux 6.1 offers on an EPYC of the Genoa kind; and leaves of encryption
/// and performance counters.
const GENOA: &[Row] = &[
    (0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
    (1, 0, [0xa1_0f11, 0x1_0800, 0xf7fa_3203, 0x078b_fbff]),
    (6, 0, [4, 0, 0, 0]),
    (7, 0, [1, 0xf1bf_07ab, 0x0041_5f4e, 0x8c00_0010]),
    (7, 1, [0x20, 0, 0, 0]),
    (0xd, 0, [0x2e7, 0x240, 0x988, 0]),
    (0xd, 1, [0xf, 0x240, 0, 0]),
    (0xd, 2, [0x100, 0x240, 0, 0]),
    (0xd, 5, [0x40, 0x340, 0, 0]),
    (0xd, 6, [0x200, 0x380, 0, 0]),
    (0xd, 7, [0x400, 0x580, 0, 0]),
    (0xd, 9, [8, 0x980, 0, 0]),
    (
        0x4000_0000,
        0,
        [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
    ),
    (0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
    (
        0x8000_0000,
        0,
        [0x8000_0028, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
    ),
    (
        0x8000_0001,
        0,
        [0xa1_0f11, 0x4000_0000, 0x00c0_03f7, 0x2fd3_fbff],
    ),
    (0x8000_0002, 0, [0x2044_4d41, 0x4359_5045, 0, 0]),
    (0x8000_0007, 0, [0, 7, 0, 0x100]),
    (0x8000_0008, 0, [0x3934, 0x1302_d205, 0x7000, 0x1_0007]),
    (0x8000_000a, 0, [1, 8, 0, 0x1001_943b]),
    (0x8000_001d, 1, [0x122, 0x01c0_003f, 0x3f, 0]),
    (0x8000_001f, 0, [0xf, 0x173, 0x1fd, 1]),
    (0x8000_0021, 0, [0x4d, 0x15c, 0, 0]),
    (0x8000_0022, 0, [7, 0x0104_0106, 3, 0]),
];

fn table(rows: &[Row]) -> CpuId {
    let entry = |&(function, index, [eax, ebx, ecx, edx]): &Row| kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let entries: Vec<_> = rows.iter().map(entry).collect();
    CpuId::from_entries(&entries).unwrap()
}

/// The rows a guest of `level` gets.
fn at(rows: &[Row], level: Level) -> Vec<Row> {
    let table = restrict(&table(rows), level, false).unwrap();
    let row = |e: &kvm_cpuid_entry2| (e.function, e.index, [e.eax, e.ebx, e.ecx, e.edx]);
    table.as_slice().iter().map(row).collect()
}

fn row(rows: &[Row], leaf: u32, index: u32) -> [u32; 4] {
    let found = rows.iter().find(|row| (row.0, row.1) == (leaf, index));
    found.map_or([0; 4], |row| row.2)
}

/// The psABI's levels, as rows of leaf, register (0 is EAX) and bit.
const V2: &[(u32, usize, u32)] = &[
    (1, 2, 13),          // CMPXCHG16B
    (0x8000_0001, 2, 0), // LAHF-SAHF
    (1, 2, 23),          // POPCNT
    (1, 2, 0),           // SSE3
    (1, 2, 19),          // SSE4.1
    (1, 2, 20),          // SSE4.2
    (1, 2, 9),           // SSSE3
];
const V3: &[(u32, usize, u32)] = &[
    (1, 2, 28),          // AVX
    (7, 1, 5),           // AVX2
    (7, 1, 3),           // BMI1
    (7, 1, 8),           // BMI2
    (1, 2, 29),          // F16C
    (1, 2, 12),          // FMA
    (0x8000_0001, 2, 5), // LZCNT
    (1, 2, 22),          // MOVBE
    (1, 2, 26),          // OSXSAVE: KVM sets bit 27 when the guest's kernel turns it on
];
const V4: &[(u32, usize, u32)] = &[
    (7, 1, 16), // AVX512F
    (7, 1, 30), // AVX512BW
    (7, 1, 28), // AVX512CD
    (7, 1, 17), // AVX512DQ
    (7, 1, 31), // AVX512VL
];

#[test]
fn a_level_has_its_instructions_and_none_of_the_next() {
    for processor in [SAPPHIRE_RAPIDS, GENOA] {
        for (level, levels) in [(Level::V2, 1), (Level::V3, 2), (Level::V4, 3)] {
            let rows = at(processor, level);
            for (number, list) in [V2, V3, V4].into_iter().enumerate() {
                for &(leaf, register, bit) in list {
                    let shown = row(&rows, leaf, 0)[register] & 1 << bit != 0;
                    assert_eq!(
                        shown,
                        number < levels,
                        "{level}: {leaf:#x} {register} {bit}"
                    );
                }
            }
        }
    }
}

#[test]
fn sapphire_rapids_at_each_level() {
    let [v2, v3, v4] = [Level::V2, Level::V3, Level::V4].map(|l| at(SAPPHIRE_RAPIDS, l));
    assert_eq!(
        row(&v2, 1, 0),
        [0x8_06f8, 0x1_0800, 0x81ba_2201, 0x0f8b_fbff]
    );
    assert_eq!(
        row(&v3, 1, 0),
        [0x8_06f8, 0x1_0800, 0xb5fa_3201, 0x0f8b_fbff]
    );
    assert_eq!(row(&v4, 1, 0), row(&v3, 1, 0));
    assert_eq!(row(&v2, 7, 0), [2, 0x0010_22c3, 4, 0xac00_0410]);
    assert_eq!(row(&v3, 7, 0), [2, 0x0010_23eb, 4, 0xac00_0410]);
    assert_eq!(row(&v4, 7, 0), [2, 0xd013_23eb, 4, 0xac00_0410]);
    assert_eq!(row(&v2, 0x8000_0001, 0), [0, 0, 0x01, 0x2c10_0800]);
    assert_eq!(row(&v3, 0x8000_0001, 0), [0, 0, 0x21, 0x2c10_0800]);
    for rows in [v2, v3, v4] {
        assert_eq!(row(&rows, 0, 0)[0], 0x1f);
        assert_eq!(row(&rows, 7, 2), [0, 0, 0, 0x17]);
        assert_eq!(row(&rows, 0x8000_0007, 0), [0, 0, 0, 0x100]);
        assert_eq!(row(&rows, 0x8000_0008, 0), [0x3934, 0x0100_d000, 0, 0]);
        assert_eq!(row(&rows, 4, 0), row(SAPPHIRE_RAPIDS, 4, 0));
        assert_eq!(row(&rows, 0x4000_0001, 0), [0x0100_7efb, 0, 0, 0]);
    }
}

#[test]
fn genoa_at_each_level() {
    let [v2, v3, v4] = [Level::V2, Level::V3, Level::V4].map(|l| at(GENOA, l));
    assert_eq!(
        row(&v2, 1, 0),
        [0xa1_0f11, 0x1_0800, 0x81ba_2201, 0x078b_fbff]
    );
    assert_eq!(
        row(&v3, 1, 0),
        [0xa1_0f11, 0x1_0800, 0xb5fa_3201, 0x078b_fbff]
    );
    assert_eq!(row(&v2, 7, 0), [1, 0x0010_0683, 4, 0x8c00_0010]);
    assert_eq!(row(&v3, 7, 0), [1, 0x0010_07ab, 4, 0x8c00_0010]);
    assert_eq!(row(&v4, 7, 0), [1, 0xd013_07ab, 4, 0x8c00_0010]);
    let signature = [0xa1_0f11, 0x4000_0000];
    let extended = |ecx| [signature[0], signature[1], ecx, 0x2fd3_fbff];
    assert_eq!(row(&v2, 0x8000_0001, 0), extended(0x0040_0213));
    assert_eq!(row(&v3, 0x8000_0001, 0), extended(0x0040_0233));
    for rows in [v2, v3, v4] {
        assert_eq!(row(&rows, 0, 0), row(GENOA, 0, 0));
        assert_eq!(row(&rows, 0x8000_0000, 0)[0], 0x8000_0021);
        assert_eq!(row(&rows, 0x8000_0002, 0), row(GENOA, 0x8000_0002, 0));
        assert_eq!(row(&rows, 0x8000_0007, 0), [0, 0, 0, 0x100]);
        assert_eq!(row(&rows, 0x8000_0008, 0), [0x3934, 0x1302_d004, 0x7000, 0]);
        assert_eq!(row(&rows, 0x8000_001d, 1), row(GENOA, 0x8000_001d, 1));
        assert_eq!(row(&rows, 0x8000_0021, 0), [0x45, 0, 0, 0]);
    }
}

#[test]
fn xsave_areas_are_as_large_as_what_is_left() {
    for (processor, end_of_avx512) in [(SAPPHIRE_RAPIDS, 0xa80), (GENOA, 0x980)] {
        let v2 = at(processor, Level::V2);
        assert!(!v2.iter().any(|row| row.0 == 0xd), "no XSAVE, no leaf");
        let v3 = at(processor, Level::V3);
        assert_eq!(row(&v3, 0xd, 0), [0b111, 576, 832, 0]);
        assert_eq!(row(&v3, 0xd, 1), [0xf, 576, 0, 0]);
        assert_eq!(row(&v3, 0xd, 2), [256, 576, 0, 0]);
        assert_eq!(v3.iter().filter(|row| row.0 == 0xd).count(), 3);
        let v4 = at(processor, Level::V4);
        assert_eq!(row(&v4, 0xd, 0), [0xe7, 576, end_of_avx512, 0]);
        assert_eq!(row(&v4, 0xd, 7), row(processor, 0xd, 7));
        assert_eq!(v4.iter().filter(|row| row.0 == 0xd).count(), 6);
    }
}

#[test]
fn what_cannot_be_taken_along_is_gone() {
    let gone = [
        (7, 1),
        (0xa, 0),
        (0x12, 0),
        (0x14, 0),
        (0x19, 0),
        (0x1d, 0),
        (0x1d, 1),
        (0x1e, 0),
        (0x8000_000a, 0),
        (0x8000_001f, 0),
        (0x8000_0022, 0),
    ];
    for processor in [SAPPHIRE_RAPIDS, GENOA] {
        for level in [Level::V2, Level::V3, Level::V4] {
            let rows = at(processor, level);
            let left = rows.iter().find(|row| gone.contains(&(row.0, row.1)));
            assert_eq!(left, None, "{level}");
        }
    }
}

#[test]
fn a_host_with_less_is_told_what_it_lacks() {
    // An EPYC before Genoa, and one without MOVBE and LAHF-SAHF beside.
    let mut rome = GENOA.to_vec();
    for row in &mut rome {
        match (row.0, row.1) {
            (7, 0) => row.2[1] &= !0xd003_0000,
            (0xd, 0) => row.2[0] &= !0xe0,
            _ => {}
        }
    }
    assert_eq!(at(&rome, Level::V3), at(GENOA, Level::V3));
    let line = |rows: &[Row], level| {
        let refused = restrict(&table(rows), level, false);
        refused.unwrap_err().to_string()
    };
    assert_eq!(
        line(&rome, Level::V4),
        "cannot give the guest an x86-64-v4 processor: this host lacks AVX512F, AVX512DQ, \
         AVX512CD, AVX512BW, AVX512VL, opmask state, ZMM_Hi256 state, Hi16_ZMM state; \
         use --cpu x86-64-v3 or host"
    );
    for row in &mut rome {
        match row.0 {
            1 => row.2[2] &= !(1 << 22),
            0x8000_0001 => row.2[2] &= !1,
            _ => {}
        }
    }
    assert_eq!(
        line(&rome, Level::V3),
        "cannot give the guest an x86-64-v3 processor: this host lacks MOVBE, LAHF-SAHF; \
         use --cpu host"
    );
}

#[test]
fn a_leak_makes_the_host_itself_the_measure() {
    // KVM offers nothing, yet programs see what this processor has.
    let nothing = table(&[(0, 0, [1, 0, 0, 0]), (1, 0, [0; 4])]);
    assert!(restrict(&nothing, Level::V2, false).is_err());
    let popcnt = std::arch::is_x86_feature_detected!("popcnt");
    assert_eq!(restrict(&nothing, Level::V2, true).is_ok(), popcnt);
}

proptest! {
    /// Bits that no level has, of registers full of ones; and no number overflows.
    #[test]
    fn odd_tables_lose_what_is_not_listed(
        rows in prop::collection::vec((odd_leaf(), 0u32..70, any::<[u32; 4]>()), 0..80),
        level in prop_oneof![Just(Level::V2), Just(Level::V3), Just(Level::V4)],
    ) {
        let offer = table(&rows);
        for entry in masked(offer.as_slice(), level) {
            let (leaf, index) = (entry.function, entry.index);
            prop_assert!(offer.as_slice().iter().any(|e| (e.function, e.index) == (leaf, index)));
            match (leaf, index) {
                // PCLMULQDQ, VMX, AES, RDRAND; RDSEED, ADX, SHA; SVM, SSE4A, FMA4.
                (1, _) => prop_assert_eq!(entry.ecx & (1 << 1 | 1 << 5 | 1 << 25 | 1 << 30), 0),
                (7, 0) => prop_assert_eq!(entry.ebx & (1 << 18 | 1 << 19 | 1 << 29), 0),
                (0x8000_0001, _) => prop_assert_eq!(entry.ecx & (1 << 2 | 1 << 6 | 1 << 16), 0),
                (0xd, 0) => {
                    prop_assert!(level > Level::V2);
                    prop_assert_eq!(entry.eax & !0xe7, 0);
                    prop_assert!(entry.ecx >= 576);
                }
                (0xd, component) => prop_assert!(component < 8),
                _ => {}
            }
        }
    }
}

/// Leaves that are shown, and others.
fn odd_leaf() -> impl Strategy<Value = u32> {
    prop_oneof![
        0u32..0x21,
        Just(0xd),
        0x4000_0000u32..0x4000_0003,
        0x8000_0000u32..0x8000_0029,
        any::<u32>(),
    ]
}
