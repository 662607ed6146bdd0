//! Frames in both directions between a driver's chains, of any kind, and a link.
//!
//! Input: the ways (8 bits: mergeable buffers, indirect tables, receive buffers anywhere;
//! and the queues' size), the offloads agreed on (8 bits), the longest frame expected
//! (16 bits), then steps (8 bits and what they need).
//!
//! A model that knows what was offered says what reaches the link and the driver. Where
//! receive buffers may lie anywhere, over the rings themselves too, nobody can tell,
//! and it is enough that nothing goes wrong with the VMM.

mod driver;
mod model;
mod port;

use mayfly::devices::virtio::net::direction::{DirectionCounters, Failed, Progress};
use mayfly::devices::virtio::net::link::Offloads;
use mayfly::devices::virtio::net::receive::Receive;
use mayfly::devices::virtio::net::transmit::Transmit;
use mayfly::devices::virtio::queue::{QueueError, VirtQueue};
use mayfly::devices::virtio::rate_limiter::{RateLimiter, RateLimits};
use mayfly::memory::GuestRam;

use self::driver::{Piece, Ring};
use self::model::{ReceiveModel, TransmitModel};
use self::port::{Answer, ModelPort};
use super::script::Script;

/// Bytes of guest memory.
const RAM: usize = 320 << 10;
/// Below are the rings; from here on, what chains lead to.
const DATA: u64 = 0x1_0000;
/// From here on are the receive buffers, which the driver itself does not write.
const BUFFERS: u64 = 0x2_0200;
/// Where each direction's rings are.
const BASES: [u64; 2] = [0x1000, 0x8000];
const LARGEST_QUEUE: u16 = 64;
const F_INDIRECT: u64 = 1 << 28;
const STEPS: usize = 100;
const MOST_PIECES: usize = 16;

/// Sets both directions up and takes the steps.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let (ways, offloads, longest) = (script.u8(), script.u8(), script.u16());
    let has = |bits: u8, bit: u8| bits >> bit & 1 != 0;
    let agreed = Offloads {
        checksum: has(offloads, 0),
        tso4: has(offloads, 1),
        tso6: has(offloads, 2),
        ecn: has(offloads, 3),
        uso: has(offloads, 4),
    };
    let ram = GuestRam::new(RAM as u64).expect("320 KiB");
    let size = 1 << ((ways >> 3) % 7);
    let [sending, receiving] = BASES.map(|base| Ring::new(&ram, base, size));
    let mergeable = has(ways, 0);
    let mut receive = Receive::new(ram.clone(), LARGEST_QUEUE);
    receive.activate(mergeable, longest.into());
    let mut run = Run {
        features: u64::from(has(ways, 1)) * F_INDIRECT,
        queues: [&sending, &receiving].map(|ring| ring.queue(u64::from(has(ways, 1)) << 28)),
        wild: has(ways, 2),
        longest: longest.into(),
        transmit: Transmit::new(ram.clone(), LARGEST_QUEUE),
        receive,
        port: ModelPort::default(),
        limiter: RateLimiter::new(RateLimits::default()),
        counters: Default::default(),
        sent: TransmitModel::new(sending, agreed),
        received: ReceiveModel::new(receiving, mergeable),
        agreed,
        mergeable,
        next_buffer: BUFFERS,
        before: vec![0; RAM],
        after: vec![0; RAM],
        ram,
    };
    for _ in 0..STEPS {
        if script.is_empty() || !run.step(&mut script) {
            break;
        }
    }
}

