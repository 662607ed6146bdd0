//! The virtual machine as a whole: how it is built, lives and ends.

pub mod advice;
pub mod builder;
pub mod control;
mod devices;
pub mod error;
pub mod exit;
pub mod lifecycle;
pub mod report;
pub mod running;

use std::io;
use std::time::Instant;

use event_manager::{EventManager, SubscriberOps};

use crate::config::VmConfig;
use crate::console::{Console, Patience, patient};
use builder::Inputs;
use control::{Control, Signals};
use error::BuildError;
use running::RunningVm;

pub use report::{Milestones, Report};

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
    // Before the console's thread starts, after what may take a while.
    let signals = Signals::block()?;
    let console = Console::open(&config.serial)?;
    if let Some(path) = &console.pty_path {
        // The one line a user of `--serial pty` waits for, whatever the log level.
        let line = format!("mayfly: serial port is {}\n", path.display());
        // Who does not listen (and `eprintln` would panic then) does not want to know.
        let _ = patient::write_all(io::stderr(), line.as_bytes(), Patience::default());
    }
    let mut built = builder::build(config, inputs, console, started)?;
    let lifecycle = built.machine.lifecycle.clone();
    let control = Control::new(
        signals,
        lifecycle.clone(),
        built.serial.clone(),
        built.fifo_room.clone(),
        built.input.take(),
        config.timeout,
    )?;
    let mut events = event_loop(control)?;
    let vm = RunningVm::start(built)?;
    while lifecycle.reason().is_none() {
        if let Err(error) = events.run() {
            // The guest has run: its end is told like any other, output and all.
            lifecycle.end(BuildError::EventLoop(format!("{error:?}")).reason());
        }
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
        line_open: ended.output.is_some_and(|output| output.line_open),
    })
}

fn event_loop(control: Control) -> Result<EventManager<Control>, BuildError> {
    let failed = |error| BuildError::EventLoop(format!("{error:?}"));
    let mut events = EventManager::new().map_err(failed)?;
    events.add_subscriber(control);
    Ok(events)
}
