//! A queue's io_uring: transfers between the disk's file and guest memory, the eventfds
//! that wake the queue's thread, and the eventfd that interrupts the guest.
//!
//! ```text
//!  kick, control, pool ──multishot polls──┐
//!  READ(V), WRITE(V) of guest memory ─────┼─► one io_uring_enter: submits all of
//!  WRITE of the interrupt's eventfd ──────┘   these and sleeps until one completes
//! ```
//!
//! The eventfds are polled and never read: each signal wakes a poll, whatever the
//! counter is at.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use vmm_sys_util::eventfd::EventFd;

use super::counters::BlockCounters;
use super::disk::{Access, Disk, Location};
use super::pool::Returns;
use super::serve::Session;
use super::slots::Request;
use crate::devices::virtio::control::Control;

/// What the kernel takes in one transfer (UIO_MAXIOV).
const MOST_PIECES: usize = 1024;

/// Whose completion it is, in the user data: below this a slot's number.
const FIRST_TOKEN: u64 = 1 << 16;
const KICK: u64 = FIRST_TOKEN;
const CONTROL: u64 = FIRST_TOKEN + 1;
const RETURNS: u64 = FIRST_TOKEN + 2;
const INTERRUPT: u64 = FIRST_TOKEN + 3;
const CANCEL: u64 = FIRST_TOKEN + 4;

/// What is written to an eventfd.
static ONE: u64 = 1;

/// A transfer that has ended: its request, and the bytes moved or `-errno`.
pub type Transferred = (Box<Request>, i32);

/// An eventfd that wakes the thread.
struct Wake {
    token: u64,
    fd: RawFd,
    armed: bool,
}

/// The ring, and the requests the kernel is working on.
pub struct Ring {
    uring: IoUring,
    /// By slot. A request stays here, and its list of pieces unchanged, until its
    /// completion has been seen.
    requests: Box<[Option<Box<Request>>]>,
    in_flight: usize,
    /// Transfers queued since the kernel was last entered.
    fresh: usize,
    wakes: [Wake; 2],
    kick: Option<(Wake, Arc<EventFd>)>,
    /// Whether a write can do without a completion (Linux 5.17).
    quiet_writes: bool,
    /// The last interrupt's eventfd, and whether writing it in the ring never waits.
    interrupt: Option<(RawFd, bool)>,
    counters: Arc<BlockCounters>,
    queue: u16,
    // What the descriptors in the ring belong to.
    _disk: Arc<dyn Disk>,
    _control: Arc<Control<Session>>,
    _returns: Arc<Returns>,
}

/// What a queue's thread waits for, and where it counts its system calls.
#[derive(Clone)]
pub struct Surroundings {
    /// The disk that transfers go to.
    pub disk: Arc<dyn Disk>,
    /// What the device asks of the thread.
    pub control: Arc<Control<Session>>,
    /// What comes back from the pool.
    pub returns: Arc<Returns>,
    /// All queues' counters.
    pub counters: Arc<BlockCounters>,
    /// The queue's number.
    pub queue: u16,
}

impl Ring {
    /// A ring for up to `slots` requests. It is [`enable`](Self::enable)d by the thread
    /// that will use it.
    ///
    /// # Errors
    /// The host has no io_uring, an old one (before Linux 5.13), or does not let us.
    pub fn new(slots: u16, around: Surroundings) -> io::Result<Self> {
        let entries = u32::from(slots).saturating_mul(2).next_power_of_two();
        let uring = build(entries)?;
        let features = uring.params();
        if !features.is_feature_ext_arg() || !features.is_feature_resource_tagging() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let wake = |token, fd: &EventFd| Wake {
            token,
            fd: fd.as_raw_fd(),
            armed: false,
        };
        Ok(Self {
            quiet_writes: features.is_feature_skip_cqe_on_success(),
            requests: (0..slots).map(|_| None).collect(),
            in_flight: 0,
            fresh: 0,
            wakes: [
                wake(CONTROL, around.control.event()),
                wake(RETURNS, around.returns.event()),
            ],
            kick: None,
            interrupt: None,
            counters: around.counters,
            queue: around.queue,
            uring,
            _disk: around.disk,
            _control: around.control,
            _returns: around.returns,
        })
    }

    /// Makes the calling thread the one that uses the ring.
    ///
    /// # Errors
    /// What the host says.
    pub fn enable(&mut self) -> io::Result<()> {
        self.uring.submitter().register_enable_rings()
    }

