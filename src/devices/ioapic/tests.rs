use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::devices::testing::{check_rebuild, poke, pokes};

#[derive(Default)]
struct Sent {
    messages: Mutex<Vec<Msi>>,
    routes: Mutex<Vec<(u32, Option<Msi>)>>,
}

impl Sent {
    fn vectors(&self) -> Vec<u32> {
        let messages = std::mem::take(&mut *self.messages.lock().unwrap());
        messages.iter().map(|msi| msi.data & 0xff).collect()
    }

    fn routes(&self) -> Vec<(u32, Option<u32>)> {
        let routes = std::mem::take(&mut *self.routes.lock().unwrap());
        let data = |msi: Msi| msi.data;
        routes
            .iter()
            .map(|(pin, msi)| (*pin, msi.map(data)))
            .collect()
    }
}

impl MsiSink for Sent {
    fn deliver(&self, msi: Msi) {
        self.messages.lock().unwrap().push(msi);
    }
    fn route_changed(&self, pin: u32, route: Option<Msi>) {
        self.routes.lock().unwrap().push((pin, route));
    }
}

fn ioapic() -> (Ioapic, Arc<Sent>) {
    let sent = Arc::new(Sent::default());
    (
        Ioapic::from_state(IoapicState::default(), sent.clone()),
        sent,
    )
}

fn read(ioapic: &mut Ioapic, index: u8) -> u32 {
    ioapic.write(IOREGSEL, &[index, 0, 0, 0]);
    let mut data = [0xff; 4];
    ioapic.read(IOWIN, &mut data);
    u32::from_le_bytes(data)
}

fn write(ioapic: &mut Ioapic, index: u8, value: u32) {
    ioapic.write(IOREGSEL, &[index]);
    ioapic.write(IOWIN, &value.to_le_bytes());
}

/// Programs the lower half of a pin's entry.
fn program(ioapic: &mut Ioapic, pin: u8, value: u32) {
    write(ioapic, INDEX_TABLE + 2 * pin, value);
}

const LEVEL: u32 = 0x8000;
const MASKED: u32 = 0x1_0000;

#[test]
fn the_version_tells_of_24_pins_and_an_eoi_register() {
    let (mut ioapic, _) = ioapic();
    assert_eq!(read(&mut ioapic, INDEX_VERSION), 0x0017_0020);
    assert_eq!(read(&mut ioapic, INDEX_TABLE), MASKED);
    assert_eq!(read(&mut ioapic, 0x40), 0);
}

#[test]
fn the_id_can_be_written() {
    let (mut ioapic, _) = ioapic();
    write(&mut ioapic, INDEX_ID, u32::MAX);
    assert_eq!(read(&mut ioapic, INDEX_ID), 0x0f00_0000);
    assert_eq!(read(&mut ioapic, INDEX_ARBITRATION), 0x0f00_0000);
}

#[test]
fn an_edge_is_one_message_and_is_ignored_while_masked() {
    let (mut ioapic, sent) = ioapic();
    ioapic.pulse(4);
    program(&mut ioapic, 4, 0x31);
    assert!(sent.vectors().is_empty());
    ioapic.pulse(4);
    assert_eq!(sent.vectors(), [0x31]);
    ioapic.set_level(4, true);
    ioapic.set_level(4, true);
    assert_eq!(sent.vectors(), [0x31]);
}

#[test]
fn a_level_line_interrupts_again_at_each_eoi_while_asserted() {
    let (mut ioapic, sent) = ioapic();
    program(&mut ioapic, 9, 0x41 | LEVEL);
    ioapic.set_level(9, true);
    ioapic.set_level(9, true);
    assert_eq!(sent.vectors(), [0x41]);
    ioapic.eoi(0x40);
    assert!(sent.vectors().is_empty());
    ioapic.eoi(0x41);
    assert_eq!(sent.vectors(), [0x41]);
    ioapic.set_level(9, false);
    ioapic.write(EOI, &[0x41, 0, 0, 0]);
    assert!(sent.vectors().is_empty());
    ioapic.set_level(9, true);
    assert_eq!(sent.vectors(), [0x41]);
}

#[test]
fn a_level_line_asserted_under_the_mask_interrupts_at_unmask() {
    let (mut ioapic, sent) = ioapic();
    program(&mut ioapic, 9, 0x41 | LEVEL | MASKED);
    ioapic.set_level(9, true);
    assert!(sent.vectors().is_empty());
    program(&mut ioapic, 9, 0x41 | LEVEL);
    assert_eq!(sent.vectors(), [0x41]);
    assert_eq!(read(&mut ioapic, INDEX_TABLE + 18), 0x41 | LEVEL | 0x4000);
}

