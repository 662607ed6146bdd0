//! A virtqueue over guest memory that holds anything.
//!
//! Input: features (8 bits: EVENT_IDX, INDIRECT_DESC), sizes (8 bits each: the queue's, the
//! largest; a power of two, or anything from 0xf0 on), three addresses (16 bits each),
//! where the indexes stand (16 bits), then steps (8 bits and what they need).
//!
//! What a step gives is held against a model that reads the rings in its own simple way.

use mayfly::devices::virtio::queue::{Buffer, Chain, QueueError, QueueState, VirtQueue};
use mayfly::memory::GuestRam;

use super::script::{Script, u16_at, u32_at, u64_at};

const RAM: usize = 16 << 10;
const EVENT_IDX: u8 = 1 << 0;
const INDIRECT: u8 = 1 << 1;
const STEPS: usize = 200;

/// Sets a queue up and takes the steps.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let flags = script.u8();
    let features = u64::from(flags & EVENT_IDX) << 29 | u64::from(flags >> 1 & 1) << 28;
    let (size, max_size) = (queue_size(&mut script), queue_size(&mut script));
    let [descriptors, available, used] = [script.u16(), script.u16(), script.u16()];
    let at = script.u16();
    let state = QueueState {
        size,
        ready: true,
        descriptors: descriptors.into(),
        available: available.into(),
        used: used.into(),
        next_available: at,
        next_used: at,
    };
    let ram = GuestRam::new(RAM as u64).expect("16 KiB");
    let rest = script.rest();
    let queue = VirtQueue::new(ram.clone(), &state, max_size, features);
    check_setup(&state, max_size, queue.as_ref().err());
    let Ok(queue) = queue else {
        return;
    };
    let mut run = Run {
        ram,
        chain: Chain::with_capacity(max_size),
        state,
        max_size,
        features,
        indirect: flags & INDIRECT != 0,
        event_idx: flags & EVENT_IDX != 0,
        queue,
        returned: Vec::new(),
    };
    let mut script = Script::new(rest);
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        run.step(&mut script);
    }
}

fn queue_size(script: &mut Script) -> u16 {
    match script.u8() {
        any @ 0xf0.. => u16::from(any) << 8 | u16::from(any & 7),
        power => 1 << (power % 9),
    }
}

/// What the specification asks of a queue's parts, and what the device does.
fn check_setup(state: &QueueState, max_size: u16, error: Option<&QueueError>) {
    let size = state.size;
    let allowed = |size: u16| size.count_ones() == 1;
    if !allowed(max_size) || !allowed(size) || size > max_size {
        assert!(matches!(error, Some(QueueError::Size(_))));
        return;
    }
    let entries = u64::from(size);
    let fits =
        |addr: u64, align: u64, len: u64| addr.is_multiple_of(align) && addr + len <= RAM as u64;
    let fine = fits(state.descriptors, 16, 16 * entries)
        && fits(state.available, 2, 6 + 2 * entries)
        && state.available != 0
        && fits(state.used, 4, 6 + 8 * entries);
    assert_eq!(error, (!fine).then_some(&QueueError::Rings));
}

struct Run {
    ram: GuestRam,
    chain: Chain,
    /// Where the queue should be.
    state: QueueState,
    max_size: u16,
    features: u64,
    indirect: bool,
    event_idx: bool,
    queue: VirtQueue,
    /// The used indexes that went by since an interrupt was last thought of.
    returned: Vec<u16>,
}

