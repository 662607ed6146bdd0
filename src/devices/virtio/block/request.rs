//! A block request as the driver laid it out (virtio 1.2 §5.2.6), checked.
//!
//! ```text
//!  readable:  type le32 │ reserved le32 │ sector le64 │ data (OUT, DISCARD, WRITE_ZEROES)
//!  writable:  data (IN, GET_ID) │ status u8
//! ```
//!
//! How these lie over descriptors means nothing (§2.7.4.1): the header may come in
//! pieces, and the status is the last byte of all that is writable. What a request of
//! one kind has too much (readable data of an IN, writable data of an OUT) is ignored.
//!
//! A request without a place for its status cannot be answered. The specification
//! leaves open what happens to it; the device returns it with length 0, so that the
//! driver has its descriptors back and the queue goes on. So it does for a status
//! byte that lies outside RAM.

use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::config_space::{MAX_DISCARD_SECTORS, MAX_SEGMENTS, MAX_WRITE_ZEROES_SECTORS, has};
use crate::devices::virtio::queue::{Buffer, Chain};
use crate::memory::{GuestRam, IoBuffers};

/// Bytes in a sector, the unit of every position (§5.2.4), whatever the block size.
pub const SECTOR: u64 = 512;
/// Bytes of a disk's identity (§5.2.6).
pub const ID_LEN: usize = 20;

