//! The model-specific registers that a PC's firmware would have set.

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, Msrs, kvm_enable_cap, kvm_msr_entry,
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

/// What firmware leaves in each vCPU, beyond KVM's reset state.
fn firmware_msrs() -> [kvm_msr_entry; 2] {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    [
        entry(IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(IA32_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ]
}

/// Sets the registers on one vCPU, in one system call.
///
/// # Errors
/// [`MsrError`], which names the register KVM refused.
pub fn set_firmware_msrs(vcpu: &VcpuFd) -> Result<(), MsrError> {
    let entries = firmware_msrs();
    let list = Msrs::from_entries(&entries).map_err(|_| MsrError::List(entries.len()))?;
    let done = vcpu.set_msrs(&list).map_err(MsrError::Set)?;
    match entries.get(done) {
        Some(refused) => Err(MsrError::Refused(refused.index)),
        None => Ok(()),
    }
}
