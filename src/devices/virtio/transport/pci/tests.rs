// Offsets and values are those of virtio 1.2 §4.1 and PCI 3.0 §6, written out.

use std::io;
use std::sync::Mutex;

use proptest::prelude::*;
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

#[test]
fn a_driver_finds_its_structures() {
    let mut bench = bench();
    assert_eq!(bench.config32(0), 0x1044_1af4, "an entropy device");
    assert_eq!(bench.config32(8) & 0xff, 1, "not transitional");
    assert!(bench.config32(0x2c) >> 16 >= 0x40);
    assert_eq!(bench.config32(0x3c) >> 8 & 0xff, 1, "INTA");
    for (kind, offset, length) in [
        (1, 0, 0x38),
        (2, 0x3000, 2 * 4),
        (3, 0x1000, 1),
        (4, 0x2000, 0x1000),
    ] {
        let at = bench.virtio_capability(kind);
        assert_eq!(bench.config8(at + 4), 0, "BAR 0");
        assert_eq!(bench.config32(at + 8), offset);
        assert_eq!(bench.config32(at + 12), length);
        let expected = if kind == 2 { 20 } else { 16 };
        assert_eq!(bench.config8(at + 2), expected);
    }
    let notify = bench.virtio_capability(2);
    assert_eq!(bench.config32(notify + 16), 4, "multiplier");
    let msix = bench.capabilities(0x11);
    assert_eq!(msix.len(), 1);
    assert_eq!(bench.config32(msix[0]) >> 16, 2, "three vectors, off");
    assert_eq!(bench.config32(msix[0] + 4), 0x8000);
    assert_eq!(bench.config32(msix[0] + 8), 0x7000);
}

#[test]
fn a_driver_starts_the_device() {
    let mut bench = bench();
    bench.set32(0, 1);
    assert_eq!(bench.get32(4), 1, "VERSION_1");
    bench.set32(0, 0);
    assert_eq!(bench.get32(4), 1 << 29 | 1 << 28 | 1 << 9 | 1);
    bench.set32(0, 2);
    assert_eq!(bench.get32(4), 0);
    assert_eq!(bench.get16(0x12), 2, "queues");
    for (queue, size, offset) in [(0, 256, 0), (1, 16, 1), (2, 0, 0), (0xffff, 0, 0)] {
        bench.set16(0x16, queue);
        assert_eq!((bench.get16(0x18), bench.get16(0x1e)), (size, offset));
    }
    let mut bench = bench.started();
    assert_eq!(bench.get32(0x0c), 1, "features 32 to 63");
    bench.set16(0x16, 1);
    assert_eq!((bench.get16(0x18), bench.get16(0x1c)), (16, 1));
    assert_eq!((bench.get32(0x20), bench.get32(0x24)), (0x8000, 0));
    assert_eq!((bench.get32(0x28), bench.get32(0x30)), (0x9000, 0xa000));
    let activations = bench.probe.log().activations.clone();
    assert_eq!(activations, [(1 << 32 | 1 << 29, vec![(0, 16), (1, 16)])]);
}

#[test]
fn addresses_come_in_halves_and_other_widths_do_nothing() {
    let mut bench = bench();
    bench.set32(0x20, 0x1111_1000);
    bench.set32(0x24, 0x22);
    bench.set32(0x34, 0x33);
    bench.set32(0x30, 0x4000);
    let mut data = [0; 8];
    bench.pci.read_memory(0x20, &mut data);
    assert_eq!(u64::from_le_bytes(data), 0x22_1111_1000);
    bench.pci.read_memory(0x30, &mut data);
    assert_eq!(u64::from_le_bytes(data), 0x33_0000_4000);
    let before = bench.pci.state();
    for offset in 0..0x1000 {
        if offset != 0x14 {
            bench.set8(offset, 0xff);
        }
        if !matches!(offset, 0x10 | 0x16 | 0x18 | 0x1a | 0x1c) {
            bench.set16(offset, 1);
        }
        if !matches!(
            offset,
            0 | 8 | 0xc | 0x20 | 0x24 | 0x28 | 0x2c | 0x30 | 0x34
        ) {
            bench.set32(offset, 0xffff_ffff);
        }
        if !matches!(offset, 0x20 | 0x28 | 0x30) {
            bench.set64(offset, u64::MAX);
        }
    }
    bench.set16(0x1c, 2);
    bench.set16(0x1c, 0);
    assert_eq!(bench.pci.state(), before);
    assert_eq!(bench.get32(0x38), 0, "beyond the end");
}

