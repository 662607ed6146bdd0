//! The entropy device (virtio 1.2 §5.4): the host's random numbers for the guest.
//!
//! The smallest complete virtio device, and so the one to read first:
//!
//! ```text
//!  vCPU thread: activate, reset ─┐ commands, control eventfd   ┌─ getrandom
//!  main thread: pause, resume ───┴──────────► thread `rng` ────┤
//!               ◄─ acknowledged ─────────────   │      ▲       └─ guest memory
//!                                   interrupt ◄─┘      └─ kick eventfd
//! ```
//!
//! Between two requests its thread looks for commands, so that a guest that never
//! stops asking cannot keep it from pausing. A request gets at most [`MOST_BYTES`],
//! which the specification allows (§5.4.6.2): none holds the thread for long. What a
//! guest asks for costs the host one thread's time at most, as a vCPU does.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::control::borrow;
use super::device::{ActivateError, Activation, ActiveQueue, DeviceType};
use super::device::{VirtioDevice, VirtioInterrupt};
use super::queue::{Chain, QueueError};
use crate::memory::GuestRam;

/// Bytes that one request gets at most.
pub const MOST_BYTES: usize = 64 << 10;

/// Descriptors of the one queue, `requestq` (§5.4.2).
const QUEUE_SIZE: u16 = 64;
/// Bytes asked of the host at once.
const PIECE: usize = 4096;

/// The device as the transport sees it.
pub struct Rng {
    commands: Sender<Command>,
    acknowledged: Receiver<()>,
    control: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told; it acknowledges when that is so.
enum Command {
    Serve(ActiveQueue, Arc<dyn VirtioInterrupt>),
    Reset,
    Pause,
    Resume,
    Stop,
}

impl Rng {
    /// Starts the device's thread, which sleeps until there is a request.
    ///
    /// # Errors
    /// What the host says if there is no descriptor or no thread to be had.
    pub fn start() -> io::Result<Self> {
        let control = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let (commands, received) = channel();
        let (acknowledge, acknowledged) = channel();
        let worker = Worker {
            control: control.clone(),
            commands: received,
            acknowledge,
            serving: None,
            paused: false,
            chain: Chain::with_capacity(QUEUE_SIZE),
        };
        let thread = Builder::new()
            .name("rng".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            commands,
            acknowledged,
            control,
            thread: Some(thread),
        })
    }

    /// Tells the thread and waits until it has done so; false if it is no more.
    fn tell(&self, command: Command) -> bool {
        if self.commands.send(command).is_err() {
            return false;
        }
        // A counter that is full wakes the thread as well.
        let _ = self.control.write(1);
        self.acknowledged.recv().is_ok()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    /// None are defined (§5.4.3).
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    /// There is no configuration (§5.4.4).
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().next();
        let queue = queue.ok_or(ActivateError::Queues {
            given: 0,
            needed: 1,
        })?;
        if self.tell(Command::Serve(queue, activation.interrupt)) {
            Ok(())
        } else {
            Err(ActivateError::NoThread)
        }
    }

    fn reset(&mut self) {
        self.tell(Command::Reset);
    }

    fn pause(&mut self) {
        self.tell(Command::Pause);
    }

