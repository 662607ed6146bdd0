//! What the tests of the block device share: a disk that can be slow, fail and tell what
//! was asked of it, and a guest that uses the device.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::device::{Block, BlockOptions, Engine};
use super::disk::{Access, Disk, DiskLimits, Location};
use crate::devices::virtio::device::VirtioDevice;
use crate::devices::virtio::rate_limiter::RateLimits;
use crate::devices::virtio::testing::{
    Driver, TestInterrupt, activation, readable, wait_until, writable,
};
use crate::memory::{GuestRam, IoBuffers};

/// VIRTIO_BLK_F_FLUSH and VIRTIO_BLK_F_CONFIG_WCE as feature masks (virtio 1.2 §5.2.3).
pub const F_FLUSH: u64 = 1 << 9;
pub const F_CONFIG_WCE: u64 = 1 << 11;

/// Request types (§5.2.6).
pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;

/// Status bytes (§5.2.6), and what is there before an answer.
pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;
pub const NONE: u8 = 0xee;

/// Both ways to the host.
pub const ENGINES: [Engine; 2] = [Engine::IoUring, Engine::Threads];

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Read(u64),
    Write(u64),
    Written(u64, u64),
    Flush,
    Discard(u64, u64),
    WriteZeroes(u64, u64, bool),
}

/// How a disk behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways {
    /// Whether transfers may go to the file itself, and with what alignment.
    pub located: Option<u32>,
    pub in_memory: bool,
    pub panics: bool,
}

/// A disk in an unlinked file.
pub struct TestDisk {
    pub file: File,
    pub ways: Ways,
    len: u64,
    asked: Mutex<Vec<Asked>>,
    /// Errno of every call from now on.
    pub fails: AtomicI32,
    closed: Mutex<bool>,
    opened: Condvar,
    pub is_waiting: AtomicBool,
}

impl TestDisk {
    pub fn new(len: u64, ways: Ways) -> Arc<Self> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        Self::in_file(file, len, ways)
    }

    pub fn in_file(file: File, len: u64, ways: Ways) -> Arc<Self> {
        Arc::new(Self {
            file,
            ways,
            len,
            asked: Mutex::default(),
            fails: AtomicI32::new(0),
            closed: Mutex::new(false),
            opened: Condvar::new(),
            is_waiting: AtomicBool::new(false),
        })
    }

    /// All that was asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Calls wait from now on, or no longer.
    pub fn close(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }

    fn ask(&self, what: Asked) -> io::Result<()> {
        assert!(
            !self.ways.panics,
            "the disk's code fails, as the test wants"
        );
        let mut closed = self.closed.lock().unwrap();
        while *closed {
            self.is_waiting.store(true, Ordering::SeqCst);
            closed = self.opened.wait(closed).unwrap();
        }
        drop(closed);
        self.is_waiting.store(false, Ordering::SeqCst);
        self.asked.lock().unwrap().push(what);
        match self.fails.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Disk for TestDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn limits(&self) -> DiskLimits {
        DiskLimits {
            read_only: false,
            physical_block: 4096,
            discard: true,
        }
    }

    fn read_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()> {
        self.ask(Asked::Read(offset))?;
        let mut data = vec![0; buffers.len()];
        self.file.read_exact_at(&mut data, offset)?;
        assert!(buffers.copy_in(0, &data));
        Ok(())
    }

    fn write_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()> {
        self.ask(Asked::Write(offset))?;
        let mut data = vec![0; buffers.len()];
        assert!(buffers.copy_out(0, &mut data));
        self.file.write_all_at(&data, offset)
    }

    fn locate(&self, _access: Access, offset: u64, _len: u64) -> Option<Location<'_>> {
        self.ways.located.map(|align| Location {
            file: self.file.as_fd(),
            offset,
            align,
            in_memory: self.ways.in_memory,
        })
    }

    fn written(&self, offset: u64, len: u64) {
        self.asked.lock().unwrap().push(Asked::Written(offset, len));
        assert!(
            !self.ways.panics,
            "the disk's code fails, as the test wants"
        );
    }

    fn flush(&self) -> io::Result<()> {
        self.ask(Asked::Flush)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.ask(Asked::Discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.ask(Asked::WriteZeroes(offset, len, unmap))
    }
}

/// Bytes of RAM: rings, headers and status bytes in the first MiB, data from there on.
pub const RAM: u64 = 32 << 20;
const HEADERS: u64 = 0x8_0000;
const STATUSES: u64 = 0x9_0000;
pub const DATA: u64 = 1 << 20;
/// Bytes from one request's data to the next one's.
pub const STRIDE: u64 = 64 << 10;
/// Requests with data of their own.
const PLACES: u64 = 256;

