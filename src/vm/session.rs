//! A VM from the process's point of view: one start of the guest, or one after each of
//! its resets, with the main thread's events through all of them.

use std::time::{Duration, Instant};

use event_manager::{EventManager, SubscriberId, SubscriberOps};

use super::builder::{self, BuiltVm, Inputs};
use super::control::Control;
use super::error::BuildError;
use super::exit::ExitReason;
use super::hardware::Hardware;
use super::lifecycle::Lifecycle;
use super::running::{Ended, RunningVm};
use super::tally::Tally;
use super::tell;
use crate::config::VmConfig;
use crate::profile::Profile;

/// How long the serial output may wait for its thread at the beginning: a VM that
/// is over by then does without. Nobody sees that the first line came later.
const WRITER_DELAY: Duration = Duration::from_millis(10);
/// Epoll's word for no timeout.
const FOR_EVER: i32 = -1;
/// Of so many resets each is told of; from then on of one in a [`QUIET`] at most, for
/// how often there is one is up to the guest.
const TOLD: u64 = 10;
const QUIET: Duration = Duration::from_secs(1);

/// What is known of a VM when it has ended.
pub struct Course {
    /// Why it ended.
    pub reason: ExitReason,
    /// What was counted, over all starts.
    pub tally: Tally,
    /// How often the guest was started again.
    pub reboots: u64,
}

/// What is kept of each start.
#[derive(Default)]
pub struct Records<'a> {
    tally: Tally,
    profile: Option<&'a mut Profile>,
}

impl<'a> Records<'a> {
    /// Nothing yet; samples go into `profile`.
    pub fn new(profile: Option<&'a mut Profile>) -> Self {
        Self {
            profile,
            ..Self::default()
        }
    }

    fn add(&mut self, ended: &Ended) {
        self.tally.add(&ended.tally);
        if let Some(profile) = &mut self.profile {
            profile.add(&ended.samples, ended.symbols.as_deref());
        }
    }
}

/// Runs the guest to its end. `inputs` are there if it is to start again after a reset.
///
/// # Errors
/// [`BuildError`] if the guest has not run at all.
pub fn run(
    config: &VmConfig,
    inputs: Option<&Inputs>,
    hardware: &Hardware,
    built: BuiltVm,
    events: &mut Events,
    mut records: Records<'_>,
) -> Result<Course, BuildError> {
    let mut reboots: u64 = 0;
    let mut told = Instant::now();
    let mut reason = run_once(built, hardware, events, &mut records)?;
    while let (Some(inputs), ExitReason::Reset) = (inputs, &reason)
        && !events.control()?.power_button_pressed()
    {
        reboots = reboots.saturating_add(1);
        if reboots <= TOLD || told.elapsed() >= QUIET {
            tell(&format!("the guest resets: starting it again ({reboots})"));
            told = Instant::now();
        }
        let again = start_again(config, inputs, hardware, events, &mut records);
        // The guest has run: its end is told like any other, output and all.
        reason = again.unwrap_or_else(|error| error.reason());
    }
    Ok(Course {
        reason,
        tally: records.tally,
        reboots,
    })
}

/// Makes another machine round the same hardware, and runs it.
fn start_again(
    config: &VmConfig,
    inputs: &Inputs,
    hardware: &Hardware,
    events: &mut Events,
    records: &mut Records<'_>,
) -> Result<ExitReason, BuildError> {
    events.control()?.let_go();
    hardware.reset()?;
    // It has lived for a moment.
    hardware.start_writer()?;
    let built = builder::build(config, inputs, hardware)?;
    events.control()?.attend(built.panel.clone());
    // What happened since the end of the machine before.
    events.serve(0)?;
    match built.panel.lifecycle.reason() {
        Some(reason) => Ok(reason),
        None => run_once(built, hardware, events, records),
    }
}

/// Runs one machine until it ends.
fn run_once(
    built: BuiltVm,
    hardware: &Hardware,
    events: &mut Events,
    records: &mut Records<'_>,
) -> Result<ExitReason, BuildError> {
    let lifecycle = built.panel.lifecycle.clone();
    let vm = RunningVm::start(built)?;
    if let Err(error) = events.until_end(&vm, hardware, &lifecycle) {
        // The guest has run: its end is told like any other, output and all.
        lifecycle.end(error.reason());
    }
    let ended = vm.finish();
    records.add(&ended);
    Ok(hardware.true_reason(ended.reason))
}

/// The main thread's events.
pub struct Events {
    manager: EventManager<Control>,
    control: SubscriberId,
}

impl Events {
    /// Those of `control`.
    ///
    /// # Errors
    /// [`BuildError::EventLoop`] if the host refuses.
    pub fn new(control: Control) -> Result<Self, BuildError> {
        let mut manager = EventManager::new().map_err(failed)?;
        let control = manager.add_subscriber(control);
        Ok(Self { manager, control })
    }

    fn control(&mut self) -> Result<&mut Control, BuildError> {
        self.manager.subscriber_mut(self.control).map_err(failed)
    }

    /// Waits for events, `timeout` milliseconds at most, and serves them.
    fn serve(&mut self, timeout: i32) -> Result<(), BuildError> {
        let served = self.manager.run_with_timeout(timeout);
        served.map(drop).map_err(failed)
    }

    /// Serves events until the VM has ended. The serial output's thread is started
    /// when the VM has lived for a moment, beside the guest.
    fn until_end(
        &mut self,
        vm: &RunningVm,
        hardware: &Hardware,
        lifecycle: &Lifecycle,
    ) -> Result<(), BuildError> {
        let writer_due = Instant::now() + WRITER_DELAY;
        let mut writer_runs = false;
        while lifecycle.reason().is_none() {
            let left = writer_due.saturating_duration_since(Instant::now());
            if !writer_runs && left.is_zero() {
                hardware.start_writer()?;
                writer_runs = true;
            }
            let timeout = match writer_runs {
                true => FOR_EVER,
                // Rounded up, or the last part of a millisecond would be spent awake.
                false => {
                    i32::try_from(left.as_millis()).map_or(FOR_EVER, |ms| ms.saturating_add(1))
                }
            };
            self.stop_if_wanted(vm)?;
            self.serve(timeout)?;
        }
        Ok(())
    }

    /// Stops the process where job control wants that, with the VM paused: its clock
    /// does not go on while nobody runs.
    fn stop_if_wanted(&mut self, vm: &RunningVm) -> Result<(), BuildError> {
        let control = self.control()?;
        if control.is_to_stop() && vm.pause() {
            control.stop();
            vm.resume();
        }
        Ok(())
    }
}

fn failed(error: event_manager::Error) -> BuildError {
    BuildError::EventLoop(format!("{error:?}"))
}
