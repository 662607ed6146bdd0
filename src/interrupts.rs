//! Interrupt controllers and the way from a device's line to a vCPU.
//!
//! Two machines, chosen by the builder:
//!
//! * **split** (the default): KVM has the local APICs, Mayfly the IOAPIC
//!   ([`crate::devices::ioapic`]), and there is no PIC and no PIT. A device's
//!   edge becomes an MSI by the IOAPIC's redirection table. Start-up pays no
//!   KVM_CREATE_IRQCHIP (docs/decisions.md has the measurement).
//! * **kernel**: KVM has PIC, IOAPIC and PIT too, for kernels that want them.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_IRQ_ROUTING_MSI, KVM_PIT_SPEAKER_DUMMY,
    KVM_X2APIC_API_USE_32BIT_IDS, KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_msi, kvm_pit_config,
};
use kvm_ioctls::VmFd;
use thiserror::Error;

use crate::devices::IrqLine;
use crate::devices::ioapic::{Ioapic, IoapicLine, IoapicState, Msi, MsiSink};
use crate::memory::layout::IOAPIC_PINS;

/// APIC ids that fit the 8-bit destination of xAPIC; 0xff is the broadcast.
const XAPIC_IDS: u32 = 0xff;
/// MSI data bit 15: level-triggered.
const MSI_LEVEL: u32 = 1 << 15;

/// Why the interrupt controllers could not be made.
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
}

impl Interrupts {
    /// Creates the controllers; must come before the first vCPU.
    ///
    /// # Errors
    /// [`InterruptError`] names the call that failed.
    pub fn new(vm: Arc<VmFd>, mode: IrqchipMode, cpus: u32) -> Result<Self, InterruptError> {
        let ioapic = match mode {
            IrqchipMode::Split => {
                enable_cap(&vm, KVM_CAP_SPLIT_IRQCHIP, u64::from(IOAPIC_PINS))
                    .map_err(InterruptError::Split)?;
                let sink = Arc::new(KvmMsiSink::new(vm.clone()));
                let ioapic = Ioapic::from_state(IoapicState::default(), sink);
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
        Ok(Self { vm, ioapic })
    }

    /// Mayfly's IOAPIC, for the memory bus; none where KVM has it.
    pub fn ioapic(&self) -> Option<Arc<Mutex<Ioapic>>> {
        self.ioapic.clone()
    }

    /// The line of input `gsi`, for a device.
    pub fn line(&self, gsi: u32) -> Arc<dyn IrqLine> {
        match &self.ioapic {
            Some(ioapic) => Arc::new(IoapicLine::new(ioapic.clone(), gsi)),
            None => Arc::new(KvmLine {
                vm: self.vm.clone(),
                gsi,
            }),
        }
    }

    /// A vCPU has ended the level-triggered interrupt `vector` (KVM_EXIT_IOAPIC_EOI).
    pub fn end_of_interrupt(&self, vector: u8) {
        if let Some(ioapic) = &self.ioapic {
            let mut ioapic = ioapic.lock().unwrap_or_else(PoisonError::into_inner);
            ioapic.eoi(vector);
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

impl IrqLine for KvmLine {
    fn pulse(&self) {
        for level in [true, false] {
            if let Err(error) = self.vm.set_irq_line(self.gsi, level) {
                log::debug!("cannot set interrupt line {}: {error}", self.gsi);
            }
        }
    }
}

/// Delivers the IOAPIC's messages through KVM, and keeps KVM's routing table in
/// step for the inputs where KVM itself must know the route: those that are
/// level-triggered, because their end-of-interrupt has to come back as an exit.
struct KvmMsiSink {
    vm: Arc<VmFd>,
    routes: Mutex<[Option<Msi>; IOAPIC_PINS as usize]>,
}

impl KvmMsiSink {
    fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
            routes: Mutex::new([None; IOAPIC_PINS as usize]),
        }
    }

    fn install(&self, routes: &[Option<Msi>]) {
        let entries: Vec<kvm_irq_routing_entry> = (0u32..)
            .zip(routes)
            .filter_map(|(gsi, route)| route.as_ref().map(|msi| routing_entry(gsi, *msi)))
            .collect();
        let result = KvmIrqRouting::from_entries(&entries)
            .map(|table| self.vm.set_gsi_routing(&table))
            .map_err(|error| format!("{error:?}"));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("cannot set interrupt routes: {error}"),
            Err(error) => log::warn!("cannot set interrupt routes: {error}"),
        }
    }
}

impl MsiSink for KvmMsiSink {
    fn deliver(&self, msi: Msi) {
        let message = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        // A message no local APIC accepts is the guest's own loss.
        if let Err(error) = self.vm.signal_msi(message) {
            log::debug!("cannot deliver {msi:x?}: {error}");
        }
    }

    fn route_changed(&self, pin: u32, route: Option<Msi>) {
        let wanted = route.filter(|msi| msi.data & MSI_LEVEL != 0);
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = usize::try_from(pin)
            .ok()
            .and_then(|pin| routes.get_mut(pin))
        else {
            return;
        };
        if *slot != wanted {
            *slot = wanted;
            self.install(routes.as_slice());
        }
    }
}

fn routing_entry(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: msi.address as u32,
                address_hi: (msi.address >> 32) as u32,
                data: msi.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}
