//! The register models: accesses of every width and offset, what comes from
//! outside in between, and saving and restoring at any time.
//!
//! Input: flags (8 bits); with [`HOSTILE`], a state; then steps to the end:
//!
//! | step                 | bits 5:0          | bits 7:6, and what follows            |
//! |----------------------|-------------------|---------------------------------------|
//! | a device is accessed | width, a device   | 0: read; 1, 3: write and its data     |
//! | from outside         | a device          | 2: what the device takes from outside |
//! | save and restore     | [`SAVE`] in 3:0   |                                       |
//!
//! From the first save on there are two machines, the one that was saved and the
//! one that was restored. They must do the same ever after.

mod ioapic;
mod machine;
mod serial_model;

use std::sync::atomic::Ordering;

use mayfly::devices::i8042::I8042State;
use mayfly::devices::{GuestEvent, acpi_power, cmos_rtc, i8042, serial};

use self::machine::{Clock, Deeds, Machine, State};
use self::serial_model::SerialModel;
use super::script::Script;

/// The machine begins in a state from the input, as if from a broken snapshot.
const HOSTILE: u8 = 1 << 0;
const SAVE: u8 = 15;
/// More would only be slow.
const MOST_STEPS: usize = 160;

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Serial,
    I8042,
    Cmos,
    Ioapic,
    Acpi,
    Timer,
    Reset,
    Pvpanic,
    DebugExit,
}

const DEVICES: [Which; 9] = [
    Which::Serial,
    Which::I8042,
    Which::Cmos,
    Which::Ioapic,
    Which::Acpi,
    Which::Timer,
    Which::Reset,
    Which::Pvpanic,
    Which::DebugExit,
];

/// What happens to a machine.
#[derive(Clone, Debug)]
enum Step {
    Read(Which, u64, usize),
    Write(Which, u64, Vec<u8>),
    Input(Vec<u8>),
    PowerButton,
    Line(u32, bool),
    Pulse(u32),
    Eoi(u8),
    Time(u64),
    SaveAndRestore,
}

/// Takes the steps.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let hostile = script.u8() & HOSTILE != 0;
    let clock = Clock::default();
    let start = if hostile {
        hostile_state(&mut script)
    } else {
        State::default()
    };
    let mut machine = Machine::new(start.clone(), &clock);
    let state = machine.state();
    assert!(hostile || state == start);
    assert_eq!(Machine::new(state.clone(), &clock).state(), state);
    let mut restored: Option<Machine> = None;
    let mut model = SerialModel::new(&state.serial);

    for _ in 0..MOST_STEPS {
        if script.is_empty() {
            break;
        }
        let step = next_step(&mut script);
        if let Step::Time(nanoseconds) = step {
            clock.store(nanoseconds, Ordering::Relaxed);
        }
        if matches!(step, Step::SaveAndRestore) {
            // By way of a file once: that is slow, and the same each time.
            let state = if restored.is_none() {
                written_and_read(&machine.state())
            } else {
                machine.state()
            };
            restored = Some(restore(&machine, state, &clock));
            model = SerialModel::new(&machine.state().serial);
            continue;
        }
        let before = machine.ioapic.state();
        let deeds = take(&mut machine, &step);
        if let Some(copy) = &mut restored {
            assert_eq!(take(copy, &step), deeds, "{step:?}");
        }
        check_serial(&mut model, &step, &deeds, &machine);
        check_read(&step, &deeds);
        check_events(&step, &deeds);
        ioapic::check(&step, &before, &deeds, &machine, hostile);
    }
    assert_eq!(machine.serial.state(), model.state());
    if let Some(copy) = restored {
        assert_eq!(copy.state(), machine.state());
        assert_eq!(copy.routes(), machine.routes());
    }
}

