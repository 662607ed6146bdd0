//! Writing an overlay's data into its backing file.
//!
//! The order holds at every moment against a crash: the backing file gets the
//! overlay's data, which the overlay shows anyway; that is put on stable storage;
//! only then an empty overlay takes the full one's place, in one step.

use std::io;
use std::path::Path;

use super::chain::{Chain, Content, Layer};
use super::create::{Layout, qcow2};
use super::header::Header;
use super::link::OpenRules;
use super::new_file::NewFile;
use super::{Format, ImageError, Progress};

/// Bytes copied at once.
const PIECE: u64 = 2 << 20;

/// Commits the overlay at `path`; gives how many bytes its backing file got.
///
/// # Errors
/// An [`ImageError`]; the overlay then shows what it showed before.
pub fn commit(
    path: &Path,
    rules: &OpenRules,
    progress: &mut Progress<'_>,
) -> Result<u64, ImageError> {
    let chain = Chain::open(path, rules, 2)?;
    let refused = |reason: &str| ImageError::Commit {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let [overlay, backing, below @ ..] = chain.layers() else {
        return Err(refused("it has no backing file"));
    };
    let Some(header) = &overlay.link.header else {
        return Err(refused("it has no backing file"));
    };
    if header.snapshots > 0 || header.bitmaps.is_some() {
        return Err(refused("its internal snapshots or bitmaps would be lost"));
    }
    if !overlay
        .link
        .file
        .metadata()
        .is_ok_and(|found| found.is_file())
    {
        return Err(refused("it is a block device; convert it to a file first"));
    }
    if backing.link.format == Format::Vmdk {
        return Err(refused(
            "its backing file is a vmdk image, which is only read",
        ));
    }
    let size = overlay.access.size();
    let hidden = below
        .first()
        .is_some_and(|below| below.access.size() > backing.access.size());
    if hidden && size > backing.access.size() {
        return Err(refused(
            "its backing file would show more of the file below",
        ));
    }
    let written = copy(overlay, backing, progress)?;
    empty(overlay, backing, header)?;
    Ok(written)
}

/// Brings the overlay's data to the backing file and that to stable storage.
fn copy(overlay: &Layer, backing: &Layer, progress: &mut Progress<'_>) -> Result<u64, ImageError> {
    let read_error = |source| overlay.link.cannot_read(source);
    let write_error = |source| ImageError::Write {
        path: backing.link.path.clone(),
        source,
    };
    let size = overlay.access.size();
    if size > backing.access.size() {
        let mode = imago::format::PreallocateMode::None;
        backing
            .access
            .resize_grow(size, mode)
            .map_err(write_error)?;
    }
    let mut buffer = Vec::new();
    let (mut offset, mut written) = (0, 0);
    while offset < size {
        progress(offset, size);
        let (content, mut len) = overlay.content(offset..size).map_err(read_error)?;
        match content {
            Content::Below => {}
            Content::Zeros => backing
                .access
                .write_zeroes(offset, len)
                .map_err(write_error)?,
            Content::Data => {
                len = len.min(PIECE);
                buffer.resize(usize::try_from(len).unwrap_or_default(), 0);
                overlay
                    .access
                    .read(&mut buffer, offset)
                    .map_err(read_error)?;
                backing.access.write(&buffer, offset).map_err(write_error)?;
            }
        }
        if content != Content::Below {
            written += len;
        }
        offset += len;
    }
    let stable = || -> io::Result<()> {
        backing.access.flush()?;
        backing.access.sync()?;
        backing.link.file.sync_all()
    };
    stable().map_err(write_error)?;
    progress(size, size);
    Ok(written)
}

/// Puts an empty overlay in the place of the full one.
fn empty(overlay: &Layer, backing: &Layer, header: &Header) -> Result<(), ImageError> {
    let path = &overlay.link.real;
    let new = NewFile::in_place_of(path, &overlay.link.file)?;
    let name = header.backing_file.clone().unwrap_or_default();
    let layout = Layout {
        size: header.size,
        cluster: header.cluster(),
        backing: Some((name, backing.link.format)),
    };
    drop(qcow2(path, &new, layout)?);
    new.finish()
}
