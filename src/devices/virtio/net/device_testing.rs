//! A guest for the tests of the whole device: drivers for its queues, and the far ends
//! of its link.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use super::device::{Net, NetOptions};
use super::link::{Link, LinkWatch, Offloads, Port};
use super::testing::{Peer, link, pattern, plain};
use crate::devices::virtio::device::{Activation, VirtioDevice};
use crate::devices::virtio::rate_limiter::RateLimits;
use crate::devices::virtio::testing::{
    Driver, F_EVENT_IDX, TestInterrupt, activation, readable, writable,
};
use crate::memory::GuestRam;

pub const F_MRG: u64 = 1 << 15;
pub const F_STATUS: u64 = 1 << 16;
pub const F_CTRL: u64 = 1 << 17;
pub const F_ANNOUNCE: u64 = 1 << 21;
pub const F_MQ: u64 = 1 << 22;
/// What most tests' drivers agree to.
pub const USUAL: u64 = F_MRG | F_STATUS | F_CTRL | F_ANNOUNCE | F_EVENT_IDX;

/// Descriptors of each queue.
pub const SIZE: u16 = 256;
/// Bytes of each receive buffer.
pub const BUFFER: u32 = 2048;
/// A place in RAM for what the control queue's commands are made of.
pub const COMMANDS: u64 = 0x8000;

const QUEUES: u64 = 0x1_0000;
const QUEUE: u64 = 0x4000;
const BUFFERS: u64 = 0x20_0000;
const BUFFERS_OF_A_QUEUE: u64 = 0x10_0000;
const RAM: u64 = 32 << 20;

/// A link's state as the test says.
pub struct TestWatch {
    news: UnixDatagram,
    up: bool,
}

impl LinkWatch for TestWatch {
    fn fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    fn is_up(&mut self) -> bool {
        let mut byte = [0];
        while self.news.recv(&mut byte).is_ok() {
            self.up = byte == [1];
        }
        self.up
    }

    fn overruns(&mut self) -> Option<u64> {
        Some(42)
    }
}

/// The device with its guest.
pub struct Guest {
    pub ram: GuestRam,
    pub net: Net,
    pub peers: Vec<Peer>,
    pub interrupt: Arc<TestInterrupt>,
    /// receiveq and transmitq of each pair.
    pub drivers: Vec<Driver>,
    pub control: Driver,
    /// Says whether the link is up, a byte a time.
    pub news: UnixDatagram,
    /// Frames sent on each pair,
    sent: Vec<u64>,
    /// and buffers offered.
    offered: Vec<u64>,
}

/// What the device is made with.
#[derive(Clone, Copy)]
pub struct Making {
    pub pairs: usize,
    pub offloads: Offloads,
    pub limits: RateLimits,
}

pub const PLAIN: Making = Making {
    pairs: 1,
    offloads: Offloads {
        checksum: false,
        tso4: false,
        tso6: false,
        ecn: false,
        uso: false,
    },
    limits: RateLimits {
        operations: None,
        bytes: None,
    },
};

impl Guest {
    /// A device of one pair that the driver has activated with `features`.
    pub fn new(features: u64) -> Self {
        Self::with(PLAIN, features)
    }

    /// A device that the driver has activated with `features`.
    pub fn with(making: Making, features: u64) -> Self {
        let mut guest = Self::inactive(making);
        guest.activate(features);
        guest
    }

    /// A device that the driver has not activated.
    pub fn inactive(making: Making) -> Self {
        let (ports, peers): (Vec<_>, Vec<_>) = (0..making.pairs).map(|_| link()).unzip();
        let ports = ports
            .into_iter()
            .map(|port| Box::new(port) as Box<dyn Port>);
        Self::behind(ports.collect(), peers, making)
    }

    /// A device with these ports.
    pub fn behind(ports: Vec<Box<dyn Port>>, peers: Vec<Peer>, making: Making) -> Self {
        let (watched, news) = UnixDatagram::pair().unwrap();
        watched.set_nonblocking(true).unwrap();
        let watch = TestWatch {
            news: watched,
            up: true,
        };
        let ram = GuestRam::new(RAM).unwrap();
        let link = Link {
            ports,
            watch: Some(Box::new(watch)),
            offloads: making.offloads,
            mtu: 1500,
        };
        let options = NetOptions {
            mac: [2, 0, 0, 0, 0, 1],
            limits: making.limits,
            name: "eth0".to_owned(),
        };
        let net = Net::start(link, ram.clone(), options).unwrap();
        let mut guest = Self {
            ram: ram.clone(),
            net,
            peers,
            interrupt: TestInterrupt::new(),
            drivers: Vec::new(),
            control: Driver::new(&ram, QUEUES, SIZE),
            news,
            sent: Vec::new(),
            offered: Vec::new(),
        };
        guest.make_drivers(making.pairs);
        guest
    }