    /// Wakes the thread at each signal of `kick` from now on.
    pub fn arm(&mut self, kick: &Arc<EventFd>) {
        self.interrupt = None;
        if self.kick.is_none() {
            let wake = Wake {
                token: KICK,
                fd: kick.as_raw_fd(),
                armed: false,
            };
            self.kick = Some((wake, Arc::clone(kick)));
        }
    }

    /// Kicks are no longer waited for; no transfer is in flight.
    ///
    /// # Errors
    /// The ring has failed.
    pub fn disarm(&mut self) -> io::Result<()> {
        let Some((mut wake, kick)) = self.kick.take() else {
            return Ok(());
        };
        if wake.armed {
            // Unlike POLL_REMOVE this works in the midst of a wake-up too.
            let cancel = opcode::AsyncCancel::new(KICK).build().user_data(CANCEL);
            while !self.push(&cancel) {
                self.enter(0, None)?;
            }
            while wake.armed {
                self.enter(1, None)?;
                while let Some(entry) = self.next_completion() {
                    if entry.user_data() == KICK && !cqueue::more(entry.flags()) {
                        wake.armed = false;
                    }
                    self.note_wake(&entry);
                }
            }
        }
        drop(kick);
        Ok(())
    }

    /// Whether `request`'s data can be transferred as they are.
    pub fn takes(request: &Request, place: &Location<'_>) -> bool {
        let align = u64::from(place.align.max(1));
        request.data.iovecs().len() <= MOST_PIECES
            && (align == 1
                || place.offset.is_multiple_of(align)
                    && request.data.is_aligned_to(place.align as usize))
    }

    /// Queues a transfer of all of `request`'s data, of which there are some, which
    /// begins with the next [`enter`](Self::enter). `place` is from this ring's disk.
    ///
    /// # Errors
    /// The request, if the ring has no room.
    pub fn transfer(
        &mut self,
        request: Box<Request>,
        access: Access,
        place: &Location<'_>,
    ) -> Result<(), Box<Request>> {
        let slot = usize::from(request.slot);
        let entry = transfer_entry(&request, access, place);
        match self.requests.get_mut(slot) {
            Some(free @ None) => *free = Some(request),
            _ => return Err(request),
        }
        if !self.push(&entry) {
            let request = self.requests.get_mut(slot).and_then(Option::take);
            return request.map_or(Ok(()), Err);
        }
        self.in_flight = self.in_flight.saturating_add(1);
        self.fresh = self.fresh.saturating_add(1);
        Ok(())
    }

    /// Signals `fd`, by the next [`enter`](Self::enter) if that works without waiting.
    /// Until then the caller keeps it open.
    pub fn interrupt(&mut self, fd: &EventFd) {
        if self.quiet_writes && self.never_waits(fd) {
            let write = opcode::Write::new(Fd(fd.as_raw_fd()), (&raw const ONE).cast(), 8)
                .build()
                .flags(Flags::SKIP_SUCCESS)
                .user_data(INTERRUPT);
            if self.push(&write) {
                return;
            }
        }
        self.count_call();
        // A counter that is full has an interrupt on its way already.
        let _ = fd.write(1);
    }

    /// Transfers that have begun or are queued.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Transfers queued since the last [`enter`](Self::enter).
    pub fn fresh(&self) -> usize {
        self.fresh
    }

    /// Tells the kernel of what is queued, without sleeping; what has ended can be
    /// [reaped](Self::reap) afterwards.
    ///
    /// # Errors
    /// The ring has failed.
    pub fn submit(&mut self) -> io::Result<()> {
        if self.in_flight == 0 && self.uring.submission().is_empty() {
            return Ok(());
        }
        self.enter(0, None)
    }

