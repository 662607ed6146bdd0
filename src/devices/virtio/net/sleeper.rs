//! How a queue pair's thread sleeps: in epoll, with one system call a wake-up.
//!
//! Sources are edge-triggered: an eventfd is never read, and a link's descriptor is told
//! of once, whatever is left there. Who is told of something has to remember it. Only
//! news of the link's state are told of until they are taken.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::control::borrow;

/// Sources there are.
const SOURCES: usize = 6;
/// After that long without a look at the sources they are due for one, whatever the
/// rings are busy with.
const STALE: Duration = Duration::from_micros(50);

/// What wakes the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Source {
    /// A command, or something to look at anew.
    Control = 0,
    /// The driver has made buffers for frames available.
    ReceiveKick = 1,
    /// The driver has frames to be sent.
    TransmitKick = 2,
    /// The driver has a command for the device.
    ControlKick = 3,
    /// The link.
    Port = 4,
    /// The link's state.
    Watch = 5,
}

/// What has woken the thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// See [`Source::Control`].
    pub control: bool,
    /// See [`Source::ReceiveKick`].
    pub receive_kick: bool,
    /// See [`Source::TransmitKick`].
    pub transmit_kick: bool,
    /// See [`Source::ControlKick`].
    pub control_kick: bool,
    /// A frame may wait, or the link may be gone.
    pub readable: bool,
    /// A frame may be sent again, or the link may be gone.
    pub writable: bool,
    /// The link may be gone.
    pub failed: bool,
    /// See [`Source::Watch`].
    pub watch: bool,
}

impl Woken {
    fn note(&mut self, event: &Event) {
        let failed = EventFlags::ERR | EventFlags::HUP;
        // Copied: the kernel's structure is packed.
        let (data, flags) = (event.data, event.flags);
        match data.u64() {
            source if source == Source::Control as u64 => self.control = true,
            source if source == Source::ReceiveKick as u64 => self.receive_kick = true,
            source if source == Source::TransmitKick as u64 => self.transmit_kick = true,
            source if source == Source::ControlKick as u64 => self.control_kick = true,
            source if source == Source::Port as u64 => {
                let readable = EventFlags::IN | EventFlags::RDHUP | failed;
                self.readable = flags.intersects(readable);
                self.writable = flags.intersects(EventFlags::OUT | failed);
                self.failed = flags.intersects(failed);
            }
            _ => self.watch = true,
        }
    }

    /// Whether it was the driver with frames or buffers, and nothing else.
    pub fn by_frames_of_the_driver(&self) -> bool {
        let kicks = Self {
            receive_kick: self.receive_kick,
            transmit_kick: self.transmit_kick,
            ..Self::default()
        };
        *self == kicks && *self != Self::default()
    }
}

/// The sources of one thread.
pub struct Sleeper {
    epoll: OwnedFd,
    /// When they were last looked at.
    looked: Instant,
    /// Whether the link is asked to tell when it is writable.
    wants_writable: bool,
    calls: u64,
}

