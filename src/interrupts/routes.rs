//! The routing table in KVM, and the messages that are sent past it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{KvmIrqRouting, kvm_msi};
use kvm_ioctls::VmFd;

use super::table::{MAX_MESSAGES, Table};
use super::{InterruptError, IrqchipMode, MsiRoutes};
use crate::devices::ioapic::{Msi, MsiSink};

/// Keeps KVM's routing table in step with the IOAPIC's and the devices' own tables,
/// and delivers the IOAPIC's messages.
pub struct KvmRoutes {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

impl KvmRoutes {
    /// The table as KVM has it at the start.
    pub fn new(vm: Arc<VmFd>, mode: IrqchipMode) -> Self {
        Self {
            vm,
            table: Mutex::new(Table::new(mode)),
        }
    }

    /// An irqfd serves `pin` from now on.
    pub fn serve_pin_by_irqfd(&self, pin: u32) {
        let mut table = self.lock();
        if table.serve_pin_by_irqfd(pin) {
            self.install(&table);
        }
    }

    /// A GSI for a message.
    pub fn add_message(&self) -> Result<u32, InterruptError> {
        let limit = MAX_MESSAGES;
        self.lock()
            .add_message()
            .ok_or(InterruptError::TooManyVectors { limit })
    }

    /// With the table locked, so that no older table overtakes a newer one.
    fn install(&self, table: &Table) {
        let result = KvmIrqRouting::from_entries(&table.entries())
            .map(|table| self.vm.set_gsi_routing(&table))
            .map_err(|error| format!("{error:?}"));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("cannot set interrupt routes: {error}"),
            Err(error) => log::warn!("cannot set interrupt routes: {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MsiSink for KvmRoutes {
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
        let mut table = self.lock();
        if table.set_pin(pin, route) {
            self.install(&table);
        }
    }
}

impl MsiRoutes for KvmRoutes {
    fn set_route(&self, gsi: u32, route: Option<Msi>) {
        let mut table = self.lock();
        if table.set_message(gsi, route) {
            self.install(&table);
        }
    }
}
