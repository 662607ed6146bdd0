//! Two virtio-pci devices under a hostile driver: configuration by ports and by ECAM,
//! BARs that move and overlap, the common structure, the MSI-X table, and interrupts
//! of the devices meanwhile.
//!
//! Input: steps, a byte that says which and what it needs.

mod check;
mod machine;

use mayfly::devices::GuestEvent;
use mayfly::memory::layout::{ECAM_START, PCI_BAR_START};

use super::script::Script;
use check::Expected;
use machine::{DEVICES, Device, Machine, QUEUES};

/// More would only be slow.
const MOST_STEPS: usize = 200;

/// What happens to the machine.
#[derive(Clone, Debug)]
enum Step {
    /// Port, width.
    In(u64, usize),
    /// Port, data.
    Out(u64, Vec<u8>),
    /// Guest-physical address, width.
    Read(u64, usize),
    /// Guest-physical address, data.
    Write(u64, Vec<u8>),
    /// The device has used buffers of a queue.
    Used(usize, u16),
    /// Its configuration has changed.
    Changed(usize),
    /// Its driver has broken a rule.
    Broken(usize),
    SaveAndRestore(usize),
}

/// Takes the steps.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let machine = Machine::new();
    // Once two BARs have claimed one doorbell, which of them has it is not said.
    let mut collided = false;
    for _ in 0..MOST_STEPS {
        if script.is_empty() {
            break;
        }
        let step = next_step(&machine, &mut script);
        take(&machine, &step);
        check::events(&step, &machine.events());
        for device in &machine.devices {
            check::device(&machine, device, &step);
        }
        collided |= check::doorbells(&machine, collided);
        check::bus(&machine);
    }
}

fn next_step(machine: &Machine, script: &mut Script) -> Step {
    let code = script.u8();
    let width = 1 << (code >> 4 & 3);
    let which = usize::from(code >> 6 & 1) % DEVICES;
    let writes = code & 0x80 != 0;
    match code & 0xf {
        0..=2 => {
            let port = 0xcf8 + u64::from(script.u8() % 8);
            port_access(port, width.min(4), writes, script)
        }
        // A register of a device, by ECAM.
        3..=5 => {
            let device = ((which + 1) as u64) << 15;
            access(
                ECAM_START + device + u64::from(script.u8()),
                width,
                writes,
                script,
            )
        }
        6 => access(
            ECAM_START + u64::from(script.u32() % 0x10_0000),
            width,
            writes,
            script,
        ),
        // A register in a device's BAR, if that is decoded.
        7..=11 => {
            let bar = machine.devices[which].memory();
            let bar = bar.map_or(PCI_BAR_START, |range| range.start);
            access(bar + register(script), width, writes, script)
        }
        12 => access(
            PCI_BAR_START.wrapping_add(script.u64()),
            width,
            writes,
            script,
        ),
        13 => Step::Used(which, u16::from(script.u8()) % (QUEUES + 1)),
        14 if writes => Step::Broken(which),
        14 => Step::Changed(which),
        _ => Step::SaveAndRestore(which),
    }
}

/// Mostly where there are registers.
fn register(script: &mut Script) -> u64 {
    let (region, offset) = (script.u8(), u64::from(script.u8()));
    match region % 8 {
        0..=2 => offset % 0x40,
        3 => 0x1000 + offset % 4,
        4 => 0x2000 + offset % 16,
        5 => 0x3000 + offset,
        6 => 0x8000 + offset % 0x40,
        _ => 0x7000 + (offset << 4),
    }
}

fn port_access(port: u64, width: usize, writes: bool, script: &mut Script) -> Step {
    if writes {
        Step::Out(port, script.bytes(width).to_vec())
    } else {
        Step::In(port, width)
    }
}

fn access(addr: u64, width: usize, writes: bool, script: &mut Script) -> Step {
    if writes {
        Step::Write(addr, script.array::<8>()[..width].to_vec())
    } else {
        Step::Read(addr, width)
    }
}

fn take(machine: &Machine, step: &Step) {
    let mut data = [0; 8];
    match step {
        Step::In(port, width) => drop(machine.pio.read(*port, &mut data[..*width])),
        Step::Out(port, data) => drop(machine.pio.write(*port, data)),
        Step::Read(addr, width) => drop(machine.mmio.read(*addr, &mut data[..*width])),
        Step::Write(addr, data) => drop(machine.mmio.write(*addr, data)),
        Step::Used(which, queue) => used(machine, &machine.devices[*which], *queue),
        Step::Changed(which) => {
            if let Some(interrupt) = machine.devices[*which].interrupt() {
                interrupt.config_changed();
            }
        }
        Step::Broken(which) => {
            if let Some(interrupt) = machine.devices[*which].interrupt() {
                interrupt.device_broken();
            }
        }
        Step::SaveAndRestore(which) => check::restore(machine, &machine.devices[*which]),
    }
}

/// The driver is told as it has set the device up.
fn used(machine: &Machine, device: &Device, queue: u16) {
    let Some(interrupt) = device.interrupt() else {
        return;
    };
    let before = device.state();
    device.sent();
    interrupt.queue_used(queue);
    let (after, sent) = (device.state(), device.sent());
    match check::expected(&before, queue) {
        Expected::Line => {
            assert_eq!(after.common.isr, before.common.isr | 1);
            assert_eq!(sent, [0; 3]);
        }
        Expected::Nothing => {
            assert_eq!((after, sent), (before, [0; 3]));
        }
        Expected::Pending(vector) => {
            assert!(after.msix.pending.contains(&vector));
            assert_eq!(sent, [0; 3]);
        }
        Expected::Message(vector, message) => {
            assert_eq!(after, before);
            let mut expected = [0; 3];
            expected[usize::from(vector)] = 1;
            assert_eq!(sent, expected);
            let route = machine.route(device.gsi + u32::from(vector));
            assert_eq!(route, Some(message));
        }
    }
}

/// Which events a step may bring about.
fn may_reset(step: &Step) -> bool {
    matches!(step, Step::Out(0xcf9, data) if data.len() == 1 && data[0] & 4 != 0)
}

/// What [`check::events`] wants to know of an event.
fn is_reset(event: &GuestEvent) -> bool {
    *event == GuestEvent::Reset
}
