//! Serial output: from the vCPU thread through a bounded ring to a thread that
//! may wait for its reader.
//!
//! ```text
//!  vCPU thread: OutputWriter::push ─► ring ─► writer thread ─► stdout, file, pty
//!                     never waits                  waits for the reader
//! ```
//!
//! What does not fit while the reader stalls is dropped and counted. The writer
//! is woken by a system call only when it has slept: after each piece it naps a
//! moment and looks again, so that a guest that prints character by character
//! pays for one wake-up a burst.
//!
//! The writer is started when the VM has lived for a moment ([`Output::start_writer`])
//! or has much to say. What a VM says that is over sooner is written at its end
//! ([`Output::finish`]), without a thread.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::descriptor::Descriptor;
use super::panic_watch::PanicWatch;
use super::patient::{self, Patience};
use super::ring::Ring;

/// How many bytes wait for a reader at most: 1 MiB, hours of a quiet guest.
pub const RING_SIZE: usize = 1 << 20;

/// How long the writer looks away between two looks at a ring that was just in use.
const NAP: Duration = Duration::from_millis(1);

/// After how many naps in vain the writer sleeps until it is woken.
const NAPS_BEFORE_SLEEP: u32 = 20;

/// The writer's stack in bytes; a piece of output is the largest thing on it.
const STACK_SIZE: usize = 128 << 10;

/// What the two ends and the writer share.
#[derive(Debug)]
struct Shared {
    ring: Ring,
    /// Whether there is a target: without one, what is sent is only watched.
    kept: bool,
    /// The target, until whoever writes takes it.
    target: Mutex<Option<Descriptor>>,
    /// The writer, once it has been started.
    writer: OnceLock<Thread>,
    /// The writer has ended.
    ended: Mutex<bool>,
    /// Told of `ended`.
    end: Condvar,
    /// The writer sleeps, or is about to: whoever has news must wake it.
    asleep: AtomicBool,
    /// No more bytes will come: write what waits and end.
    closing: AtomicBool,
    /// Nobody waits for the rest any more: end without writing it.
    abandoned: AtomicBool,
    /// Bytes the guest has sent.
    pushed: AtomicU64,
    /// Bytes the target has taken.
    written: AtomicU64,
    /// Steps of the writer: bytes written, or given up on a target that is gone.
    progress: AtomicU64,
    /// The last byte that the target took.
    last_byte: AtomicU8,
    first_byte: OnceLock<Instant>,
    panicked: AtomicBool,
}

/// The guest's end: takes bytes at once, always.
#[derive(Debug)]
pub struct OutputWriter {
    shared: Arc<Shared>,
    watch: PanicWatch,
}

/// The VM's end: what became of the bytes.
#[derive(Debug)]
pub struct Output {
    shared: Arc<Shared>,
}

/// How the output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Bytes that the target did not take.
    pub lost: u64,
    /// Whether the target's last line is unfinished, as far as is known.
    pub line_open: bool,
}

impl Shared {
    fn new(target: Option<Descriptor>, capacity: usize) -> Self {
        Self {
            ring: Ring::new(capacity),
            kept: target.is_some(),
            target: Mutex::new(target),
            writer: OnceLock::new(),
            ended: Mutex::new(false),
            end: Condvar::new(),
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            pushed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            last_byte: AtomicU8::new(b'\n'),
            first_byte: OnceLock::new(),
            panicked: AtomicBool::new(false),
        }
    }

    /// Starts the writer, if there is work for one and it is not there yet.
    fn start_writer(self: &Arc<Self>) -> io::Result<()> {
        let target = lock(&self.target);
        if target.is_none() || self.writer.get().is_some() {
            return Ok(());
        }
        let worker = Worker(self.clone());
        let handle = thread::Builder::new()
            .name("serial-out".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || worker.run())?;
        // It is empty: only this sets it, and under the lock.
        let _ = self.writer.set(handle.thread().clone());
        Ok(())
    }

