//! From one format to another, leaving zeros out.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::chain::{Access, Chain, Content};
use super::create::{CLUSTER, Layout, qcow2};
use super::format::check_size;
use super::link::OpenRules;
use super::new_file::NewFile;
use super::{Format, ImageError, Progress};

/// Bytes read at once.
const PIECE: u64 = 2 << 20;
/// Bytes of a raw file that are left out together.
const RAW_GRAIN: usize = 4096;
static ZEROS: [u8; CLUSTER as usize] = [0; CLUSTER as usize];

/// How to convert.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    /// How the source is found.
    pub source: OpenRules,
    /// What the target is.
    pub format: Format,
    /// Whether an existing target is replaced.
    pub force: bool,
}

/// What a conversion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The disk's size in bytes.
    pub size: u64,
    /// How many of them were written; the others are zeros.
    pub written: u64,
}

/// Copies the disk of `source` to a new image `target`.
///
/// # Errors
/// An [`ImageError`]; the target's name then leads where it led before.
pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut Progress<'_>,
) -> Result<Converted, ImageError> {
    let chain = Chain::open(source, &options.source, 0)?;
    let size = chain.size();
    let refused = |reason| ImageError::Refused {
        path: target.to_owned(),
        reason,
    };
    check_size(size).map_err(refused)?;
    let new = NewFile::new(target, options.force)?;
    let write_error = |source| ImageError::Write {
        path: target.to_owned(),
        source,
    };
    let output = match options.format {
        Format::Raw => {
            new.file().set_len(size).map_err(write_error)?;
            Output::Raw(&new)
        }
        Format::Qcow2 => {
            let layout = Layout {
                size,
                cluster: CLUSTER,
                backing: None,
            };
            Output::Qcow2(Box::new(qcow2(target, &new, layout)?))
        }
        Format::Vmdk => return Err(refused("VMDK is for reading only".to_owned())),
    };
    let mut copy = Copy {
        chain: &chain,
        source,
        target,
        output,
        buffer: Vec::new(),
        written: 0,
    };
    let mut offset = 0;
    while offset < size {
        progress(offset, size);
        offset += copy.next(offset..size)?;
    }
    progress(size, size);
    let written = copy.written;
    copy.output.flush().map_err(write_error)?;
    drop(copy);
    new.finish()?;
    Ok(Converted { size, written })
}

/// Where the data goes.
enum Output<'a> {
    Raw(&'a NewFile),
    Qcow2(Box<Access>),
}

impl Output<'_> {
    /// What is left out if it is all zeros, in bytes.
    fn grain(&self) -> usize {
        match self {
            Self::Raw(_) => RAW_GRAIN,
            Self::Qcow2(_) => CLUSTER as usize,
        }
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Raw(new) => new.file().write_all_at(data, offset),
            Self::Qcow2(access) => access.write(data, offset),
        }
    }

    fn flush(&self) -> io::Result<()> {
        match self {
            Self::Raw(_) => Ok(()),
            Self::Qcow2(access) => access.flush(),
        }
    }
}

/// A conversion under way.
struct Copy<'a> {
    chain: &'a Chain,
    source: &'a Path,
    target: &'a Path,
    output: Output<'a>,
    buffer: Vec<u8>,
    written: u64,
}

impl Copy<'_> {
    /// Copies what `range` begins with; gives how far that went.
    fn next(&mut self, range: Range<u64>) -> Result<u64, ImageError> {
        let read_error = |source| ImageError::Read {
            path: self.source.to_owned(),
            source,
        };
        // Pieces end where those of a target's clusters do.
        let end = (range.start / PIECE + 1) * PIECE;
        let (content, len) = self.chain.content(range.clone()).map_err(read_error)?;
        if content != Content::Data {
            return Ok(len);
        }
        let len = len.min(end - range.start);
        self.buffer
            .resize(usize::try_from(len).unwrap_or_default(), 0);
        self.chain
            .read(&mut self.buffer, range.start)
            .map_err(read_error)?;
        for run in runs(&self.buffer, range.start, self.output.grain()) {
            let data = self.buffer.get(run.clone()).unwrap_or_default();
            let offset = range.start + run.start as u64;
            self.output
                .write(data, offset)
                .map_err(|source| ImageError::Write {
                    path: self.target.to_owned(),
                    source,
                })?;
            self.written += data.len() as u64;
        }
        Ok(len)
    }
}

/// The runs of grains in `data` that are not all zeros. Grains lie at multiples of
/// their size on the disk, where `data` is at `offset`.
fn runs(data: &[u8], offset: u64, grain: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    while start < data.len() {
        let at = offset + start as u64;
        let left = grain - usize::try_from(at % grain as u64).unwrap_or_default();
        let end = data.len().min(start + left);
        if !is_zero(data.get(start..end).unwrap_or_default()) {
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        start = end;
    }
    runs
}

fn is_zero(data: &[u8]) -> bool {
    data.chunks(ZEROS.len())
        .all(|chunk| ZEROS.get(..chunk.len()) == Some(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vec_of(run: Range<usize>) -> Vec<Range<usize>> {
        std::iter::once(run).collect()
    }

    #[test]
    fn zeros_are_left_out_in_whole_grains() {
        let mut data = vec![0; 5 * 4096];
        assert_eq!(runs(&data, 0, 4096), []);
        data[4096] = 1;
        data[3 * 4096 - 1] = 1;
        data[5 * 4096 - 1] = 1;
        let whole = [4096..3 * 4096, 4 * 4096..5 * 4096];
        assert_eq!(runs(&data, 0, 4096), whole);
        // The first grain ends after 512 bytes.
        data.fill(0);
        data[511] = 1;
        assert_eq!(runs(&data, 3584, 4096), vec_of(0..512));
        data[512] = 1;
        assert_eq!(runs(&data, 3584, 4096), vec_of(0..512 + 4096));
        assert_eq!(runs(&[], 0, 4096), []);
    }
}
