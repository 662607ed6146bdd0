//! Block requests of any content and framing.
//!
//! Input: the machine and the disk (8 bits: more than 3 GiB of memory, a disk as large
//! as can be, read-only, the features), capacity in sectors (16 bits), what lies in
//! memory from address 0 on (8 bits of length, content), then for each piece of the
//! chain what it is (8 bits) and its address and length as that says.
//!
//! A simple model, byte by byte, says what should come of it.

use mayfly::devices::virtio::block::request::{
    Geometry, Operation, RequestError, Segments, Status, StatusByte, parse,
};
use mayfly::devices::virtio::queue::{Buffer, Chain};
use mayfly::memory::layout::{PCI_HOLE_END, PCI_HOLE_START};
use mayfly::memory::{GuestRam, IoBuffers};

use super::script::{Script, u32_at, u64_at};

const SMALL_RAM: u64 = 64 << 10;
const LARGE_RAM: u64 = PCI_HOLE_START + (64 << 10);
const MOST_PIECES: usize = 16;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// Builds a chain and holds its request against the model.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let flags = script.u8();
    let has = |bit: u8| flags >> bit & 1 != 0;
    let sectors = u64::from(script.u16());
    let geometry = Geometry {
        capacity: if has(1) {
            u64::MAX - 511 - sectors * 512
        } else {
            sectors * 512
        },
        read_only: has(2),
        features: u64::from(has(3)) << 13 | u64::from(has(4)) << 14 | 1 << 32,
    };
    let ram = GuestRam::new(if has(0) { LARGE_RAM } else { SMALL_RAM }).expect("reserved only");
    let len = script.u8();
    ram.write(0, script.bytes(len.into())).expect("its start");
    let mut chain = Chain::default();
    while !script.is_empty() && chain.readable.len() + chain.writable.len() < MOST_PIECES {
        let (buffer, writable) = piece(&mut script);
        if writable {
            chain.writable.push(buffer);
        } else {
            chain.readable.push(buffer);
        }
    }
    check(&chain, &ram, &geometry);
}

/// Near the start, near an end of RAM, or anywhere; short, or anything.
fn piece(script: &mut Script) -> (Buffer, bool) {
    let kind = script.u8();
    let addr = match kind >> 1 & 7 {
        0..=3 => script.u8().into(),
        4 => script.u16().into(),
        5 => PCI_HOLE_START - u64::from(script.u16()),
        6 => (PCI_HOLE_END + (64 << 10)).wrapping_sub(script.u16().into()),
        _ => script.u64(),
    };
    let len = match kind >> 4 & 3 {
        0 | 1 => script.u8().into(),
        2 => u32::from(script.u8()) * 512,
        _ => script.u32(),
    };
    (Buffer { addr, len }, kind & 1 != 0)
}

fn check(chain: &Chain, ram: &GuestRam, geometry: &Geometry) {
    let mut data = IoBuffers::new(ram.clone(), MOST_PIECES);
    let room = data.iovecs().as_ptr();
    let parsed = parse(chain, ram, geometry, &mut data);
    assert_eq!(data.iovecs().as_ptr(), room, "nothing is allocated");
    let Some(status) = last_byte(&chain.writable).filter(|addr| in_ram(ram, *addr, 1)) else {
        assert_eq!(parsed.err(), Some(RequestError::NoStatus));
        assert!(data.is_empty());
        return;
    };
    let expected = model(chain, ram, geometry);
    let place = match parsed {
        Ok(parsed) => {
            assert_eq!(expected, Ok(Found::of(&parsed.operation, &data)));
            check_data(chain, ram, &parsed.operation, &data);
            parsed.status
        }
        Err(RequestError::Refused { place, status }) => {
            assert_eq!(expected, Err(status));
            assert!(data.is_empty());
            place
        }
        Err(RequestError::NoStatus) => panic!("it is at {status:#x}"),
    };
    assert_eq!(place.addr(), status);
    check_answer(chain, ram, &place);
}

