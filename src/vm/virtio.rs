//! The VM's virtio devices: made from what was opened, and put behind the transport
//! that the user chose.

use std::sync::{Arc, Mutex, PoisonError};

use super::disks::{DiskCounters, OpenDisk};
use super::error::BuildError;
use super::nets::{OpenNet, RunningNet};
use crate::config::Transport;
use crate::devices::bus::{Bus, BusError};
use crate::devices::pci::PciRoot;
use crate::devices::reset_control::{ResetControl, ResetControlState};
use crate::devices::virtio::front::Front;
use crate::devices::virtio::lent::Kept;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::transport::Doorbells;
use crate::devices::virtio::transport::mmio::MmioTransport;
use crate::devices::virtio::transport::pci::VirtioPci;
use crate::interrupts::Interrupts;
use crate::memory::GuestRam;
use crate::memory::layout::{self, VIRTIO_MMIO_SIZE};

/// Devices that wait for a machine.
#[derive(Default)]
pub struct Devices {
    /// In the order in which the guest finds them.
    pub devices: Vec<Kept>,
    /// What the disks among them count.
    pub disk_counters: Vec<DiskCounters>,
    /// What the network interfaces among them need until the end.
    pub nets: Vec<RunningNet>,
}

/// The devices behind their transport, to be put on the buses.
pub enum Transports {
    /// Pages of registers, each with its address.
    Mmio(Vec<(u64, MmioTransport)>),
    /// Functions of the PCI root.
    Pci(PciRoot),
}

/// The devices on the buses, as the VM as a whole sees them.
#[derive(Clone)]
pub enum Virtio {
    /// Behind virtio-mmio; or there are none.
    Mmio(Vec<Arc<Mutex<MmioTransport>>>),
    /// Behind the PCI root.
    Pci(Arc<Mutex<PciRoot>>),
}

impl Transports {
    /// Puts `devices` behind `transport`, in their order.
    ///
    /// # Errors
    /// [`BuildError`] if there are more than places, or no descriptors for them.
    pub fn new(
        transport: Transport,
        devices: &[Kept],
        ram: &GuestRam,
        interrupts: &Interrupts,
        doorbells: &Arc<dyn Doorbells>,
    ) -> Result<Self, BuildError> {
        if transport == Transport::Mmio || devices.is_empty() {
            let slots = layout::virtio_mmio_slots(devices.len())?;
            let mut placed = Vec::with_capacity(devices.len());
            for (device, slot) in devices.iter().zip(slots) {
                let front = front(device, ram)?;
                let irq = interrupts.edge_irqfd(slot.gsi)?;
                let registers = MmioTransport::new(front, irq, &**doorbells, slot.addr);
                placed.push((slot.addr, registers));
            }
            return Ok(Self::Mmio(placed));
        }
        let mut root = PciRoot::new();
        for device in devices {
            let front = front(device, ram)?;
            let vectors = interrupts.msi_vectors(VirtioPci::vector_count(&front))?;
            let line = interrupts.level_line(PciRoot::intx_gsi(root.next_device()));
            let function = VirtioPci::new(front, vectors, line, doorbells.clone());
            root.add(Box::new(function))?;
        }
        Ok(Self::Pci(root))
    }

    /// Puts everything on the buses, and the reset control register, which lies among
    /// the PCI root's ports where there is one.
    ///
    /// # Errors
    /// [`BusError`] if two devices claim one place.
    pub fn attach(
        self,
        pio: &mut Bus,
        mmio: &mut Bus,
        reset: impl FnOnce(ResetControlState) -> ResetControl,
    ) -> Result<Virtio, BusError> {
        match self {
            Self::Pci(root) => Ok(Virtio::Pci(root.attach(pio, mmio, reset)?)),
            Self::Mmio(devices) => {
                let reset = Arc::new(Mutex::new(reset(ResetControlState::default())));
                let port = u64::from(layout::PORT_RESET);
                pio.insert(port, crate::devices::reset_control::LEN, reset)?;
                let mut attached = Vec::with_capacity(devices.len());
                for (addr, registers) in devices {
                    let registers = Arc::new(Mutex::new(registers));
                    mmio.insert(addr, VIRTIO_MMIO_SIZE, registers.clone())?;
                    attached.push(registers);
                }
                Ok(Virtio::Mmio(attached))
            }
        }
    }
}

impl Virtio {
    /// Has every device finish what is in flight and take up nothing new.
    pub fn pause(&self) {
        match self {
            Self::Mmio(devices) => {
                for device in devices {
                    let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
                    device.front_mut().pause();
                }
            }
            Self::Pci(root) => root.lock().unwrap_or_else(PoisonError::into_inner).pause(),
        }
    }

    /// Lets them go on.
    pub fn resume(&self) {
        match self {
            Self::Mmio(devices) => {
                for device in devices {
                    let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
                    device.front_mut().resume();
                }
            }
            Self::Pci(root) => root.lock().unwrap_or_else(PoisonError::into_inner).resume(),
        }
    }
}

/// Makes the devices, disks first, then networks, and starts the threads that serve them.
///
/// # Errors
/// [`BuildError`] if the host gives no threads.
pub fn make_devices(
    disks: Vec<OpenDisk>,
    nets: Vec<OpenNet>,
    rng: bool,
    ram: &GuestRam,
) -> Result<Devices, BuildError> {
    let mut made = Devices::default();
    for disk in disks {
        let (block, counted) = disk.start(ram)?;
        made.devices.push(Kept::new(block));
        made.disk_counters.push(counted);
    }
    for net in nets {
        let (net, running) = net.start(ram)?;
        made.devices.push(Kept::new(net));
        made.nets.push(running);
    }
    if rng {
        let rng = Rng::start().map_err(BuildError::Rng)?;
        made.devices.push(Kept::new(rng));
    }
    Ok(made)
}

fn front(device: &Kept, ram: &GuestRam) -> Result<Front, BuildError> {
    Front::new(device.lend(), ram.clone()).map_err(BuildError::EventDescriptor)
}