impl Sleeper {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            looked: Instant::now(),
            wants_writable: false,
            calls: 0,
        })
    }

    /// System calls made so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Counts a system call that the thread has made elsewhere.
    pub fn count_call(&mut self) {
        self.calls = self.calls.wrapping_add(1);
    }

    /// Wakes the thread when `fd` becomes readable from now on.
    ///
    /// # Errors
    /// The host's.
    pub fn add(&mut self, source: Source, fd: impl AsFd) -> io::Result<()> {
        self.count_call();
        let flags = match source {
            Source::Watch => EventFlags::IN,
            _ => flags(false),
        };
        epoll::add(&self.epoll, fd, data(source), flags)?;
        Ok(())
    }

    /// Wakes the thread at each signal of `event` from now on.
    ///
    /// # Errors
    /// The host's.
    pub fn add_event(&mut self, source: Source, event: &EventFd) -> io::Result<()> {
        self.add(source, borrow(event))
    }

    /// Signals of `event` are no longer waited for.
    ///
    /// # Errors
    /// The host's.
    pub fn remove_event(&mut self, event: &EventFd) -> io::Result<()> {
        self.count_call();
        match epoll::delete(&self.epoll, borrow(event)) {
            // It was not waited for, or twice was it that it is not.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the thread is to be woken when the link at `fd` is writable. Not being
    /// so any more takes effect when it has been woken in vain: a link that is full
    /// once is so again.
    ///
    /// # Errors
    /// The host's.
    pub fn want_writable(&mut self, fd: impl AsFd, wants: bool) -> io::Result<()> {
        if self.wants_writable == wants {
            return Ok(());
        }
        self.count_call();
        epoll::modify(&self.epoll, fd, data(Source::Port), flags(wants))?;
        self.wants_writable = wants;
        Ok(())
    }

    /// Whether it is time to look at the sources, if only for a moment.
    pub fn is_stale(&self) -> bool {
        self.looked.elapsed() >= STALE
    }

    /// Sleeps until something happens or `timeout` is over.
    ///
    /// # Errors
    /// The host's.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Woken> {
        // One that is too long to be told is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.count_call();
        let mut events = [MaybeUninit::<Event>::uninit(); SOURCES];
        let mut woken = Woken::default();
        match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events.iter().for_each(|event| woken.note(event)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.looked = Instant::now();
        Ok(woken)
    }

    /// When the last look at the sources was over.
    pub fn looked(&self) -> Instant {
        self.looked
    }
}

fn data(source: Source) -> EventData {
    EventData::new_u64(source as u64)
}

fn flags(writable: bool) -> EventFlags {
    let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    match writable {
        true => flags | EventFlags::OUT,
        false => flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn an_event_wakes_once_each_time_it_is_signalled_though_nobody_reads_it() {
        let mut sleeper = Sleeper::new().unwrap();
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        sleeper.add_event(Source::TransmitKick, &event).unwrap();
        let kicked = Woken {
            transmit_kick: true,
            ..Woken::default()
        };
        for _ in 0..3 {
            event.write(1).unwrap();
            assert_eq!(sleeper.wait(None).unwrap(), kicked);
            assert_eq!(sleeper.wait(AT_ONCE).unwrap(), Woken::default());
        }
        assert!(kicked.by_frames_of_the_driver());
        sleeper.remove_event(&event).unwrap();
        sleeper.remove_event(&event).unwrap();
        event.write(1).unwrap();
        assert_eq!(sleeper.wait(AT_ONCE).unwrap(), Woken::default());
        // 1 to add, 7 waits, 2 to remove.
        assert_eq!(sleeper.calls(), 10);
    }

    #[test]
    fn a_link_tells_of_frames_and_of_room_if_asked() {
        let mut sleeper = Sleeper::new().unwrap();
        let (mut port, mut far) = UnixStream::pair().unwrap();
        sleeper.add(Source::Port, &port).unwrap();
        assert_eq!(sleeper.wait(AT_ONCE).unwrap(), Woken::default());
        far.write_all(b"x").unwrap();
        let woken = sleeper.wait(None).unwrap();
        assert!(woken.readable && !woken.writable);
        assert!(!woken.by_frames_of_the_driver());
        port.read_exact(&mut [0]).unwrap();
        sleeper.want_writable(&port, true).unwrap();
        let woken = sleeper.wait(None).unwrap();
        assert!(woken.writable && !woken.readable);
        sleeper.want_writable(&port, false).unwrap();
        drop(far);
        let woken = sleeper.wait(None).unwrap();
        assert!(woken.writable && woken.readable && woken.failed);
        assert_eq!(sleeper.wait(AT_ONCE).unwrap(), Woken::default());
    }

    #[test]
    fn a_wait_ends_in_time() {
        let mut sleeper = Sleeper::new().unwrap();
        let start = Instant::now();
        let woken = sleeper.wait(Some(Duration::from_millis(5))).unwrap();
        assert_eq!(woken, Woken::default());
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert!(!sleeper.is_stale() || sleeper.looked().elapsed() >= STALE);
        std::thread::sleep(STALE);
        assert!(sleeper.is_stale());
    }
}
