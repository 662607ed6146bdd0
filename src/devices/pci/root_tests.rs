use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::devices::pci::{ConfigSpace, Header};
use crate::devices::testing::{Events, Poke, check_rebuild, poke, pokes};
use crate::devices::{BusDevice, GuestEvent};
use crate::memory::layout::PORT_RESET;

const SIZE: u64 = 0x1000;
const BAR: u64 = PCI_BAR_START;
const ADDRESS: u64 = 0xcf8;
const DATA: u64 = 0xcfc;

/// A function whose memory answers with its number, and remembers what was written.
struct Probe {
    config: ConfigSpace,
    number: u8,
    written: Arc<Mutex<Vec<(u8, u64)>>>,
}

impl PciFunction for Probe {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }
    fn memory_size(&self) -> u64 {
        SIZE
    }
    fn memory(&self) -> Option<Range<u64>> {
        self.config.memory(SIZE)
    }
    fn read_memory(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.number);
    }
    fn write_memory(&mut self, offset: u64, _data: &[u8]) {
        self.written.lock().unwrap().push((self.number, offset));
    }
}

struct Machine {
    pio: Bus,
    mmio: Bus,
    written: Arc<Mutex<Vec<(u8, u64)>>>,
    events: Arc<Events>,
}

/// Two probes, 00:01.0 and 00:02.0.
fn machine() -> Machine {
    let written = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::new(Events::default());
    let (mut pio, mut mmio) = (Bus::new(), Bus::new());
    let mut root = PciRoot::new();
    for number in [1, 2] {
        root.add(probe(number, &written)).unwrap();
    }
    let reset = |state| ResetControl::from_state(state, events.clone());
    root.attach(&mut pio, &mut mmio, reset).unwrap();
    Machine {
        pio,
        mmio,
        written,
        events,
    }
}

fn probe(number: u8, written: &Arc<Mutex<Vec<(u8, u64)>>>) -> Box<Probe> {
    let mut config = ConfigSpace::new(&Header {
        vendor: 0x1234,
        device: u16::from(number),
        intx: true,
        ..Default::default()
    });
    config.add_memory_bar(SIZE as u32);
    Box::new(Probe {
        config,
        number,
        written: written.clone(),
    })
}

impl Machine {
    fn out32(&self, port: u64, value: u32) {
        assert!(self.pio.write(port, &value.to_le_bytes()));
    }

    fn in32(&self, port: u64) -> u32 {
        let mut data = [0; 4];
        assert!(self.pio.read(port, &mut data));
        u32::from_le_bytes(data)
    }

    fn select(&self, device: u32, register: u32) {
        self.out32(ADDRESS, 1 << 31 | device << 11 | register);
    }

    fn ecam(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        assert!(self.mmio.read(ECAM_START + offset, &mut data));
        data
    }

    fn memory(&self, addr: u64) -> u8 {
        let mut data = [0];
        self.mmio.read(addr, &mut data);
        data[0]
    }
}

#[test]
fn both_mechanisms_find_the_same_devices() {
    let machine = machine();
    for (device, id) in [
        (0, 0x0008_1b36),
        (1, 0x0001_1234),
        (2, 0x0002_1234),
        (3, u32::MAX),
    ] {
        machine.select(device, 0);
        assert_eq!(machine.in32(DATA), id, "{device}");
        assert_eq!(machine.ecam(u64::from(device) << 15, 4), id.to_le_bytes());
    }
    machine.select(0, 8);
    assert_eq!(machine.in32(DATA) >> 8, 0x06_0000, "a host bridge");
    assert_eq!(
        machine.ecam(1 << 15 | 0x100, 4),
        [0; 4],
        "no extended capability"
    );
    assert_eq!(
        machine.ecam(1 << 15 | 1 << 12, 4),
        [0xff; 4],
        "no second function"
    );
}

#[test]
fn other_buses_and_functions_and_a_disabled_address_are_nothing() {
    let machine = machine();
    let address = 1 << 31 | 1 << 11;
    for other in [
        1 << 11,
        address | 1 << 16,
        address | 0x80 << 16,
        address | 1 << 8,
    ] {
        machine.out32(ADDRESS, other);
        assert_eq!(machine.in32(DATA), u32::MAX, "{other:#x}");
        machine.out32(DATA, 0);
    }
    machine.out32(ADDRESS, u32::MAX);
    assert_eq!(machine.in32(ADDRESS), 0x80ff_fffc);
}

#[test]
fn data_is_read_and_written_by_bytes_and_words() {
    let machine = machine();
    machine.select(2, 0);
    let mut word = [0; 2];
    assert!(machine.pio.read(DATA + 2, &mut word));
    assert_eq!(word, [2, 0]);
    machine.select(2, 0x3c);
    assert!(machine.pio.write(DATA, &[7]));
    assert_eq!(machine.in32(DATA), 0x0107);
    assert!(!machine.pio.read(DATA + 2, &mut [0; 4]), "beyond the ports");
}

