//! The model-specific registers that a PC's firmware would have set.

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, Msrs, kvm_cpuid_entry2, kvm_enable_cap,
    kvm_msr_entry,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use thiserror::Error;

/// `IA32_MISC_ENABLE` (Intel SDM vol. 4, table 2-2).
const IA32_MISC_ENABLE: u32 = 0x1a0;
/// Fast-strings enable.
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// `IA32_MTRR_DEF_TYPE` (Intel SDM vol. 3 §12.11.2.1).
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, default type write-back: all memory is cached, as no device of ours needs otherwise.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
/// `HWCR` (AMD APM vol. 2 §3.2.10).
const HWCR: u32 = 0xc001_0015;
/// The TSC counts at the frequency of P-state 0, as processors of today have it for good:
/// Linux calls it a firmware bug where a constant TSC comes without this.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;

/// Why the registers could not be set.
#[derive(Debug, Error)]
pub enum MsrError {
    /// The list is longer than KVM takes.
    #[error("cannot make a list of {0} model-specific registers")]
    List(usize),
    /// The call failed.
    #[error("cannot set the model-specific registers of a vCPU")]
    Set(#[source] kvm_ioctls::Error),
    /// KVM stopped at one register.
    #[error("KVM refuses to set model-specific register {0:#x}")]
    Refused(u32),
    /// KVM_CAP_X86_USER_SPACE_MSR or KVM_X86_SET_MSR_FILTER.
    #[error("cannot watch the system-call and timer registers, which a kvm-pvm host needs")]
    Filter(#[source] kvm_ioctls::Error),
}

/// Makes guest writes to `indices` exit to the VMM (KVM_EXIT_X86_WRMSR), and no others.
///
/// # Errors
/// [`MsrError::Filter`] if KVM cannot filter.
pub fn watch_writes(vm: &VmFd, indices: &[u32]) -> Result<(), MsrError> {
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [u64::from(KVM_MSR_EXIT_REASON_FILTER), 0, 0, 0],
        ..Default::default()
    })
    .map_err(MsrError::Filter)?;
    // One range for each register: a clear bit denies, and a denied access exits.
    let ranges: Vec<MsrFilterRange> = indices
        .iter()
        .map(|index| MsrFilterRange {
            flags: MsrFilterRangeFlags::WRITE,
            base: *index,
            msr_count: 1,
            bitmap: &[0],
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
        .map_err(MsrError::Filter)
}

/// What firmware leaves in each vCPU, beyond KVM's reset state; the last only on AMD.
fn firmware_msrs() -> [kvm_msr_entry; 3] {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    [
        entry(IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(IA32_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
        entry(HWCR, HWCR_TSC_FREQ_SEL),
    ]
}

/// Whether this processor is one of AMD's that says its TSC is constant.
fn has_tsc_freq_sel(cpuid: &[kvm_cpuid_entry2]) -> bool {
    let find = |function| cpuid.iter().find(|entry| entry.function == function);
    // "AuthenticAMD", "HygonGenuine" (CPUID leaf 0, EBX).
    let amd = find(0).is_some_and(|leaf| [0x6874_7541, 0x6f67_7948].contains(&leaf.ebx));
    amd && find(0x8000_0007).is_some_and(|leaf| leaf.edx & 1 << 8 != 0)
}

/// Sets the registers on one vCPU with this CPUID, in one system call.
///
/// # Errors
/// [`MsrError`], which names the register KVM refused.
pub fn set_firmware_msrs(vcpu: &VcpuFd, cpuid: &[kvm_cpuid_entry2]) -> Result<(), MsrError> {
    let all = firmware_msrs();
    let entries = match &all[..] {
        [others @ .., _] if !has_tsc_freq_sel(cpuid) => others,
        all => all,
    };
    let list = Msrs::from_entries(entries).map_err(|_| MsrError::List(entries.len()))?;
    let done = vcpu.set_msrs(&list).map_err(MsrError::Set)?;
    match entries.get(done) {
        // Linux before 6.7; the guest then warns of it.
        Some(kvm_msr_entry { index: HWCR, .. }) | None => Ok(()),
        Some(refused) => Err(MsrError::Refused(refused.index)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuid(vendor: &[u8; 12], power: u32) -> [kvm_cpuid_entry2; 2] {
        let ebx = u32::from_le_bytes(*vendor.first_chunk().unwrap());
        let leaf = |function, ebx, edx| kvm_cpuid_entry2 {
            function,
            ebx,
            edx,
            ..Default::default()
        };
        [leaf(0, ebx, 0), leaf(0x8000_0007, 0, power)]
    }

    #[test]
    fn only_amds_constant_tsc_is_said_to_count_with_p0() {
        for (vendor, power, expected) in [
            (b"AuthenticAMD", 0x100, true),
            (b"HygonGenuine", 0x1ff, true),
            (b"AuthenticAMD", 0xff, false),
            (b"GenuineIntel", 0x100, false),
        ] {
            let table = cpuid(vendor, power);
            assert_eq!(has_tsc_freq_sel(&table), expected, "{vendor:?} {power:#x}");
        }
        assert!(!has_tsc_freq_sel(&[]));
    }
}
