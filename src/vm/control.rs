//! The main thread's events: the VM's end, the timeout, signals and keyboard.
//!
//! One subscriber of the event manager owns the descriptors; its handlers are
//! short and never wait.
//!
//! | signal                    | what happens                                            |
//! |---------------------------|---------------------------------------------------------|
//! | SIGINT, SIGHUP, SIGQUIT   | the VM ends at once                                     |
//! | SIGTERM                   | the power button; at once, if the guest has none, or had it before |
//! | SIGTSTP                   | the VM is paused, then the process stops                |
//! | SIGCONT                   | the VM goes on                                          |

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use thiserror::Error;

use super::devices::Panel;
use super::exit::ExitReason;
use super::lifecycle::History;
use crate::console::{Input, Patience, patient};
use crate::terminal::{self, RawMode};
use crate::vcpu::kick;

/// Signals that come as events: the first four are the user's wish to end the VM,
/// the others the shell's job control.
const SIGNALS: [libc::c_int; 6] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGTSTP,
    libc::SIGCONT,
];
/// How long a terminal that belongs to somebody else is left alone.
const BACKGROUND_NAP: Duration = Duration::from_millis(250);
/// The main thread has better things to wait for than a reader of what it says.
const SHORT_PATIENCE: Patience = Patience {
    stall: Duration::from_millis(100),
    total: Duration::from_millis(100),
};

/// Why the events of a VM could not be set up.
#[derive(Debug, Error)]
pub enum ControlError {
    /// timerfd.
    #[error("cannot make a timer")]
    Timer(#[source] io::Error),
    /// signalfd.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// tcgetattr or tcsetattr.
    #[error("cannot put the terminal into raw mode; try --serial null or </dev/null")]
    Terminal(#[source] io::Error),
}

/// Which descriptor an event belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Source {
    WakeUp,
    Timeout,
    Signal,
    Input,
    NapOver,
}

impl Source {
    fn of(events: Events) -> Option<Self> {
        [
            Self::WakeUp,
            Self::Timeout,
            Self::Signal,
            Self::Input,
            Self::NapOver,
        ]
        .into_iter()
        .find(|source| *source as u32 == events.data())
    }
}

/// The way from the user's keyboard (or pipe, or file) to the guest's serial port.
struct Typing {
    input: Input,
    /// Whether epoll watches the input now.
    watched: bool,
    /// Present for a keyboard: the terminal, restored when this is dropped, and
    /// the timer of [`BACKGROUND_NAP`].
    keyboard: Option<(RawMode, OwnedFd)>,
}

/// The signals that come as events instead of ending the process.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks [`SIGNALS`] in this thread and, by inheritance, in those it
    /// starts afterwards: so it must come before the first of them.
    ///
    /// # Errors
    /// [`ControlError::Signals`] if the host refuses.
    pub fn block() -> Result<Self, ControlError> {
        signal_descriptor().map(Self).map_err(ControlError::Signals)
    }
}

/// Everything the main thread waits for.
pub struct Control {
    /// The machine that all this is for; none between a reset and the next start.
    panel: Option<Panel>,
    history: Arc<History>,
    timeout: Option<OwnedFd>,
    signals: OwnedFd,
    typing: Option<Typing>,
    /// Whether the power button was pressed.
    pressed: bool,
    /// Whether the process is to stop.
    to_stop: bool,
}

impl Control {
    /// Arms the timeout and takes the terminal over.
    ///
    /// # Errors
    /// [`ControlError`] names what the host refused.
    pub fn new(
        signals: Signals,
        panel: Panel,
        input: Option<Input>,
        timeout: Option<Duration>,
    ) -> Result<Self, ControlError> {
        let timeout = timeout.map(timer_after).transpose();
        Ok(Self {
            history: panel.lifecycle.history().clone(),
            panel: Some(panel),
            timeout: timeout.map_err(ControlError::Timer)?,
            signals: signals.0,
            typing: input.map(Typing::new).transpose()?,
            pressed: false,
            to_stop: false,
        })
    }

    /// The machine has ended, and is to go: nothing of it is kept here.
    pub fn let_go(&mut self) {
        self.panel = None;
    }

    /// From now on all this is for another machine.
    pub fn attend(&mut self, panel: Panel) {
        self.panel = Some(panel);
        // Its serial port has room for what is waiting.
        self.history.wake_main_thread();
    }

    fn end(&self, reason: ExitReason) {
        if let Some(panel) = &self.panel {
            panel.lifecycle.end(reason);
        }
    }

