//! What should come of the chains and frames, by the descriptors as they were written.

use std::collections::VecDeque;

use mayfly::devices::virtio::net::direction::{DirectionTotals, Failed, Progress};
use mayfly::devices::virtio::net::link::Offloads;
use mayfly::devices::virtio::queue::QueueError;
use mayfly::memory::GuestRam;

use super::super::script::u16_at;
use super::RAM;
use super::driver::{Offered, Piece, Ring};
use super::port::Answer;

/// Header and frame, in bytes (virtio 1.2 §5.1.6, IEEE 802.3).
const HEADER: usize = 12;
const SHORTEST: usize = HEADER + 14;
const LONGEST: usize = HEADER + 65_553;

fn in_ram(piece: &Piece) -> bool {
    let end = u128::from(piece.addr) + u128::from(piece.len);
    piece.len == 0 || end <= RAM as u128
}

fn total(pieces: impl Iterator<Item = Piece>) -> u64 {
    pieces.map(|piece| u64::from(piece.len)).sum()
}

/// The bytes of these pieces, which are RAM, one after the other.
fn content(image: &[u8], pieces: impl Iterator<Item = Piece>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.filter(|piece| piece.len > 0) {
        let at = piece.addr as usize;
        bytes.extend_from_slice(&image[at..at + piece.len as usize]);
    }
    bytes
}

/// A chain that the queue itself refuses.
fn is_unsound(chain: &Offered) -> bool {
    !chain.is_sorted() || total(chain.pieces.iter().copied()) > 1 << 32
}

/// How a run of the sending direction should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Idle,
    Blocked,
    More,
    Gone,
    Broken(u16),
}

impl End {
    fn of(result: &Result<Progress, Failed>) -> Self {
        match result {
            Ok(Progress::Idle) => Self::Idle,
            Ok(Progress::Blocked) => Self::Blocked,
            Ok(Progress::More) => Self::More,
            Ok(Progress::Wait(_)) => panic!("there is no limit"),
            Err(Failed::Gone(_)) => Self::Gone,
            Err(Failed::Queue(QueueError::Chain { head })) => Self::Broken(*head),
            Err(Failed::Queue(error)) => panic!("{error}"),
        }
    }
}

/// What a run of the sending direction should do.
pub struct Expected {
    /// Frames with their headers that reach the link.
    frames: Vec<Vec<u8>>,
    /// Chains that come back.
    used: usize,
    end: End,
}

pub struct TransmitModel {
    pub ring: Ring,
    agreed: Offloads,
    /// Of the chain offered first, if it was taken before and has to wait: the header
    /// as it was then.
    taken: Option<Vec<u8>>,
    totals: DirectionTotals,
}

impl TransmitModel {
    pub fn new(ring: Ring, agreed: Offloads) -> Self {
        Self {
            ring,
            agreed,
            taken: None,
            totals: DirectionTotals::default(),
        }
    }

    pub fn restart(&mut self, ram: &GuestRam, base: u64) {
        self.ring = Ring::new(ram, base, self.ring.size);
        self.taken = None;
    }

    /// The chain goes back into the ring.
    pub fn forget_header(&mut self) {
        self.taken = None;
    }

    pub fn expect(&mut self, image: &[u8], answers: &VecDeque<Answer>, budget: usize) -> Expected {
        let mut expected = Expected {
            frames: Vec::new(),
            used: 0,
            end: End::More,
        };
        let mut answers = answers.iter().copied();
        for _ in 0..budget {
            let Some(chain) = self.ring.offered.get(expected.used) else {
                expected.end = End::Idle;
                break;
            };
            if self.taken.is_none() {
                if is_unsound(chain) {
                    expected.end = End::Broken(chain.head);
                    break;
                }
                self.taken = judge(image, chain, self.agreed);
            }
            let Some(header) = self.taken.take() else {
                expected.used += 1;
                self.totals.dropped += 1;
                continue;
            };
            match answers.next().unwrap_or(Answer::Whole) {
                Answer::Later => {
                    self.taken = Some(header);
                    expected.end = End::Blocked;
                    break;
                }
                Answer::Whole => {
                    let bytes = content(image, chain.pieces(false));
                    let frame = [&header, &bytes[HEADER..]].concat();
                    self.totals.frames += 1;
                    self.totals.bytes += (frame.len() - HEADER) as u64;
                    expected.frames.push(frame);
                    expected.used += 1;
                }
                answer => {
                    expected.used += 1;
                    self.totals.dropped += 1;
                    if answer == Answer::Gone {
                        expected.end = End::Gone;
                        break;
                    }
                }
            }
        }
        expected
    }

    pub fn check(
        &mut self,
        expected: &Expected,
        result: &Result<Progress, Failed>,
        sent: &[Vec<u8>],
        totals: DirectionTotals,
    ) {
        assert_eq!(End::of(result), expected.end);
        assert!(sent == expected.frames);
        assert_eq!(totals, self.totals);
        let used = self.ring.take_used();
        assert_eq!(used.len(), expected.used);
        assert!(used.iter().all(|(_, written)| *written == 0));
    }
}

