//! Which CPUID bits a guest of a level of the x86-64 psABI is shown, one a line.
//!
//! A bit that is not listed here is not shown. Three kinds are:
//!
//! - `isa`: an instruction set of the level (System V ABI, AMD64 supplement, table
//!   "Micro-Architecture Levels"). All of them must be there.
//! - `os`: what only a kernel uses, and what says how the processor behaves: shown where
//!   KVM offers it.
//! - `os_from`: the same, for what comes with a level's instructions.
//!
//! Left out, besides newer instructions (AES, SHA, RDRAND, GFNI …), is what cannot be taken
//! along to another host or is of the host's own: performance counters, nested
//! virtualization, TSX, MPX, SGX, CET, protection keys, five-level paging, AMX, processor trace,
//! resource control.

use super::model::Level::{self, V2, V3, V4};

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// One bit of a register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feature {
    bit: u8,
    /// As the Intel SDM or the AMD APM calls it.
    pub name: &'static str,
    from: Level,
    isa: bool,
}

impl Feature {
    /// Its bit in the register.
    pub fn mask(&self) -> u32 {
        1u32.checked_shl(self.bit.into()).unwrap_or(0)
    }

    /// Whether guests of `level` may see it.
    pub fn shown_by(&self, level: Level) -> bool {
        self.from <= level
    }

    /// Whether there is no `level` without it.
    pub fn needed_by(&self, level: Level) -> bool {
        self.isa && self.from <= level
    }
}

/// A register and the features in it.
pub(super) struct Features {
    pub leaf: u32,
    pub index: u32,
    pub register: Register,
    pub features: &'static [Feature],
}

const fn isa(from: Level, bit: u8, name: &'static str) -> Feature {
    Feature {
        bit,
        name,
        from,
        isa: true,
    }
}

const fn os_from(from: Level, bit: u8, name: &'static str) -> Feature {
    Feature {
        bit,
        name,
        from,
        isa: false,
    }
}

const fn os(bit: u8, name: &'static str) -> Feature {
    os_from(V2, bit, name)
}

