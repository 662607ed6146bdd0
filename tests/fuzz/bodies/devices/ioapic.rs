//! What holds for the IOAPIC after each step (82093AA §3.2.4).

use mayfly::devices::ioapic::{IoapicState, Msi, RedirectionEntry};

use super::machine::{Deeds, Machine};
use super::{Step, Which};

/// Checks messages, routes and remote IRR.
pub fn check(step: &Step, before: &IoapicState, deeds: &Deeds, machine: &Machine, hostile: bool) {
    let its = match step {
        Step::Read(which, ..) | Step::Write(which, ..) => *which == Which::Ioapic,
        Step::Line(..) | Step::Pulse(_) | Step::Eoi(_) => true,
        _ => false,
    };
    if !its {
        assert!(deeds.messages.is_empty(), "{step:?}");
        return;
    }
    for message in &deeds.messages {
        check_message(message);
    }
    check_count(step, before, deeds);
    let state = machine.ioapic.state();
    let routes = machine.routes();
    for (pin, entry) in state.entries.iter().enumerate() {
        let level = entry.is_level();
        assert!(level || !entry.remote_irr(), "pin {pin}");
        let silent = entry.is_masked() && !level;
        let expected = if silent { None } else { entry.msi() };
        assert_eq!(routes[pin], expected, "route of pin {pin}");
        let asserted = state.lines >> pin & 1 != 0;
        let lost = level && asserted && !entry.is_masked() && !entry.remote_irr();
        assert!(hostile || !lost, "a level interrupt at pin {pin} is lost");
    }
}

/// It goes to a local APIC and has a delivery mode that exists.
fn check_message(message: &Msi) {
    assert_eq!(message.address >> 20, 0xfee);
    assert_eq!(message.address & 0xff3, 0);
    assert!(!matches!(message.data >> 8 & 7, 3 | 6));
    let level = message.data & 1 << 15 != 0;
    assert_eq!(level, message.data & 1 << 14 != 0);
    assert_eq!(message.data & !0xc7ff, 0);
}

/// Edges interrupt when they are unmasked, levels unless one is being served.
fn check_count(step: &Step, before: &IoapicState, deeds: &Deeds) {
    let messages = deeds.messages.len();
    let entry = |pin: &u32| before.entries.get(*pin as usize).copied();
    let asserted = |pin: &u32| before.lines.checked_shr(*pin).unwrap_or(0) & 1 != 0;
    match step {
        Step::Line(pin, true) | Step::Pulse(pin) => {
            let expected = entry(pin).is_some_and(|entry| fires(entry, asserted(pin)));
            assert_eq!(messages, usize::from(expected), "{step:?}");
        }
        Step::Line(_, false) => assert_eq!(messages, 0),
        Step::Eoi(vector) => assert!(messages <= served(before, *vector)),
        Step::Write(Which::Ioapic, 0x40, data) => assert!(messages <= served(before, data[0])),
        Step::Write(Which::Ioapic, 0x10, _) => assert!(messages <= 1),
        _ => assert_eq!(messages, 0, "{step:?}"),
    }
}

/// Pins that await the end of `vector`.
fn served(state: &IoapicState, vector: u8) -> usize {
    let awaits = |entry: &&RedirectionEntry| entry.remote_irr() && entry.vector() == vector;
    state.entries.iter().filter(awaits).count()
}

/// Whether a line that goes up brings a message.
fn fires(entry: RedirectionEntry, was_up: bool) -> bool {
    let ready = if entry.is_level() {
        !entry.remote_irr()
    } else {
        !was_up
    };
    ready && !entry.is_masked() && entry.msi().is_some()
}