    fn has_ended(&self) -> bool {
        let ended = |panel: &Panel| panel.lifecycle.reason().is_some();
        self.panel.as_ref().is_none_or(ended)
    }

    /// Whether the user wants to have the VM ended by its guest: a reset is as good
    /// as a power-off then.
    pub fn power_button_pressed(&self) -> bool {
        self.pressed
    }

    /// Whether the process is to stop. The VM should be paused before it does.
    pub fn is_to_stop(&self) -> bool {
        self.to_stop
    }

    /// Stops the process, unless it was continued in the meantime. Returns when it
    /// goes on.
    pub fn stop(&mut self) {
        self.signal();
        if std::mem::take(&mut self.to_stop) && !self.has_ended() {
            tell_of(match self.raw_mode() {
                Some(raw_mode) => raw_mode.suspend(),
                None => stop_self(),
            });
        }
    }

    /// Handles whatever signals have come.
    fn signal(&mut self) {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.signals, &mut info).is_ok() {
            // `ssi_signo` is the first field, a 32-bit number.
            let number = info.first_chunk().map_or(0, |n| u32::from_ne_bytes(*n));
            match libc::c_int::try_from(number) {
                Ok(libc::SIGTSTP) => self.to_stop = true,
                Ok(libc::SIGCONT) => {
                    self.to_stop = false;
                    if let Some(raw_mode) = self.raw_mode() {
                        tell_of(raw_mode.resume());
                    }
                }
                Ok(libc::SIGTERM) if self.press_power_button() => {}
                _ => self.end(ExitReason::UserQuit),
            }
        }
    }

    /// Has the guest power itself off, if it can be asked to: once, and if it listens.
    fn press_power_button(&mut self) -> bool {
        let Some(panel) = self.panel.as_ref().filter(|_| !self.pressed) else {
            return false;
        };
        let power = panel.power.lock();
        let mut power = power.unwrap_or_else(PoisonError::into_inner);
        self.pressed = power.listens();
        if self.pressed {
            power.press_power_button();
        } else {
            drop(power);
            let line = "mayfly: the guest does not listen to its power button: ending it\n";
            // Whoever does not read it will see the exit code.
            let _ = patient::write_all(io::stderr(), line.as_bytes(), SHORT_PATIENCE);
        }
        self.pressed
    }

    fn raw_mode(&mut self) -> Option<&mut RawMode> {
        self.typing.as_mut().and_then(Typing::raw_mode)
    }

    fn type_in(&mut self, ops: &mut EventOps, readable: bool) {
        let (Some(typing), Some(panel)) = (&mut self.typing, &self.panel) else {
            return;
        };
        if !typing.step(panel, ops, readable) {
            typing.watch(ops, false);
            self.typing = None;
        }
    }
}

impl Typing {
    fn new(input: Input) -> Result<Self, ControlError> {
        let keyboard = match input.is_keyboard() {
            true => RawMode::enter(&input).map_err(ControlError::Terminal)?,
            false => None,
        };
        let keyboard = keyboard
            .map(|raw_mode| timer().map(|nap| (raw_mode, nap)))
            .transpose()
            .map_err(ControlError::Timer)?;
        Ok(Self {
            input,
            watched: false,
            keyboard,
        })
    }

    fn raw_mode(&mut self) -> Option<&mut RawMode> {
        self.keyboard.as_mut().map(|(raw_mode, _)| raw_mode)
    }

    /// Moves input on towards the guest as far as it goes now. False when all
    /// of it has been delivered and no more will come.
    fn step(&mut self, panel: &Panel, ops: &mut EventOps, readable: bool) -> bool {
        let mut readable = readable;
        loop {
            self.deliver(panel);
            // A regular file is always readable.
            let can_read = readable || !self.input.pollable();
            if !(self.input.wants_more() && can_read) {
                break;
            }
            readable = false;
            let received = self.input.receive();
            if received.quit {
                panel.lifecycle.end(ExitReason::UserQuit);
            }
            if received.help {
                // Whoever cannot be told keeps his terminal as it is.
                let _ = patient::write_all(io::stderr(), terminal::HELP.as_bytes(), SHORT_PATIENCE);
            }
            if received.in_background {
                self.nap(ops);
                return true;
            }
        }
        let more = self.input.wants_more();
        self.watch(ops, more);
        more || !self.input.pending().is_empty()
    }

    fn deliver(&mut self, panel: &Panel) {
        let pending = self.input.pending();
        if !pending.is_empty() {
            let mut serial = panel.serial.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = serial.enqueue(pending);
            drop(serial);
            self.input.consume(taken);
        }
    }