/// The header that the chain's frame is to be sent with; none if it is not to be sent.
fn judge(image: &[u8], chain: &Offered, agreed: Offloads) -> Option<Vec<u8>> {
    let len = total(chain.pieces(false));
    let sendable = (SHORTEST as u64..=LONGEST as u64).contains(&len);
    if !sendable || !chain.pieces(false).all(|piece| in_ram(&piece)) {
        return None;
    }
    let bytes = content(image, chain.pieces(false));
    let frame_len = bytes.len() - HEADER;
    let field = |at| usize::from(u16_at(&bytes, at));
    let (flags, kind) = (bytes[0], bytes[1]);
    let allowed = match kind {
        0 => true,
        1 => agreed.tso4,
        4 => agreed.tso6,
        5 => agreed.uso,
        0x81 => agreed.tso4 && agreed.ecn,
        0x84 => agreed.tso6 && agreed.ecn,
        _ => false,
    };
    if !allowed {
        return None;
    }
    let mut header = vec![0; HEADER];
    if flags & 1 == 0 {
        return (kind == 0).then_some(header);
    }
    let in_frame = field(6) >= 14 && field(6) + field(8) + 2 <= frame_len;
    if !agreed.checksum || !in_frame {
        return None;
    }
    header[0] = 1;
    header[6..10].copy_from_slice(&bytes[6..10]);
    if kind != 0 {
        if field(4) == 0 {
            return None;
        }
        header[1] = kind;
        header[4..6].copy_from_slice(&bytes[4..6]);
        if field(2) <= frame_len {
            header[2..4].copy_from_slice(&bytes[2..4]);
        }
    }
    Some(header)
}

pub struct ReceiveModel {
    pub ring: Ring,
    mergeable: bool,
    /// A frame that the driver has not offered enough for.
    pending: Option<Vec<u8>>,
    totals: DirectionTotals,
}

impl ReceiveModel {
    pub fn new(ring: Ring, mergeable: bool) -> Self {
        Self {
            ring,
            mergeable,
            pending: None,
            totals: DirectionTotals::default(),
        }
    }

    pub fn restart(&mut self, ram: &GuestRam, base: u64) {
        self.ring = Ring::new(ram, base, self.ring.size);
        self.pending = None;
    }

    /// The chains go back into the ring.
    pub fn forget_pending(&mut self) {
        self.totals.dropped += u64::from(self.pending.take().is_some());
    }

    pub fn totals(&self) -> DirectionTotals {
        self.totals
    }

    /// Whether that chain, which the device has, is none to receive in.
    pub fn is_broken(&self, head: u16) -> bool {
        let chain = self.ring.offered.iter().find(|chain| chain.head == head);
        chain.is_some_and(|chain| {
            let in_ram = chain.pieces(true).all(|piece| in_ram(&piece));
            is_unsound(chain) || !in_ram || total(chain.pieces(true)) == 0
        })
    }

    /// The link has given these frames since the last call.
    pub fn check(&mut self, image: &[u8], given: Vec<Vec<u8>>, totals: DirectionTotals) {
        let mut chains = self.ring.offered.clone();
        let mut used = self.ring.take_used().into_iter();
        let mut frames: VecDeque<_> = self.pending.take().into_iter().chain(given).collect();
        while let Some(frame) = frames.pop_front() {
            match self.fate(&frame, &chains) {
                Fate::Dropped => self.totals.dropped += 1,
                Fate::Pending => {
                    assert!(frames.is_empty(), "the next one stays in the link");
                    self.pending = Some(frame);
                }
                Fate::InChains(count) => {
                    self.totals.frames += 1;
                    self.totals.bytes += (frame.len() - HEADER) as u64;
                    check_delivered(image, &frame, chains.drain(..count), &mut used);
                }
            }
        }
        assert!(used.next().is_none(), "a chain came back for no frame");
        assert_eq!(totals, self.totals);
    }

    /// What becomes of a frame if the driver has offered these chains.
    fn fate(&self, frame: &[u8], chains: &VecDeque<Offered>) -> Fate {
        if !(SHORTEST..=LONGEST).contains(&frame.len()) {
            return Fate::Dropped;
        }
        let most = if self.mergeable { usize::MAX } else { 1 };
        let mut room = 0;
        for (index, chain) in chains.iter().take(most).enumerate() {
            room += total(chain.pieces(true));
            if room >= frame.len() as u64 {
                return Fate::InChains(index + 1);
            }
        }
        let taken: u16 = chains.iter().map(|chain| chain.descriptors).sum();
        let next = chains.back().map_or(1, |chain| chain.descriptors);
        match self.mergeable && taken + next <= self.ring.size {
            true => Fate::Pending,
            false => Fate::Dropped,
        }
    }
}

enum Fate {
    InChains(usize),
    Pending,
    Dropped,
}

/// The chains came back, filled one after the other, with the frame in them.
fn check_delivered(
    image: &[u8],
    frame: &[u8],
    chains: impl ExactSizeIterator<Item = Offered>,
    used: &mut impl Iterator<Item = (Offered, u32)>,
) {
    let mut expected = frame.to_vec();
    expected[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
    let mut rest = expected.as_slice();
    for chain in chains {
        let (returned, written) = used.next().expect("all of the frame's chains");
        assert_eq!(returned.head, chain.head);
        let room = total(chain.pieces(true));
        let (part, behind) = rest.split_at(rest.len().min(room as usize));
        assert_eq!(written as usize, part.len());
        // What is beyond the frame in a chain need not be RAM.
        let mut left = part.len() as u64;
        let reached = chain.pieces(true).map(|mut piece| {
            piece.len = left.min(piece.len.into()) as u32;
            left -= u64::from(piece.len);
            piece
        });
        assert!(content(image, reached) == part);
        rest = behind;
    }
    assert!(rest.is_empty());
}
