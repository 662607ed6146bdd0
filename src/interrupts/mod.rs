//! Interrupt controllers and the way from a device to a vCPU.
//!
//! Two machines, chosen by the builder:
//!
//! * **split** (the default): KVM has the local APICs, Mayfly the IOAPIC
//!   ([`crate::devices::ioapic`]), and there is no PIC and no PIT. A device's
//!   edge becomes an MSI by the IOAPIC's redirection table. Start-up pays no
//!   KVM_CREATE_IRQCHIP (docs/decisions.md has the measurement).
//! * **kernel**: KVM has PIC, IOAPIC and PIT too, for kernels that want them.
//!
//! ```text
//!  serial port, SCI ─ IrqLine ──┐
//!  PCI INTx ─ LevelLine, OR-ed ─┼─► IOAPIC ─► MSI ─► local APIC (KVM)
//!  virtio-mmio ─ irqfd ─► GSI 0..24 ──┐ follows the redirection table
//!  MSI-X ─ MsiVector ─ irqfd ─► GSI 24.. ─► routes ─► MSI ─► local APIC
//! ```

mod doorbells;
mod irqfd;
mod level;
mod routes;
mod table;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_PIT_SPEAKER_DUMMY, KVM_X2APIC_API_USE_32BIT_IDS,
    kvm_enable_cap, kvm_pit_config,
};
use kvm_ioctls::VmFd;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::ioapic::{Ioapic, IoapicLine, IoapicState};
use crate::devices::{IrqLine, LevelLine};
use crate::memory::layout::IOAPIC_PINS;
use level::{LevelSource, SharedLevel};
use routes::KvmRoutes;

pub use doorbells::KvmDoorbells;
pub use irqfd::{MsiRoutes, MsiVector};

/// APIC ids that fit the 8-bit destination of xAPIC; 0xff is the broadcast.
const XAPIC_IDS: u32 = 0xff;

