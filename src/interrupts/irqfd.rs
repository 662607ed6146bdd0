//! Message-signalled interrupts by a write to an event descriptor.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::devices::ioapic::Msi;

/// Who knows which message a write to a vector's event descriptor is. KVM's routing
/// table; tests and fuzzers have their own.
pub trait MsiRoutes: Send + Sync {
    /// From now on an event at `gsi` is the message `route`, or nothing.
    fn set_route(&self, gsi: u32, route: Option<Msi>);
}

/// One vector: an event descriptor, each write to which sends the vector's message.
///
/// Masking is the business of who owns the vector: the guest's table says whether the
/// descriptor may be written.
pub struct MsiVector {
    gsi: u32,
    fd: EventFd,
    routes: Arc<dyn MsiRoutes>,
}

impl MsiVector {
    /// A vector at `gsi`, for which `fd` is connected already.
    pub fn new(gsi: u32, fd: EventFd, routes: Arc<dyn MsiRoutes>) -> Self {
        Self { gsi, fd, routes }
    }

    /// What a write to the descriptor sends from now on; none for nothing.
    pub fn set_route(&self, route: Option<Msi>) {
        self.routes.set_route(self.gsi, route);
    }

    /// The descriptor: one 8-byte `1` is one message.
    pub fn fd(&self) -> &EventFd {
        &self.fd
    }
}
