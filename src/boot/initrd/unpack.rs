//! Unpacking an initrd on the host.
//!
//! An initrd is a row of cpio archives, each plain or compressed, with zeros
//! between them: Debian's begins with a plain one of microcode, for instance.
//! What comes out is the same row, all plain, which the kernel reads at the
//! speed of a copy. Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

use crate::boot::error::BootError;
use crate::boot::image::Image;
use crate::boot::payload::{Compression, UnpackError, unpack as unpack_stream};

/// More than this no initrd may unpack to, and larger files stay as they are.
pub(super) const MAX_UNPACKED: u64 = 2 << 30;
/// The kernel wants an archive on a 4-byte boundary.
const ALIGN: usize = 4;
/// Length of a cpio header of the "newc" format: a magic number and 13 fields.
const HEADER_LEN: usize = 110;
/// Read at once for a header and its name; longer names are cut, which is no harm.
const HEAD_LEN: usize = 256;
/// The name of an archive's last entry, with its NUL.
const TRAILER: &[u8] = b"TRAILER!!!\0";

/// What a part of an initrd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A plain archive that ends at this offset.
    Plain(u64),
    /// A compressed archive.
    Compressed(Compression),
    /// Neither: a boot configuration, padding, or what only the kernel knows.
    Other,
}

/// Whether any part that can be told from outside is compressed.
///
/// # Errors
/// [`BootError::Read`].
pub(super) fn is_packed(image: &Image) -> Result<bool, BootError> {
    let mut at = 0;
    loop {
        at = skip_zeros(image, at)?;
        match part_at(image, at)? {
            Part::Plain(end) => at = end,
            Part::Compressed(_) => return Ok(true),
            Part::Other => return Ok(false),
        }
    }
}

/// The initrd with every compressed part unpacked, up to `limit` bytes.
///
/// # Errors
/// [`BootError::Corrupt`], [`BootError::Endless`], [`BootError::Read`].
pub(super) fn unpack(image: &Image, limit: u64) -> Result<Vec<u8>, BootError> {
    let len = usize::try_from(image.len()).unwrap_or(usize::MAX);
    let data = image.read_vec(0, len)?;
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        at = skip_zeros(image, at)?;
        let begin = usize::try_from(at).unwrap_or(usize::MAX);
        let mut rest = data.get(begin..).unwrap_or_default();
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        match part_at(image, at)? {
            Part::Plain(end) => {
                let end = usize::try_from(end).unwrap_or(usize::MAX);
                out.extend_from_slice(data.get(begin..end).unwrap_or(rest));
                at = end as u64;
            }
            Part::Compressed(compression) => {
                let room = limit.saturating_sub(out.len() as u64);
                unpack_stream(compression, &mut rest, &mut out, room)
                    .map_err(|error| error.of(image, compression, limit))?;
                let left = rest.len() as u64;
                let next = (data.len() as u64).saturating_sub(left);
                if next <= at {
                    let stuck = UnpackError::Corrupt(std::io::ErrorKind::InvalidData.into());
                    return Err(stuck.of(image, compression, limit));
                }
                at = next;
            }
            Part::Other => {
                out.extend_from_slice(rest);
                return Ok(out);
            }
        }
    }
}

fn part_at(image: &Image, at: u64) -> Result<Part, BootError> {
    let head = image.read_vec(at, 16)?;
    if is_cpio(&head) && at.is_multiple_of(ALIGN as u64) {
        return Ok(plain_end(image, at)?.map_or(Part::Other, Part::Plain));
    }
    Ok(Compression::detect(&head).map_or(Part::Other, Part::Compressed))
}

fn is_cpio(head: &[u8]) -> bool {
    head.starts_with(b"070701") || head.starts_with(b"070702")
}

/// The end of the plain archive at `at`, behind its trailer; `None` if it has none.
fn plain_end(image: &Image, mut at: u64) -> Result<Option<u64>, BootError> {
    loop {
        let head = image.read_vec(at, HEAD_LEN)?;
        let Some(entry) = Entry::parse(&head, at) else {
            return Ok(None);
        };
        if entry.end > image.len().next_multiple_of(ALIGN as u64) {
            return Ok(None);
        }
        if entry.is_trailer {
            return Ok(Some(entry.end));
        }
        at = entry.end;
    }
}

/// What finding the next entry takes.
struct Entry {
    end: u64,
    is_trailer: bool,
}

impl Entry {
    fn parse(head: &[u8], at: u64) -> Option<Self> {
        if !is_cpio(head) {
            return None;
        }
        let file_len = hex_field(head, 54)?;
        let name_len = hex_field(head, 94)?;
        let name = head.get(HEADER_LEN..)?;
        let align = ALIGN as u64;
        let end = at
            .checked_add(HEADER_LEN as u64)?
            .checked_add(name_len)?
            .checked_next_multiple_of(align)?
            .checked_add(file_len)?
            .checked_next_multiple_of(align)?;
        Some(Self {
            end,
            is_trailer: name_len == TRAILER.len() as u64 && name.starts_with(TRAILER),
        })
    }
}