/// A request in the model's words.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Read(u64, u64),
    Write(u64, u64),
    Flush,
    GetId(u64),
    Discard(Vec<(u64, u64, bool)>),
    WriteZeroes(Vec<(u64, u64, bool)>),
}

impl Found {
    fn of(operation: &Operation, data: &IoBuffers) -> Self {
        let list = |segments: &Segments| {
            let each = segments.as_slice().iter();
            each.map(|one| (one.offset, one.len(), one.unmap)).collect()
        };
        let len = data.len() as u64;
        match operation {
            Operation::Read { offset } => Self::Read(*offset, len),
            Operation::Write { offset } => Self::Write(*offset, len),
            Operation::Flush => Self::Flush,
            Operation::GetId => Self::GetId(len),
            Operation::Discard(segments) => Self::Discard(list(segments)),
            Operation::WriteZeroes(segments) => Self::WriteZeroes(list(segments)),
        }
    }
}

fn total(pieces: &[Buffer]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.len)).sum()
}

fn in_ram(ram: &GuestRam, addr: u64, len: u64) -> bool {
    let (addr, end) = (u128::from(addr), u128::from(addr) + u128::from(len));
    let high_end = PCI_HOLE_END + ram.size().saturating_sub(PCI_HOLE_START);
    let low = end <= ram.size().min(PCI_HOLE_START).into();
    let high = addr >= PCI_HOLE_END.into() && end <= high_end.into();
    low || high
}

fn last_byte(pieces: &[Buffer]) -> Option<u64> {
    let last = pieces.iter().rev().find(|piece| piece.len > 0)?;
    last.addr.checked_add(u64::from(last.len) - 1)
}

/// The address of byte `at` of all pieces together.
fn address(pieces: &[Buffer], mut at: u64) -> Option<u64> {
    for piece in pieces {
        if at < u64::from(piece.len) {
            return piece.addr.checked_add(at);
        }
        at -= u64::from(piece.len);
    }
    None
}

/// `len` bytes from `at` on, if they are there and RAM.
fn bytes(pieces: &[Buffer], ram: &GuestRam, at: u64, len: u64) -> Option<Vec<u8>> {
    let byte = |at| {
        let mut byte = [0];
        ram.read(address(pieces, at)?, &mut byte).ok()?;
        Some(byte[0])
    };
    (at..at + len).map(byte).collect()
}

/// Whether the bytes `from..to` of the pieces are RAM, each piece's in one run.
fn all_ram(pieces: &[Buffer], ram: &GuestRam, from: u64, to: u64) -> bool {
    let mut start = 0;
    pieces.iter().all(|piece| {
        let end = start + u64::from(piece.len);
        let (first, last) = (start.max(from), end.min(to));
        let skipped = first - start;
        start = end;
        first >= last
            || piece
                .addr
                .checked_add(skipped)
                .is_some_and(|addr| in_ram(ram, addr, last - first))
    })
}

fn model(chain: &Chain, ram: &GuestRam, geometry: &Geometry) -> Result<Found, Status> {
    let (readable, writable) = (total(&chain.readable), total(&chain.writable) - 1);
    let header = bytes(&chain.readable, ram, 0, 16).ok_or(Status::IoError)?;
    let (kind, sector) = (u32_at(&header, 0), u64_at(&header, 8));
    let transfer = |len: u64| {
        let offset = u128::from(sector) * 512;
        let fits = offset + u128::from(len) <= geometry.capacity.into();
        (len.is_multiple_of(512) && fits)
            .then_some(offset as u64)
            .ok_or(Status::IoError)
    };
    let agreed = |feature: u64| geometry.features & feature != 0;
    let out = || {
        all_ram(&chain.readable, ram, 16, u64::MAX)
            .then_some(())
            .ok_or(Status::IoError)
    };
    let into = || {
        all_ram(&chain.writable, ram, 0, writable)
            .then_some(())
            .ok_or(Status::IoError)
    };
    match kind {
        0 => into().and_then(|()| Ok(Found::Read(transfer(writable)?, writable))),
        1 if geometry.read_only => Err(Status::IoError),
        1 => out().and_then(|()| Ok(Found::Write(transfer(readable - 16)?, readable - 16))),
        4 => Ok(Found::Flush),
        8 => into().map(|()| Found::GetId(writable)),
        11 if agreed(DISCARD) => {
            out()?;
            segments(chain, ram, geometry, 8 << 20, 0).map(Found::Discard)
        }
        13 if agreed(WRITE_ZEROES) => {
            out()?;
            segments(chain, ram, geometry, 512 << 10, 1).map(Found::WriteZeroes)
        }
        _ => Err(Status::Unsupported),
    }
}