#[test]
fn each_queue_interrupts_by_its_vector() {
    let mut bench = bench();
    bench.msix_control(0x8000);
    for vector in 0..3 {
        bench.unmask(vector, 0x30 + vector as u32);
    }
    let routes = bench.routes.0.lock().unwrap().len();
    assert_eq!(routes, 3);
    let mut bench = bench.started();
    for (queue, vector) in [(0, 2), (1, 1)] {
        bench.set16(0x16, queue);
        assert_eq!(bench.get16(0x1a), 0xffff, "none at first");
        bench.set16(0x1a, vector);
        assert_eq!(bench.get16(0x1a), vector);
    }
    let interrupt = bench.interrupt();
    interrupt.config_changed();
    assert_eq!(bench.sent(), [0, 0, 0], "no vector is mapped");
    bench.set16(0x10, 0);
    interrupt.queue_used(0);
    interrupt.queue_used(1);
    interrupt.queue_used(1);
    interrupt.queue_used(2);
    assert_eq!(bench.sent(), [0, 2, 1]);
    interrupt.config_changed();
    assert_eq!(bench.sent(), [1, 0, 0]);
    assert_eq!(bench.get16(0x14) >> 8, 2, "generation");
    interrupt.device_broken();
    assert_eq!(bench.sent(), [1, 0, 0]);
    assert_eq!((bench.isr(), bench.line.is_up()), (0, false));

    bench.set32(0x8000 + 16 + 12, 1);
    interrupt.queue_used(1);
    assert_eq!((bench.sent(), bench.get32(0x7000)), (vec![0, 0, 0], 2));
    bench.set32(0x8000 + 16 + 12, 0);
    assert_eq!((bench.sent(), bench.get32(0x7000)), (vec![0, 1, 0], 0));
}

#[test]
fn vectors_that_do_not_exist_are_not_mapped() {
    let mut bench = bench();
    for at in [0x10, 0x1a] {
        bench.set16(at, 1);
        assert_eq!(bench.get16(at), 1);
        bench.set16(at, 3);
        assert_eq!(bench.get16(at), 0xffff);
        bench.set16(at, 2);
        bench.set16(at, 0xffff);
        assert_eq!(bench.get16(at), 0xffff);
    }
    bench.set16(0x16, 2);
    bench.set16(0x1a, 0);
    assert_eq!(bench.get16(0x1a), 0xffff, "no such queue");
}

#[test]
fn without_msix_the_line_is_up_until_isr_is_read() {
    let mut bench = bench().started();
    let interrupt = bench.interrupt();
    assert!(interrupt.raise(1).is_none());
    assert!(bench.line.is_up());
    assert_eq!(bench.config32(4) >> 16 & 8, 8, "interrupt status");
    assert_eq!((bench.isr(), bench.line.is_up()), (1, false));
    assert_eq!(bench.config32(4) >> 16 & 8, 0);
    assert_eq!(bench.isr(), 0);
    interrupt.config_changed();
    interrupt.queue_used(0);
    assert_eq!(bench.isr(), 3);

    bench.pci.write_config(4, &[6, 4]);
    interrupt.queue_used(0);
    assert!(!bench.line.is_up(), "the command register forbids it");
    assert_eq!(bench.config32(4) >> 16 & 8, 8);
    bench.pci.write_config(4, &[6, 0]);
    assert!(bench.line.is_up());
    bench.msix_control(0x8000);
    assert!(!bench.line.is_up());
    assert_eq!(bench.config32(4) >> 16 & 8, 0);
}

