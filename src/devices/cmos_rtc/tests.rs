use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::devices::testing::{check_rebuild, pokes};

/// 2009-02-13 23:31:30 UTC, a Friday.
const FRIDAY: u64 = 1_234_567_890;

/// A host clock that tests set, in milliseconds.
#[derive(Clone)]
struct Host(Arc<AtomicU64>);

impl Host {
    fn at(seconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seconds * 1000)))
    }

    fn advance(&self, milliseconds: u64) {
        self.0.fetch_add(milliseconds, Ordering::Relaxed);
    }

    fn clock(&self) -> HostClock {
        let now = self.0.clone();
        Box::new(move || Duration::from_millis(now.load(Ordering::Relaxed)))
    }
}

fn rtc(host: &Host) -> CmosRtc {
    CmosRtc::from_state(CmosRtcState::default(), host.clock())
}

fn read(rtc: &mut CmosRtc, index: u8) -> u8 {
    rtc.write(0, &[index]);
    let mut data = [0xff];
    rtc.read(1, &mut data);
    data[0]
}

/// An index and its data in one 16-bit write.
fn write(rtc: &mut CmosRtc, index: u8, value: u8) {
    rtc.write(0, &[index, value]);
}

/// Century, year, month, day, weekday, hours, minutes, seconds, as they read.
fn time(rtc: &mut CmosRtc) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| read(rtc, index))
}

#[test]
fn the_time_is_the_hosts_in_bcd() {
    let host = Host::at(FRIDAY);
    let mut rtc = rtc(&host);
    let friday = [0x20, 0x09, 0x02, 0x13, 0x06, 0x23, 0x31, 0x30];
    assert_eq!(time(&mut rtc), friday);
    host.advance(30_000);
    assert_eq!(time(&mut rtc)[6..], [0x32, 0x00]);
}

#[test]
fn midnights_of_leap_years_and_centuries() {
    // The second before, and what it reads afterwards: century, year, month, day, weekday.
    let midnights = [
        (946_684_799, [0x20, 0x00, 0x01, 0x01, 0x07]), // of 1999-12-31
        (951_868_799, [0x20, 0x00, 0x03, 0x01, 0x04]), // of 2000-02-29, a leap day
        (1_709_251_199, [0x20, 0x24, 0x03, 0x01, 0x06]), // of 2024-02-29
        (4_107_542_399, [0x21, 0x00, 0x03, 0x01, 0x02]), // of 2100-02-28, no leap year
    ];
    for (before, date) in midnights {
        let host = Host::at(before);
        let mut rtc = rtc(&host);
        assert_eq!(time(&mut rtc)[5..], [0x23, 0x59, 0x59]);
        // Nothing changes before the second is over.
        host.advance(999);
        assert_eq!(time(&mut rtc)[5..], [0x23, 0x59, 0x59]);
        host.advance(1);
        assert_eq!(time(&mut rtc)[..5], date);
        assert_eq!(time(&mut rtc)[5..], [0, 0, 0]);
    }
}

#[test]
fn register_b_chooses_binary_and_twelve_hours() {
    let mut rtc = rtc(&Host::at(FRIDAY));
    write(&mut rtc, REGISTER_B, B_BINARY | B_24_HOURS);
    assert_eq!(time(&mut rtc), [20, 9, 2, 13, 6, 23, 31, 30]);
    write(&mut rtc, REGISTER_B, 0);
    assert_eq!(read(&mut rtc, HOURS), 0x91);
    for (hour, shown) in [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81)] {
        write(&mut rtc, HOURS, shown);
        assert_eq!(rtc.now().hour, hour);
        assert_eq!(read(&mut rtc, HOURS), shown);
    }
}

#[test]
fn a_time_set_piece_by_piece_goes_on_from_there() {
    let host = Host::at(FRIDAY);
    let mut rtc = rtc(&host);
    write(&mut rtc, REGISTER_B, B_SET | B_24_HOURS);
    host.advance(10_000);
    assert_eq!(read(&mut rtc, SECONDS), 0x30);
    // On the way there is a 31st of February.
    let leap_day = [
        (DAY, 0x31),
        (MONTH, 0x02),
        (DAY, 0x29),
        (YEAR, 0x24),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ];
    for (index, value) in leap_day {
        write(&mut rtc, index, value);
        assert_eq!(read(&mut rtc, index), value);
    }
    write(&mut rtc, REGISTER_B, B_24_HOURS);
    host.advance(1000);
    let first_of_march = [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00];
    assert_eq!(time(&mut rtc), first_of_march);
}

#[test]
fn what_is_no_time_is_not_set() {
    let host = Host::at(FRIDAY);
    let mut rtc = rtc(&host);
    let before = time(&mut rtc);
    write(&mut rtc, MONTH, 0x13);
    write(&mut rtc, HOURS, 0xff);
    write(&mut rtc, CENTURY, 0xff);
    assert_eq!(time(&mut rtc), before);
}

#[test]
fn an_update_is_announced_just_before_it_happens() {
    let host = Host::at(FRIDAY);
    let mut rtc = rtc(&host);
    assert_eq!(read(&mut rtc, REGISTER_A), A_RESET);
    let almost = || Duration::new(FRIDAY, 999_800_000);
    let mut rtc = CmosRtc::from_state(rtc.state(), Box::new(almost));
    assert_eq!(read(&mut rtc, REGISTER_A), A_RESET | A_UPDATE_IN_PROGRESS);
    write(&mut rtc, REGISTER_B, B_SET);
    assert_eq!(read(&mut rtc, REGISTER_A), A_RESET);
}

