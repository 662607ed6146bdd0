//! Compressed contents: what format they are in, and unpacking them on the host.

use std::fmt;
use std::io::{self, Read};

use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

use super::error::BootError;
use super::image::Image;
use super::lz4;

/// Memory a decoder may take for its dictionary, in KiB.
const DICTIONARY_MAX_KIB: u32 = 1 << 20;

/// The compression formats Linux uses for kernels and initrds.
///
/// LZO is missing: no maintained crate reads lzop files. A bzImage compressed
/// with it starts through its own entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// LZMA in its old `.lzma` container.
    Lzma,
    /// xz.
    Xz,
    /// lz4 in its legacy frame format.
    Lz4,
    /// zstd (RFC 8878).
    Zstd,
}

impl Compression {
    /// The format that begins like this, by the magic numbers that Linux's
    /// `lib/decompress.c` goes by.
    pub fn detect(head: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Compression); 6] = [
            (&[0x1f, 0x8b], Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (&[0x5d, 0x00, 0x00], Compression::Lzma),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], Compression::Xz),
            (&lz4::LEGACY_MAGIC, Compression::Lz4),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
        ];
        MAGIC
            .iter()
            .find(|(magic, _)| head.starts_with(magic))
            .map(|(_, compression)| *compression)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Why compressed data did not unpack.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The decoder refused it, or it ended too early.
    #[error("the compressed data are corrupt")]
    Corrupt(#[from] io::Error),
    /// It unpacks to more than the limit.
    #[error("the compressed data unpack to more than they may")]
    TooLong,
}

impl UnpackError {
    /// The error for the user.
    pub(super) fn of(self, image: &Image, compression: Compression, limit: u64) -> BootError {
        let (role, path) = (image.role(), image.path().to_owned());
        match self {
            Self::Corrupt(source) => BootError::Corrupt {
                role,
                path,
                compression,
                source,
            },
            Self::TooLong => BootError::Endless {
                role,
                path,
                compression,
                limit,
            },
        }
    }
}

/// Appends what the one compressed stream at the start of `input` unpacks to,
/// `limit` bytes at most, and moves `input` past the stream.
///
/// # Errors
/// [`UnpackError`]; `out` may then hold a part, and a little more than `limit`.
pub fn unpack(
    compression: Compression,
    input: &mut &[u8],
    out: &mut Vec<u8>,
    limit: u64,
) -> Result<(), UnpackError> {
    match compression {
        Compression::Gzip => drain(flate2::bufread::GzDecoder::new(input), out, limit),
        Compression::Bzip2 => drain(bzip2::bufread::BzDecoder::new(input), out, limit),
        Compression::Lzma => {
            let reader = LzmaReader::new_mem_limit(ByteWise(input), DICTIONARY_MAX_KIB, None)?;
            drain(reader, out, limit)
        }
        Compression::Xz => drain(
            XzReader::new_mem_limit(input, false, DICTIONARY_MAX_KIB),
            out,
            limit,
        ),
        Compression::Lz4 => lz4::unpack(input, out, limit),
        Compression::Zstd => {
            let reader = StreamingDecoder::new(input).map_err(io::Error::other)?;
            drain(reader, out, limit)
        }
    }
}

/// Hands out one byte a read: the LZMA decoder takes what it can get, and
/// would read past the end of the stream.
struct ByteWise<'a, 'b>(&'a mut &'b [u8]);

impl Read for ByteWise<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let one = buf.len().min(1);
        self.0.read(buf.get_mut(..one).unwrap_or_default())
    }
}

/// Reads to the end of the stream, or to one byte past the limit.
fn drain(reader: impl Read, out: &mut Vec<u8>, limit: u64) -> Result<(), UnpackError> {
    let count = reader.take(limit.saturating_add(1)).read_to_end(out)?;
    if count as u64 > limit {
        return Err(UnpackError::TooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, sample};
    use super::*;

    fn unpack_all(data: &[u8], limit: u64) -> Result<(Vec<u8>, usize), UnpackError> {
        let compression = Compression::detect(data).expect("magic");
        let mut input = data;
        let mut out = Vec::new();
        unpack(compression, &mut input, &mut out, limit)?;
        Ok((out, input.len()))
    }

    #[test]
    fn every_format_round_trips_and_stops_at_its_own_end() {
        for (name, pack) in testing::PACKERS {
            let mut data = pack(&sample());
            data.extend_from_slice(&[0, 0, 0, 0]);
            let (out, left) = unpack_all(&data, 1 << 20).unwrap();
            assert!(out == sample(), "{name}");
            assert_eq!(left, 4, "{name} must leave what follows it");
        }
    }

    #[test]
    fn the_limit_holds_for_every_format() {
        for (name, pack) in testing::PACKERS {
            let data = pack(&sample());
            let exact = sample().len() as u64;
            assert!(unpack_all(&data, exact).is_ok(), "{name}");
            let result = unpack_all(&data, exact - 1);
            assert!(matches!(result, Err(UnpackError::TooLong)), "{name}");
        }
    }

    #[test]
    fn a_cut_stream_is_corrupt_in_every_format() {
        for (name, pack) in testing::PACKERS {
            let data = pack(&sample());
            let cut = &data[..data.len() / 2];
            let result = unpack_all(cut, 1 << 20);
            assert!(matches!(result, Err(UnpackError::Corrupt(_))), "{name}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
        #[test]
        fn hostile_streams_end_without_a_panic(
            tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
            flips in proptest::collection::vec((0usize..4000, 1u8..), 0..4),
        ) {
            for (_, pack) in testing::PACKERS {
                let mut data = pack(&sample());
                for (at, mask) in &flips {
                    let len = data.len();
                    data[at % len] ^= mask;
                }
                data.extend_from_slice(&tail);
                if let Some(compression) = Compression::detect(&data) {
                    let mut input = data.as_slice();
                    let mut out = Vec::new();
                    let _ = unpack(compression, &mut input, &mut out, 1 << 17);
                    assert!(out.len() <= (1 << 17) + (8 << 20));
                }
                let mut noise = data[..6].to_vec();
                noise.extend_from_slice(&tail);
                if let Some(compression) = Compression::detect(&noise) {
                    let mut input = noise.as_slice();
                    let _ = unpack(compression, &mut input, &mut Vec::new(), 1 << 17);
                }
            }
        }
    }
}