/// A guest with a disk.
pub struct Guest {
    pub block: Block,
    pub ram: GuestRam,
    pub drivers: Vec<Driver>,
    pub interrupt: Arc<TestInterrupt>,
    next: u64,
}

/// Where a request's parts are.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub head: u16,
    pub status: u64,
    pub data: u64,
}

impl Guest {
    /// A guest whose driver has agreed on `features`.
    pub fn new(disk: Arc<dyn Disk>, engine: Engine, features: u64) -> Self {
        Self::with(disk, engine, features, 1, RateLimits::default())
    }

    pub fn with(
        disk: Arc<dyn Disk>,
        engine: Engine,
        features: u64,
        queues: u16,
        limits: RateLimits,
    ) -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        let mut serial = [0; 20];
        serial[..6].copy_from_slice(b"MAYFLY");
        let options = BlockOptions {
            queues,
            engine,
            serial,
            limits,
        };
        let block = Block::start(disk, ram.clone(), options, "vdt").unwrap();
        let mut guest = Self {
            block,
            ram,
            drivers: Vec::new(),
            interrupt: TestInterrupt::new(),
            next: 0,
        };
        guest.activate(features);
        guest
    }

    /// Sets fresh queues up and lets the device begin.
    pub fn activate(&mut self, features: u64) {
        let queues = self.block.queue_sizes().len() as u64;
        let driver = |index| Driver::new(&self.ram, 0x1000 + index * 0x8000, 256);
        self.ram.zero(0x1000, 0x7_0000).unwrap();
        self.drivers = (0..queues).map(driver).collect();
        let drivers: Vec<&Driver> = self.drivers.iter().collect();
        let activation = activation(features, &drivers, &self.interrupt);
        self.block.activate(activation).unwrap();
    }

    /// Makes a request of `len` bytes of data available on queue 0.
    pub fn send(&mut self, kind: u32, sector: u64, len: u32) -> Sent {
        self.send_on(0, kind, sector, len)
    }

    pub fn send_on(&mut self, queue: usize, kind: u32, sector: u64, len: u32) -> Sent {
        let place = self.next % PLACES;
        self.next += 1;
        let (header, status) = (HEADERS + 16 * place, STATUSES + place);
        let data = DATA + STRIDE * place;
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        self.ram.write(header, &bytes).unwrap();
        self.ram.write(status, &[NONE]).unwrap();
        let data_piece = match kind {
            IN | GET_ID => writable(data, len),
            _ => readable(data, len),
        };
        let (first, last) = (readable(header, 16), writable(status, 1));
        let head = match len {
            0 => self.drivers[queue].add(&[first, last]),
            _ => self.drivers[queue].add(&[first, data_piece, last]),
        };
        Sent { head, status, data }
    }

    /// Sends and kicks.
    pub fn begin(&mut self, kind: u32, sector: u64, len: u32) -> Sent {
        let sent = self.send(kind, sector, len);
        self.drivers[0].kick();
        sent
    }

    /// Waits for one request, which is the only one; gives its status and used length.
    pub fn end(&mut self, sent: Sent) -> (u8, u32) {
        let (head, len) = self.drivers[0].wait_used();
        assert_eq!(head, u32::from(sent.head));
        (self.status(sent), len)
    }

    /// One request, from begin to end.
    pub fn request(&mut self, kind: u32, sector: u64, len: u32) -> (u8, u32) {
        let sent = self.begin(kind, sector, len);
        self.end(sent)
    }

    pub fn status(&self, sent: Sent) -> u8 {
        self.bytes(sent.status, 1)[0]
    }

    pub fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read(addr, &mut bytes).unwrap();
        bytes
    }

    /// Puts `data` where the next request has its own.
    pub fn fill(&self, data: &[u8]) {
        let place = DATA + STRIDE * (self.next % PLACES);
        self.ram.write(place, data).unwrap();
    }

    /// Waits until the device has called its disk and is held up there.
    pub fn wait_for_call(disk: &TestDisk) {
        wait_until("the disk is asked for something", || {
            disk.is_waiting.load(Ordering::SeqCst)
        });
    }
}

/// Bytes that tell where they belong.
pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at / 512).wrapping_mul(37).wrapping_add(at) as u8 ^ seed;
    (0..len).map(byte).collect()
}