#[test]
fn doorbells_follow_the_bar() {
    let mut bench = bench();
    bench.move_bar(BAR as u32);
    assert!(bench.bells.now().is_empty());
    assert_eq!(bench.pci.memory(), None);
    bench.pci.write_config(4, &[2, 0]);
    assert_eq!(bench.bells.now(), [BAR + 0x3000, BAR + 0x3004]);
    assert_eq!(bench.pci.memory(), Some(BAR..BAR + 0x1_0000));
    bench.move_bar(BAR as u32 + 0x10_0000);
    assert_eq!(bench.bells.now(), [BAR + 0x10_3000, BAR + 0x10_3004]);
    bench.move_bar(0xffff_ffff);
    assert_eq!(bench.config32(0x10), 0xffff_0000);
    assert!(bench.bells.now().is_empty());
    bench.move_bar(BAR as u32);
    assert_eq!(bench.bells.now(), [BAR + 0x3000, BAR + 0x3004]);
    bench.pci.write_config(4, &[0, 0]);
    assert!(bench.bells.now().is_empty());
}

#[test]
fn doorbells_that_are_refused_are_not_taken_away() {
    let mut bench = bench_with(Bells {
        refuse: true,
        ..Bells::default()
    });
    bench.move_bar(BAR as u32);
    bench.pci.write_config(4, &[2, 0]);
    bench.move_bar(BAR as u32 + 0x10_0000);
    assert!(bench.bells.now().is_empty());
}

#[test]
fn a_kick_that_is_an_exit_reaches_its_queue() {
    let mut bench = bench();
    let kicks = [0, 1].map(|queue| bench.pci.front().kick(queue).unwrap().clone());
    bench.set16(0x3004, 1);
    bench.set16(0x3000 + 4 * 2, 2);
    bench.set32(0x6ffc, 0);
    assert_eq!(kicks[1].read().unwrap(), 1);
    kicks[0].write(1).unwrap();
    assert_eq!(
        kicks[0].read().unwrap(),
        1,
        "nothing but what was just written"
    );
}

