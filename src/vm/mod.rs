//! The virtual machine as a whole: how it is built, lives and ends.

pub mod advice;
pub mod builder;
pub mod clock;
pub mod control;
mod devices;
pub mod disks;
pub mod error;
pub mod exit;
pub mod lifecycle;
pub mod nets;
pub mod report;
pub mod running;
pub mod shares;
pub mod virtio;

use std::io;
use std::time::{Duration, Instant};

use event_manager::{EventManager, SubscriberOps};

use crate::config::VmConfig;
use crate::console::{Console, Patience, patient};
use builder::Inputs;
use control::{Control, Signals};
use error::BuildError;
use lifecycle::Lifecycle;
use running::RunningVm;

pub use report::{Milestones, Report};

/// How long the serial output may wait for its thread at the beginning: a VM that
/// is over by then does without. Nobody sees that the first line came later.
const WRITER_DELAY: Duration = Duration::from_millis(10);
/// Epoll's word for no timeout.
const FOR_EVER: i32 = -1;

/// Makes the machine that `config` describes, runs it to its end, and tells
/// what happened. `started` is when the process started.
pub fn run(config: &VmConfig, started: Instant) -> Report {
    match run_to_end(config, started) {
        Ok(report) => report,
        Err(error) => Report::of_failure(error.reason(), started),
    }
}

fn run_to_end(config: &VmConfig, started: Instant) -> Result<Report, BuildError> {
    let inputs = Inputs::open(config)?;
    // Before the first thread starts, after what may take a while.
    let signals = Signals::block()?;
    let console = Console::open(&config.serial)?;
    // Lines that a user waits for, whatever the log level.
    if let Some(path) = &console.pty_path {
        tell(&format!("serial port is {}", path.display()));
    }
    for tap in inputs.new_taps(config) {
        tell(&format!("tap {tap}"));
    }
    let mut built = builder::build(config, inputs, console, started)?;
    let lifecycle = built.machine.lifecycle.clone();
    let control = Control::new(
        signals,
        lifecycle.clone(),
        built.serial.clone(),
        built.input.take(),
        config.timeout,
    )?;
    let mut events = event_loop(control)?;
    let vm = RunningVm::start(built)?;
    if let Err(error) = events_until_end(&mut events, &vm, &lifecycle) {
        // The guest has run: its end is told like any other, output and all.
        lifecycle.end(error.reason());
    }
    let ended = vm.finish();
    Ok(Report {
        reason: ended.reason,
        ms: Milestones {
            first_instruction: lifecycle.first_instruction.ms(),
            first_serial_byte: ended.first_serial_byte,
            userspace: lifecycle.userspace.ms(),
            end: report::millis(started.elapsed()),
        },
        exits: ended.exits,
        emulated: ended.emulated,
        hooks_planted: ended.hooks_planted,
        ticks_held_back: ended.ticks_held_back,
        undefined_in_user_mode: ended.undefined_in_user_mode,
        serial_lost: ended.output.map_or(0, |output| output.lost),
        disks: ended.disks,
        nets: ended.nets,
        line_open: ended.output.is_some_and(|output| output.line_open),
    })
}

/// Tells the user. Who does not listen (and `eprintln` would panic then) does not want
/// to know.
fn tell(what: &str) {
    let line = format!("mayfly: {what}\n");
    let _ = patient::write_all(io::stderr(), line.as_bytes(), Patience::default());
}

/// Serves the main thread's events until the VM has ended. The serial output's
/// thread is started when the VM has lived for a moment, beside the guest.
fn events_until_end(
    events: &mut EventManager<Control>,
    vm: &RunningVm,
    lifecycle: &Lifecycle,
) -> Result<(), BuildError> {
    let writer_due = Instant::now() + WRITER_DELAY;
    let mut writer_runs = false;
    while lifecycle.reason().is_none() {
        let left = writer_due.saturating_duration_since(Instant::now());
        if !writer_runs && left.is_zero() {
            vm.start_writer()?;
            writer_runs = true;
        }
        let timeout = match writer_runs {
            true => FOR_EVER,
            // Rounded up, or the last part of a millisecond would be spent awake.
            false => i32::try_from(left.as_millis()).map_or(FOR_EVER, |ms| ms.saturating_add(1)),
        };
        events
            .run_with_timeout(timeout)
            .map_err(|error| BuildError::EventLoop(format!("{error:?}")))?;
    }
    Ok(())
}

fn event_loop(control: Control) -> Result<EventManager<Control>, BuildError> {
    let failed = |error| BuildError::EventLoop(format!("{error:?}"));
    let mut events = EventManager::new().map_err(failed)?;
    events.add_subscriber(control);
    Ok(events)
}
