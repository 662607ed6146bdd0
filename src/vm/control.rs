//! The main thread's events: the VM's end, the timeout, signals and keyboard.
//!
//! One subscriber of the event manager owns the descriptors; its handlers are
//! short and never wait.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::exit::ExitReason;
use super::lifecycle::Lifecycle;
use crate::console::Input;
use crate::devices::serial::Serial;
use crate::terminal::{Action, EscapeFilter};

/// Signals that end the VM as the user's wish.
const QUIT_SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// Bytes of input taken at once; the guest's FIFO holds 64.
const INPUT_CHUNK: usize = 256;

/// Why the events of a VM could not be set up.
#[derive(Debug, Error)]
pub enum ControlError {
    /// timerfd.
    #[error("cannot arm the timer of --timeout")]
    Timer(#[source] io::Error),
    /// signalfd.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// eventfd.
    #[error("cannot make an event descriptor")]
    EventFd(#[source] io::Error),
}

/// Which descriptor an event belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Source {
    Ended,
    Timer,
    Signal,
    Keyboard,
    FifoRoom,
}

impl Source {
    fn of(events: Events) -> Option<Self> {
        [
            Self::Ended,
            Self::Timer,
            Self::Signal,
            Self::Keyboard,
            Self::FifoRoom,
        ]
        .into_iter()
        .find(|source| *source as u32 == events.data())
    }
}

/// The way from the user's keyboard (or pipe, or file) to the guest's serial port.
struct Keyboard {
    input: Input,
    /// Present where the input is a terminal: looks for `Ctrl-a`.
    escape: Option<EscapeFilter>,
    /// Bytes on their way to the guest.
    pending: Vec<u8>,
    /// Whether epoll watches the input now.
    watched: bool,
}

/// Everything the main thread waits for.
pub struct Control {
    lifecycle: Arc<Lifecycle>,
    serial: Arc<Mutex<Serial>>,
    fifo_room: Arc<EventFd>,
    timer: Option<OwnedFd>,
    signals: OwnedFd,
    keyboard: Option<Keyboard>,
}

impl Control {
    /// Blocks the signals that end a VM, so that they come as events. Threads
    /// started afterwards inherit that.
    ///
    /// # Errors
    /// [`ControlError`] names what the host refused.
    pub fn new(
        lifecycle: Arc<Lifecycle>,
        serial: Arc<Mutex<Serial>>,
        fifo_room: Arc<EventFd>,
        input: Option<Input>,
        timeout: Option<Duration>,
    ) -> Result<Self, ControlError> {
        let timer = timeout
            .map(arm_timer)
            .transpose()
            .map_err(ControlError::Timer)?;
        Ok(Self {
            lifecycle,
            serial,
            fifo_room,
            timer,
            signals: signal_descriptor().map_err(ControlError::Signals)?,
            keyboard: input.map(Keyboard::new),
        })
    }

    fn lock_serial(serial: &Mutex<Serial>) -> MutexGuard<'_, Serial> {
        serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves input to the guest as long as its FIFO takes it, and watches the
    /// input only while nothing waits.
    fn feed(&mut self, ops: &mut EventOps) {
        let Some(keyboard) = &mut self.keyboard else {
            return;
        };
        loop {
            if !keyboard.pending.is_empty() {
                let taken = Self::lock_serial(&self.serial).enqueue(&keyboard.pending);
                keyboard.pending.drain(..taken.min(keyboard.pending.len()));
            }
            if !keyboard.pending.is_empty() || keyboard.input.is_pollable() {
                break;
            }
            // A regular file: always ready, so read on until the FIFO is full.
            if !keyboard.fill(&self.lifecycle) {
                self.keyboard = None;
                return;
            }
        }
        keyboard.watch(ops, keyboard.pending.is_empty());
    }

    /// The input is readable.
    fn read_keyboard(&mut self, ops: &mut EventOps) {
        let Some(keyboard) = &mut self.keyboard else {
            return;
        };
        if keyboard.fill(&self.lifecycle) {
            self.feed(ops);
        } else {
            keyboard.watch(ops, false);
            self.keyboard = None;
        }
    }

    fn signal(&self) {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        // The descriptor does not block; which signal it was makes no difference.
        if rustix::io::read(&self.signals, &mut info).is_ok() {
            self.lifecycle.end(ExitReason::UserQuit);
        }
    }
}

impl Keyboard {
    fn new(input: Input) -> Self {
        Self {
            escape: input.is_terminal().then(EscapeFilter::default),
            input,
            pending: Vec::with_capacity(INPUT_CHUNK),
            watched: false,
        }
    }

    /// Reads one chunk; false at the end of the input.
    fn fill(&mut self, lifecycle: &Lifecycle) -> bool {
        let mut chunk = [0; INPUT_CHUNK];
        let count = match self.input.read(&mut chunk) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock
                || error.kind() == io::ErrorKind::Interrupted,
        };
        let bytes = chunk.get(..count).unwrap_or_default();
        let Some(escape) = &mut self.escape else {
            self.pending.extend_from_slice(bytes);
            return true;
        };
        for action in escape.feed(bytes, &mut self.pending) {
            match action {
                Action::Quit => lifecycle.end(ExitReason::UserQuit),
                Action::Help => crate::terminal::print_help(),
            }
        }
        true
    }

    /// Adds the input to epoll or takes it out.
    fn watch(&mut self, ops: &mut EventOps, on: bool) {
        if on == self.watched || !self.input.is_pollable() {
            return;
        }
        let fd = self.input.as_raw_fd();
        let events = Events::with_data_raw(fd, Source::Keyboard as u32, EventSet::IN);
        let done = if on { ops.add(events) } else { ops.remove(events) };
        match done {
            Ok(()) => self.watched = on,
            Err(error) => log::warn!("cannot watch the serial input: {error:?}"),
        }
    }
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps) {
        let mut watch = |fd, source: Source| {
            if let Err(error) = ops.add(Events::with_data_raw(fd, source as u32, EventSet::IN)) {
                let message = format!("cannot wait for events: {error:?}");
                self.lifecycle.end(ExitReason::HostError { message });
            }
        };
        watch(self.lifecycle.ended().as_raw_fd(), Source::Ended);
        watch(self.signals.as_raw_fd(), Source::Signal);
        watch(self.fifo_room.as_raw_fd(), Source::FifoRoom);
        if let Some(timer) = &self.timer {
            watch(timer.as_raw_fd(), Source::Timer);
        }
        self.feed(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match Source::of(events) {
            // Whoever waits for it looks at the lifecycle.
            Some(Source::Ended) | None => {}
            Some(Source::Timer) => self.lifecycle.end(ExitReason::Timeout),
            Some(Source::Signal) => self.signal(),
            Some(Source::Keyboard) => self.read_keyboard(ops),
            Some(Source::FifoRoom) => {
                let _ = self.fifo_room.read();
                self.feed(ops);
            }
        }
    }
}

/// A timer that fires once, after `timeout`.
fn arm_timer(timeout: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let once = Itimerspec {
        it_interval: zero,
        it_value: Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(timer)
}

/// Blocks [`QUIT_SIGNALS`] and gives a descriptor that becomes readable when one comes.
fn signal_descriptor() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; the other calls get that set,
    // valid signal numbers and no output pointer; the descriptor that signalfd
    // returns belongs to nobody else.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in QUIT_SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