fn next_step(script: &mut Script) -> Step {
    let code = script.u8();
    if code & 0xf == SAVE {
        return Step::SaveAndRestore;
    }
    let which = DEVICES[usize::from(code & 0xf) % DEVICES.len()];
    if code >> 6 == 2 {
        return outside(which, script);
    }
    let width = 1 << (code >> 4 & 3);
    let offset = match script.u8() {
        0xff => script.u64(),
        near => near_offset(which, near),
    };
    match code >> 6 {
        0 => Step::Read(which, offset, width),
        _ => Step::Write(which, offset, script.array::<8>()[..width].to_vec()),
    }
}

/// What comes to a device from outside.
fn outside(which: Which, script: &mut Script) -> Step {
    match which {
        Which::Serial => {
            let len = usize::from(script.u8());
            Step::Input(script.bytes(len).to_vec())
        }
        Which::Acpi => Step::PowerButton,
        Which::Ioapic => {
            let (what, number) = (script.u8(), script.u8());
            match what % 4 {
                0 => Step::Line(number.into(), true),
                1 => Step::Line(number.into(), false),
                2 => Step::Pulse(number.into()),
                _ => Step::Eoi(number),
            }
        }
        _ => Step::Time(script.u64()),
    }
}

/// An offset at the device's registers, or just behind them.
fn near_offset(which: Which, byte: u8) -> u64 {
    let byte = u64::from(byte);
    match which {
        Which::Ioapic => match byte % 8 {
            0 | 1 => 0x00,
            2..=4 => 0x10,
            5 => 0x40,
            _ => byte,
        },
        Which::Serial => byte % (serial::LEN + 1),
        Which::I8042 => byte % (i8042::LEN + 1),
        Which::Cmos => byte % (cmos_rtc::LEN + 1),
        Which::Acpi => byte % (acpi_power::LEN + 1),
        Which::Timer | Which::Reset | Which::Pvpanic | Which::DebugExit => byte % 5,
    }
}

fn take(machine: &mut Machine, step: &Step) -> Deeds {
    let mut answer = Vec::new();
    match step {
        Step::Read(which, offset, width) => {
            answer = vec![0xff; *width];
            machine.device(*which).read(*offset, &mut answer);
        }
        Step::Write(which, offset, data) => machine.device(*which).write(*offset, data),
        Step::Input(bytes) => {
            let taken = machine.serial.enqueue(bytes);
            assert!(taken <= bytes.len());
            answer = taken.to_le_bytes().to_vec();
        }
        Step::PowerButton => machine.acpi.press_power_button(),
        Step::Line(pin, asserted) => machine.ioapic.set_level(*pin, *asserted),
        Step::Pulse(pin) => machine.ioapic.pulse(*pin),
        Step::Eoi(vector) => machine.ioapic.eoi(*vector),
        Step::Time(_) | Step::SaveAndRestore => {}
    }
    Deeds {
        answer,
        ..machine.deeds()
    }
}

/// A second machine from what the first saves. It does nothing of its own accord.
fn restore(machine: &Machine, state: State, clock: &Clock) -> Machine {
    let copy = Machine::new(state, clock);
    assert_eq!(copy.state(), machine.state());
    assert_eq!(copy.deeds(), Deeds::default());
    assert_eq!(copy.routes(), machine.routes());
    copy
}

/// The state as a snapshot's file would bring it back.
fn written_and_read(state: &State) -> State {
    let saved = serde_json::to_vec(state).expect("a state can be written");
    serde_json::from_slice(&saved).expect("what was written can be read")
}

/// The port does what the model does; a guest that waits for input is told of it.
fn check_serial(model: &mut SerialModel, step: &Step, deeds: &Deeds, machine: &Machine) {
    model.begin();
    let wanted = machine.input_wanted();
    match step {
        Step::Read(Which::Serial, offset, width) => {
            let mut data = vec![0xff; *width];
            model.read(*offset, &mut data);
            assert_eq!(deeds.answer, data, "{step:?}");
        }
        Step::Write(Which::Serial, offset, data) => model.write(*offset, data),
        Step::Input(bytes) => {
            let taken = model.enqueue(bytes);
            assert_eq!(deeds.answer, taken.to_le_bytes());
            assert!(!wanted);
        }
        _ => {
            assert!(!wanted && deeds.serial_pulses == 0 && deeds.output.is_empty());
            return;
        }
    }
    assert_eq!(deeds.serial_pulses, model.pulses, "{step:?}");
    assert_eq!(deeds.output, model.output, "{step:?}");
    assert_eq!(machine.serial.state(), model.state(), "{step:?}");
}