    /// Writes a piece, as long as `given_up` of the moment in which the target
    /// took something last says no.
    fn write(
        &self,
        target: &Descriptor,
        mut bytes: &[u8],
        given_up: impl Fn(Instant) -> bool,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let since = Instant::now();
            let count = patient::write_some(target, bytes, || given_up(since))?;
            let (written, rest) = bytes.split_at_checked(count).unwrap_or((bytes, &[]));
            if let Some(last) = written.last() {
                self.last_byte.store(*last, Ordering::Release);
            }
            self.written.fetch_add(count as u64, Ordering::Release);
            self.progress.fetch_add(1, Ordering::Release);
            bytes = rest;
        }
        Ok(())
    }

    /// Writes what is in the ring on the calling thread. False when patience ran
    /// out; a target that is gone takes nothing more, and that is an end too.
    fn write_rest(&self, target: &Descriptor, patience: Patience) -> bool {
        let deadline = Instant::now() + patience.total;
        let mut buffer = [0; patient::PIECE_MAX];
        let buffer = buffer
            .get_mut(..patient::piece_size(target))
            .unwrap_or_default();
        loop {
            let count = self.ring.take(buffer);
            if count == 0 {
                return true;
            }
            let bytes = buffer.get(..count).unwrap_or_default();
            let given_up =
                |since: Instant| since.elapsed() >= patience.stall || Instant::now() >= deadline;
            if let Err(error) = self.write(target, bytes, given_up) {
                return error.kind() != io::ErrorKind::TimedOut;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OutputWriter {
    /// Takes the next bytes. Never waits; what does not fit is lost and counted.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.shared.first_byte.get_or_init(Instant::now);
        if self.watch.feed(bytes) {
            self.shared.panicked.store(true, Ordering::Release);
        }
        if !self.shared.kept {
            return;
        }
        self.shared
            .pushed
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.shared.ring.put(bytes);
        let crowded = self.shared.ring.len() >= self.shared.ring.capacity() / 2;
        match self.shared.writer.get() {
            // A ring that fills up ends the writer's nap; unpark makes a system
            // call only if the writer does wait.
            Some(writer) if crowded || self.shared.asleep.load(Ordering::SeqCst) => {
                writer.unpark();
            }
            // Where that fails, the VM's end tries too, and tells.
            None if crowded => drop(self.shared.start_writer()),
            _ => {}
        }
    }
}

impl io::Write for OutputWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    /// Output that goes nowhere; what is sent is still watched.
    pub fn discard() -> Self {
        Self {
            shared: Arc::new(Shared::new(None, 1)),
        }
    }

    /// Output to `target` through a ring of `capacity` bytes.
    pub fn to(target: impl Into<Descriptor>, capacity: usize) -> Self {
        Self {
            shared: Arc::new(Shared::new(Some(target.into()), capacity)),
        }
    }

    /// The guest's end. There is to be one at a time: that of a machine that starts
    /// anew takes the place of the one before.
    pub fn writer(&self) -> OutputWriter {
        OutputWriter {
            shared: self.shared.clone(),
            watch: PanicWatch::default(),
        }
    }

    /// Starts the thread that writes, unless it runs or nothing is to be written.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn start_writer(&self) -> io::Result<()> {
        self.shared.start_writer()
    }

    /// When the guest sent its first byte.
    pub fn first_byte(&self) -> Option<Instant> {
        self.shared.first_byte.get().copied()
    }

    /// Whether the guest has printed that its kernel panicked.
    pub fn panic_seen(&self) -> bool {
        self.shared.panicked.load(Ordering::Acquire)
    }

    /// Waits until the target has taken everything, for as long as it takes
    /// something now and then and `patience` lasts. To be called when the guest
    /// runs no more.
    pub fn finish(self, patience: Patience) -> Finished {
        let shared = &self.shared;
        shared.closing.store(true, Ordering::SeqCst);
        let complete = match shared.writer.get() {
            Some(writer) => {
                writer.unpark();
                wait(shared, patience)
            }
            None => match lock(&shared.target).take() {
                Some(target) => shared.write_rest(&target, patience),
                None => true,
            },
        };
        shared.abandoned.store(true, Ordering::Release);
        let written = shared.written.load(Ordering::Acquire);
        let lost = shared
            .pushed
            .load(Ordering::Acquire)
            .saturating_sub(written);
        let mid_line = shared.last_byte.load(Ordering::Acquire) != b'\n';
        Finished {
            lost,
            line_open: mid_line || !complete,
        }
    }
}

/// Whether the writer ended by itself.
fn wait(shared: &Shared, patience: Patience) -> bool {
    let deadline = Instant::now() + patience.total;
    let mut ended = lock(&shared.ended);
    while !*ended {
        let before = shared.progress.load(Ordering::Acquire);
        let left = deadline.saturating_duration_since(Instant::now());
        let (guard, waited) = shared
            .end
            .wait_timeout(ended, patience.stall.min(left))
            .unwrap_or_else(PoisonError::into_inner);
        ended = guard;
        if waited.timed_out() && !*ended {
            let stalled = shared.progress.load(Ordering::Acquire) == before;
            if stalled || Instant::now() >= deadline {
                return false;
            }
        }
    }
    true
}

/// The writer's thread.
struct Worker(Arc<Shared>);

impl Drop for Worker {
    /// It ends, however it ends.
    fn drop(&mut self) {
        *lock(&self.0.ended) = true;
        self.0.end.notify_all();
    }
}

impl Worker {
    fn run(self) {
        let shared = &*self.0;
        let Some(target) = lock(&shared.target).take() else {
            return;
        };
        let piece = patient::piece_size(&target);
        let mut buffer = [0; patient::PIECE_MAX];
        let buffer = buffer.get_mut(..piece).unwrap_or_default();
        let given_up = |_| shared.abandoned.load(Ordering::Acquire);
        let mut target_gone = false;
        let mut naps = 0;
        loop {
            // Read before the ring, so that what was pushed before closing is seen.
            let closing = shared.closing.load(Ordering::SeqCst);
            let count = shared.ring.take(buffer);
            if shared.abandoned.load(Ordering::Acquire) {
                return;
            }
            if count > 0 {
                naps = 0;
                let bytes = buffer.get(..count).unwrap_or_default();
                target_gone = target_gone || shared.write(&target, bytes, given_up).is_err();
                shared.progress.fetch_add(1, Ordering::Release);
            } else if closing {
                return;
            }
            if count < piece && !closing {
                self.rest(&mut naps);
            }
        }
    }

    /// Naps while the guest is printing, sleeps when it has fallen silent.
    fn rest(&self, naps: &mut u32) {
        if *naps < NAPS_BEFORE_SLEEP {
            *naps = naps.saturating_add(1);
            thread::park_timeout(NAP);
            return;
        }
        // The putter stores to the ring and then looks at the flag, the taker
        // stores the flag and then looks at the ring, all sequentially
        // consistent: one of them sees the other, so no byte is slept through.
        self.0.asleep.store(true, Ordering::SeqCst);
        if self.0.ring.is_empty() && !self.0.closing.load(Ordering::SeqCst) {
            thread::park();
        }
        self.0.asleep.store(false, Ordering::SeqCst);
        *naps = 0;
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