#[test]
fn the_device_has_its_configuration_space() {
    let mut bench = bench();
    bench.probe.log().config = [1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(bench.get32(0x2004), 0x0807_0605);
    assert_eq!(bench.get32(0x2006), 0x0807);
    let mut bench = bench.started();
    bench.set16(0x2002, 0xbbaa);
    assert_eq!(bench.probe.log().config, [1, 2, 0xaa, 0xbb, 5, 6, 7, 8]);
}

#[test]
fn a_reset_takes_vectors_and_interrupts_back() {
    let mut bench = bench().started();
    bench.set16(0x10, 0);
    bench.set16(0x1a, 1);
    bench.interrupt().queue_used(0);
    assert!(bench.line.is_up());
    bench.set8(0x14, 0);
    assert_eq!(bench.probe.log().resets, 1);
    assert!(!bench.line.is_up());
    assert_eq!((bench.isr(), bench.get16(0x10)), (0, 0xffff));
    assert_eq!(bench.get16(0x16), 0, "queue_select");
    for queue in [0, 1] {
        bench.set16(0x16, queue);
        assert_eq!((bench.get16(0x1a), bench.get16(0x1c)), (0xffff, 0));
        assert_eq!(bench.get32(0x20), 0);
    }
}

#[test]
fn registers_are_reached_through_configuration_space_too() {
    let mut bench = bench();
    let cap = bench.virtio_capability(5);
    let aim = |bench: &mut Bench, bar: u8, offset: u32, length: u32| {
        bench.pci.write_config(cap + 4, &[bar]);
        bench.pci.write_config(cap + 8, &offset.to_le_bytes());
        bench.pci.write_config(cap + 12, &length.to_le_bytes());
    };
    aim(&mut bench, 0, 0x12, 2);
    assert_eq!(bench.config32(cap + 16), 2, "num_queues");
    assert_eq!(bench.config8(cap + 16), 2);
    aim(&mut bench, 0, 0x16, 2);
    bench.pci.write_config(cap + 16, &[1, 0, 0, 0]);
    assert_eq!(bench.get16(0x16), 1);
    aim(&mut bench, 0, 0x20, 4);
    bench.pci.write_config(cap + 16, &0x5000u32.to_le_bytes());
    assert_eq!(bench.get32(0x20), 0x5000);
    for (bar, offset, length) in [
        (1, 0x20, 4),
        (0, 0x21, 4),
        (0, 0x20, 3),
        (0, 0x20, 0),
        (0, 0x20, 8),
        (0, 0x1_0000, 4),
        (0, 0xffff_fffc, 4),
    ] {
        aim(&mut bench, bar, offset, length);
        bench.pci.write_config(cap + 16, &[0xff; 4]);
        assert_eq!(bench.config32(cap + 16), 0);
        assert_eq!(bench.get32(0x20), 0x5000);
    }
}

#[test]
fn a_saved_function_goes_on() {
    let mut bench = bench();
    bench.move_bar(BAR as u32);
    bench.pci.write_config(4, &[2, 0]);
    bench.msix_control(0x8000);
    bench.unmask(1, 0x41);
    let mut bench = bench.started();
    bench.set16(0x1a, 1);
    let saved = serde_json::to_vec(&bench.pci.state()).unwrap();
    let state: VirtioPciState = serde_json::from_slice(&saved).unwrap();

    let (probe, routes) = (Probe::default(), Arc::new(Routes::default()));
    let (vectors, fds) = vectors(&routes);
    let front = probe.front_in(&bench.ram, state.front.clone());
    let bells = Arc::new(Bells::default());
    let copy = VirtioPci::from_state(
        front,
        &state,
        vectors,
        Arc::new(Line::default()),
        bells.clone(),
    );
    assert_eq!(copy.state(), state);
    assert_eq!(bells.now(), [BAR + 0x3000, BAR + 0x3004]);
    let active = probe.log();
    active.active.as_ref().unwrap().interrupt.queue_used(1);
    assert_eq!(fds[1].read().unwrap(), 1);
    let route = (
        25,
        Some(Msi {
            address: 0xfee0_0000,
            data: 0x41,
        }),
    );
    assert_eq!(*routes.0.lock().unwrap(), [route]);
}

/// One access: to configuration space or memory, where, how wide, what if it writes.
type Access = (bool, u64, usize, Option<[u8; 8]>);

fn accesses() -> impl Strategy<Value = Vec<Access>> {
    let offset = prop_oneof![
        4 => 0u64..0x100,
        2 => (0u64..16).prop_map(|region| region << 12),
        2 => 0x8000u64..0x8040,
        1 => 0u64..0x1_0000,
    ];
    let data = prop::option::of(any::<[u8; 8]>());
    prop::collection::vec((any::<bool>(), offset, 0usize..4, data), 0..200)
}

proptest! {
    #[test]
    fn hostile_accesses(accesses in accesses()) {
        let mut bench = bench();
        for (config, offset, width, data) in accesses {
            let width = 1 << width;
            let mut buffer = data.unwrap_or_default();
            let part = &mut buffer[..width];
            match (config, data) {
                (true, None) => bench.pci.read_config(offset as usize, part),
                (true, Some(_)) => bench.pci.write_config(offset as usize, part),
                (false, None) => bench.pci.read_memory(offset, part),
                (false, Some(_)) => bench.pci.write_memory(offset, part),
            }
            let bar = bench.pci.memory().map(|range| range.start);
            let expected = bar.map_or(vec![], |bar| vec![bar + 0x3000, bar + 0x3004]);
            prop_assert_eq!(bench.bells.now(), expected);
        }
        let state = bench.pci.state();
        let (vectors, _) = vectors(&bench.routes);
        let front = Probe::default().front_in(&bench.ram, state.front.clone());
        let line = Arc::new(Line::default());
        let copy = VirtioPci::from_state(front, &state, vectors, line.clone(), Arc::new(Bells::default()));
        prop_assert_eq!(copy.state(), state);
        prop_assert_eq!(line.is_up(), bench.line.is_up());
    }
}
