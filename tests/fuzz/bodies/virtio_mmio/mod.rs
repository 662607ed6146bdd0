//! The registers of a virtio-mmio device, and with them those that virtio-pci has too:
//! a driver of any kind, a device that breaks or will not start, and saving and
//! restoring at any time.
//!
//! Input: steps to the end, each a byte and what it needs:
//!
//! | bits 2:0 | step                                                                |
//! |----------|---------------------------------------------------------------------|
//! | 0, 1     | read: a register                                                    |
//! | 2, 3, 4  | write: a register, a value                                          |
//! | 5        | the device: bits 7:6 say what it does                               |
//! | 6        | what a driver does up to DRIVER_OK, with rings at chosen addresses  |
//! | 7        | save and restore                                                    |
//!
//! After each step the registers are those of [`Model`], and the device, its queues
//! and its interrupt have been dealt with as the model says.

mod model;
mod recorder;

use std::sync::Arc;

use mayfly::devices::BusDevice;
use mayfly::devices::virtio::front::{Front, FrontState};
use mayfly::devices::virtio::transport::mmio::{MmioState, MmioTransport};
use mayfly::memory::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use self::model::{Deeds, Model};
use self::recorder::{NoDoorbells, QUEUE_SIZES, Recorder};
use super::script::Script;

const RAM: u64 = 64 << 10;
const MOST_STEPS: usize = 200;
/// A page of registers in the machine's address space; the address means nothing here.
const BASE: u64 = 0xd000_0000;

/// The registers, some of which are none, and the configuration space.
const OFFSETS: [u64; 32] = [
    0x000, 0x004, 0x008, 0x00c, 0x010, 0x014, 0x020, 0x024, 0x030, 0x034, 0x038, 0x044, 0x050,
    0x060, 0x064, 0x070, 0x080, 0x084, 0x090, 0x094, 0x0a0, 0x0a4, 0x0ac, 0x0b0, 0x0b4, 0x0b8,
    0x0bc, 0x0c0, 0x0fc, 0x100, 0x107, 0xff8,
];
/// Values that registers take to be good ones.
const VALUES: [u32; 16] = [
    0,
    1,
    2,
    3,
    4,
    8,
    0xb,
    0xf,
    16,
    0x40,
    0x80,
    0x100,
    0x1000,
    0x2000,
    0xf000,
    0x2000_0000,
];

/// A machine: the device's registers and all that they reach.
struct Machine {
    mmio: MmioTransport,
    recorder: Recorder,
    irq: Arc<EventFd>,
}

impl Machine {
    fn new(ram: &GuestRam, recorder: Recorder, state: Option<MmioState>) -> Self {
        let irq = Arc::new(EventFd::new(0).expect("an event descriptor"));
        let front = |state| Front::from_state(Box::new(recorder.clone()), ram.clone(), state);
        let mmio = match state {
            None => {
                let front = front(FrontState::default()).expect("event descriptors");
                MmioTransport::new(front, irq.clone(), &NoDoorbells, BASE)
            }
            Some(state) => {
                let front = front(state.front.clone()).expect("event descriptors");
                MmioTransport::from_state(front, state, irq.clone(), &NoDoorbells, BASE)
            }
        };
        Self {
            mmio,
            recorder,
            irq,
        }
    }

    /// What was done since the last call.
    fn deeds(&self) -> Deeds {
        let front = self.mmio.front();
        let kick = |queue| taken(front.kick(queue).expect("the queue is there"));
        Deeds {
            edges: taken(&self.irq),
            kicks: (0..).take(QUEUE_SIZES.len()).map(kick).collect(),
            ..self.recorder.deeds()
        }
    }
}

/// Empties an event descriptor that waits while it is empty.
fn taken(fd: &EventFd) -> u64 {
    fd.write(1).expect("it is not full");
    fd.read().expect("it is not empty") - 1
}