struct Run {
    ram: GuestRam,
    features: u64,
    agreed: Offloads,
    mergeable: bool,
    wild: bool,
    longest: usize,
    /// Of each direction, as all pairs here: sending, receiving.
    queues: [VirtQueue; 2],
    counters: [DirectionCounters; 2],
    transmit: Transmit,
    receive: Receive,
    port: ModelPort,
    limiter: RateLimiter,
    sent: TransmitModel,
    received: ReceiveModel,
    /// Receive buffers are one behind the other.
    next_buffer: u64,
    /// Guest memory around a run.
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Run {
    /// False where there is no going on.
    fn step(&mut self, script: &mut Script) -> bool {
        match script.u8() {
            0 | 1 => {
                let at = DATA + u64::from(script.u16());
                let len = script.u8();
                self.ram.write(at, script.bytes(len.into())).expect("RAM");
            }
            kind @ (2 | 3) => {
                let pieces = sending_pieces(script);
                let ring = &mut self.sent.ring;
                ring.offer(&pieces, kind == 3 && self.features != 0);
            }
            kind @ (4 | 5) => {
                let pieces = self.receiving_pieces(script);
                let ring = &mut self.received.ring;
                ring.offer(&pieces, kind == 5 && self.features != 0);
            }
            6 => {
                let len = usize::from(script.u16()) + usize::from(script.u8());
                let seed = script.u8();
                self.port.incoming.push_back(port::frame(seed, len));
            }
            7 => {
                let answer = match script.u8() {
                    0..=99 => Answer::Later,
                    100..=199 => Answer::Dropped,
                    200..=229 => Answer::Whole,
                    _ => Answer::Gone,
                };
                self.port.answers.push_back(answer);
            }
            8 | 9 => return self.send(script.u8().into()),
            10 | 11 => return self.receive(script.u8().into()),
            12 => self.save_and_restore(),
            13 => self.reset(),
            _ => {}
        }
        true
    }

    /// Of any length, where no other is; or anywhere.
    fn receiving_pieces(&mut self, script: &mut Script) -> Vec<Piece> {
        let count = usize::from(script.u8()) % MOST_PIECES + 1;
        let mut pieces = Vec::new();
        for _ in 0..count {
            let kind = script.u8();
            let len = match kind >> 5 {
                0..=3 => script.u8().into(),
                4..=6 => u64::from(script.u16()),
                _ => 0,
            };
            let addr = if self.wild {
                u64::from(script.u32()) % (RAM as u64 + 64)
            } else {
                let fits = self.next_buffer + len < RAM as u64;
                let addr = if fits { self.next_buffer } else { RAM as u64 };
                self.next_buffer += if fits { len + 1 } else { 0 };
                addr
            };
            pieces.push(Piece {
                addr,
                len: len as u32,
                // A few for the device to read.
                writable: kind & 15 != 15,
            });
        }
        pieces
    }

    fn send(&mut self, budget: usize) -> bool {
        self.ram.read(0, &mut self.before).expect("all of it");
        let answers = self.port.answers.clone();
        let result = self.transmit.run(
            &mut self.queues[0],
            &mut self.port,
            self.agreed,
            &self.limiter,
            &self.counters[0],
            budget,
        );
        let sent = self.port.take_sent();
        if !self.wild {
            let expected = self.sent.expect(&self.before, &answers, budget);
            let totals = self.counters[0].totals();
            self.sent.check(&expected, &result, &sent, totals);
            self.ram.read(0, &mut self.after).expect("all of it");
            let ring = &self.sent.ring;
            ring.blank(&mut self.before, &[]);
            ring.blank(&mut self.after, &[]);
            assert!(self.before == self.after);
        }
        !matches!(result, Err(Failed::Queue(_)))
    }

    fn receive(&mut self, budget: usize) -> bool {
        self.ram.read(0, &mut self.before).expect("all of it");
        let result = self.receive.run(
            &mut self.queues[1],
            &mut self.port,
            &self.limiter,
            &self.counters[1],
            budget,
        );
        if self.wild {
            self.port.take_given();
            return !matches!(result, Err(Failed::Queue(_)));
        }
        let may_change = self.received.ring.writable_pieces();
        match result {
            Err(Failed::Queue(QueueError::Chain { head })) => {
                assert!(self.received.is_broken(head), "{head}");
                return false;
            }
            Err(Failed::Queue(error)) => panic!("{error}"),
            Err(Failed::Gone(_)) => {}
            Ok(Progress::Blocked) => assert_eq!(self.queues[1].has_more(), Ok(false)),
            Ok(Progress::Idle) => assert!(self.port.incoming.is_empty() || self.port.was_late),
            Ok(Progress::More) => {}
            Ok(Progress::Wait(_)) => panic!("there is no limit"),
        }
        let given = self.port.take_given();
        if budget == 0 {
            // A frame that waits goes on waiting.
            assert!(given.is_empty() && self.received.ring.take_used().is_empty());
            return true;
        }
        let totals = self.counters[1].totals();
        self.ram.read(0, &mut self.after).expect("all of it");
        self.received.check(&self.after, given, totals);
        let ring = &self.received.ring;
        ring.blank(&mut self.before, &may_change);
        ring.blank(&mut self.after, &may_change);
        assert!(self.before == self.after);
        if self.received.ring.is_empty() {
            self.next_buffer = BUFFERS;
        }
        true
    }

    /// What is with the device goes back into the rings, and is taken from there again.
    fn save_and_restore(&mut self) {
        self.transmit.give_back(&mut self.queues[0]);
        self.receive
            .give_back(&mut self.queues[1], &self.counters[1]);
        if !self.wild {
            self.sent.forget_header();
            self.received.forget_pending();
            assert_eq!(self.counters[1].totals(), self.received.totals());
            for (queue, ring) in self
                .queues
                .iter()
                .zip([&self.sent.ring, &self.received.ring])
            {
                let state = queue.state();
                assert_eq!(state.next_available, state.next_used);
                assert_eq!(state.next_used, ring.returned());
            }
        }
        for queue in &mut self.queues {
            let state = queue.state();
            *queue = VirtQueue::new(self.ram.clone(), &state, LARGEST_QUEUE, self.features)
                .expect("it was one");
        }
    }

    /// The driver starts again from empty rings.
    fn reset(&mut self) {
        self.transmit.reset();
        self.receive.activate(self.mergeable, self.longest);
        self.sent.restart(&self.ram, BASES[0]);
        self.received.restart(&self.ram, BASES[1]);
        self.queues = [&self.sent.ring, &self.received.ring].map(|ring| ring.queue(self.features));
        self.next_buffer = BUFFERS;
    }
}

/// Of any length and content, where there is RAM and where there is none; nearly
/// always to be read.
fn sending_pieces(script: &mut Script) -> Vec<Piece> {
    let count = usize::from(script.u8()) % MOST_PIECES + 1;
    let mut pieces = Vec::new();
    for _ in 0..count {
        let kind = script.u8();
        let addr = match kind & 7 {
            0..=5 => DATA + u64::from(script.u16()),
            6 => RAM as u64 - u64::from(script.u8()),
            _ => script.u64().max(DATA),
        };
        let len = match kind >> 3 & 7 {
            0..=3 => script.u8().into(),
            4 => 12,
            5 | 6 => script.u16().into(),
            _ => script.u32(),
        };
        pieces.push(Piece {
            addr,
            len,
            writable: kind >> 6 == 3,
        });
    }
    pieces
}