    /// Fresh rings, all zero, for that many pairs and the control queue.
    fn make_drivers(&mut self, pairs: usize) {
        let count = 2 * pairs as u64 + 1;
        let all = vec![0; (count * QUEUE) as usize];
        self.ram.write(QUEUES, &all).unwrap();
        let driver = |index| Driver::new(&self.ram, QUEUES + index * QUEUE, SIZE);
        self.drivers = (0..count - 1).map(driver).collect();
        self.control = driver(count - 1);
        self.sent = vec![0; pairs];
        self.offered = vec![0; pairs];
    }

    /// What the driver hands over when it is ready. Without MQ it uses one pair.
    pub fn activation(&self, features: u64) -> Activation {
        let used = match features & F_MQ {
            0 => 2,
            _ => self.drivers.len(),
        };
        let mut drivers: Vec<_> = self.drivers.iter().take(used).collect();
        if features & F_CTRL != 0 {
            drivers.push(&self.control);
        }
        activation(features, &drivers, &self.interrupt)
    }

    pub fn activate(&mut self, features: u64) {
        self.net.activate(self.activation(features)).unwrap();
    }

    /// Resets the device and activates it again, with fresh rings.
    pub fn restart(&mut self, features: u64) {
        self.net.reset();
        self.make_drivers(self.peers.len());
        self.activate(features);
    }

    pub fn receiveq(&mut self, pair: usize) -> &mut Driver {
        &mut self.drivers[2 * pair]
    }

    pub fn transmitq(&mut self, pair: usize) -> &mut Driver {
        &mut self.drivers[2 * pair + 1]
    }

    /// Gives the device `count` buffers to receive in, without a kick.
    pub fn offer(&mut self, pair: usize, count: usize) {
        for _ in 0..count {
            // One descriptor each, so that the head tells the place.
            let slot = self.offered[pair] % u64::from(SIZE);
            self.offered[pair] += 1;
            let at = place(2 * pair) + slot * u64::from(BUFFER);
            self.drivers[2 * pair].add(&[writable(at, BUFFER)]);
        }
    }

    /// The next frame received on `pair`, its header before it, if it is there.
    pub fn received(&mut self, pair: usize) -> Option<Vec<u8>> {
        let (head, len) = self.receiveq(pair).take_used()?;
        let mut bytes = vec![0; len as usize];
        let at = place(2 * pair) + u64::from(head) * u64::from(BUFFER);
        self.ram.read(at, &mut bytes).unwrap();
        Some(bytes)
    }

    /// Makes a frame available that is to be sent, without a kick.
    pub fn send(&mut self, pair: usize, frame: &[u8]) {
        let bytes = plain(frame);
        let slot = self.sent[pair] % u64::from(SIZE);
        let at = place(2 * pair + 1) + slot * u64::from(BUFFER);
        self.sent[pair] += 1;
        self.ram.write(at, &bytes).unwrap();
        self.drivers[2 * pair + 1].add(&[readable(at, bytes.len() as u32)]);
    }

    /// Sends a command and gives the answer.
    pub fn command(&mut self, bytes: &[u8]) -> u8 {
        self.begin_command(bytes);
        assert_eq!(self.control.wait_used().1, 1);
        self.answer()
    }

    /// Sends a command.
    pub fn begin_command(&mut self, bytes: &[u8]) {
        self.ram.write(COMMANDS, bytes).unwrap();
        self.ram.write(COMMANDS + 0x1000, &[0xee]).unwrap();
        let command = readable(COMMANDS, bytes.len() as u32);
        self.control.add(&[command, writable(COMMANDS + 0x1000, 1)]);
        self.control.kick();
    }

    /// The answer to the last command; 0xee if there is none.
    pub fn answer(&self) -> u8 {
        let mut answer = [0];
        self.ram.read(COMMANDS + 0x1000, &mut answer).unwrap();
        answer[0]
    }

    /// The status field.
    pub fn status(&self) -> u16 {
        let mut bytes = [0; 2];
        self.net.read_config(6, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Whether each pair's port is enabled.
    pub fn enabled(&self) -> Vec<Option<bool>> {
        self.peers
            .iter()
            .map(|peer| peer.shared().enabled)
            .collect()
    }
}

/// Where the buffers of a queue begin.
fn place(queue: usize) -> u64 {
    BUFFERS + queue as u64 * BUFFERS_OF_A_QUEUE
}

/// A frame of `len` bytes that is not like others.
pub fn frame(seed: u8, len: usize) -> Vec<u8> {
    pattern(seed, len)
}
