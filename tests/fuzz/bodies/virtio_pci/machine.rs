//! A bus with two virtio devices that do nothing but remember their way to the driver.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mayfly::devices::bus::Bus;
use mayfly::devices::ioapic::Msi;
use mayfly::devices::pci::{PciFunction, PciRoot};
use mayfly::devices::reset_control::ResetControl;
use mayfly::devices::virtio::device::{
    ActivateError, Activation, DeviceType, VirtioDevice, VirtioInterrupt,
};
use mayfly::devices::virtio::front::{Front, FrontState};
use mayfly::devices::virtio::transport::Doorbells;
use mayfly::devices::virtio::transport::pci::{VirtioPci, VirtioPciState};
use mayfly::devices::{EventSink, GuestEvent, LevelLine};
use mayfly::interrupts::{MsiRoutes, MsiVector};
use mayfly::memory::GuestRam;
use vmm_sys_util::eventfd::EventFd;

/// Devices on the bus, behind the host bridge.
pub const DEVICES: usize = 2;
/// Queues of each.
pub const QUEUES: u16 = 2;
/// Vectors of each.
pub const VECTORS: usize = 3;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The virtio device.
struct Idle {
    config: [u8; 8],
    interrupt: Arc<Mutex<Option<Arc<dyn VirtioInterrupt>>>>,
}

impl VirtioDevice for Idle {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }
    fn features(&self) -> u64 {
        1
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256; QUEUES as usize]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.config.get(at as usize).copied().unwrap_or(0);
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if let Some(slot) = self.config.get_mut(at as usize) {
                *slot = *byte;
            }
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let before = lock(&self.interrupt).replace(activation.interrupt);
        assert!(before.is_none(), "activated twice");
        Ok(())
    }
    fn reset(&mut self) {
        *lock(&self.interrupt) = None;
    }
    fn pause(&mut self) {}
    fn resume(&mut self) {}
}

/// Everything outside the bus.
#[derive(Default)]
pub struct World {
    /// Doorbells there are.
    pub doorbells: Mutex<Vec<u64>>,
    /// Messages by GSI.
    pub routes: Mutex<BTreeMap<u32, Msi>>,
    /// What the guest has asked of the VM.
    pub events: Mutex<Vec<GuestEvent>>,
}

impl Doorbells for World {
    fn register(&self, addr: u64, queue: Option<u32>, _fd: &EventFd) -> io::Result<()> {
        assert_eq!(queue, None);
        let mut doorbells = lock(&self.doorbells);
        if doorbells.contains(&addr) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        doorbells.push(addr);
        Ok(())
    }
    fn unregister(&self, addr: u64, _: Option<u32>, _: &EventFd) -> io::Result<()> {
        let mut doorbells = lock(&self.doorbells);
        let at = doorbells.iter().position(|other| *other == addr);
        doorbells.remove(at.expect("a doorbell that was registered"));
        Ok(())
    }
}

impl MsiRoutes for World {
    fn set_route(&self, gsi: u32, route: Option<Msi>) {
        let message = route.expect("routes change, and do not go");
        lock(&self.routes).insert(gsi, message);
    }
}

impl EventSink for World {
    fn guest_event(&self, event: GuestEvent) {
        lock(&self.events).push(event);
    }
}

#[derive(Default)]
pub struct Line(Mutex<bool>);

impl Line {
    /// Whether the line is up.
    pub fn is_up(&self) -> bool {
        *lock(&self.0)
    }
}

impl LevelLine for Line {
    fn set_level(&self, asserted: bool) {
        *lock(&self.0) = asserted;
    }
}

/// A device of the bus, and what hangs on it.
pub struct Device {
    pub function: Arc<Mutex<VirtioPci>>,
    pub line: Arc<Line>,
    /// The first of its GSIs.
    pub gsi: u32,
    fds: Vec<EventFd>,
    interrupt: Arc<Mutex<Option<Arc<dyn VirtioInterrupt>>>>,
}