#[test]
fn an_eoi_under_the_mask_is_seen_and_delivery_waits_for_unmask() {
    let (mut ioapic, sent) = ioapic();
    program(&mut ioapic, 9, 0x41 | LEVEL);
    ioapic.set_level(9, true);
    program(&mut ioapic, 9, 0x41 | LEVEL | MASKED);
    ioapic.eoi(0x41);
    assert_eq!(sent.vectors(), [0x41]);
    program(&mut ioapic, 9, 0x41 | LEVEL);
    assert_eq!(sent.vectors(), [0x41]);
}

#[test]
fn a_pulse_into_a_level_pin_interrupts_once() {
    let (mut ioapic, sent) = ioapic();
    program(&mut ioapic, 9, 0x41 | LEVEL);
    ioapic.pulse(9);
    ioapic.eoi(0x41);
    assert_eq!(sent.vectors(), [0x41]);
}

#[test]
fn routes_follow_the_table() {
    let (mut ioapic, sent) = ioapic();
    program(&mut ioapic, 4, 0x31);
    program(&mut ioapic, 4, 0x31);
    program(&mut ioapic, 4, 0x32);
    program(&mut ioapic, 4, 0x32 | MASKED);
    let expected = [(4, Some(0x31)), (4, Some(0x32)), (4, None)];
    assert_eq!(sent.routes(), expected);
    program(&mut ioapic, 9, 0x41 | LEVEL);
    program(&mut ioapic, 9, 0x41 | LEVEL | MASKED);
    assert_eq!(sent.routes(), [(9, Some(0xc041))]);
}

#[test]
fn a_rebuilt_ioapic_tells_its_routes_and_remembers_its_lines() {
    let (mut ioapic, _) = ioapic();
    program(&mut ioapic, 4, 0x31);
    program(&mut ioapic, 9, 0x41 | LEVEL);
    ioapic.set_level(9, true);
    let sent = Arc::new(Sent::default());
    let mut copy = Ioapic::from_state(ioapic.state(), sent.clone());
    assert_eq!(sent.routes(), [(4, Some(0x31)), (9, Some(0xc041))]);
    assert!(sent.vectors().is_empty());
    copy.eoi(0x41);
    assert_eq!(sent.vectors(), [0x41]);
}

#[test]
fn pins_that_do_not_exist_do_nothing() {
    let (mut ioapic, sent) = ioapic();
    for pin in [24, 31, 32, u32::MAX] {
        ioapic.set_level(pin, true);
        ioapic.pulse(pin);
    }
    assert_eq!(ioapic.state(), IoapicState::default());
    assert!(sent.vectors().is_empty());
}

#[test]
fn a_line_reaches_its_pin() {
    let (ioapic, sent) = ioapic();
    let ioapic = Arc::new(Mutex::new(ioapic));
    program(&mut ioapic.lock().unwrap(), 4, 0x31);
    program(&mut ioapic.lock().unwrap(), 9, 0x41 | LEVEL);
    IoapicLine::new(ioapic.clone(), 4).pulse();
    IoapicLine::new(ioapic.clone(), 9).set_level(true);
    assert_eq!(sent.vectors(), [0x31, 0x41]);
}

proptest! {
    #[test]
    fn hostile_pokes(before in pokes(0x50), after in pokes(0x50)) {
        let sink: Arc<dyn MsiSink> = Arc::new(Sent::default());
        check_rebuild(
            |state| Ioapic::from_state(state, sink.clone()),
            Ioapic::state,
            &before,
            &after,
        );
    }

    /// Pokes at the registers alone, so that the table is really reached, with
    /// lines that move meanwhile: no more than one message a pin and event.
    #[test]
    fn hostile_tables(
        writes in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u8>()), 0..200),
        tail in pokes(0x50),
    ) {
        let (mut ioapic, sent) = ioapic();
        for (index, value, pin) in writes {
            write(&mut ioapic, index, value);
            ioapic.set_level(u32::from(pin % 32), pin & 0x80 != 0);
            ioapic.eoi(value as u8);
            prop_assert!(sent.vectors().len() <= PINS + 2);
        }
        let mut copy = Ioapic::from_state(ioapic.state(), sent.clone());
        prop_assert_eq!(copy.state(), ioapic.state());
        prop_assert_eq!(poke(&mut copy, &tail), poke(&mut ioapic, &tail));
    }
}