/// A field of eight hexadecimal digits.
fn hex_field(head: &[u8], at: usize) -> Option<u64> {
    let digits = head.get(at..at.checked_add(8)?)?;
    let text = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(text, 16).ok()
}

/// The offset of the first byte from `at` on that is not zero, or the end.
fn skip_zeros(image: &Image, mut at: u64) -> Result<u64, BootError> {
    loop {
        let chunk = image.read_vec(at, 4096)?;
        match chunk.iter().position(|byte| *byte != 0) {
            Some(zeros) => return Ok(at.saturating_add(zeros as u64)),
            None if chunk.is_empty() => return Ok(at),
            None => at = at.saturating_add(chunk.len() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::error::FileRole;
    use crate::boot::testing::{self, PACKERS};

    fn image(bytes: &[u8]) -> Image {
        let (_dir, path) = testing::file(bytes);
        Image::open(&path, FileRole::Initrd, 1 << 30).unwrap()
    }

    /// A cpio archive of one file.
    fn cpio(name: &str, contents: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, contents) in [(name, contents), ("TRAILER!!!", b"")] {
            let mut fields = [0; 13];
            fields[6] = contents.len();
            fields[11] = name.len() + 1;
            out.extend_from_slice(b"070701");
            for field in fields {
                out.extend_from_slice(format!("{field:08x}").as_bytes());
            }
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend_from_slice(contents);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn a_plain_archive_stays_as_it_is() {
        let mut plain = cpio("init", b"hello");
        plain.resize(plain.len() + 700, 0);
        assert!(!is_packed(&image(&plain)).unwrap());
        assert!(!is_packed(&image(b"no archive at all")).unwrap());
        assert!(!is_packed(&image(&[0; 5000])).unwrap());
    }

    #[test]
    fn every_compression_is_unpacked() {
        let plain = cpio("init", &testing::sample());
        for (name, pack) in PACKERS {
            let packed = image(&pack(&plain));
            assert!(is_packed(&packed).unwrap(), "{name}");
            assert!(unpack(&packed, 1 << 20).unwrap() == plain, "{name}");
        }
    }

    #[test]
    fn a_row_of_archives_becomes_a_row_of_plain_ones() {
        let early = cpio("kernel/x86/microcode/GenuineIntel.bin", b"microcode");
        let main = cpio("init", &testing::sample());
        let last = cpio("etc/extra", b"more");
        for (name, pack) in PACKERS {
            let mut row = early.clone();
            row.resize(row.len().next_multiple_of(512), 0);
            row.extend_from_slice(&pack(&main));
            row.resize(row.len().next_multiple_of(512), 0);
            row.extend_from_slice(&pack(&last));
            row.extend_from_slice(&[0; 3]);
            let row = image(&row);
            assert!(is_packed(&row).unwrap(), "{name}");
            let expected = [early.as_slice(), &main, &last].concat();
            assert!(unpack(&row, 1 << 20).unwrap() == expected, "{name}");
        }
    }

    #[test]
    fn what_follows_and_is_unknown_is_kept_at_the_end() {
        let main = cpio("init", b"x");
        let row = [testing::gzip(&main), b"#BOOTCONFIG\n".to_vec()].concat();
        let expected = [main, b"#BOOTCONFIG\n".to_vec()].concat();
        assert_eq!(unpack(&image(&row), 1 << 20).unwrap(), expected);
    }

    #[test]
    fn the_limit_counts_all_parts() {
        let part = testing::gzip(&[0; 1000]);
        let row = image(&[part.as_slice(), &part].concat());
        assert_eq!(unpack(&row, 2000).unwrap().len(), 2000);
        assert!(matches!(
            unpack(&row, 1999),
            Err(BootError::Endless {
                role: FileRole::Initrd,
                limit: 1999,
                ..
            })
        ));
    }

    #[test]
    fn a_cut_archive_is_corrupt() {
        let packed = testing::xz(&cpio("init", &testing::sample()));
        let result = unpack(&image(&packed[..packed.len() / 2]), 1 << 20);
        assert!(matches!(result, Err(BootError::Corrupt { .. })));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn hostile_archives_end_without_a_panic(
            flips in proptest::collection::vec((0usize..600, 1u8..), 0..6),
            cut in 1usize..600,
        ) {
            let mut row = cpio("init", b"contents");
            row.extend_from_slice(&testing::gzip(&cpio("a", b"b")));
            for (at, mask) in flips {
                let len = row.len();
                row[at % len] ^= mask;
            }
            row.truncate(cut);
            let row = image(&row);
            let _ = is_packed(&row).unwrap();
            let _ = unpack(&row, 1 << 16);
        }
    }
}