    /// The terminal is somebody else's now: look again a little later.
    fn nap(&mut self, ops: &mut EventOps) {
        self.watch(ops, false);
        if let Some((_, nap)) = &self.keyboard
            && let Err(error) = arm(nap, BACKGROUND_NAP)
        {
            log::warn!("cannot wait for the terminal: {error}");
        }
    }

    fn nap_over(&mut self, ops: &mut EventOps) {
        if let Some((raw_mode, nap)) = &mut self.keyboard {
            let _ = rustix::io::read(&*nap, &mut [0u8; 8]);
            if let Err(error) = raw_mode.resume() {
                log::warn!("cannot put the terminal into raw mode: {error}");
            }
        }
        self.watch(ops, true);
    }

    /// Adds the input to epoll or takes it out.
    fn watch(&mut self, ops: &mut EventOps, on: bool) {
        if on == self.watched || !self.input.pollable() {
            return;
        }
        let events = readable(self.input.as_fd().as_raw_fd(), Source::Input);
        let done = if on {
            ops.add(events)
        } else {
            ops.remove(events)
        };
        match done {
            Ok(()) => self.watched = on,
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EPERM => {
                self.input.set_always_ready();
            }
            Err(error) => log::warn!("cannot watch the serial input: {error:?}"),
        }
    }
}

fn readable(fd: RawFd, source: Source) -> Events {
    Events::with_data_raw(fd, source as u32, EventSet::IN)
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps) {
        let nap = self.typing.as_ref().and_then(|t| t.keyboard.as_ref());
        let wake_up = self.history.wake_up();
        let watched = [
            (Some(wake_up.as_raw_fd()), Source::WakeUp),
            (Some(self.signals.as_raw_fd()), Source::Signal),
            (
                self.timeout.as_ref().map(OwnedFd::as_raw_fd),
                Source::Timeout,
            ),
            (nap.map(|(_, timer)| timer.as_raw_fd()), Source::NapOver),
        ];
        for (fd, source) in watched {
            if let Some(fd) = fd
                && let Err(error) = ops.add(readable(fd, source))
            {
                let message = format!("cannot wait for events: {error:?}");
                self.end(ExitReason::HostError { message });
            }
        }
        if let Some(typing) = &mut self.typing {
            typing.watch(ops, true);
        }
        self.type_in(ops, false);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match Source::of(events) {
            // The end is noticed by whoever waits here for it.
            Some(Source::WakeUp) if self.has_ended() => {}
            Some(Source::WakeUp) => {
                let _ = self.history.wake_up().read();
                self.type_in(ops, false);
            }
            None => {}
            Some(Source::Timeout) => self.end(ExitReason::Timeout),
            Some(Source::Signal) => self.signal(),
            Some(Source::Input) => self.type_in(ops, true),
            Some(Source::NapOver) => {
                if let Some(typing) = &mut self.typing {
                    typing.nap_over(ops);
                }
            }
        }
    }
}

fn tell_of(job_control: io::Result<()>) {
    if let Err(error) = job_control {
        log::warn!("cannot follow the shell's job control: {error}");
    }
}

/// Stops the process, as SIGTSTP does where it is not blocked.
fn stop_self() -> io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};
    Ok(kill_process(getpid(), Signal::STOP)?)
}

fn timer() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    Ok(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

/// A timer that fires once, `after` from now.
fn timer_after(after: Duration) -> io::Result<OwnedFd> {
    let timer = timer()?;
    arm(&timer, after)?;
    Ok(timer)
}

fn arm(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let once = Itimerspec {
        it_interval: zero,
        it_value: Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

/// Blocks [`SIGNALS`] and gives a descriptor that becomes readable when one comes.
fn signal_descriptor() -> io::Result<OwnedFd> {
    let set = signal_set(&SIGNALS);
    let before = change_mask(libc::SIG_BLOCK, &set)?;
    // Whoever started the process may have left it with signals blocked; without this
    // one no vCPU could be called out of its guest.
    // SAFETY: the set is one that the kernel has filled in, the number a signal's.
    if unsafe { libc::sigismember(&before, kick::SIGNAL) } == 1 {
        change_mask(libc::SIG_UNBLOCK, &signal_set(&[kick::SIGNAL]))?;
    }
    // SAFETY: the set is initialised; the descriptor that signalfd returns belongs to
    // nobody else.
    unsafe {
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset gets that set and valid
    // signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Changes which signals this thread blocks; gives what it blocked before.
fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = signal_set(&[]);
    // SAFETY: both sets are initialised and live through the call.
    match unsafe { libc::pthread_sigmask(how, set, &mut before) } {
        0 => Ok(before),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
