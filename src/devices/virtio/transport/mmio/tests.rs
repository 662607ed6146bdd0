// Offsets are those of virtio 1.2 table 4.1, written out.

use std::io;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::devices::testing::{check_rebuild, pokes};
use crate::devices::virtio::front::testing::Probe;
use crate::memory::GuestRam;

const BASE: u64 = 0xd000_3000;

/// Doorbells that are remembered, or all refused.
#[derive(Default)]
struct Bells {
    refuse: bool,
    rung: Mutex<Vec<(u64, Option<u32>)>>,
}

impl Doorbells for Bells {
    fn register(&self, addr: u64, queue: Option<u32>, _fd: &EventFd) -> io::Result<()> {
        if self.refuse {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.rung.lock().unwrap().push((addr, queue));
        Ok(())
    }
    fn unregister(&self, _: u64, _: Option<u32>, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    ram: GuestRam,
    probe: Probe,
    irq: Arc<EventFd>,
    mmio: MmioTransport,
}

fn irq() -> Arc<EventFd> {
    Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap())
}

fn bench() -> Bench {
    let ram = GuestRam::new(1 << 20).unwrap();
    let (probe, irq) = (Probe::default(), irq());
    let mmio = MmioTransport::new(probe.front(&ram), irq.clone(), &Bells::default(), BASE);
    Bench {
        ram,
        probe,
        irq,
        mmio,
    }
}

impl Bench {
    fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.mmio.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, offset: u64, value: u32) {
        self.mmio.write(offset, &value.to_le_bytes());
    }

    /// What a driver does up to FEATURES_OK, and then queue 1.
    fn configured(mut self) -> Self {
        for status in [1, 3] {
            self.set(0x070, status);
        }
        for (select, value) in [(0, 1 << 29), (1, 1)] {
            self.set(0x024, select);
            self.set(0x020, value);
        }
        self.set(0x070, 0xb);
        assert_eq!(self.get(0x070), 0xb);
        self.set(0x030, 1);
        self.set(0x038, 8);
        for (offset, value) in [(0x080, 0x1_0000), (0x090, 0x1_1000), (0x0a0, 0x1_2000)] {
            self.set(offset, value);
            self.set(offset + 4, 0);
        }
        self.set(0x044, 1);
        self
    }

    fn running(self) -> Self {
        let mut bench = self.configured();
        bench.set(0x070, 0xf);
        assert_eq!(bench.get(0x070), 0xf);
        bench
    }

    fn interrupt(&self) -> Arc<dyn VirtioInterrupt> {
        self.probe.log().active.as_ref().unwrap().interrupt.clone()
    }

    /// Edges since the last call.
    fn edges(&self) -> u64 {
        self.irq.read().unwrap_or(0)
    }
}

#[test]
fn a_driver_finds_the_device() {
    let mut bench = bench();
    let identity = [0x000, 0x004, 0x008].map(|offset| bench.get(offset));
    assert_eq!(identity, [u32::from_le_bytes(*b"virt"), 2, 4]);
    let mut halves = [0; 3];
    for (select, half) in (0..).zip(&mut halves) {
        bench.set(0x014, select);
        *half = bench.get(0x010);
    }
    assert_eq!(halves, [1 | 1 << 9 | 1 << 28 | 1 << 29, 1, 0]);
}

#[test]
fn there_is_no_shared_memory_and_no_queue_reset() {
    let mut bench = bench();
    for offset in [0x0b0, 0x0b4, 0x0b8, 0x0bc] {
        assert_eq!(bench.get(offset), u32::MAX);
    }
    bench.set(0x0c0, 1);
    assert_eq!(bench.get(0x0c0), 0);
}