/// Beyond its registers a device leaves what the bus has put there.
fn check_read(step: &Step, deeds: &Deeds) {
    let Step::Read(which, offset, _) = step else {
        return;
    };
    let len = match which {
        Which::Serial => serial::LEN,
        Which::I8042 => i8042::LEN,
        Which::Cmos => cmos_rtc::LEN,
        Which::Acpi => acpi_power::LEN,
        Which::Reset | Which::Pvpanic => 1,
        Which::Timer | Which::DebugExit => 0,
        Which::Ioapic => return,
    };
    let behind = usize::try_from(len.saturating_sub(*offset)).expect("a few ports");
    let behind = deeds.answer.get(behind..).unwrap_or_default();
    assert!(behind.iter().all(|byte| *byte == 0xff), "{step:?}");
}

/// Each event has its device, and only a write brings it about.
fn check_events(step: &Step, deeds: &Deeds) {
    let by = match step {
        Step::Write(which, ..) => Some(*which),
        _ => None,
    };
    for event in &deeds.events {
        let allowed = match event {
            GuestEvent::Reset => matches!(by, Some(Which::I8042 | Which::Reset)),
            GuestEvent::PowerOff => by == Some(Which::Acpi),
            GuestEvent::Status(_) => by == Some(Which::DebugExit),
            GuestEvent::Panicked | GuestEvent::CrashLoaded => by == Some(Which::Pvpanic),
            GuestEvent::UserspaceReached => by == Some(Which::Timer),
        };
        assert!(allowed, "{event:?} by {step:?}");
    }
    assert!(deeds.events.len() <= 8, "one a byte at most");
    let acpi = matches!(step, Step::PowerButton | Step::Write(Which::Acpi, ..));
    assert!(acpi || deeds.sci_pulses == 0);
}

/// A state such as nothing here would save.
fn hostile_state(script: &mut Script) -> State {
    let mut state = State::default();
    state.serial.divisor = script.u16();
    state.serial.interrupt_enable = script.u8();
    state.serial.line_control = script.u8();
    state.serial.modem_control = script.u8();
    state.serial.thr_empty_pending = script.u8() & 1 != 0;
    let received = usize::from(script.u8());
    state.serial.received = script.bytes(received).to_vec();
    let (port61, refresh) = (script.u8(), script.u8() & 1 != 0);
    state.i8042 = I8042State {
        config: script.u8(),
        output: (script.u8() & 1 != 0).then_some(script.u8()),
        last_output: script.u8(),
        port61: from_json(serde_json::json!({ "control": port61, "refresh": refresh })),
        ..I8042State::default()
    };
    state.cmos.index = script.u8();
    state.cmos.register_a = script.u8();
    state.cmos.register_b = script.u8();
    state.cmos.offset = script.u64().cast_signed();
    state.cmos.held = (script.u8() & 1 != 0).then(|| cmos_rtc::DateTime {
        year: script.u16(),
        month: script.u8(),
        day: script.u8(),
        weekday: script.u8(),
        hour: script.u8(),
        minute: script.u8(),
        second: script.u8(),
    });
    let ram = usize::from(script.u8());
    state.cmos.ram = script.bytes(ram).to_vec();
    state.ioapic.select = script.u8();
    state.ioapic.id = script.u32();
    state.ioapic.lines = script.u32();
    for entry in &mut state.ioapic.entries {
        *entry = from_json(script.u64().into());
    }
    state.acpi.status = script.u16();
    state.acpi.enable = script.u16();
    state.acpi.sleep_type = script.u8();
    state.reset.kind = script.u8();
    state
}

/// A value whose fields only a snapshot can set.
fn from_json<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("a value of this form")
}