impl Run {
    fn step(&mut self, script: &mut Script) {
        match script.u8() {
            0 => {
                let addr = script.u16();
                let len = script.u8();
                // Some of it lies outside.
                let _ = self.ram.write(addr.into(), script.bytes(len.into()));
            }
            1 => self.put(self.state.available + 2, script.u16()),
            2 => self.put_descriptor(script),
            3 => {
                let index = self.available_index();
                let slot = u64::from(index % self.state.size);
                self.put(self.state.available + 4 + 2 * slot, script.u8().into());
                self.put(self.state.available + 2, index.wrapping_add(1));
            }
            4..=7 => self.pop(),
            8 | 9 => self.push(script.u8(), script.u32()),
            10 => self.check_interrupt(),
            11 => self.check_enable(),
            12 => {
                let before = self.image();
                self.queue.disable_kicks().expect("the rings are RAM");
                let mut after = self.image();
                if !self.event_idx {
                    let flags = self.state.used as usize;
                    after[flags..flags + 2].copy_from_slice(&before[flags..flags + 2]);
                }
                assert!(before == after);
            }
            13 => {
                assert_eq!(self.queue.state(), self.state);
                let ram = self.ram.clone();
                self.queue = VirtQueue::new(ram, &self.state, self.max_size, self.features)
                    .expect("it was one");
                self.returned.clear();
            }
            _ => {}
        }
    }

    fn image(&self) -> Vec<u8> {
        let mut image = vec![0; RAM];
        self.ram.read(0, &mut image).expect("all of it");
        image
    }

    fn put(&self, addr: u64, value: u16) {
        self.ram.write(addr, &value.to_le_bytes()).expect("a ring");
    }