#[test]
fn status_registers() {
    let mut rtc = rtc(&Host::at(FRIDAY));
    write(&mut rtc, REGISTER_C, 0xff);
    write(&mut rtc, REGISTER_D, 0x00);
    assert_eq!(read(&mut rtc, REGISTER_C), 0);
    assert_eq!(read(&mut rtc, 0x80 | REGISTER_D), D_VALID);
}

#[test]
fn the_ram_keeps_its_bytes_and_knows_the_memory_size() {
    let state = CmosRtcState::for_memory(6 << 30);
    let mut rtc = CmosRtc::from_state(state, Host::at(FRIDAY).clock());
    let mut at = |indices: &[u8]| {
        indices
            .iter()
            .map(|i| read(&mut rtc, *i))
            .collect::<Vec<_>>()
    };
    assert_eq!(at(&[0x15, 0x16]), [0x80, 0x02]);
    assert_eq!(at(&[0x17, 0x18, 0x30, 0x31]), [0xff; 4]);
    assert_eq!(at(&[0x34, 0x35]), [0x00, 0xbf]);
    assert_eq!(at(&[0x5b, 0x5c, 0x5d]), [0x00, 0xc0, 0x00]);
    write(&mut rtc, 0x7f, 0x5a);
    assert_eq!(read(&mut rtc, 0x7f), 0x5a);
}

#[test]
fn a_small_memory_has_no_negative_size() {
    let state = CmosRtcState::for_memory(512 << 10);
    assert_eq!(state.ram[0x15..0x19], [0x00, 0x02, 0, 0]);
    assert_eq!(state.ram[0x34..0x36], [0, 0]);
}

#[test]
fn a_rebuilt_clock_keeps_the_guests_time() {
    let host = Host::at(FRIDAY);
    let mut original = rtc(&host);
    write(&mut original, YEAR, 0x42);
    let mut copy = CmosRtc::from_state(original.state(), host.clock());
    host.advance(61_000);
    assert_eq!(read(&mut copy, YEAR), 0x42);
    assert_eq!(time(&mut copy), time(&mut original));
}

#[test]
fn a_reset_leaves_what_the_battery_keeps() {
    let host = Host::at(FRIDAY);
    let mut rtc = CmosRtc::from_state(CmosRtcState::for_memory(64 << 20), host.clock());
    let memory_size = rtc.state().ram[0x15..0x19].to_vec();
    for (index, value) in [(0x15, 0xee), (0x18, 0xee), (0x7f, 0x5a), (YEAR, 0x42)] {
        write(&mut rtc, index, value);
    }
    write(&mut rtc, REGISTER_A, 0x2f);
    write(&mut rtc, REGISTER_B, B_BINARY);
    host.advance(61_000);
    rtc.reset(64 << 20);
    let mut index = [0xff];
    rtc.read(1, &mut index);
    assert_eq!(index, [0x31], "index 0, of the seconds");
    assert_eq!(read(&mut rtc, REGISTER_A), A_RESET);
    assert_eq!(read(&mut rtc, REGISTER_B), B_24_HOURS);
    assert_eq!(time(&mut rtc)[..4], [0x20, 0x42, 0x02, 0x13]);
    assert_eq!(time(&mut rtc)[5..], [0x23, 0x32, 0x31]);
    assert_eq!(read(&mut rtc, 0x7f), 0x5a);
    assert_eq!(rtc.state().ram[0x15..0x19], memory_size);
}

#[test]
fn a_reset_lets_a_clock_go_on_that_was_being_set() {
    for (month, expected) in [(0x03, 0x03), (0x13, 0x02)] {
        let host = Host::at(FRIDAY);
        let mut rtc = rtc(&host);
        write(&mut rtc, REGISTER_B, B_SET | B_24_HOURS);
        write(&mut rtc, MONTH, month);
        rtc.reset(64 << 20);
        host.advance(60_000);
        assert_eq!(read(&mut rtc, MONTH), expected);
        assert_eq!(read(&mut rtc, MINUTES), 0x32);
    }
}

#[test]
fn a_strange_state_does_no_harm() {
    let state = CmosRtcState {
        index: 0xff,
        offset: i64::MAX,
        ram: Vec::new(),
        ..CmosRtcState::default()
    };
    let mut rtc = CmosRtc::from_state(state, Host::at(FRIDAY).clock());
    assert_eq!(time(&mut rtc)[..3], [0x99, 0x99, 0x12]);
    assert_eq!(read(&mut rtc, 0x7f), 0);
}

#[test]
fn the_hosts_clock_tells_a_time_after_this_was_written() {
    assert!(host_clock()().as_secs() > 1_700_000_000);
}

proptest! {
    #[test]
    fn hostile_pokes(seconds in any::<u32>(), before in pokes(LEN), after in pokes(LEN)) {
        let host = Host::at(seconds.into());
        let build = |state| CmosRtc::from_state(state, host.clock());
        check_rebuild(build, CmosRtc::state, &before, &after);
    }

    #[test]
    fn hostile_registers(writes in prop::collection::vec((0u8..0x0e, any::<u8>()), 0..100)) {
        let host = Host::at(FRIDAY);
        let mut rtc = rtc(&host);
        for (index, value) in writes {
            write(&mut rtc, index, value);
            write(&mut rtc, CENTURY, value);
            time(&mut rtc);
        }
        let mut copy = CmosRtc::from_state(rtc.state(), host.clock());
        prop_assert_eq!(time(&mut copy), time(&mut rtc));
    }
}
