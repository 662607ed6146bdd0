//! What holds after each step.

use std::sync::Arc;

use mayfly::devices::GuestEvent;
use mayfly::devices::ioapic::Msi;
use mayfly::devices::virtio::transport::pci::VirtioPciState;
use mayfly::memory::layout::{ECAM_START, PCI_BAR_SIZE, PCI_BAR_START};

use super::super::script::{u16_at, u32_at, u64_at};
use super::machine::{Device, Line, Machine, QUEUES, VECTORS, World};
use super::{Step, is_reset, may_reset};

const NOTIFY: u64 = 0x3000;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK: u16 = 1 << 14;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

/// How the driver is to be told of used buffers.
pub enum Expected {
    Line,
    Nothing,
    Pending(u16),
    Message(u16, Msi),
}

/// By what the registers say (virtio 1.2 §4.1.5.3, PCI 3.0 §6.8.2).
pub fn expected(state: &VirtioPciState, queue: u16) -> Expected {
    if state.msix.control & MSIX_ENABLE == 0 {
        return Expected::Line;
    }
    let vector = state.common.queue_vectors.get(usize::from(queue));
    let Some(vector) = vector.copied().flatten() else {
        return Expected::Nothing;
    };
    if is_masked(state, vector) {
        return Expected::Pending(vector);
    }
    let entry = &state.msix.table[usize::from(vector) * 16..][..16];
    let (address, data) = (u64_at(entry, 0), u32_at(entry, 8));
    Expected::Message(vector, Msi { address, data })
}

fn is_masked(state: &VirtioPciState, vector: u16) -> bool {
    let control = u32_at(&state.msix.table, usize::from(vector) * 16 + 12);
    state.msix.control & MSIX_MASK != 0 || control & 1 != 0
}

/// A reset by its register alone.
pub fn events(step: &Step, events: &[GuestEvent]) {
    let expected = usize::from(may_reset(step));
    assert_eq!(events.len(), expected, "{step:?}");
    assert!(events.iter().all(is_reset));
}

/// The registers of a device agree with each other and with the world.
pub fn device(machine: &Machine, device: &Device, step: &Step) {
    let state = device.state();
    assert_eq!(u32_at(&state.config, 0), 0x1044_1af4);
    let enabled = state.msix.control & MSIX_ENABLE != 0;
    let intx_disabled = u16_at(&state.config, 4) & 1 << 10 != 0;
    let up = state.common.isr != 0 && !enabled && !intx_disabled;
    assert_eq!(device.line.is_up(), up, "{step:?}");
    assert!(state.common.isr <= 3);
    assert_eq!(state.msix.table.len(), VECTORS * 16);
    let vectors = [state.common.config_vector].into_iter();
    let vectors = vectors.chain(state.common.queue_vectors.iter().copied());
    for vector in vectors.flatten() {
        assert!(usize::from(vector) < VECTORS, "{step:?}");
    }
    for vector in &state.msix.pending {
        let lost = enabled && !is_masked(&state, *vector);
        assert!(!lost, "vector {vector} is pending and not masked: {step:?}");
    }
    if enabled {
        for (gsi, vector) in (device.gsi..).zip(0..VECTORS as u16) {
            let entry = &state.msix.table[usize::from(vector) * 16..];
            let message = Msi {
                address: u64_at(entry, 0),
                data: u32_at(entry, 8),
            };
            let right = is_masked(&state, vector) || machine.route(gsi) == Some(message);
            assert!(
                right,
                "the route of vector {vector} is out of date: {step:?}"
            );
        }
    }
}

/// Doorbells lie in decoded BARs, and all of them unless two BARs have claimed one.
/// Whether two BARs do so now.
pub fn doorbells(machine: &Machine, collided: bool) -> bool {
    let mut wanted = Vec::new();
    for device in &machine.devices {
        let Some(bar) = device.memory() else {
            continue;
        };
        assert!(bar.start >= PCI_BAR_START && bar.end <= PCI_BAR_START + PCI_BAR_SIZE);
        let queues = 0..u64::from(QUEUES);
        wanted.extend(queues.map(|queue| bar.start + NOTIFY + 4 * queue));
    }
    let mut hung = machine.doorbells();
    assert!(hung.iter().all(|addr| wanted.contains(addr)));
    let (all, _) = (wanted.len(), wanted.sort_unstable());
    wanted.dedup();
    let collides = wanted.len() < all;
    if !collides && !collided {
        hung.sort_unstable();
        assert_eq!(hung, wanted);
    }
    collides
}

/// The guest still finds the same devices.
pub fn bus(machine: &Machine) {
    for (device, id) in [
        (0u64, 0x0008_1b36),
        (1, 0x1044_1af4),
        (2, 0x1044_1af4),
        (3, u32::MAX),
    ] {
        let mut data = [0; 4];
        assert!(machine.mmio.read(ECAM_START + (device << 15), &mut data));
        assert_eq!(u32::from_le_bytes(data), id);
    }
}

/// A second device from what the first saves is the same, and does nothing by itself.
pub fn restore(machine: &Machine, device: &Device) {
    let state = device.state();
    let saved = serde_json::to_vec(&state).expect("a state can be written");
    let read: VirtioPciState = serde_json::from_slice(&saved).expect("and be read");
    let world = Arc::new(World::default());
    let copy = Device::new(&machine.ram, &world, device.gsi, Some(&read));
    assert_eq!(copy.state(), state);
    assert_eq!(copy.memory(), device.memory());
    assert_eq!(copy.sent(), [0; VECTORS]);
    assert_eq!(Line::is_up(&copy.line), device.line.is_up());
    // One that is broken, or that its driver has given up, is not started again.
    let runs = state.front.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK;
    assert_eq!(copy.interrupt().is_some(), runs);
    assert!(!runs || device.interrupt().is_some());
}
