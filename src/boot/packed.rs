//! The compressed ELF inside a kernel file, unpacked within bounds.

use std::io;

use super::bytes::u32_at;
use super::bzimage::SetupHeader;
use super::cache::{PayloadCache, PayloadKind};
use super::error::BootError;
use super::image::Image;
use super::payload::{Compression, UnpackError, unpack};

/// More than this no kernel may unpack to.
const MAX_UNPACKED: u64 = 1 << 30;

/// A compressed stream inside a kernel file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    offset: u64,
    len: u64,
    compression: Compression,
    limit: u64,
    /// A bzImage's payload ends with its unpacked size in four bytes.
    has_size: bool,
}

impl Packed {
    /// A file that is compressed as a whole.
    pub(super) fn whole(file: &Image, compression: Compression) -> Self {
        Self {
            offset: 0,
            len: file.len(),
            compression,
            limit: MAX_UNPACKED,
            has_size: false,
        }
    }

    /// The payload of a bzImage, if it is in a format Mayfly unpacks. It may
    /// unpack to `init_size` bytes at most: the guest would have no room for more.
    ///
    /// # Errors
    /// [`BootError::Truncated`] if the file ends before it.
    pub(super) fn in_bzimage(file: &Image, setup: &SetupHeader) -> Result<Option<Self>, BootError> {
        let Some((offset, len)) = setup.payload() else {
            return Ok(None);
        };
        if offset.checked_add(len).is_none_or(|end| end > file.len()) {
            return Err(BootError::Truncated {
                path: file.path().to_owned(),
                what: "compressed payload",
            });
        }
        let head = file.read_vec(offset, 16)?;
        Ok(Compression::detect(&head).map(|compression| Self {
            offset,
            len,
            compression,
            limit: match setup.init_size() {
                0 => MAX_UNPACKED,
                init_size => init_size.min(MAX_UNPACKED),
            },
            has_size: true,
        }))
    }

    /// How it is compressed.
    pub(super) fn compression(self) -> Compression {
        self.compression
    }

    /// The unpacked kernel, and whether it came from the cache.
    ///
    /// # Errors
    /// [`BootError::Corrupt`], [`BootError::Endless`], or [`BootError::Read`]
    /// if the file cannot be read.
    pub(super) fn unpacked(
        self,
        file: &Image,
        cache: &PayloadCache,
    ) -> Result<(Image, bool), BootError> {
        cache.unpacked(file, PayloadKind::Kernel, || self.unpack(file))
    }

    fn unpack(self, file: &Image) -> Result<Vec<u8>, BootError> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        let data = file.read_vec(self.offset, len)?;
        let (mut stream, size) = self.split_size(&data);
        let mut out = Vec::new();
        // A hint only: growing in steps would copy tens of megabytes.
        let hint = size.map_or(0, u64::from).min(self.limit);
        let _ = out.try_reserve_exact(usize::try_from(hint).unwrap_or(0).saturating_add(1));
        unpack(self.compression, &mut stream, &mut out, self.limit)
            .and_then(|()| check_size(&out, size))
            .map_err(|error| error.of(file, self.compression, self.limit))?;
        Ok(out)
    }

    /// Parts the stream from the size behind it. gzip's own last field is just
    /// that size; kernel builds append it to the other formats.
    fn split_size(self, data: &[u8]) -> (&[u8], Option<u32>) {
        let at = data.len().saturating_sub(4);
        match (self.has_size, self.compression) {
            (false, _) => (data, None),
            (true, Compression::Gzip) => (data, u32_at(data, at)),
            (true, _) => (data.get(..at).unwrap_or(data), u32_at(data, at)),
        }
    }
}

/// Holds what was unpacked against the size that was promised: the lz4 format
/// has no end of its own.
fn check_size(out: &[u8], promised: Option<u32>) -> Result<(), UnpackError> {
    match promised {
        Some(size) if u64::from(size) != out.len() as u64 => {
            let text = format!("it unpacks to {} bytes and not to {size}", out.len());
            Err(UnpackError::Corrupt(io::Error::other(text)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::Kernel;
    use super::super::testing::{self, PACKERS};
    use super::*;

    fn open(bytes: &[u8]) -> Result<Kernel, BootError> {
        let (_dir, path) = testing::file(bytes);
        Kernel::open(&path, &PayloadCache::none())
    }

    #[test]
    fn a_corrupt_payload_is_an_error_in_every_format() {
        let elf = testing::elf(&testing::sample());
        for (name, pack) in PACKERS {
            let packed = pack(&elf);
            // A wrong byte where the file still has the right size.
            let mut image = testing::bzimage(&packed, elf.len());
            let at = image.len() - packed.len() / 2;
            for byte in &mut image[at..at + 16] {
                *byte ^= 0xff;
            }
            let result = open(&image);
            // Formats without a checksum may unpack to other bytes of the same
            // length; none may unpack to another length.
            match result {
                Err(BootError::Corrupt { .. }) => {}
                Ok(_) | Err(BootError::Malformed { .. }) => {
                    assert!(matches!(name, "lzma" | "lz4" | "zstd"), "{name}");
                }
                Err(other) => panic!("{name}: {other}"),
            }
        }
    }

    #[test]
    fn a_wrong_size_is_corrupt() {
        let elf = testing::elf(&[0x90; 0x1000]);
        for pack in [testing::lz4, testing::zstd, testing::lzma] {
            let result = open(&testing::bzimage(&pack(&elf), elf.len() + 1));
            assert!(matches!(result, Err(BootError::Corrupt { .. })));
        }
    }

    #[test]
    fn a_payload_beyond_init_size_is_stopped() {
        let zeros = vec![0; 0x10_0001];
        for (name, pack) in PACKERS {
            let result = open(&testing::bzimage(&pack(&zeros), zeros.len()));
            assert!(
                matches!(
                    result,
                    Err(BootError::Endless {
                        limit: 0x10_0000,
                        ..
                    })
                ),
                "{name}"
            );
        }
    }
}
