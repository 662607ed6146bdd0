//! A guest's driver for the devices' tests: rings in guest memory, chains sound and
//! broken, and an interrupt that is remembered. It shares no code with the device's side.
//!
//! ```ignore
//! let mut driver = Driver::new(&ram, 0x10000, 8);
//! driver.add(&[readable(0x1000, 16), writable(0x2000, 513)]);
//! device.activate(activation(features, &[&driver], &interrupt))?;
//! driver.kick();
//! assert_eq!(driver.wait_used(), (0, 513));
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Activation, ActiveQueue, VirtioInterrupt};
use super::queue::{QueueState, VirtQueue};
use crate::memory::GuestRam;

/// VIRTQ_DESC_F_NEXT.
pub const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const INDIRECT: u16 = 4;
/// VIRTIO_F_RING_INDIRECT_DESC as a feature mask.
pub const F_INDIRECT: u64 = 1 << 28;
/// VIRTIO_F_RING_EVENT_IDX as a feature mask.
pub const F_EVENT_IDX: u64 = 1 << 29;

/// How long a test waits for a device's thread before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    addr: u64,
    len: u32,
    flags: u16,
}

/// A buffer for the device to read.
pub fn readable(addr: u64, len: u32) -> Piece {
    Piece {
        addr,
        len,
        flags: 0,
    }
}

/// A buffer for the device to write.
pub fn writable(addr: u64, len: u32) -> Piece {
    Piece {
        addr,
        len,
        flags: WRITE,
    }
}

/// The driver's side of one queue.
pub struct Driver {
    ram: GuestRam,
    rings: QueueState,
    next_descriptor: u16,
    next_available: u16,
    next_used: u16,
    kick: Arc<EventFd>,
}

impl Driver {
    /// Rings of `size` descriptors from guest-physical `base` on, a multiple of 16.
    pub fn new(ram: &GuestRam, base: u64, size: u16) -> Self {
        let available = base + 16 * u64::from(size);
        // flags, index, ring, used_event; then up to a multiple of 4.
        let used = (available + 2 * u64::from(size) + 6).next_multiple_of(4);
        Self {
            ram: ram.clone(),
            rings: QueueState {
                size,
                ready: true,
                descriptors: base,
                available,
                used,
                next_available: 0,
                next_used: 0,
            },
            next_descriptor: 0,
            next_available: 0,
            next_used: 0,
            kick: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
        }
    }

    /// The queue as the driver has told it to the transport.
    pub fn state(&self) -> QueueState {
        self.rings.clone()
    }

    /// The device's side, fresh.
    pub fn queue(&self, features: u64) -> VirtQueue {
        VirtQueue::new(self.ram.clone(), &self.rings, self.rings.size, features).unwrap()
    }

    /// Writes descriptor `index` of the queue's table.
    pub fn put(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.put_in(self.rings.descriptors, index, addr, len, flags, next);
    }

    /// Writes descriptor `index` of the table at `table`.
    pub fn put_in(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let at = table + 16 * u64::from(index);
        self.ram.write(at, &bytes).unwrap();
    }

    /// Makes a chain available, in the descriptors that come next in the table (round
    /// and round); gives its head.
    pub fn add(&mut self, pieces: &[Piece]) -> u16 {
        let head = self.next_descriptor;
        for (index, piece) in pieces.iter().enumerate() {
            let next = (self.next_descriptor + 1) % self.rings.size;
            let more = if index + 1 < pieces.len() { NEXT } else { 0 };
            let flags = piece.flags | more;
            self.put(self.next_descriptor, piece.addr, piece.len, flags, next);
            self.next_descriptor = next;
        }
        self.offer(head);
        head
    }

    /// Makes a chain available whose descriptors are in a table of their own at `table`.
    pub fn add_indirect(&mut self, table: u64, pieces: &[Piece]) -> u16 {
        for (index, piece) in pieces.iter().enumerate() {
            let more = if index + 1 < pieces.len() { NEXT } else { 0 };
            let index = index as u16;
            let flags = piece.flags | more;
            self.put_in(table, index, piece.addr, piece.len, flags, index + 1);
        }
        let head = self.next_descriptor;
        self.put(head, table, 16 * pieces.len() as u32, INDIRECT, 0);
        self.next_descriptor = (head + 1) % self.rings.size;
        self.offer(head);
        head
    }