#[test]
fn the_reset_control_register_lies_in_the_midst_of_the_address() {
    let machine = machine();
    let reset = u64::from(PORT_RESET);
    machine.select(1, 0);
    assert!(machine.pio.write(reset, &[2]));
    let mut byte = [0];
    assert!(machine.pio.read(reset, &mut byte));
    assert_eq!(byte, [2]);
    assert_eq!(machine.in32(ADDRESS), 0x8000_0800);
    machine.out32(ADDRESS, 0x8000_0600);
    machine.pio.write(ADDRESS, &[0, 6]);
    machine.pio.write(reset, &[6, 6]);
    machine.pio.write(ADDRESS + 3, &[6]);
    assert!(machine.events.take().is_empty());
    assert_eq!(machine.in32(ADDRESS), 0x8000_0600);
    machine.pio.write(reset, &[6]);
    assert_eq!(machine.events.take(), [GuestEvent::Reset]);
}

#[test]
fn addresses_and_lines_are_assigned_and_may_be_changed() {
    let machine = machine();
    for (device, bar, line) in [(1, BAR, 11), (2, BAR + SIZE, 10)] {
        machine.select(device, 0x10);
        assert_eq!(u64::from(machine.in32(DATA)), bar);
        machine.select(device, 0x3c);
        assert_eq!(machine.in32(DATA), 0x100 | line);
    }
    assert_eq!(machine.memory(BAR), 0xff, "not decoded yet");
    machine.select(1, 4);
    machine.out32(DATA, 2);
    assert_eq!((machine.memory(BAR), machine.memory(BAR + SIZE)), (1, 0xff));
    machine.select(1, 0x10);
    machine.out32(DATA, (BAR + 0x10_0000) as u32);
    assert_eq!(
        (machine.memory(BAR), machine.memory(BAR + 0x10_0fff)),
        (0xff, 1)
    );
    assert!(machine.mmio.write(BAR + 0x10_0010, &[0; 8]));
    assert_eq!(*machine.written.lock().unwrap(), [(1, 0x10)]);
}

#[test]
fn where_bars_overlap_the_first_device_answers() {
    let machine = machine();
    for device in [2, 1] {
        machine.select(device, 0x10);
        machine.out32(DATA, BAR as u32);
        machine.select(device, 4);
        machine.out32(DATA, 2);
    }
    assert_eq!(machine.memory(BAR), 1);
    machine.select(1, 4);
    machine.out32(DATA, 0);
    assert_eq!(machine.memory(BAR), 2);
}

#[test]
fn an_access_that_leaves_a_bar_is_nobodys() {
    let machine = machine();
    machine.select(1, 4);
    machine.out32(DATA, 2);
    let mut data = [0; 8];
    machine.mmio.read(BAR + SIZE - 4, &mut data);
    assert_eq!(data, [0xff; 8]);
    machine.mmio.write(BAR + SIZE - 4, &data);
    assert!(machine.written.lock().unwrap().is_empty());
}

#[test]
fn the_bus_has_thirty_one_places() {
    let written = Arc::default();
    let mut root = PciRoot::new();
    for number in 1..32 {
        assert_eq!(root.next_device(), usize::from(number));
        root.add(probe(number, &written)).unwrap();
    }
    assert!(matches!(root.add(probe(32, &written)), Err(PciError::Full)));
    root.read_config(32, 0, &mut []);
    root.read_config(usize::MAX, 0, &mut []);
}

proptest! {
    #[test]
    fn hostile_ports(before in pokes(8), after in pokes(8)) {
        let build = |state| {
            let root = Arc::new(Mutex::new(PciRoot::new()));
            PciPorts::from_state(state, root, |reset| {
                ResetControl::from_state(reset, Arc::new(Events::default()))
            })
        };
        check_rebuild(build, PciPorts::state, &before, &after);
    }

    #[test]
    fn hostile_windows(
        config in pokes(0x1_9000),
        memory in prop::collection::vec(pokes(0x3000), 0..4),
    ) {
        let written = Arc::default();
        let mut root = PciRoot::new();
        root.add(probe(1, &written)).unwrap();
        root.add(probe(2, &written)).unwrap();
        let root = Arc::new(Mutex::new(root));
        let mut ecam = PciEcam::new(root.clone());
        let mut bars = PciBars::new(root);
        let chunks: Vec<Vec<Poke>> = config.chunks(20).map(<[Poke]>::to_vec).collect();
        for (config, memory) in chunks.iter().zip(&memory) {
            poke(&mut ecam, config);
            poke(&mut bars, memory);
        }
        let mut data = [0; 4];
        ecam.read(1 << 15, &mut data);
        prop_assert_eq!(data, [0x34, 0x12, 1, 0]);
    }
}
