// Offsets and values are those of virtio 1.2 §4.1 and PCI 3.0 §6, written out.

mod events;
mod registers;
mod state;

use std::io;
use std::sync::Mutex;

use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::devices::ioapic::Msi;
use crate::devices::virtio::front::testing::Probe;
use crate::interrupts::MsiRoutes;
use crate::memory::GuestRam;
use crate::memory::layout::PCI_BAR_START;

const BAR: u64 = PCI_BAR_START + 0x20_0000;
const TABLE_ENTRY: u64 = 16;

/// Doorbells that are remembered, or all refused.
#[derive(Default)]
struct Bells {
    refuse: bool,
    hung: Mutex<Vec<u64>>,
}

impl Bells {
    fn now(&self) -> Vec<u64> {
        self.hung.lock().unwrap().clone()
    }
}

impl Doorbells for Bells {
    fn register(&self, addr: u64, queue: Option<u32>, _fd: &EventFd) -> io::Result<()> {
        assert_eq!(queue, None);
        let mut hung = self.hung.lock().unwrap();
        if self.refuse || hung.contains(&addr) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        hung.push(addr);
        Ok(())
    }
    fn unregister(&self, addr: u64, _: Option<u32>, _: &EventFd) -> io::Result<()> {
        let mut hung = self.hung.lock().unwrap();
        assert!(hung.contains(&addr), "{addr:#x} was not registered");
        hung.retain(|other| *other != addr);
        Ok(())
    }
}

#[derive(Default)]
struct Line(Mutex<bool>);

impl Line {
    fn is_up(&self) -> bool {
        *self.0.lock().unwrap()
    }
}

impl LevelLine for Line {
    fn set_level(&self, asserted: bool) {
        *self.0.lock().unwrap() = asserted;
    }
}

#[derive(Default)]
struct Routes(Mutex<Vec<(u32, Option<Msi>)>>);

impl MsiRoutes for Routes {
    fn set_route(&self, gsi: u32, route: Option<Msi>) {
        self.0.lock().unwrap().push((gsi, route));
    }
}

struct Bench {
    probe: Probe,
    line: Arc<Line>,
    bells: Arc<Bells>,
    routes: Arc<Routes>,
    /// The other ends of the vectors.
    fds: Vec<EventFd>,
    ram: GuestRam,
    pci: VirtioPci,
}

fn vectors(routes: &Arc<Routes>) -> (Vec<MsiVector>, Vec<EventFd>) {
    let fds: Vec<_> = (0..3)
        .map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap())
        .collect();
    let vector =
        |(gsi, fd): (u32, &EventFd)| MsiVector::new(gsi, fd.try_clone().unwrap(), routes.clone());
    let vectors = (24..).zip(&fds).map(vector).collect();
    (vectors, fds)
}

fn bench_with(bells: Bells) -> Bench {
    let ram = GuestRam::new(1 << 20).unwrap();
    let (probe, line, bells) = (Probe::default(), Arc::new(Line::default()), Arc::new(bells));
    let routes = Arc::new(Routes::default());
    let (vectors, fds) = vectors(&routes);
    let front = probe.front(&ram);
    assert_eq!(VirtioPci::vector_count(&front), 3);
    let pci = VirtioPci::new(front, vectors, line.clone(), bells.clone());
    Bench {
        probe,
        line,
        bells,
        routes,
        fds,
        ram,
        pci,
    }
}

fn bench() -> Bench {
    bench_with(Bells::default())
}

impl Bench {
    fn config32(&mut self, offset: usize) -> u32 {
        let mut data = [0; 4];
        self.pci.read_config(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn config8(&mut self, offset: usize) -> u8 {
        let mut data = [0];
        self.pci.read_config(offset, &mut data);
        data[0]
    }

    fn get32(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.pci.read_memory(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn get16(&mut self, offset: u64) -> u16 {
        self.get32(offset) as u16
    }

    fn isr(&mut self) -> u8 {
        let mut data = [0];
        self.pci.read_memory(0x1000, &mut data);
        data[0]
    }

    fn set8(&mut self, offset: u64, value: u8) {
        self.pci.write_memory(offset, &[value]);
    }

    fn set16(&mut self, offset: u64, value: u16) {
        self.pci.write_memory(offset, &value.to_le_bytes());
    }

    fn set32(&mut self, offset: u64, value: u32) {
        self.pci.write_memory(offset, &value.to_le_bytes());
    }

    fn set64(&mut self, offset: u64, value: u64) {
        self.pci.write_memory(offset, &value.to_le_bytes());
    }

    /// Offsets of the capabilities with `id`, in the list's order.
    fn capabilities(&mut self, id: u8) -> Vec<usize> {
        assert_eq!(self.config32(4) >> 16 & 0x10, 0x10, "a list");
        let mut found = Vec::new();
        let mut at = usize::from(self.config8(0x34));
        for _ in 0..48 {
            if at == 0 {
                return found;
            }
            if self.config8(at) == id {
                found.push(at);
            }
            at = usize::from(self.config8(at + 1));
        }
        panic!("the list has no end");
    }

    /// Offset of the virtio capability of this type.
    fn virtio_capability(&mut self, kind: u8) -> usize {
        let all = self.capabilities(9);
        let of_kind = all.into_iter().filter(|at| self.config8(at + 3) == kind);
        let of_kind: Vec<_> = of_kind.collect();
        assert_eq!(of_kind.len(), 1);
        of_kind[0]
    }

    fn msix_control(&mut self, control: u16) {
        let at = self.capabilities(0x11)[0];
        self.pci.write_config(at + 2, &control.to_le_bytes());
    }

    /// Fills in vector `index` of the table and unmasks it.
    fn unmask(&mut self, index: u64, data: u32) {
        let at = 0x8000 + index * TABLE_ENTRY;
        self.set64(at, 0xfee0_0000);
        self.set32(at + 8, data);
        self.set32(at + 12, 0);
    }

    fn move_bar(&mut self, addr: u32) {
        self.pci.write_config(0x10, &addr.to_le_bytes());
    }

    /// What a driver does up to DRIVER_OK: both queues, in the first 64 KiB.
    fn started(mut self) -> Self {
        for status in [0, 1, 3] {
            self.set8(0x14, status);
        }
        for (select, value) in [(0, 1 << 29), (1, 1)] {
            self.set32(0x08, select);
            self.set32(0x0c, value);
        }
        self.set8(0x14, 0xb);
        assert_eq!(self.get16(0x14) & 0xff, 0xb);
        for queue in [0, 1] {
            self.set16(0x16, queue);
            self.set16(0x18, 16);
            let base = 0x4000 * (u64::from(queue) + 1);
            self.set64(0x20, base);
            self.set64(0x28, base + 0x1000);
            self.set64(0x30, base + 0x2000);
            self.set16(0x1c, 1);
        }
        self.set8(0x14, 0xf);
        assert_eq!(self.get16(0x14) & 0xff, 0xf);
        self
    }

    /// The interrupt handle that the device was given.
    fn interrupt(&self) -> Arc<dyn crate::devices::virtio::device::VirtioInterrupt> {
        self.probe.log().active.as_ref().unwrap().interrupt.clone()
    }

    fn sent(&self) -> Vec<u64> {
        self.fds.iter().map(|fd| fd.read().unwrap_or(0)).collect()
    }
}