    fn resume(&mut self) {
        self.tell(Command::Resume);
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The queue while the driver uses the device.
struct Serving {
    queue: ActiveQueue,
    interrupt: Arc<dyn VirtioInterrupt>,
    /// Whether chains may be waiting that no kick will tell of.
    more: bool,
}

/// What the thread has.
struct Worker {
    control: Arc<EventFd>,
    commands: Receiver<Command>,
    acknowledge: Sender<()>,
    serving: Option<Serving>,
    paused: bool,
    chain: Chain,
}

impl Worker {
    /// Serves requests and commands until told to stop.
    fn run(mut self) {
        loop {
            if let Err(error) = self.sleep() {
                log::error!("the entropy device ends: cannot wait for its queue: {error}");
                return;
            }
            while let Ok(command) = self.commands.try_recv() {
                let stop = matches!(command, Command::Stop);
                self.obey(command);
                if self.acknowledge.send(()).is_err() || stop {
                    return;
                }
            }
            if !self.paused {
                self.serve();
            }
        }
    }

    /// Waits for a command or a kick, unless there is something to do already.
    fn sleep(&self) -> io::Result<()> {
        let serving = self.serving.as_ref().filter(|_| !self.paused);
        let kick = serving.map_or(&*self.control, |serving| &*serving.queue.kick);
        let mut fds = [
            PollFd::from_borrowed_fd(borrow(&self.control), PollFlags::IN),
            PollFd::from_borrowed_fd(borrow(kick), PollFlags::IN),
        ];
        let at_once = serving.is_some_and(|serving| serving.more);
        let timeout = at_once.then_some(Timespec::default());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (fd, event) in fds.iter().zip([&*self.control, kick]) {
            if fd.revents().contains(PollFlags::IN) {
                // Readable, and nobody else reads it: this does not wait.
                let _ = event.read();
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Serve(queue, interrupt) => {
                self.serving = Some(Serving {
                    queue,
                    interrupt,
                    more: true,
                });
            }
            Command::Reset | Command::Stop => self.serving = None,
            Command::Pause => self.paused = true,
            Command::Resume => {
                self.paused = false;
                // A kick may have been taken note of just before the pause.
                if let Some(serving) = &mut self.serving {
                    serving.more = true;
                }
            }
        }
    }

    /// Answers the next request. A driver that breaks its queue is told so, and is
    /// served again after a reset.
    fn serve(&mut self) {
        let Some(serving) = &mut self.serving else {
            return;
        };
        if serving.answer_one(&mut self.chain).is_err() {
            serving.interrupt.device_broken();
            self.serving = None;
        }
    }
}

impl Serving {
    fn answer_one(&mut self, chain: &mut Chain) -> Result<(), QueueError> {
        let rings = &mut self.queue.rings;
        if !rings.pop(chain)? {
            self.more = rings.enable_kicks()?;
            return Ok(());
        }
        self.more = true;
        rings.disable_kicks()?;
        let written = fill(chain, rings.ram());
        rings.push_used(chain.head, written)?;
        if rings.needs_interrupt()? {
            self.interrupt.queue_used(self.queue.index);
        }
        Ok(())
    }
}

/// Fills the writable buffers with random bytes, up to [`MOST_BYTES`] or to the first
/// that is not RAM; gives how many.
fn fill(chain: &Chain, ram: &GuestRam) -> u32 {
    let mut bytes = [0; PIECE];
    let mut left = MOST_BYTES;
    for buffer in &chain.writable {
        let mut addr = buffer.addr;
        let mut rest = left.min(buffer.len as usize);
        while rest > 0 {
            let Some(piece) = bytes.get_mut(..rest.min(PIECE)) else {
                break;
            };
            let count = random(piece);
            let written = piece.get(..count).filter(|part| !part.is_empty());
            if written.is_none_or(|part| ram.write(addr, part).is_err()) {
                return count_of(left);
            }
            addr = addr.saturating_add(count as u64);
            rest = rest.saturating_sub(count);
            left = left.saturating_sub(count);
        }
    }
    count_of(left)
}

/// Bytes written when `left` of [`MOST_BYTES`] were not.
fn count_of(left: usize) -> u32 {
    MOST_BYTES.saturating_sub(left) as u32
}

/// Random bytes from the host at the front of `bytes`; gives how many.
fn random(bytes: &mut [u8]) -> usize {
    loop {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(count) => return count,
            Err(Errno::INTR) => {}
            Err(_) => return 0,
        }
    }
}

#[cfg(test)]
#[path = "rng_tests.rs"]
mod tests;
