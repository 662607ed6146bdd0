//! A driver's side of a queue that keeps to the rules, but for what its chains hold.

use std::collections::VecDeque;

use mayfly::devices::virtio::queue::{QueueState, VirtQueue};
use mayfly::memory::GuestRam;

use super::super::script::{u16_at, u32_at};
use super::{LARGEST_QUEUE, MOST_PIECES, RAM};

/// Where the parts are from a ring's base on.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
const TABLES: u64 = 0x1000;

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub addr: u64,
    pub len: u32,
    pub writable: bool,
}

/// A chain that the device has.
#[derive(Clone, Debug)]
pub struct Offered {
    pub head: u16,
    pub pieces: Vec<Piece>,
    pub descriptors: u16,
}

impl Offered {
    /// Readable buffers come first.
    pub fn is_sorted(&self) -> bool {
        self.pieces.is_sorted_by_key(|piece| piece.writable)
    }

    /// Its readable or its writable buffers.
    pub fn pieces(&self, writable: bool) -> impl Iterator<Item = Piece> {
        let all = self.pieces.iter().copied();
        all.filter(move |piece| piece.writable == writable)
    }
}

/// One queue and the chains the device has, in the order they were offered.
pub struct Ring {
    ram: GuestRam,
    base: u64,
    pub size: u16,
    pub offered: VecDeque<Offered>,
    next_descriptor: u16,
    free: u16,
    available: u16,
    returned: u16,
}

impl Ring {
    pub fn new(ram: &GuestRam, base: u64, size: u16) -> Self {
        ram.zero(base, TABLES as usize).expect("RAM");
        Self {
            ram: ram.clone(),
            base,
            size,
            offered: VecDeque::new(),
            next_descriptor: 0,
            free: size,
            available: 0,
            returned: 0,
        }
    }

    pub fn queue(&self, features: u64) -> VirtQueue {
        let state = QueueState {
            size: self.size,
            ready: true,
            descriptors: self.base,
            available: self.base + AVAILABLE,
            used: self.base + USED,
            next_available: 0,
            next_used: 0,
        };
        VirtQueue::new(self.ram.clone(), &state, LARGEST_QUEUE, features).expect("a sound queue")
    }

    /// Chains that have come back.
    pub fn returned(&self) -> u16 {
        self.returned
    }

    pub fn is_empty(&self) -> bool {
        self.offered.is_empty()
    }

    /// Makes a chain available, if there are descriptors for it.
    pub fn offer(&mut self, pieces: &[Piece], indirect: bool) {
        let descriptors = if indirect { 1 } else { pieces.len() as u16 };
        if descriptors > self.free {
            return;
        }
        let head = self.next_descriptor;
        let table = self.base + TABLES + u64::from(head) * 16 * MOST_PIECES as u64;
        for (nth, piece) in pieces.iter().enumerate() {
            let nth = nth as u16;
            let more = u16::from(usize::from(nth) + 1 < pieces.len());
            let flags = more | u16::from(piece.writable) << 1;
            if indirect {
                self.put(table + 16 * u64::from(nth), piece, flags, nth + 1);
            } else {
                let index = (head + nth) % self.size;
                let at = self.base + 16 * u64::from(index);
                self.put(at, piece, flags, (index + 1) % self.size);
            }
        }
        if indirect {
            let piece = Piece {
                addr: table,
                len: 16 * pieces.len() as u32,
                writable: false,
            };
            self.put(self.base + 16 * u64::from(head), &piece, 4, 0);
        }
        let slot = u64::from(self.available % self.size);
        self.put_word(AVAILABLE + 4 + 2 * slot, head);
        self.available = self.available.wrapping_add(1);
        self.put_word(AVAILABLE + 2, self.available);
        self.next_descriptor = (head + descriptors) % self.size;
        self.free -= descriptors;
        self.offered.push_back(Offered {
            head,
            pieces: pieces.to_vec(),
            descriptors,
        });
    }

    fn put(&self, at: u64, piece: &Piece, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&piece.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&piece.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.ram.write(at, &bytes).expect("RAM");
    }

    fn put_word(&self, offset: u64, word: u16) {
        let at = self.base + offset;
        self.ram.write(at, &word.to_le_bytes()).expect("RAM");
    }

    /// What has come back since the last call: the chains, which are those offered
    /// first, in that order, each with the length written.
    pub fn take_used(&mut self) -> Vec<(Offered, u32)> {
        let mut ring = vec![0; 6 + 8 * usize::from(self.size)];
        self.ram.read(self.base + USED, &mut ring).expect("RAM");
        let index = u16_at(&ring, 2);
        let mut used = Vec::new();
        while self.returned != index {
            let at = 4 + 8 * usize::from(self.returned % self.size);
            let (head, len) = (u32_at(&ring, at), u32_at(&ring, at + 4));
            let chain = self.offered.pop_front().expect("the device had one");
            assert_eq!(head, u32::from(chain.head));
            self.free += chain.descriptors;
            self.returned = self.returned.wrapping_add(1);
            used.push((chain, len));
        }
        used
    }

    /// The writable buffers the device has, as ranges.
    pub fn writable_pieces(&self) -> Vec<(u64, u64)> {
        let chains = self.offered.iter();
        let pieces = chains.flat_map(|chain| chain.pieces(true));
        pieces.map(|piece| (piece.addr, piece.len.into())).collect()
    }

    /// Puts zeros where the device may write: into the used ring and these ranges.
    pub fn blank(&self, image: &mut [u8], ranges: &[(u64, u64)]) {
        let used = (self.base + USED, 6 + 8 * u64::from(self.size));
        for (at, len) in ranges.iter().chain([&used]) {
            let end = (at + len).min(RAM as u64) as usize;
            if let Some(range) = image.get_mut(*at as usize..end) {
                range.fill(0);
            }
        }
    }
}