/// All of them (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E; Linux
/// Documentation/virt/kvm/x86/cpuid.rst).
pub(super) const FEATURES: &[Features] = &[
    Features {
        leaf: 1,
        index: 0,
        register: Register::Ecx,
        features: &[
            isa(V2, 0, "SSE3"),
            isa(V2, 9, "SSSE3"),
            isa(V3, 12, "FMA"),
            isa(V2, 13, "CMPXCHG16B"),
            os(17, "PCID"),
            isa(V2, 19, "SSE4.1"),
            isa(V2, 20, "SSE4.2"),
            os(21, "x2APIC"),
            isa(V3, 22, "MOVBE"),
            isa(V2, 23, "POPCNT"),
            os(24, "TSC deadline"),
            isa(V3, 26, "XSAVE"),
            isa(V3, 28, "AVX"),
            isa(V3, 29, "F16C"),
            os(31, "hypervisor"),
        ],
    },
    Features {
        leaf: 1,
        index: 0,
        register: Register::Edx,
        features: BASE_EDX,
    },
    Features {
        leaf: 6,
        index: 0,
        register: Register::Eax,
        features: &[os(2, "ARAT")],
    },
    Features {
        leaf: 7,
        index: 0,
        register: Register::Ebx,
        features: &[
            os(0, "FSGSBASE"),
            os(1, "TSC_ADJUST"),
            isa(V3, 3, "BMI1"),
            isa(V3, 5, "AVX2"),
            os(6, "FDP_EXCPTN_ONLY"),
            os(7, "SMEP"),
            isa(V3, 8, "BMI2"),
            os(9, "ERMS"),
            os(10, "INVPCID"),
            os(13, "ZERO_FCS_FDS"),
            isa(V4, 16, "AVX512F"),
            isa(V4, 17, "AVX512DQ"),
            os(20, "SMAP"),
            isa(V4, 28, "AVX512CD"),
            isa(V4, 30, "AVX512BW"),
            isa(V4, 31, "AVX512VL"),
        ],
    },
    Features {
        leaf: 7,
        index: 0,
        register: Register::Ecx,
        features: &[os(2, "UMIP")],
    },
    Features {
        leaf: 7,
        index: 0,
        register: Register::Edx,
        features: &[
            os(4, "FSRM"),
            os(10, "MD_CLEAR"),
            os(26, "IBRS_IBPB"),
            os(27, "STIBP"),
            os(28, "L1D_FLUSH"),
            os(29, "ARCH_CAPABILITIES"),
            os(31, "SSBD"),
        ],
    },
    Features {
        leaf: 7,
        index: 2,
        register: Register::Edx,
        features: &[
            os(0, "PSFD"),
            os(1, "IPRED_CTRL"),
            os(2, "RRSBA_CTRL"),
            os(3, "DDPD_U"),
            os(4, "BHI_CTRL"),
            os(5, "MCDT_NO"),
        ],
    },
    // XCR0: what XSAVE may save. The x87 and SSE states are a part of it everywhere.
    Features {
        leaf: 0xd,
        index: 0,
        register: Register::Eax,
        features: &[
            os_from(V3, 0, "x87 state"),
            os_from(V3, 1, "SSE state"),
            isa(V3, 2, "AVX state"),
            isa(V4, 5, "opmask state"),
            isa(V4, 6, "ZMM_Hi256 state"),
            isa(V4, 7, "Hi16_ZMM state"),
        ],
    },
    Features {
        leaf: 0xd,
        index: 1,
        register: Register::Eax,
        features: &[
            os_from(V3, 0, "XSAVEOPT"),
            os_from(V3, 1, "XSAVEC"),
            os_from(V3, 2, "XGETBV with ECX = 1"),
            os_from(V3, 3, "XSAVES"),
        ],
    },
    Features {
        leaf: 0x4000_0001,
        index: 0,
        register: Register::Eax,
        features: &[
            os(0, "KVM clock"),
            os(1, "no I/O delay"),
            os(3, "KVM clock, new MSRs"),
            os(4, "asynchronous page faults"),
            os(5, "steal time"),
            os(6, "end of interrupt in memory"),
            os(7, "kick of a halted vCPU"),
            os(9, "TLB flush by hypercall"),
            os(10, "asynchronous page faults as exits"),
            os(11, "IPIs by hypercall"),
            os(12, "control of polling"),
            os(13, "yield by hypercall"),
            os(14, "asynchronous page faults as interrupts"),
            os(24, "stable KVM clock"),
        ],
    },
    Features {
        leaf: 0x8000_0001,
        index: 0,
        register: Register::Ecx,
        features: &[
            isa(V2, 0, "LAHF-SAHF"),
            os(1, "CMP_LEGACY"),
            os(4, "CR8_LEGACY"),
            isa(V3, 5, "LZCNT"),
            os(9, "OSVW"),
            os(22, "TOPOEXT"),
        ],
    },
    // AMD repeats leaf 1 EDX here.
    Features {
        leaf: 0x8000_0001,
        index: 0,
        register: Register::Edx,
        features: &[
            os(0, "FPU"),
            os(1, "VME"),
            os(2, "DE"),
            os(3, "PSE"),
            os(4, "TSC"),
            os(5, "MSR"),
            os(6, "PAE"),
            os(7, "MCE"),
            os(8, "CX8"),
            os(9, "APIC"),
            os(11, "SYSCALL"),
            os(12, "MTRR"),
            os(13, "PGE"),
            os(14, "MCA"),
            os(15, "CMOV"),
            os(16, "PAT"),
            os(17, "PSE36"),
            os(20, "NX"),
            os(22, "MMXEXT"),
            os(23, "MMX"),
            os(24, "FXSR"),
            os(25, "FFXSR"),
            os(26, "1 GiB pages"),
            os(27, "RDTSCP"),
            os(29, "LM"),
        ],
    },
    Features {
        leaf: 0x8000_0007,
        index: 0,
        register: Register::Edx,
        features: &[os(8, "invariant TSC")],
    },
    Features {
        leaf: 0x8000_0008,
        index: 0,
        register: Register::Ebx,
        features: &[
            os(2, "XSAVEERPTR"),
            os(12, "IBPB"),
            os(14, "IBRS"),
            os(15, "STIBP"),
            os(16, "IBRS_ALWAYS"),
            os(17, "STIBP_ALWAYS"),
            os(18, "IBRS_PREFERRED"),
            os(19, "IBRS_SAME_MODE"),
            os(24, "SSBD"),
            os(25, "VIRT_SSBD"),
            os(26, "SSB_NO"),
            os(28, "PSFD"),
            os(29, "BTC_NO"),
            os(30, "IBPB_RET"),
        ],
    },
    Features {
        leaf: 0x8000_0021,
        index: 0,
        register: Register::Eax,
        features: &[
            os(0, "NO_NESTED_DATA_BP"),
            os(2, "LFENCE_SERIALIZING"),
            os(5, "VERW_CLEAR"),
            os(6, "NULL_SELECT_CLEARS_BASE"),
            os(8, "AUTOMATIC_IBRS"),
            os(9, "NO_SMM_CTL_MSR"),
            os(27, "SBPB"),
            os(28, "IBPB_BRTYPE"),
            os(29, "SRSO_NO"),
            os(30, "SRSO_USER_KERNEL_NO"),
        ],
    },
    Features {
        leaf: 0x8000_0021,
        index: 0,
        register: Register::Ecx,
        features: &[os(1, "TSA_SQ_NO"), os(2, "TSA_L1_NO")],
    },
];

/// Leaf 1 EDX: every 64-bit processor has nearly all of it.
const BASE_EDX: &[Feature] = &[
    os(0, "FPU"),
    os(1, "VME"),
    os(2, "DE"),
    os(3, "PSE"),
    os(4, "TSC"),
    os(5, "MSR"),
    os(6, "PAE"),
    os(7, "MCE"),
    os(8, "CX8"),
    os(9, "APIC"),
    os(11, "SEP"),
    os(12, "MTRR"),
    os(13, "PGE"),
    os(14, "MCA"),
    os(15, "CMOV"),
    os(16, "PAT"),
    os(17, "PSE36"),
    os(19, "CLFSH"),
    os(23, "MMX"),
    os(24, "FXSR"),
    os(25, "SSE"),
    os(26, "SSE2"),
    os(27, "SS"),
    os(28, "HTT"),
];
