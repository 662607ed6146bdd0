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

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::panic_watch::PanicWatch;
use super::patient::{self, Patience};
use super::ring::Ring;

/// How many bytes wait for a reader at most: 1 MiB, hours of a quiet guest.
pub const RING_SIZE: usize = 1 << 20;

/// How long the writer looks away between two looks at a ring that was just in use.
const NAP: Duration = Duration::from_millis(1);

/// After how many naps in vain the writer sleeps until it is woken.
const NAPS_BEFORE_SLEEP: u32 = 20;

/// What the two ends share.
#[derive(Debug)]
struct Shared {
    ring: Ring,
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
    writer: Option<Thread>,
}

/// The VM's end: what became of the bytes.
#[derive(Debug)]
pub struct Output {
    shared: Arc<Shared>,
    writer: Option<Thread>,
    /// Disconnected when the writer has ended.
    ended: Option<Receiver<()>>,
}

/// How the output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Bytes that the target did not take.
    pub lost: u64,
    /// Whether the target's last line is unfinished, as far as is known.
    pub line_open: bool,
}

/// Output that goes nowhere; what is sent is still watched.
pub fn discard() -> (OutputWriter, Output) {
    pair(Arc::new(Shared::new(1)), None, None)
}

/// Output to `target` through a ring of `capacity` bytes.
///
/// # Errors
/// When the host gives no thread.
pub fn start(target: OwnedFd, capacity: usize) -> io::Result<(OutputWriter, Output)> {
    let shared = Arc::new(Shared::new(capacity));
    let (alive, ended) = channel();
    let worker = Worker {
        shared: Arc::clone(&shared),
        target,
        _alive: alive,
    };
    let handle = thread::Builder::new()
        .name("serial-out".to_owned())
        .spawn(move || worker.run())?;
    Ok(pair(shared, Some(handle.thread().clone()), Some(ended)))
}

fn pair(
    shared: Arc<Shared>,
    writer: Option<Thread>,
    ended: Option<Receiver<()>>,
) -> (OutputWriter, Output) {
    let guest_end = OutputWriter {
        shared: Arc::clone(&shared),
        watch: PanicWatch::default(),
        writer: writer.clone(),
    };
    let vm_end = Output {
        shared,
        writer,
        ended,
    };
    (guest_end, vm_end)
}

impl Shared {
    fn new(capacity: usize) -> Self {
        Self {
            ring: Ring::new(capacity),
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
        let Some(writer) = &self.writer else {
            return;
        };
        self.shared
            .pushed
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.shared.ring.put(bytes);
        // A ring that fills up ends the writer's nap; unpark makes a system
        // call only if the writer does wait.
        let crowded = self.shared.ring.len() >= self.shared.ring.capacity() / 2;
        if crowded || self.shared.asleep.load(Ordering::SeqCst) {
            writer.unpark();
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
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
        let complete = self
            .ended
            .as_ref()
            .is_none_or(|ended| wait(shared, ended, patience));
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
fn wait(shared: &Shared, ended: &Receiver<()>, patience: Patience) -> bool {
    let deadline = Instant::now() + patience.total;
    loop {
        let before = shared.progress.load(Ordering::Acquire);
        let left = deadline.saturating_duration_since(Instant::now());
        match ended.recv_timeout(patience.stall.min(left)) {
            Err(RecvTimeoutError::Timeout) => {
                let stalled = shared.progress.load(Ordering::Acquire) == before;
                if stalled || Instant::now() >= deadline {
                    return false;
                }
            }
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return true,
        }
    }
}

/// The writer thread.
struct Worker {
    shared: Arc<Shared>,
    target: OwnedFd,
    /// Dropped when the thread ends, however it ends.
    _alive: Sender<()>,
}

impl Worker {
    fn run(self) {
        let piece = patient::piece_size(&self.target);
        let mut buffer = [0; patient::PIECE_MAX];
        let buffer = buffer.get_mut(..piece).unwrap_or_default();
        let mut target_gone = false;
        let mut naps = 0;
        loop {
            // Read before the ring, so that what was pushed before closing is seen.
            let closing = self.shared.closing.load(Ordering::SeqCst);
            let count = self.shared.ring.take(buffer);
            if self.shared.abandoned.load(Ordering::Acquire) {
                return;
            }
            if count > 0 {
                naps = 0;
                let bytes = buffer.get(..count).unwrap_or_default();
                target_gone = target_gone || self.write(bytes).is_err();
                self.shared.progress.fetch_add(1, Ordering::Release);
            } else if closing {
                return;
            }
            if count < piece && !closing {
                self.rest(&mut naps);
            }
        }
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let given_up = || self.shared.abandoned.load(Ordering::Acquire);
            let count = patient::write_some(&self.target, bytes, given_up)?;
            let (written, rest) = bytes.split_at_checked(count).unwrap_or((bytes, &[]));
            if let Some(last) = written.last() {
                self.shared.last_byte.store(*last, Ordering::Release);
            }
            self.shared
                .written
                .fetch_add(count as u64, Ordering::Release);
            self.shared.progress.fetch_add(1, Ordering::Release);
            bytes = rest;
        }
        Ok(())
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
        self.shared.asleep.store(true, Ordering::SeqCst);
        if self.shared.ring.is_empty() && !self.shared.closing.load(Ordering::SeqCst) {
            thread::park();
        }
        self.shared.asleep.store(false, Ordering::SeqCst);
        *naps = 0;
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