impl Device {
    /// A device in `state`, or as after reset.
    pub fn new(
        ram: &GuestRam,
        world: &Arc<World>,
        gsi: u32,
        state: Option<&VirtioPciState>,
    ) -> Self {
        let interrupt = Arc::default();
        let idle = Box::new(Idle {
            config: [1, 2, 3, 4, 5, 6, 7, 8],
            interrupt: Arc::clone(&interrupt),
        });
        let front_state = state.map_or_else(FrontState::default, |state| state.front.clone());
        let front = Front::from_state(idle, ram.clone(), front_state).expect("event descriptors");
        assert_eq!(VirtioPci::vector_count(&front), VECTORS);
        let fd = || EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).expect("a descriptor");
        let fds: Vec<_> = (0..VECTORS).map(|_| fd()).collect();
        let vector = |(gsi, fd): (u32, &EventFd)| {
            let fd = fd.try_clone().expect("a descriptor");
            MsiVector::new(gsi, fd, world.clone())
        };
        let vectors = (gsi..).zip(&fds).map(vector).collect();
        let line = Arc::new(Line::default());
        let function = match state {
            Some(state) => {
                VirtioPci::from_state(front, state, vectors, line.clone(), world.clone())
            }
            None => VirtioPci::new(front, vectors, line.clone(), world.clone()),
        };
        Self {
            function: Arc::new(Mutex::new(function)),
            line,
            gsi,
            fds,
            interrupt,
        }
    }

    /// The state that would be saved.
    pub fn state(&self) -> VirtioPciState {
        lock(&self.function).state()
    }

    /// The device's way to the driver, while it runs.
    pub fn interrupt(&self) -> Option<Arc<dyn VirtioInterrupt>> {
        lock(&self.interrupt).clone()
    }

    /// Where BAR 0 is decoded.
    pub fn memory(&self) -> Option<Range<u64>> {
        lock(&self.function).memory()
    }

    /// Messages by each vector since the last call.
    pub fn sent(&self) -> [u64; VECTORS] {
        let mut sent = [0; VECTORS];
        for (count, fd) in sent.iter_mut().zip(&self.fds) {
            *count = fd.read().unwrap_or(0);
        }
        sent
    }
}

/// The function on the bus, which the fuzzer looks at from aside.
struct OnBus(Arc<Mutex<VirtioPci>>);

impl PciFunction for OnBus {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        lock(&self.0).read_config(offset, data);
    }
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        lock(&self.0).write_config(offset, data);
    }
    fn memory_size(&self) -> u64 {
        lock(&self.0).memory_size()
    }
    fn memory(&self) -> Option<Range<u64>> {
        lock(&self.0).memory()
    }
    fn read_memory(&mut self, offset: u64, data: &mut [u8]) {
        lock(&self.0).read_memory(offset, data);
    }
    fn write_memory(&mut self, offset: u64, data: &[u8]) {
        lock(&self.0).write_memory(offset, data);
    }
}

/// The bus.
pub struct Machine {
    pub pio: Bus,
    pub mmio: Bus,
    pub world: Arc<World>,
    pub devices: Vec<Device>,
    pub ram: GuestRam,
}

impl Machine {
    /// The bus after reset, with the devices' addresses assigned.
    pub fn new() -> Self {
        let ram = GuestRam::new(1 << 20).expect("a MiB");
        let world = Arc::new(World::default());
        let (mut pio, mut mmio) = (Bus::new(), Bus::new());
        let mut root = PciRoot::new();
        let gsis = (24..).step_by(VECTORS).take(DEVICES);
        let devices: Vec<_> = gsis
            .map(|gsi| Device::new(&ram, &world, gsi, None))
            .collect();
        for device in &devices {
            root.add(Box::new(OnBus(device.function.clone())))
                .expect("a place on the bus");
        }
        let events = world.clone();
        root.attach(&mut pio, &mut mmio, |state| {
            ResetControl::from_state(state, events)
        })
        .expect("empty buses");
        Self {
            pio,
            mmio,
            world,
            devices,
            ram,
        }
    }

    /// What the guest has asked of the VM since the last call.
    pub fn events(&self) -> Vec<GuestEvent> {
        std::mem::take(&mut lock(&self.world.events))
    }

    /// The doorbells there are.
    pub fn doorbells(&self) -> Vec<u64> {
        lock(&self.world.doorbells).clone()
    }

    /// The message that GSI `gsi` stands for.
    pub fn route(&self, gsi: u32) -> Option<Msi> {
        lock(&self.world.routes).get(&gsi).copied()
    }
}