/// Bytes of type, reserved and sector.
const HEADER: usize = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes`: sector le64, num_sectors le32, flags le32.
const SEGMENT: usize = 16;

/// What the status byte says (§5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = VIRTIO_BLK_S_OK as u8,
    /// It failed, or may not be.
    IoError = VIRTIO_BLK_S_IOERR as u8,
    /// The device does not know it.
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// Where a request's status goes; the byte is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusByte {
    addr: u64,
    /// Writable bytes that come before it.
    before: u64,
}

impl StatusByte {
    /// Answers the request.
    ///
    /// Gives the length to return it with: the bytes written from the front of the
    /// writable part on without a gap (§2.7.8.2), of which `data` are those before
    /// the status.
    pub fn answer(&self, ram: &GuestRam, status: Status, data: usize) -> u32 {
        // It was RAM when the request was parsed, and RAM does not go.
        let _ = ram.write(self.addr, &[status as u8]);
        let data = data as u64;
        let written = if data >= self.before {
            self.before.saturating_add(1)
        } else {
            data
        };
        u32::try_from(written).unwrap_or(u32::MAX)
    }

    /// Guest-physical address of the byte.
    pub fn addr(&self) -> u64 {
        self.addr
    }
}

/// A range of the disk to discard or to fill with zeros; within the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub offset: u64,
    sectors: u32,
    /// Whether its space may be given back (WRITE_ZEROES).
    pub unmap: bool,
}

impl Segment {
    /// Bytes; may be none.
    pub fn len(&self) -> u64 {
        u64::from(self.sectors).saturating_mul(SECTOR)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.sectors == 0
    }
}

/// The ranges of one request, in order; none is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    all: [Segment; MAX_SEGMENTS as usize],
    count: usize,
}

impl Segments {
    /// The ranges.
    pub fn as_slice(&self) -> &[Segment] {
        self.all.get(..self.count).unwrap_or_default()
    }
}

/// What a request asks for. Positions are in bytes, and the range from there on of the
/// data's length lies within the disk; the data may be of no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the data from the disk.
    Read {
        /// Where.
        offset: u64,
    },
    /// Put the data on the disk, which may be written.
    Write {
        /// Where.
        offset: u64,
    },
    /// Put what was written and answered on stable storage.
    Flush,
    /// Put the disk's identity into the data: as much of the [`ID_LEN`] bytes as it takes.
    GetId,
    /// Forget what the ranges hold.
    Discard(Segments),
    /// Fill the ranges with zeros.
    WriteZeroes(Segments),
}

/// A request that can be carried out.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// What to do.
    pub operation: Operation,
    /// Where to say how it went.
    pub status: StatusByte,
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// The disk's size in bytes, a multiple of [`SECTOR`].
    pub capacity: u64,
    /// Whether it may not be written.
    pub read_only: bool,
    /// The features that were agreed on.
    pub features: u64,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// It is answered so at once.
    #[error("the request is refused")]
    Refused {
        /// Where to say it.
        place: StatusByte,
        /// What to say.
        status: Status,
    },
    /// There is no place for an answer: it is returned with length 0.
    #[error("the request has no status byte in RAM")]
    NoStatus,
}

/// Reads the request in `chain`, and makes `data` the list of its data's pieces.
///
/// Each byte the driver may change meanwhile is read once. Nothing is allocated if
/// `data` has room for as many pieces as the chain has descriptors.
///
/// # Errors
/// [`RequestError`]; `data` is empty then.
pub fn parse(
    chain: &Chain,
    ram: &GuestRam,
    geometry: &Geometry,
    data: &mut IoBuffers,
) -> Result<Parsed, RequestError> {
    data.clear();
    let status = find_status(chain, ram).ok_or(RequestError::NoStatus)?;
    match read_operation(chain, ram, geometry, data, status.before) {
        Ok(operation) => Ok(Parsed { operation, status }),
        Err(refusal) => {
            data.clear();
            Err(RequestError::Refused {
                place: status,
                status: refusal,
            })
        }
    }
}

/// The last writable byte, if it is RAM.
fn find_status(chain: &Chain, ram: &GuestRam) -> Option<StatusByte> {
    let total: u64 = chain
        .writable
        .iter()
        .map(|piece| u64::from(piece.len))
        .sum();
    let last = chain.writable.iter().rfind(|piece| piece.len > 0)?;
    let addr = last.addr.checked_add(u64::from(last.len))?.checked_sub(1)?;
    ram.contains(addr, 1).then_some(StatusByte {
        addr,
        before: total.saturating_sub(1),
    })
}

/// `before_status` is how much of the writable part is data.
fn read_operation(
    chain: &Chain,
    ram: &GuestRam,
    geometry: &Geometry,
    data: &mut IoBuffers,
    before_status: u64,
) -> Result<Operation, Status> {
    let header = read_header(&chain.readable, ram).ok_or(Status::IoError)?;
    let (kind, sector) = (le32(&header, 0), le64(&header, 8));
    match kind {
        VIRTIO_BLK_T_IN => {
            collect(&chain.writable, 0, before_status, data)?;
            let offset = check_transfer(sector, data, geometry)?;
            Ok(Operation::Read { offset })
        }
        VIRTIO_BLK_T_OUT => {
            if geometry.read_only {
                return Err(Status::IoError);
            }
            collect(&chain.readable, HEADER as u64, u64::MAX, data)?;
            let offset = check_transfer(sector, data, geometry)?;
            Ok(Operation::Write { offset })
        }
        VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
        VIRTIO_BLK_T_GET_ID => {
            collect(&chain.writable, 0, before_status, data)?;
            Ok(Operation::GetId)
        }
        VIRTIO_BLK_T_DISCARD if has(geometry.features, VIRTIO_BLK_F_DISCARD) => {
            collect(&chain.readable, HEADER as u64, u64::MAX, data)?;
            // "unmap" is no flag of this request (§5.2.6.2).
            read_segments(data, geometry, MAX_DISCARD_SECTORS, 0).map(Operation::Discard)
        }
        VIRTIO_BLK_T_WRITE_ZEROES if has(geometry.features, VIRTIO_BLK_F_WRITE_ZEROES) => {
            collect(&chain.readable, HEADER as u64, u64::MAX, data)?;
            let flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
            read_segments(data, geometry, MAX_WRITE_ZEROES_SECTORS, flags)
                .map(Operation::WriteZeroes)
        }
        _ => Err(Status::Unsupported),
    }
}

/// The first [`HEADER`] readable bytes, from as many pieces as they come in.
fn read_header(pieces: &[Buffer], ram: &GuestRam) -> Option<[u8; HEADER]> {
    let mut header = [0; HEADER];
    let mut done = 0;
    for piece in pieces {
        let rest = header.get_mut(done..)?;
        let len = rest.len().min(usize::try_from(piece.len).ok()?);
        ram.read(piece.addr, rest.get_mut(..len)?).ok()?;
        done = done.checked_add(len)?;
        if done == HEADER {
            return Some(header);
        }
    }
    None
}

/// Adds the bytes `from..from + len` of `pieces`, or as many as there are, to `data`.
fn collect(pieces: &[Buffer], from: u64, len: u64, data: &mut IoBuffers) -> Result<(), Status> {
    let (mut skip, mut left) = (from, len);
    for piece in pieces {
        let piece_len = u64::from(piece.len);
        let skipped = skip.min(piece_len);
        let part = piece_len.saturating_sub(skipped).min(left);
        skip = skip.saturating_sub(skipped);
        left = left.saturating_sub(part);
        let addr = piece.addr.checked_add(skipped).ok_or(Status::IoError)?;
        let part = usize::try_from(part).map_err(|_| Status::IoError)?;
        data.push(addr, part).map_err(|_| Status::IoError)?;
    }
    Ok(())
}

/// The byte offset of `sector`, if the data are whole sectors that lie within the disk.
fn check_transfer(sector: u64, data: &IoBuffers, geometry: &Geometry) -> Result<u64, Status> {
    let len = data.len() as u64;
    if !len.is_multiple_of(SECTOR) {
        return Err(Status::IoError);
    }
    within(sector, len, geometry.capacity).ok_or(Status::IoError)
}

/// The byte offset of `sector`, if `len` bytes from there on are within `capacity`.
fn within(sector: u64, len: u64, capacity: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR)?;
    let end = offset.checked_add(len)?;
    (end <= capacity).then_some(offset)
}

/// The ranges that the data list, which is empty afterwards.
fn read_segments(
    data: &mut IoBuffers,
    geometry: &Geometry,
    max_sectors: u32,
    known_flags: u32,
) -> Result<Segments, Status> {
    let mut segments = Segments::default();
    let count = data.len() / SEGMENT;
    let places = segments.all.get_mut(..count).ok_or(Status::IoError)?;
    if !data.len().is_multiple_of(SEGMENT) {
        return Err(Status::IoError);
    }
    for (index, place) in places.iter_mut().enumerate() {
        let mut bytes = [0; SEGMENT];
        if !data.copy_out(index.saturating_mul(SEGMENT), &mut bytes) {
            return Err(Status::IoError);
        }
        let (sector, sectors, flags) = (le64(&bytes, 0), le32(&bytes, 8), le32(&bytes, 12));
        if flags & !known_flags != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > max_sectors {
            return Err(Status::IoError);
        }
        let len = u64::from(sectors).saturating_mul(SECTOR);
        let offset = within(sector, len, geometry.capacity).ok_or(Status::IoError)?;
        *place = Segment {
            offset,
            sectors,
            unmap: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
        };
    }
    segments.count = count;
    data.clear();
    Ok(segments)
}

fn le32(bytes: &[u8; 16], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|from| from.first_chunk())
        .map_or(0, |field| u32::from_le_bytes(*field))
}

fn le64(bytes: &[u8; 16], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|from| from.first_chunk())
        .map_or(0, |field| u64::from_le_bytes(*field))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
