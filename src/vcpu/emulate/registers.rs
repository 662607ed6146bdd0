//! Registers and events to and from KVM: through the `kvm_run` page where the
//! vCPU has KVM_CAP_SYNC_REGS switched on, by ioctls where not.

use kvm_bindings::{
    KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{SyncReg, VcpuFd};

use super::error::EmulateError;
use super::exception::Exception;

/// A vCPU's registers as they were at the exit.
#[derive(Clone, Copy)]
pub(super) struct Registers {
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
}

fn is_synced(vcpu: &mut VcpuFd, which: u32) -> bool {
    let which = u64::from(which);
    vcpu.get_kvm_run().kvm_valid_regs & which == which
}

/// System registers alone.
pub(super) fn system(vcpu: &mut VcpuFd) -> Result<kvm_sregs, EmulateError> {
    if is_synced(vcpu, KVM_SYNC_X86_SREGS) {
        return Ok(vcpu.sync_regs_mut().sregs);
    }
    vcpu.get_sregs()
        .map_err(failed("read the system registers"))
}

/// All of them.
pub(super) fn read(vcpu: &mut VcpuFd) -> Result<Registers, EmulateError> {
    let sregs = system(vcpu)?;
    let regs = if is_synced(vcpu, KVM_SYNC_X86_REGS) {
        vcpu.sync_regs_mut().regs
    } else {
        vcpu.get_regs().map_err(failed("read the registers"))?
    };
    Ok(Registers { regs, sregs })
}

/// Writes what differs from `old`.
pub(super) fn write(
    vcpu: &mut VcpuFd,
    old: &Registers,
    new: &Registers,
) -> Result<(), EmulateError> {
    if old.regs != new.regs {
        if is_synced(vcpu, KVM_SYNC_X86_REGS) {
            vcpu.sync_regs_mut().regs = new.regs;
            vcpu.set_sync_dirty_reg(SyncReg::Register);
        } else {
            vcpu.set_regs(&new.regs)
                .map_err(failed("write the registers"))?;
        }
    }
    if old.sregs != new.sregs {
        if is_synced(vcpu, KVM_SYNC_X86_SREGS) {
            vcpu.sync_regs_mut().sregs = new.sregs;
            vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        } else {
            vcpu.set_sregs(&new.sregs)
                .map_err(failed("write the system registers"))?;
        }
    }
    Ok(())
}

/// Has KVM deliver `exception` on the next run.
pub(super) fn inject(vcpu: &mut VcpuFd, exception: &Exception) -> Result<(), EmulateError> {
    if is_synced(vcpu, KVM_SYNC_X86_EVENTS) {
        exception.queue(&mut vcpu.sync_regs_mut().events);
        vcpu.set_sync_dirty_reg(SyncReg::VcpuEvents);
        return Ok(());
    }
    let mut events = vcpu
        .get_vcpu_events()
        .map_err(failed("read the pending events"))?;
    exception.queue(&mut events);
    vcpu.set_vcpu_events(&events)
        .map_err(failed("inject an exception"))
}

fn failed(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> EmulateError {
    move |source| EmulateError::Kvm { action, source }
}