#[test]
fn queues_are_selected_and_those_that_do_not_exist_have_no_size() {
    let mut bench = bench();
    let mut sizes = Vec::new();
    for select in [0, 1, 2, 0x1_0000, u32::MAX] {
        bench.set(0x030, select);
        sizes.push(bench.get(0x034));
        bench.set(0x044, 1);
        assert_eq!(bench.get(0x044), u32::from(select < 2));
    }
    assert_eq!(sizes, [256, 16, 0, 0, 0]);
}

#[test]
fn a_driver_sets_the_device_up() {
    let bench = bench().running();
    let log = bench.probe.log();
    assert_eq!(log.activations, [(1 << 32 | 1 << 29, vec![(1, 8)])]);
    let rings = log.active.as_ref().unwrap().queues[0].rings.state();
    assert_eq!(
        (rings.descriptors, rings.available, rings.used),
        (0x1_0000, 0x1_1000, 0x1_2000)
    );
}

#[test]
fn addresses_have_64_bits() {
    let mut bench = bench();
    for (offset, value) in (0x080..)
        .step_by(16)
        .zip([0x1111_1110, 0x2222_2222, 0x3333_3330])
    {
        bench.set(offset + 4, value + 1);
        bench.set(offset, value);
    }
    let queue = bench.mmio.front().queue(0).unwrap();
    assert_eq!(queue.descriptors, 0x1111_1111_1111_1110);
    assert_eq!(queue.available, 0x2222_2223_2222_2222);
    assert_eq!(queue.used, 0x3333_3331_3333_3330);
}

#[test]
fn a_size_beyond_16_bits_is_not_cut_to_a_good_one() {
    let mut bench = bench().configured();
    bench.set(0x044, 0);
    bench.set(0x038, 0x1_0008);
    bench.set(0x044, 1);
    bench.set(0x070, 0xf);
    assert_eq!(bench.get(0x070), 0x4f);
    // The driver is told by a configuration change.
    assert_eq!((bench.get(0x060), bench.edges()), (2, 1));
}

#[test]
fn kicks_have_doorbells_or_are_exits() {
    let ram = GuestRam::new(1 << 20).unwrap();
    let bells = Bells::default();
    let _mmio = MmioTransport::new(Probe::default().front(&ram), irq(), &bells, BASE);
    let expected = [(BASE + 0x50, Some(0)), (BASE + 0x50, Some(1))];
    assert_eq!(*bells.rung.lock().unwrap(), expected);

    let refusing = Bells {
        refuse: true,
        ..Bells::default()
    };
    let mut mmio = MmioTransport::new(Probe::default().front(&ram), irq(), &refusing, BASE);
    for queue in [1u32, 2, 0x1_0001] {
        mmio.write(0x050, &queue.to_le_bytes());
    }
    assert_eq!(mmio.front().kick(1).unwrap().read().unwrap(), 1);
}

#[test]
fn interrupts_set_their_bit_until_it_is_acknowledged() {
    let mut bench = bench().running();
    let interrupt = bench.interrupt();
    interrupt.queue_used(1);
    assert_eq!((bench.get(0x060), bench.edges()), (1, 1));
    let before = bench.get(0x0fc);
    interrupt.config_changed();
    assert_eq!((bench.get(0x060), bench.edges()), (3, 1));
    assert_ne!(bench.get(0x0fc), before);
    bench.set(0x064, 1);
    assert_eq!(bench.get(0x060), 2);
    // What a device writes itself has its bit set already.
    let fd = interrupt.raise(1).unwrap().try_clone().unwrap();
    assert_eq!((bench.get(0x060), bench.edges()), (3, 0));
    fd.write(1).unwrap();
    assert_eq!(bench.edges(), 1);
}

#[test]
fn an_interrupt_is_never_without_its_bit() {
    let mut bench = bench().running();
    let interrupt = bench.interrupt();
    const ROUNDS: usize = 20_000;
    let device = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            interrupt.queue_used(1);
        }
    });
    // Each edge that finds no bit came while the driver saw that bit with an
    // earlier one; after the last edge nothing stays unseen.
    while !device.is_finished() {
        if bench.edges() > 0 {
            let bits = bench.get(0x060);
            bench.set(0x064, bits);
        }
    }
    device.join().unwrap();
    if bench.get(0x060) != 0 {
        assert!(bench.edges() > 0);
    }
}

