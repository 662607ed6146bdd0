//! The virtual machine as a whole: how it is built, lives and ends.

pub mod advice;
pub mod builder;
mod choices;
pub mod clock;
pub mod control;
mod devices;
pub mod disks;
pub mod error;
pub mod exit;
pub mod hardware;
pub mod lifecycle;
pub mod nets;
pub mod report;
pub mod running;
mod session;
pub mod shares;
pub mod tally;
pub mod virtio;

use std::io;
use std::time::Instant;

use crate::config::VmConfig;
use crate::console::{Console, Patience, patient};
use crate::one_line::one_line;
use crate::profile::Profile;
use builder::Inputs;
use control::{Control, Signals};
use error::BuildError;
use hardware::Hardware;
use session::{Events, Records};

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
    let mut inputs = Inputs::open(config)?;
    // Given back last of all: a VM that is not closed yet has a thread of the kernel's in
    // this process's cgroup, which can then not be removed.
    let _shares = inputs.shares();
    let mut profile = config.profile.as_ref().map(Profile::open).transpose()?;
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
    let mut hardware = Hardware::new(config, &mut inputs, console, started)?;
    let built = builder::build(config, &inputs, &hardware)?;
    let input = hardware.take_input();
    let control = Control::new(signals, built.panel.clone(), input, config.timeout)?;
    let mut events = Events::new(control)?;
    // Who does not start again needs none of it any more.
    let inputs = config.reboot.then_some(inputs);
    let records = Records::new(profile.as_mut());
    let course = session::run(
        config,
        inputs.as_ref(),
        &hardware,
        built,
        &mut events,
        records,
    )?;
    let history = hardware.history.clone();
    let remains = hardware.finish();
    let profile = profile.map(|profile| match profile.write() {
        Ok(table) => table,
        Err(error) => format!("mayfly: {}\n", one_line(&error)),
    });
    Ok(Report {
        reason: course.reason,
        ms: Milestones {
            first_instruction: history.first_instruction.ms(),
            first_serial_byte: remains.first_serial_byte,
            userspace: history.userspace.ms(),
            end: report::millis(started.elapsed()),
        },
        reboots: course.reboots,
        tally: course.tally,
        serial_lost: remains.output.lost,
        disks: remains.disks,
        nets: remains.nets,
        profile,
        line_open: remains.output.line_open,
    })
}

/// Tells the user. Who does not listen (and `eprintln` would panic then) does not want
/// to know.
fn tell(what: &str) {
    let line = format!("mayfly: {what}\n");
    let _ = patient::write_all(io::stderr(), line.as_bytes(), Patience::default());
}