/// Why the interrupt controllers, or a way into them, could not be made.
#[derive(Debug, Error)]
pub enum InterruptError {
    /// KVM_CAP_SPLIT_IRQCHIP.
    #[error("cannot create the local APICs (split irqchip); try --irqchip kernel")]
    Split(#[source] kvm_ioctls::Error),
    /// KVM_CREATE_IRQCHIP.
    #[error("cannot create KVM's interrupt controllers")]
    Kernel(#[source] kvm_ioctls::Error),
    /// KVM_CREATE_PIT2.
    #[error("cannot create KVM's interval timer")]
    Pit(#[source] kvm_ioctls::Error),
    /// KVM_CAP_X2APIC_API.
    #[error("cannot enable 32-bit APIC ids, which more than 255 vCPUs need; use fewer --cpus")]
    X2apic(#[source] kvm_ioctls::Error),
    /// eventfd(2).
    #[error("cannot create an event descriptor for a device's interrupt")]
    EventFd(#[source] io::Error),
    /// KVM_IRQFD.
    #[error("cannot connect an event descriptor to interrupt {gsi} (KVM_IRQFD)")]
    Irqfd {
        /// The global system interrupt it was for.
        gsi: u32,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM's routing table has no room for another message.
    #[error("the devices need more than {limit} message-signalled interrupts; use fewer queues")]
    TooManyVectors {
        /// As many as there can be.
        limit: usize,
    },
}

/// Which interrupt controllers a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqchipMode {
    /// Local APICs in KVM, IOAPIC in Mayfly, no PIC, no PIT.
    Split,
    /// Everything in KVM.
    Kernel,
}

/// The interrupt controllers of one machine.
pub struct Interrupts {
    vm: Arc<VmFd>,
    ioapic: Option<Arc<Mutex<Ioapic>>>,
    routes: Arc<KvmRoutes>,
    /// Lines that several devices pull, by their GSI.
    levels: Mutex<Vec<(u32, Arc<SharedLevel>)>>,
}

impl Interrupts {
    /// Creates the controllers; must come before the first vCPU.
    ///
    /// # Errors
    /// [`InterruptError`] names the call that failed.
    pub fn new(vm: Arc<VmFd>, mode: IrqchipMode, cpus: u32) -> Result<Self, InterruptError> {
        let routes = Arc::new(KvmRoutes::new(vm.clone(), mode));
        let ioapic = match mode {
            IrqchipMode::Split => {
                enable_cap(&vm, KVM_CAP_SPLIT_IRQCHIP, u64::from(IOAPIC_PINS))
                    .map_err(InterruptError::Split)?;
                let ioapic = Ioapic::from_state(IoapicState::default(), routes.clone());
                Some(Arc::new(Mutex::new(ioapic)))
            }
            IrqchipMode::Kernel => {
                vm.create_irq_chip().map_err(InterruptError::Kernel)?;
                vm.create_pit2(kvm_pit_config {
                    flags: KVM_PIT_SPEAKER_DUMMY,
                    ..Default::default()
                })
                .map_err(InterruptError::Pit)?;
                None
            }
        };
        if cpus > XAPIC_IDS {
            let ids = u64::from(KVM_X2APIC_API_USE_32BIT_IDS);
            enable_cap(&vm, KVM_CAP_X2APIC_API, ids).map_err(InterruptError::X2apic)?;
        }
        Ok(Self {
            vm,
            ioapic,
            routes,
            levels: Mutex::default(),
        })
    }

    /// Mayfly's IOAPIC, for the memory bus; none where KVM has it.
    pub fn ioapic(&self) -> Option<Arc<Mutex<Ioapic>>> {
        self.ioapic.clone()
    }

    /// The line of input `gsi`, for a device that makes edges by a call.
    pub fn line(&self, gsi: u32) -> Arc<dyn IrqLine> {
        match &self.ioapic {
            Some(ioapic) => Arc::new(IoapicLine::new(ioapic.clone(), gsi)),
            None => Arc::new(self.kvm_line(gsi)),
        }
    }

    /// A share in the line of input `gsi`, which is level-triggered and up while any
    /// of those who share it holds it up (PCI's INTx).
    pub fn level_line(&self, gsi: u32) -> Arc<dyn LevelLine> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let known = levels.iter().find(|(of, _)| *of == gsi);
        let shared = if let Some((_, shared)) = known {
            shared.clone()
        } else {
            let line: Box<dyn LevelLine> = match &self.ioapic {
                Some(ioapic) => Box::new(IoapicLine::new(ioapic.clone(), gsi)),
                None => Box::new(self.kvm_line(gsi)),
            };
            let shared = Arc::new(SharedLevel::new(line));
            levels.push((gsi, shared.clone()));
            shared
        };
        Arc::new(LevelSource::new(shared))
    }

    /// An event descriptor whose write is an edge at input `gsi` of the IOAPIC. What
    /// it becomes follows the redirection table; while the input is masked, nothing.
    ///
    /// # Errors
    /// [`InterruptError::EventFd`] or [`InterruptError::Irqfd`].
    pub fn edge_irqfd(&self, gsi: u32) -> Result<Arc<EventFd>, InterruptError> {
        let fd = self.irqfd(gsi)?;
        self.routes.serve_pin_by_irqfd(gsi);
        Ok(Arc::new(fd))
    }

    /// A vector for a message-signalled interrupt, without a route yet.
    ///
    /// # Errors
    /// [`InterruptError`] if there are too many, or KVM refuses the descriptor.
    pub fn msi_vector(&self) -> Result<MsiVector, InterruptError> {
        let gsi = self.routes.add_message()?;
        let fd = self.irqfd(gsi)?;
        Ok(MsiVector::new(gsi, fd, self.routes.clone()))
    }

    /// `count` vectors, as the table of one device needs them.
    ///
    /// # Errors
    /// As [`msi_vector`](Self::msi_vector).
    pub fn msi_vectors(&self, count: usize) -> Result<Vec<MsiVector>, InterruptError> {
        (0..count).map(|_| self.msi_vector()).collect()
    }

    /// A vCPU has ended the level-triggered interrupt `vector` (KVM_EXIT_IOAPIC_EOI).
    pub fn end_of_interrupt(&self, vector: u8) {
        if let Some(ioapic) = &self.ioapic {
            let mut ioapic = ioapic.lock().unwrap_or_else(PoisonError::into_inner);
            ioapic.eoi(vector);
        }
    }

    fn irqfd(&self, gsi: u32) -> Result<EventFd, InterruptError> {
        let fd = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .map_err(InterruptError::EventFd)?;
        self.vm
            .register_irqfd(&fd, gsi)
            .map_err(|source| InterruptError::Irqfd { gsi, source })?;
        Ok(fd)
    }

    fn kvm_line(&self, gsi: u32) -> KvmLine {
        KvmLine {
            vm: self.vm.clone(),
            gsi,
        }
    }
}

fn enable_cap(vm: &VmFd, cap: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    vm.enable_cap(&kvm_enable_cap {
        cap,
        args: [argument, 0, 0, 0],
        ..Default::default()
    })
}

/// A line into KVM's interrupt controllers.
struct KvmLine {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl LevelLine for KvmLine {
    fn set_level(&self, asserted: bool) {
        if let Err(error) = self.vm.set_irq_line(self.gsi, asserted) {
            log::debug!("cannot set interrupt line {}: {error}", self.gsi);
        }
    }
}

impl IrqLine for KvmLine {
    fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

#[cfg(test)]
mod kvm_tests;