    /// Index, address, length (one that ends with bit 0 is a multiple of 16, one with
    /// bit 1 a large one), flags, next.
    fn put_descriptor(&self, script: &mut Script) {
        let index = u64::from(u16::from(script.u8()) % self.state.size);
        let addr = u64::from(script.u16());
        let len = match script.u16() {
            some if some & 1 != 0 => u32::from(some >> 8) * 16,
            some if some & 2 != 0 => u32::from(some) << 16 | 0xffff,
            some => some.into(),
        };
        let (flags, next) = (script.u8() & 7, script.u8());
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12] = flags;
        bytes[14] = next;
        let at = self.state.descriptors + 16 * index;
        self.ram.write(at, &bytes).expect("the table");
    }

    fn available_index(&self) -> u16 {
        u16_at(&self.image(), self.state.available as usize + 2)
    }

    fn in_flight(&self) -> u16 {
        let QueueState {
            next_available,
            next_used,
            ..
        } = self.state;
        next_available.wrapping_sub(next_used)
    }

    fn pop(&mut self) {
        let image = self.image();
        let index = u16_at(&image, self.state.available as usize + 2);
        let waiting = index.wrapping_sub(self.state.next_available);
        let got = self.queue.pop(&mut self.chain);
        assert!(image == self.image(), "taking a chain writes nothing");
        if waiting == 0 {
            assert_eq!(got, Ok(false));
            assert!(self.chain.readable.is_empty() && self.chain.writable.is_empty());
            return;
        }
        if waiting > self.state.size {
            assert_eq!(got, Err(QueueError::Available));
            return;
        }
        let slot = usize::from(self.state.next_available % self.state.size);
        let head = u16_at(&image, self.state.available as usize + 4 + 2 * slot);
        let full = self.in_flight() >= self.state.size;
        self.state.next_available = self.state.next_available.wrapping_add(1);
        if full {
            assert_eq!(got, Err(QueueError::Available));
            // There is no going on with it; here there is, from an empty queue.
            self.restart();
            return;
        }
        match self.model_chain(&image, head) {
            None => assert_eq!(got, Err(QueueError::Chain { head })),
            Some((readable, writable)) => {
                assert_eq!(got, Ok(true));
                assert_eq!(self.chain.head, head);
                assert_eq!(self.chain.readable, readable);
                assert_eq!(self.chain.writable, writable);
            }
        }
        let room = usize::from(self.max_size);
        assert!(self.chain.readable.capacity() == room && self.chain.writable.capacity() == room);
    }

    fn restart(&mut self) {
        self.state.next_used = self.state.next_available;
        let ram = self.ram.clone();
        self.queue =
            VirtQueue::new(ram, &self.state, self.max_size, self.features).expect("it was one");
        self.returned.clear();
    }

    /// First the list of all descriptors, then what is wrong with it.
    fn model_chain(&self, image: &[u8], head: u16) -> Option<(Vec<Buffer>, Vec<Buffer>)> {
        let mut list: Vec<(u64, u32, u16)> = Vec::new();
        let (mut table, mut len) = (self.state.descriptors, u32::from(self.state.size));
        let (mut index, mut nested) = (head, false);
        loop {
            if u32::from(index) >= len || list.len() > usize::from(self.max_size) {
                return None;
            }
            let at = u128::from(table) + 16 * u128::from(index);
            if at + 16 > RAM as u128 {
                return None;
            }
            let at = at as usize;
            let (addr, bytes) = (u64_at(image, at), u32_at(image, at + 8));
            let (flags, next) = (u16_at(image, at + 12), u16_at(image, at + 14));
            match (flags & 4 != 0, flags & 1 != 0) {
                (true, more) => {
                    if more || nested || !self.indirect || bytes == 0 || bytes % 16 != 0 {
                        return None;
                    }
                    (table, len, index, nested) = (addr, bytes / 16, 0, true);
                }
                (false, more) => {
                    list.push((addr, bytes, flags));
                    if !more {
                        break;
                    }
                    index = next;
                }
            }
        }
        let total: u64 = list.iter().map(|(_, len, _)| u64::from(*len)).sum();
        let sorted = list.is_sorted_by_key(|(_, _, flags)| flags & 2);
        if list.len() > usize::from(self.max_size) || total > 1 << 32 || !sorted {
            return None;
        }
        let (writable, readable): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|(_, _, flags)| flags & 2 != 0);
        let buffers = |list: Vec<(u64, u32, u16)>| {
            let each = list.into_iter();
            each.map(|(addr, len, _)| Buffer { addr, len }).collect()
        };
        Some((buffers(readable), buffers(writable)))
    }

    /// Returns a chain, if one is there to return.
    fn push(&mut self, head: u8, written: u32) {
        if self.in_flight() == 0 {
            return;
        }
        let head = u16::from(head) % self.state.size;
        let mut expected = self.image();
        self.queue
            .push_used(head, written)
            .expect("the rings are RAM");
        let index = self.state.next_used;
        let used = self.state.used as usize;
        let entry = used + 4 + 8 * usize::from(index % self.state.size);
        expected[entry..entry + 4].copy_from_slice(&u32::from(head).to_le_bytes());
        expected[entry + 4..entry + 8].copy_from_slice(&written.to_le_bytes());
        self.state.next_used = index.wrapping_add(1);
        expected[used + 2..used + 4].copy_from_slice(&self.state.next_used.to_le_bytes());
        assert!(expected == self.image());
        self.returned.push(index);
    }

    /// §2.7.7.2: by the flag, or if the index at `used_event` has been used.
    fn check_interrupt(&mut self) {
        let image = self.image();
        let available = self.state.available as usize;
        let expected = if self.event_idx {
            let event = u16_at(&image, available + 4 + 2 * usize::from(self.state.size));
            self.returned.contains(&event)
        } else {
            !self.returned.is_empty() && u16_at(&image, available) & 1 == 0
        };
        assert_eq!(self.queue.needs_interrupt(), Ok(expected));
        assert!(image == self.image());
        self.returned.clear();
    }

    fn check_enable(&mut self) {
        let mut expected = self.image();
        let more = self.queue.enable_kicks().expect("the rings are RAM");
        let used = self.state.used as usize;
        let (at, value) = if self.event_idx {
            let event = used + 4 + 8 * usize::from(self.state.size);
            (event, self.state.next_available)
        } else {
            (used, 0)
        };
        expected[at..at + 2].copy_from_slice(&value.to_le_bytes());
        assert!(expected == self.image());
        assert_eq!(more, self.available_index() != self.state.next_available);
    }
}