    /// Tells the kernel of all that is queued, and sleeps until at least `want`
    /// completions or wake-ups have come or `timeout` is over.
    ///
    /// # Errors
    /// The ring has failed. What a later call can mend is no error.
    pub fn enter(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.arm_polls();
        self.fresh = 0;
        self.count_call();
        let entered = match timeout {
            None => self.uring.submit_and_wait(want),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&timeout);
                self.uring.submitter().submit_with_args(want, &args)
            }
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR | libc::ETIME | libc::EBUSY), _)) => Ok(()),
            Err((Some(libc::EAGAIN), _)) => {
                // The host is short of memory; what is queued stays queued.
                std::thread::yield_now();
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    /// Moves the transfers that have ended into `ended`.
    pub fn reap(&mut self, ended: &mut Vec<Transferred>) {
        while let Some(entry) = self.next_completion() {
            if entry.user_data() >= FIRST_TOKEN {
                self.note_wake(&entry);
                continue;
            }
            let slot = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            let request = self.requests.get_mut(slot).and_then(Option::take);
            if let Some(request) = request {
                self.in_flight = self.in_flight.saturating_sub(1);
                ended.push((request, entry.result()));
            }
        }
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.uring.completion().next()
    }

    /// A multishot poll ends when the completion queue overflows.
    fn note_wake(&mut self, entry: &cqueue::Entry) {
        if cqueue::more(entry.flags()) {
            return;
        }
        let kick = self.kick.as_mut().map(|(wake, _)| wake);
        for wake in self.wakes.iter_mut().chain(kick) {
            if wake.token == entry.user_data() {
                wake.armed = false;
            }
        }
    }

    fn arm_polls(&mut self) {
        let kick = self.kick.as_mut().map(|(wake, _)| wake);
        for wake in self.wakes.iter_mut().chain(kick) {
            if !wake.armed {
                let poll = opcode::PollAdd::new(Fd(wake.fd), libc::POLLIN as u32)
                    .multi(true)
                    .build()
                    .user_data(wake.token);
                wake.armed = push(&mut self.uring, &poll);
            }
        }
    }

    fn push(&mut self, entry: &Entry) -> bool {
        push(&mut self.uring, entry)
    }

    fn never_waits(&mut self, fd: &EventFd) -> bool {
        let raw = fd.as_raw_fd();
        if let Some((known, never_waits)) = self.interrupt
            && known == raw
        {
            return never_waits;
        }
        self.count_call();
        // SAFETY: F_GETFL reads the flags of a descriptor, and changes nothing.
        let flags = unsafe { libc::fcntl(raw, libc::F_GETFL) };
        let never_waits = flags >= 0 && flags & libc::O_NONBLOCK != 0;
        self.interrupt = Some((raw, never_waits));
        never_waits
    }

    fn count_call(&self) {
        if let Some(counters) = self.counters.queue(self.queue) {
            counters.system_call();
        }
    }
}

impl Drop for Ring {
    /// Waits for the kernel to finish with guest memory.
    fn drop(&mut self) {
        let mut ended = Vec::new();
        while self.in_flight > 0 {
            if self.enter(1, None).is_err() {
                // Nobody knows when the kernel is done, so what it works on stays for good.
                std::mem::forget(std::mem::take(&mut self.requests));
                return;
            }
            self.reap(&mut ended);
        }
    }
}

/// A ring that is quiet until the thread enters it (Linux 6.1), or one as it has always
/// been.
fn build(entries: u32) -> io::Result<IoUring> {
    let quiet = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_r_disabled()
        .build(entries);
    match quiet {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_r_disabled().build(entries)
        }
        built => built,
    }
}

fn push(uring: &mut IoUring, entry: &Entry) -> bool {
    // SAFETY: entries are made in this file. Transfers point to lists of pieces, or to a
    // piece, of a request that `Ring::requests` keeps until its completion is seen
    // (`reap`, `drop`), and that nobody changes there; the lists are on the heap and
    // stay where they are if the request's owner moves. The pieces lie in guest memory,
    // which the list keeps mapped. All other entries point to nothing, or to a static.
    unsafe { uring.submission().push(entry).is_ok() }
}

fn transfer_entry(request: &Request, access: Access, place: &Location<'_>) -> Entry {
    let (fd, offset) = (Fd(place.file.as_raw_fd()), place.offset);
    let pieces = request.data.iovecs();
    let one = match pieces {
        [piece] => u32::try_from(piece.iov_len).ok().map(|len| (piece, len)),
        _ => None,
    };
    // No more than `MOST_PIECES`.
    let count = u32::try_from(pieces.len()).unwrap_or(0);
    let entry = match (access, one) {
        (Access::Read, Some((piece, len))) => {
            let base = piece.iov_base.cast();
            opcode::Read::new(fd, base, len).offset(offset).build()
        }
        (Access::Write, Some((piece, len))) => {
            let base = piece.iov_base.cast_const().cast();
            opcode::Write::new(fd, base, len).offset(offset).build()
        }
        (Access::Read, None) => {
            let entry = opcode::Readv::new(fd, pieces.as_ptr(), count);
            entry.offset(offset).build()
        }
        (Access::Write, None) => {
            let entry = opcode::Writev::new(fd, pieces.as_ptr(), count);
            entry.offset(offset).build()
        }
    };
    entry.user_data(u64::from(request.slot))
}
