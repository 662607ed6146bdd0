//! The control queue (virtio 1.2 §5.1.6.5): what the driver asks of the device as a whole.
//!
//! A command is a class, a command, its data, and a byte for the answer. One that is not
//! known, not agreed to, or not as long as it has to be is answered with an error; one
//! that has no room for an answer is not carried out. Only a broken queue ends it.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
    VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use super::features::Agreed;
use super::link::Offloads;
use crate::devices::virtio::device::ActiveQueue;
use crate::devices::virtio::queue::{Buffer, Chain, QueueError};
use crate::memory::GuestRam;

/// Bytes of the longest command known: class, command, and eight of data.
const LONGEST: usize = 10;

const ANNOUNCE_ACK: [u8; 2] = [
    VIRTIO_NET_CTRL_ANNOUNCE as u8,
    VIRTIO_NET_CTRL_ANNOUNCE_ACK as u8,
];
const PAIRS_SET: [u8; 2] = [
    VIRTIO_NET_CTRL_MQ as u8,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8,
];
const OFFLOADS_SET: [u8; 2] = [
    VIRTIO_NET_CTRL_GUEST_OFFLOADS as u8,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET as u8,
];

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The driver has announced itself (§5.1.6.5.4).
    Announced,
    /// So many queue pairs are to be used, at least one (§5.1.6.5.5).
    Pairs(u16),
    /// The host may leave this to the driver from now on (§5.1.6.5.6).
    Offloads(Offloads),
}

/// What has come of a look at the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// No command was there.
    Nothing,
    /// One that could not be carried out, and is answered.
    Refused,
    /// One that is to be carried out, and then [answered](ControlQueue::answer).
    Request(Request),
}

/// A command without its answer.
struct Unanswered {
    head: u16,
    /// Where the answer goes.
    place: u64,
}

/// The queue while the driver uses the device. One command is served at a time.
pub struct ControlQueue {
    /// The queue.
    pub queue: ActiveQueue,
    chain: Chain,
    unanswered: Option<Unanswered>,
}

impl ControlQueue {
    /// Nothing was taken from `queue`, whose chains have up to `longest` descriptors.
    pub fn new(queue: ActiveQueue, longest: u16) -> Self {
        Self {
            queue,
            chain: Chain::with_capacity(longest),
            unanswered: None,
        }
    }

    /// Whether a command is being carried out.
    pub fn is_busy(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Takes the next command. To be called while none is being carried out.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn take(&mut self, agreed: Agreed) -> Result<Taken, QueueError> {
        if !self.queue.rings.pop(&mut self.chain)? {
            return Ok(Taken::Nothing);
        }
        let head = self.chain.head;
        let ram = self.queue.rings.ram();
        let Some(place) = place_of_answer(&self.chain, ram) else {
            self.queue.rings.push_used(head, 0)?;
            return Ok(Taken::Refused);
        };
        let request = parse(&self.chain, ram, agreed);
        self.unanswered = Some(Unanswered { head, place });
        match request {
            Some(request) => Ok(Taken::Request(request)),
            None => {
                self.answer(false)?;
                Ok(Taken::Refused)
            }
        }
    }

    /// Answers the command that was taken: whether it was carried out.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn answer(&mut self, done: bool) -> Result<(), QueueError> {
        let Some(Unanswered { head, place }) = self.unanswered.take() else {
            return Ok(());
        };
        let answer = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
        let written = self.queue.rings.ram().write(place, &[answer as u8]);
        let rings = &mut self.queue.rings;
        rings.push_used(head, u32::from(written.is_ok()))
    }
}

/// The first byte that the device may write.
fn place_of_answer(chain: &Chain, ram: &GuestRam) -> Option<u64> {
    let first = chain.writable.iter().find(|buffer| buffer.len > 0)?;
    ram.contains(first.addr, 1).then_some(first.addr)
}

/// What a command asks for; none if it cannot be had.
fn parse(chain: &Chain, ram: &GuestRam, agreed: Agreed) -> Option<Request> {
    let mut bytes = [0; LONGEST];
    let command = gather(&chain.readable, ram, &mut bytes)?;
    let (kind, data) = command.split_first_chunk::<2>()?;
    match *kind {
        ANNOUNCE_ACK if agreed.announce() && data.is_empty() => Some(Request::Announced),
        PAIRS_SET if agreed.multiqueue() => {
            let pairs = u16::from_le_bytes(data.try_into().ok()?);
            (pairs > 0).then_some(Request::Pairs(pairs))
        }
        OFFLOADS_SET => {
            let bits = u64::from_le_bytes(data.try_into().ok()?);
            agreed.choose_guest_offloads(bits).map(Request::Offloads)
        }
        _ => None,
    }
}

/// The command that lies in `buffers`; none if it is longer than any known, or not all
/// of it is RAM.
fn gather<'a>(buffers: &[Buffer], ram: &GuestRam, bytes: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut end = 0usize;
    for buffer in buffers {
        let start = end;
        end = start.checked_add(usize::try_from(buffer.len).ok()?)?;
        ram.read(buffer.addr, bytes.get_mut(start..end)?).ok()?;
    }
    bytes.get(..end)
}