/// Takes the steps.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let ram = GuestRam::new(RAM).expect("little memory");
    let mut machine = Machine::new(&ram, Recorder::default(), None);
    let mut model = Model::default();
    for _ in 0..MOST_STEPS {
        if script.is_empty() {
            break;
        }
        let code = script.u8();
        match code & 7 {
            0 | 1 => {
                let (offset, width) = (offset(&mut script), width(code));
                read(&mut machine, &model, offset, width);
            }
            2..=4 => {
                let (offset, width) = (offset(&mut script), width(code));
                let value = value(&mut script, width);
                write(&mut machine, &mut model, offset, &value);
            }
            5 => from_the_device(&mut machine, &mut model, code >> 6),
            6 => drive(&mut machine, &mut model, &mut script),
            _ => save_and_restore(&mut machine, &mut model, &ram),
        }
        assert_eq!(machine.deeds(), model.take_deeds());
        assert_eq!(machine.mmio.state(), model.state());
    }
}

fn offset(script: &mut Script) -> u64 {
    match script.u8() {
        0xff => script.u64(),
        0xfe => script.u16().into(),
        near => OFFSETS[usize::from(near) % OFFSETS.len()],
    }
}

/// Mostly that of registers.
fn width(code: u8) -> usize {
    match code >> 4 & 7 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    }
}

fn value(script: &mut Script, width: usize) -> Vec<u8> {
    let value = match script.u8() {
        0xff => script.u64(),
        0xfe => script.u16().into(),
        near => VALUES[usize::from(near) % VALUES.len()].into(),
    };
    value.to_le_bytes()[..width].to_vec()
}

fn read(machine: &mut Machine, model: &Model, offset: u64, width: usize) {
    let (mut got, mut expected) = ([0xff; 8], [0xff; 8]);
    machine.mmio.read(offset, &mut got[..width]);
    model.read(offset, &mut expected[..width]);
    assert_eq!(got, expected, "{offset:#x}, {width} bytes");
}

fn write(machine: &mut Machine, model: &mut Model, offset: u64, data: &[u8]) {
    machine.mmio.write(offset, data);
    model.write(offset, data);
}

fn from_the_device(machine: &mut Machine, model: &mut Model, what: u8) {
    let interrupt = machine.recorder.interrupt();
    assert_eq!(interrupt.is_some(), model.is_active());
    match (what, interrupt) {
        (0, _) => model.refuses = machine.recorder.toggle_refusal(),
        (1, Some(interrupt)) => {
            interrupt.queue_used(1);
            model.queue_used();
        }
        (2, Some(interrupt)) => {
            interrupt.config_changed();
            model.config_changed();
        }
        (3, Some(interrupt)) => {
            interrupt.device_broken();
            model.device_broken();
        }
        _ => {}
    }
}

/// From wherever the device is towards DRIVER_OK, as a driver goes.
fn drive(machine: &mut Machine, model: &mut Model, script: &mut Script) {
    let mut set = |offset, value: u32| write(machine, model, offset, &value.to_le_bytes());
    let choices = script.u8();
    if choices & 1 != 0 {
        set(0x070, 0);
    }
    set(0x070, 3);
    set(0x024, 0);
    set(0x020, script.u8().into());
    set(0x024, 1);
    set(0x020, 1);
    set(0x070, 0xb);
    for queue in 0..u32::from(choices >> 6) {
        set(0x030, queue);
        set(0x038, 1 << (choices >> 2 & 0xf));
        for ring in [0x080, 0x090, 0x0a0] {
            set(ring, script.u16().into());
        }
        set(0x044, 1);
    }
    set(0x070, 0xf);
}

/// The same machine from its state, which has been in a file.
fn save_and_restore(machine: &mut Machine, model: &mut Model, ram: &GuestRam) {
    assert_eq!(machine.deeds(), model.take_deeds());
    machine.mmio.front_mut().pause();
    assert!(machine.recorder.is_paused());
    let saved = serde_json::to_vec(&machine.mmio.state()).expect("a state can be written");
    let state: MmioState = serde_json::from_slice(&saved).expect("what was written can be read");
    *machine = Machine::new(ram, machine.recorder.copy(), Some(state));
    model.restored();
}