    /// Makes the chain from `head` on available, whatever it is.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.rings.size);
        let at = self.rings.available + 4 + 2 * slot;
        self.ram.write(at, &head.to_le_bytes()).unwrap();
        self.set_available_index(self.next_available.wrapping_add(1));
    }

    /// Sets the available ring's index, to where it should be or elsewhere.
    pub fn set_available_index(&mut self, index: u16) {
        self.next_available = index;
        std::sync::atomic::fence(Ordering::SeqCst);
        self.put_word(self.rings.available + 2, index);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Sets the available ring's flags: 1 for no interrupts.
    pub fn set_available_flags(&self, flags: u16) {
        self.put_word(self.rings.available, flags);
    }

    /// Sets `used_event`: the used index after which to interrupt.
    pub fn set_used_event(&self, index: u16) {
        let at = self.rings.available + 4 + 2 * u64::from(self.rings.size);
        self.put_word(at, index);
    }

    /// The used ring's flags: 1 if the device wants no kicks.
    pub fn used_flags(&self) -> u16 {
        self.word(self.rings.used)
    }

    /// The used ring's index.
    pub fn used_index(&self) -> u16 {
        self.word(self.rings.used + 2)
    }

    /// `avail_event`: the available index after which the device wants a kick.
    pub fn available_event(&self) -> u16 {
        self.word(self.rings.used + 4 + 8 * u64::from(self.rings.size))
    }

    /// Tells the device that there is something.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// The next chain that came back: its head and the length written.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        if self.used_index() == self.next_used {
            return None;
        }
        std::sync::atomic::fence(Ordering::SeqCst);
        let slot = u64::from(self.next_used % self.rings.size);
        let mut element = [0; 8];
        self.ram
            .read(self.rings.used + 4 + 8 * slot, &mut element)
            .unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        let (id, len) = element.split_at(4);
        Some((
            u32::from_le_bytes(id.try_into().unwrap()),
            u32::from_le_bytes(len.try_into().unwrap()),
        ))
    }

    /// [`take_used`](Self::take_used), waiting for the device's thread.
    pub fn wait_used(&mut self) -> (u32, u32) {
        let mut used = None;
        wait_until("a chain comes back", || {
            used = self.take_used();
            used.is_some()
        });
        used.unwrap()
    }

    fn word(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.ram.read(at, &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }

    fn put_word(&self, at: u64, value: u16) {
        self.ram.write(at, &value.to_le_bytes()).unwrap();
    }
}

/// What a device is handed for `drivers`, the first of which has queue 0.
pub fn activation(
    features: u64,
    drivers: &[&Driver],
    interrupt: &Arc<TestInterrupt>,
) -> Activation {
    let queue = |(index, driver): (usize, &&Driver)| ActiveQueue {
        index: index as u16,
        rings: driver.queue(features),
        kick: driver.kick.clone(),
    };
    Activation {
        features,
        queues: drivers.iter().enumerate().map(queue).collect(),
        interrupt: interrupt.clone(),
    }
}

/// Waits for what another thread does; fails the test if that takes too long.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// The way to the driver, which keeps what it was told.
pub struct TestInterrupt {
    fd: EventFd,
    config_changes: AtomicUsize,
    broken: AtomicBool,
}

impl TestInterrupt {
    /// Nothing has happened.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            fd: EventFd::new(EFD_NONBLOCK).unwrap(),
            config_changes: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        })
    }

    /// The interrupts since the last call.
    pub fn take(&self) -> u64 {
        self.fd.read().unwrap_or(0)
    }

    /// Waits for an interrupt; gives how many have come since [`take`](Self::take).
    pub fn wait(&self) -> u64 {
        let mut count = 0;
        wait_until("an interrupt comes", || {
            count = self.take();
            count > 0
        });
        count
    }

    /// How often the configuration has changed.
    pub fn config_changes(&self) -> usize {
        self.config_changes.load(Ordering::SeqCst)
    }

    /// Whether the device needs a reset.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

impl VirtioInterrupt for TestInterrupt {
    fn raise(&self, _queue: u16) -> Option<&EventFd> {
        Some(&self.fd)
    }

    fn config_changed(&self) {
        self.config_changes.fetch_add(1, Ordering::SeqCst);
    }

    fn device_broken(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }
}
