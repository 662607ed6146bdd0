//! The legacy lz4 frame that Linux uses for kernels and initrds (`lz4 -l`).
//!
//! A magic number, then blocks of 8 MiB of data each behind its compressed
//! size; nothing marks the end. Source: lz4 `doc/lz4_Frame_format.md`, "Legacy
//! frame".

use std::io;

use lz4_flex::block::{decompress_into, get_maximum_output_size};

use super::bytes::u32_at;
use super::payload::UnpackError;

/// The first four bytes of a legacy frame.
pub(super) const LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// What every block but the last unpacks to.
const BLOCK: usize = 8 << 20;

/// Unpacks the frame at the start of `input` into `out` and moves `input` past
/// it. A size no block can have ends the frame: it is what follows in a
/// concatenated archive.
pub(super) fn unpack(input: &mut &[u8], out: &mut Vec<u8>, limit: u64) -> Result<(), UnpackError> {
    *input = input.strip_prefix(&LEGACY_MAGIC).ok_or_else(corrupt)?;
    let begin = out.len();
    let mut block = vec![0; BLOCK];
    while let Some(size) = block_size(input) {
        let data = input.get(4..size.saturating_add(4)).ok_or_else(corrupt)?;
        let count = decompress_into(data, &mut block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        out.extend_from_slice(block.get(..count).unwrap_or(&block));
        if out.len().saturating_sub(begin) as u64 > limit {
            return Err(UnpackError::TooLong);
        }
        *input = input.get(size.saturating_add(4)..).unwrap_or_default();
    }
    if out.len() == begin {
        return Err(corrupt());
    }
    Ok(())
}

/// The compressed size of the next block, if there is one.
fn block_size(input: &[u8]) -> Option<usize> {
    let size = usize::try_from(u32_at(input, 0)?).ok()?;
    (1..=get_maximum_output_size(BLOCK))
        .contains(&size)
        .then_some(size)
}

fn corrupt() -> UnpackError {
    UnpackError::Corrupt(io::ErrorKind::InvalidData.into())
}
