//! Queue notifications without an exit to Mayfly: KVM's ioeventfd.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::transport::Doorbells;

/// Doorbells in KVM.
pub struct KvmDoorbells {
    vm: Arc<VmFd>,
}

impl KvmDoorbells {
    /// The doorbells of `vm`.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm }
    }
}

impl Doorbells for KvmDoorbells {
    fn register(&self, addr: u64, queue: Option<u32>, fd: &EventFd) -> io::Result<()> {
        let addr = IoEventAddress::Mmio(addr);
        match queue {
            Some(queue) => self.vm.register_ioevent(fd, &addr, queue),
            None => self.vm.register_ioevent(fd, &addr, NoDatamatch),
        }
        .map_err(io::Error::from)
    }

    fn unregister(&self, addr: u64, queue: Option<u32>, fd: &EventFd) -> io::Result<()> {
        let addr = IoEventAddress::Mmio(addr);
        match queue {
            Some(queue) => self.vm.unregister_ioevent(fd, &addr, queue),
            None => self.vm.unregister_ioevent(fd, &addr, NoDatamatch),
        }
        .map_err(io::Error::from)
    }
}