#[test]
fn a_broken_device_says_so() {
    let mut bench = bench().running();
    let interrupt = bench.interrupt();
    std::thread::spawn(move || interrupt.device_broken())
        .join()
        .unwrap();
    assert_eq!(bench.get(0x070), 0x4f);
    assert_eq!((bench.get(0x060), bench.edges()), (2, 1));
}

#[test]
fn a_reset_takes_everything_back() {
    let mut bench = bench().running();
    bench.set(0x014, 1);
    bench.interrupt().queue_used(1);
    bench.set(0x070, 0);
    let registers = [0x060, 0x070, 0x044].map(|offset| bench.get(offset));
    assert_eq!(registers, [0, 0, 0]);
    assert_eq!(bench.get(0x010), 1 | 1 << 9 | 1 << 28 | 1 << 29);
    assert_eq!(bench.probe.log().resets, 1);
    bench.running();
}

#[test]
fn registers_take_aligned_words_and_the_configuration_every_width() {
    let mut bench = bench().configured();
    for (offset, width) in [(0x000, 1), (0x002, 2), (0x000, 8), (0x001, 4), (0x0fe, 4)] {
        let mut data = vec![0xff; width];
        bench.mmio.read(offset, &mut data);
        assert!(data.iter().all(|byte| *byte == 0), "{offset:#x} {width}");
    }
    bench.mmio.write(0x070, &[0]);
    bench.mmio.write(0x070, &[0; 8]);
    assert_eq!(bench.get(0x070), 0xb);
    bench.mmio.write(0x100, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for (offset, width, expected) in [
        (0x100, 8, 0x0807_0605_0403_0201),
        (0x103, 2, 0x0504),
        (0x107, 4, 8),
    ] {
        let mut data = [0; 8];
        bench.mmio.read(offset, &mut data[..width]);
        assert_eq!(u64::from_le_bytes(data), expected);
    }
    let mut far = [0xff; 4];
    bench.mmio.read(u64::MAX, &mut far);
    assert_eq!(far, [0; 4]);
}

#[test]
fn a_restored_device_runs_again() {
    let mut bench = bench().running();
    bench.interrupt().queue_used(1);
    bench.mmio.front_mut().pause();
    let saved = serde_json::to_vec(&bench.mmio.state()).unwrap();
    let state: MmioState = serde_json::from_slice(&saved).unwrap();
    let probe = Probe::default();
    let front = probe.front_in(&bench.ram, state.front.clone());
    let mut mmio = MmioTransport::from_state(front, state.clone(), irq(), &Bells::default(), BASE);
    assert_eq!(mmio.state(), state);
    assert_eq!(probe.log().activations.len(), 1);
    mmio.front_mut().resume();
    let mut pending = [0; 4];
    mmio.read(0x060, &mut pending);
    assert_eq!(pending, [1, 0, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_rebuilt_transport_goes_on_the_same(before in pokes(0x110), after in pokes(0x110)) {
        let ram = GuestRam::new(1 << 16).unwrap();
        let fresh = Probe::default().front(&ram).state();
        check_rebuild(
            |state: State| {
                let state = state.0.unwrap_or_else(|| MmioState { front: fresh.clone(), ..MmioState::default() });
                let front = Probe::default().front_in(&ram, state.front.clone());
                MmioTransport::from_state(front, state, irq(), &Bells::default(), BASE)
            },
            |mmio| {
                let state = mmio.state();
                let untouched = MmioState { front: fresh.clone(), ..MmioState::default() };
                State((state != untouched).then_some(state))
            },
            &before,
            &after,
        );
    }
}

/// A state whose default is that of a device with these queues.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State(Option<MmioState>);