fn segments(
    chain: &Chain,
    ram: &GuestRam,
    geometry: &Geometry,
    most: u32,
    flags_known: u32,
) -> Result<Vec<(u64, u64, bool)>, Status> {
    let len = total(&chain.readable) - 16;
    if !len.is_multiple_of(16) || len > 16 * 16 {
        return Err(Status::IoError);
    }
    let one = |at| {
        let entry = bytes(&chain.readable, ram, 16 + at, 16).ok_or(Status::IoError)?;
        let (sector, count, flags) = (u64_at(&entry, 0), u32_at(&entry, 8), u32_at(&entry, 12));
        let (offset, len) = (u128::from(sector) * 512, u128::from(count) * 512);
        if flags & !flags_known != 0 {
            Err(Status::Unsupported)
        } else if count > most || offset + len > geometry.capacity.into() {
            Err(Status::IoError)
        } else {
            Ok((offset as u64, len as u64, flags & 1 != 0))
        }
    };
    (0..len).step_by(16).map(one).collect()
}

/// The pieces are where the chain has them, in order, and RAM of this machine.
fn check_data(chain: &Chain, ram: &GuestRam, operation: &Operation, data: &IoBuffers) {
    let sum: usize = data.iovecs().iter().map(|piece| piece.iov_len).sum();
    assert_eq!(sum, data.len());
    let (pieces, mut at) = match operation {
        Operation::Read { .. } | Operation::GetId => (&chain.writable, 0),
        Operation::Write { .. } => (&chain.readable, 16),
        _ => return assert!(data.is_empty()),
    };
    for iovec in data.iovecs() {
        let addr = address(pieces, at).expect("a byte of the chain");
        let region = ram
            .regions()
            .find(|(range, _)| addr >= range.start && addr - range.start < range.len);
        let (range, host) = region.expect("RAM");
        assert_eq!(iovec.iov_base as u64, host + (addr - range.start));
        assert!(addr - range.start + iovec.iov_len as u64 <= range.len);
        at += iovec.iov_len as u64;
    }
}

/// The status byte is written, nothing else; the length counts nothing unwritten.
fn check_answer(chain: &Chain, ram: &GuestRam, place: &StatusByte) {
    let all = total(&chain.writable);
    for (status, code) in [
        (Status::Ok, 0),
        (Status::IoError, 1),
        (Status::Unsupported, 2),
    ] {
        let mut expected = vec![0; SMALL_RAM as usize];
        ram.read(0, &mut expected).expect("every machine has it");
        for written in [0, all / 2, all - 1] {
            let len = u64::from(place.answer(ram, status, written as usize));
            let whole = written == all - 1;
            let most = if whole { all } else { written };
            assert_eq!(len, most.min(u32::MAX.into()));
        }
        if let Some(byte) = expected.get_mut(place.addr() as usize) {
            *byte = code;
        }
        let mut found = vec![0; SMALL_RAM as usize];
        ram.read(0, &mut found).expect("every machine has it");
        assert!(expected == found);
    }
}
