//! Disk images in formats that the image library (imago) reads and writes.
//!
//! # What is on stable storage when
//!
//! A flush writes the library's metadata and calls fdatasync. A write that takes new
//! clusters has its metadata in the host's page cache before the guest is told, so
//! that a VMM that is killed loses nothing acknowledged. What the host's crash may
//! do is leave mappings on the disk whose clusters are not counted yet: before the
//! first such write the header's dirty bit goes to stable storage, it is cleared when
//! the disk is closed, and an image found dirty has its counts raised (`refcounts`)
//! when it is opened for writing. QEMU does likewise. Version 2 has no such bit, and
//! is always looked through.
//!
//! Clusters are never freed for other use while the VM runs: discarded ones become
//! zero clusters that keep their place, whose space in the file is given back.
//! So a transfer may go straight to a cluster, whatever is discarded meanwhile.

mod chain;
mod header;
mod refcounts;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::{FormatAccess, Mapping};

pub(super) use chain::open_image;

use super::image_file::ImageFile;
use super::overlay::ReadPart;
use super::stat::SECTOR;
use super::transfer::Pieces;
use super::{Access, Disk, DiskLimits, Location};
use crate::memory::IoBuffers;

/// Zeros for images that cannot note them otherwise.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Whether the dirty bit is set in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dirty {
    /// The format has none, or nothing is written.
    Never,
    No,
    Yes,
}

/// A disk in an image.
#[derive(Debug)]
pub(super) struct ImageDisk {
    access: FormatAccess<ImageFile>,
    top: ImageFile,
    is_writable: bool,
    /// Bytes that are mapped together.
    cluster: u64,
    dirty: Mutex<Dirty>,
}

impl ImageDisk {
    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.access.size() => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn check_write(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.is_writable {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.check(offset, len)
    }

    /// Where the whole range lies in one file and in one piece, and whether it may
    /// be written there.
    fn place(&self, offset: u64, len: u64) -> Option<(&ImageFile, u64, bool)> {
        self.check(offset, len).ok()?;
        let (mapping, mapped) = self.access.get_mapping(offset, len).ok()?;
        match mapping {
            Mapping::Raw {
                storage,
                offset,
                writable,
                ..
            } if mapped >= len => Some((storage, offset, writable)),
            _ => None,
        }
    }

    /// Says in the file that counts may be too low, once, before they can be.
    fn before_allocating(&self) -> io::Result<()> {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        if *dirty == Dirty::No {
            self.top.set_dirty(true)?;
            *dirty = Dirty::Yes;
        }
        Ok(())
    }

    /// Makes whole clusters zero; what is left over at both ends stays.
    fn zero_clusters(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            let rest = end.saturating_sub(at);
            let (start, done) = self.access.inner().ensure_zero_mapping(at, rest)?;
            let next = start.saturating_add(done);
            if done == 0 || next <= at {
                break;
            }
            at = next;
        }
        Ok(())
    }

    /// Where in the image the clusters lie that are wholly in the range, as offset and
    /// length.
    fn own_places(&self, offset: u64, len: u64) -> io::Result<Vec<(u64, u64)>> {
        let end = offset.saturating_add(len) / self.cluster * self.cluster;
        let mut at = offset.next_multiple_of(self.cluster);
        let mut places = Vec::new();
        while at < end {
            let (mapping, len) = self.access.get_mapping(at, end.saturating_sub(at))?;
            if len == 0 {
                break;
            }
            if let Mapping::Raw {
                offset,
                writable: true,
                ..
            } = mapping
            {
                places.push((offset, len));
            }
            at = at.saturating_add(len);
        }
        Ok(places)
    }

    fn write_zeros(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let part = len.min(ZEROS.len() as u64);
            let zeros = ZEROS.get(..usize::try_from(part).unwrap_or(ZEROS.len()));
            self.access.write(zeros.unwrap_or(&ZEROS), offset)?;
            offset = offset.saturating_add(part);
            len = len.saturating_sub(part);
        }
        Ok(())
    }
}

