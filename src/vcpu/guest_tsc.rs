//! A vCPU's TSC across a pause: it goes on from where it stood.
//!
//! The guest's TSC is the host's plus an offset, which KVM lets us change since Linux 5.16
//! (Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET). Before, and on
//! kvm-pvm hosts, where programs read the host's TSC whatever the offset, it goes on while
//! the VM is paused. Writing IA32_TSC instead does not help: KVM takes a value within
//! a second of what it expects for an attempt to bring vCPUs in step, and ignores it.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_device_attr, kvm_msr_entry,
};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::tick_pacing::IA32_TSC_DEADLINE;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// How far a vCPU's TSC follows its VM's pauses.
#[derive(Debug, Default)]
pub struct GuestTsc {
    /// Cycles taken back so far.
    taken_back: u64,
}

impl GuestTsc {
    /// Takes back what `skipped`, the cycles of all pauses so far, has grown by. To be
    /// called on the vCPU's thread, before it runs. A timer armed for a moment of the TSC is
    /// armed for the same moment again, which has become a later one.
    pub fn take_back(&mut self, vcpu: &VcpuFd, skipped: u64) {
        let cycles = skipped.wrapping_sub(self.taken_back);
        self.taken_back = skipped;
        let Some(offset) = offset(vcpu) else {
            return;
        };
        let deadline = deadline(vcpu);
        if set_offset(vcpu, offset.wrapping_sub(cycles))
            && let Some(armed) = deadline
        {
            // Also calls off an interrupt that KVM has begun to raise meanwhile. It is
            // refused only where it could not be read either.
            let _ = vcpu.set_msrs(&armed);
        }
    }
}

/// IA32_TSC_DEADLINE, if the timer is armed.
fn deadline(vcpu: &VcpuFd) -> Option<Msrs> {
    let mut list = Msrs::from_entries(&[kvm_msr_entry {
        index: IA32_TSC_DEADLINE,
        ..Default::default()
    }])
    .ok()?;
    let read = vcpu.get_msrs(&mut list).ok()?;
    let armed = list.as_slice().first().is_some_and(|msr| msr.data != 0);
    (read == 1 && armed).then_some(list)
}

fn attribute(offset: *const u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: offset as u64,
        ..Default::default()
    }
}

/// The guest's TSC less the host's, where KVM tells.
fn offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut offset = 0u64;
    let attribute = attribute(&raw mut offset);
    // SAFETY: KVM reads the attribute, and writes eight bytes to the address in it,
    // which is that of `offset`.
    let answer = unsafe { ioctl_with_ref(&vcpu.as_raw_fd(), KVM_GET_DEVICE_ATTR(), &attribute) };
    (answer == 0).then_some(offset)
}

fn set_offset(vcpu: &VcpuFd, offset: u64) -> bool {
    let attribute = attribute(&raw const offset);
    // SAFETY: KVM reads the attribute, and eight bytes at the address in it, which is
    // that of `offset`.
    let answer = unsafe { ioctl_with_ref(&vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR(), &attribute) };
    answer == 0
}