impl ReadPart for ImageDisk {
    fn read_part(&self, buffers: &IoBuffers, part: Range<usize>, offset: u64) -> io::Result<()> {
        self.check(offset, part.len() as u64)?;
        let mut list = IoVectorMut::with_capacity(buffers.iovecs().len());
        Pieces::of(buffers).each(part, |piece| {
            // SAFETY: the piece lies in guest memory, which `buffers` keeps for longer
            // than the list lives. The guest may change it at any time; all that is
            // done with it is to copy bytes into it.
            let bytes = unsafe {
                std::slice::from_raw_parts_mut(piece.iov_base.cast::<u8>(), piece.iov_len)
            };
            list.push_ioslice(IoSliceMut::new(bytes));
        });
        self.access.readv(list, offset)
    }
}

impl Disk for ImageDisk {
    fn len(&self) -> u64 {
        self.access.size()
    }

    fn limits(&self) -> DiskLimits {
        DiskLimits {
            read_only: !self.is_writable,
            physical_block: self.top.file().physical_block(),
            discard: self.is_writable,
        }
    }

    fn read_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()> {
        self.read_part(buffers, 0..buffers.len(), offset)
    }

    fn write_at(&self, buffers: &mut IoBuffers, offset: u64) -> io::Result<()> {
        let len = buffers.len() as u64;
        self.check_write(offset, len)?;
        let is_mapped = matches!(self.place(offset, len), Some((_, _, true)));
        if !is_mapped {
            self.before_allocating()?;
        }
        let mut list = IoVector::with_capacity(buffers.iovecs().len());
        Pieces::of(buffers).each(0..buffers.len(), |piece| {
            // SAFETY: as in `read_part`; bytes are only copied out of it.
            let bytes = unsafe {
                std::slice::from_raw_parts(piece.iov_base.cast::<u8>().cast_const(), piece.iov_len)
            };
            list.push_ioslice(IoSlice::new(bytes));
        });
        self.access.writev(list, offset)?;
        if is_mapped {
            return Ok(());
        }
        // The mapping, after the data: from here on a kill loses neither.
        self.access.flush()
    }

    fn locate(&self, access: Access, offset: u64, len: u64) -> Option<Location<'_>> {
        if access == Access::Write && !self.is_writable {
            return None;
        }
        let (storage, offset, is_writable) = self.place(offset, len)?;
        let is_there = storage.reaches(offset.checked_add(len)?);
        if !is_there || (access == Access::Write && !is_writable) {
            return None;
        }
        Some(storage.file().location(offset))
    }

    fn written(&self, _offset: u64, _len: u64) {}

    fn flush(&self) -> io::Result<()> {
        if !self.is_writable {
            return Ok(());
        }
        self.access.flush()?;
        self.access.sync()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_write(offset, len)?;
        self.before_allocating()?;
        let places = self.own_places(offset, len)?;
        match self.zero_clusters(offset, len) {
            // Version 2 has no zero clusters; nothing need be done.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
            result => result?,
        }
        self.access.flush()?;
        for (offset, len) in places {
            self.top.file().punch(offset, len)?;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_write(offset, len)?;
        if unmap {
            self.discard(offset, len)?;
        }
        self.before_allocating()?;
        match self.access.write_zeroes(offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.write_zeros(offset, len)?;
            }
            result => result?,
        }
        self.access.flush()
    }
}

impl Drop for ImageDisk {
    /// Leaves the image as one that needs no repair.
    fn drop(&mut self) {
        let dirty = *self.dirty.get_mut().unwrap_or_else(PoisonError::into_inner);
        if dirty != Dirty::Yes {
            return;
        }
        let closed = self.flush().and_then(|()| self.top.set_dirty(false));
        if let Err(error) = closed {
            let path = self.top.file().path().display();
            log::warn!(
                "cannot close disk '{path}' cleanly; it is repaired when next used: {error}"
            );
        }
    }
}

/// Whether a size is one that a disk can have.
fn is_disk_size(size: u64) -> bool {
    size > 0 && size.is_multiple_of(SECTOR)
}
