//! Decompression, initrds, and the cache of what was unpacked.
//!
//! Input: what to do (8 bits), then data for it:
//!
//! | what | data                                                             |
//! |------|------------------------------------------------------------------|
//! | 0..6 | a limit (8 bits, a power of two), a stream in one of six formats |
//! | 6    | an initrd                                                        |
//! | 7    | a file of the cache (8 bits), what it is changed to              |

use std::fs;
use std::path::Path;

use mayfly::boot::payload::{UnpackError, unpack};
use mayfly::boot::{BootError, Compression, Initrd, PayloadCache};

use super::kernel_file::{MemoryFile, check_line};
use super::script::Script;

const FORMATS: [Compression; 6] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lz4,
    Compression::Zstd,
];
/// A block of the lz4 format is unpacked before it is counted.
const LZ4_BLOCK: usize = 8 << 20;

/// Unpacks the input, in one of the ways there are.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.u8() % 8 {
        6 => check_initrd(script.rest()),
        7 => check_cache(script),
        format => check_stream(FORMATS[usize::from(format)], script),
    }
}

/// Not more than the limit comes out, nothing before it changes, and what
/// follows the stream is left.
fn check_stream(format: Compression, mut script: Script) {
    const BEFORE: &[u8] = b"before";
    let limit = 1usize << (script.u8() % 21);
    let stream = script.rest();
    let mut input = stream;
    let mut out = BEFORE.to_vec();
    let result = unpack(format, &mut input, &mut out, limit as u64);
    assert!(out.starts_with(BEFORE));
    let count = out.len() - BEFORE.len();
    match result {
        Ok(()) => {
            assert!(count <= limit);
            assert!(stream.ends_with(input) && input.len() < stream.len());
            check_again(format, stream, count, &out[BEFORE.len()..]);
        }
        Err(UnpackError::TooLong) => assert!(count > limit),
        Err(UnpackError::Corrupt(_)) => {}
    }
    assert!(count <= limit + LZ4_BLOCK);
}

/// A limit that is just enough changes nothing; one that is not is noticed.
fn check_again(format: Compression, stream: &[u8], count: usize, expected: &[u8]) {
    let mut out = Vec::new();
    let exact = unpack(format, &mut &*stream, &mut out, count as u64);
    assert!(exact.is_ok() && out == expected);
    if let Some(less) = count.checked_sub(1) {
        let result = unpack(format, &mut &*stream, &mut Vec::new(), less as u64);
        assert!(matches!(result, Err(UnpackError::TooLong)));
    }
}

/// An initrd that nothing need be unpacked of stays as it is.
fn check_initrd(bytes: &[u8]) {
    let file = MemoryFile::new(bytes);
    let plain = Initrd::open(&file.path(), None);
    let unpacked = Initrd::open(&file.path(), Some(&PayloadCache::none()));
    match (plain, unpacked) {
        (Ok(plain), Ok(unpacked)) => {
            assert_eq!(plain.size(), bytes.len() as u64);
            assert!(!plain.unpacked());
            if !unpacked.unpacked() {
                assert_eq!(unpacked.size(), plain.size());
            }
        }
        (plain, Err(error)) => {
            assert_eq!(plain.is_err(), bytes.is_empty());
            check_line(&error);
        }
        (Err(error), Ok(_)) => panic!("unpacking cannot mend '{error}'"),
    }
}

/// Whatever a file of the cache is changed to, the initrd is what it was.
fn check_cache(mut script: Script) {
    let (which, change) = (script.u8(), script.rest());
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder for the cache");
    let (packed, cache) = (dir.path().join("initrd"), dir.path().join("cache"));
    fs::write(&packed, PACKED).expect("a small file");
    let open = || {
        Initrd::open(&packed, Some(&PayloadCache::at(&cache)))
            .map(|initrd| initrd.size())
            .map_err(|error: BootError| error.to_string())
    };
    let expected = Ok(UNPACKED_LEN);
    assert_eq!(open(), expected);
    damage(&cache, which, change);
    assert_eq!(open(), expected, "after the damage");
    assert_eq!(open(), expected, "once it is mended");
}

/// `mayfly\n` 60 times over, by gzip.
const PACKED: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0xff, 0xcb, 0x4d, 0xac, 0x4c, 0xcb, 0xa9,
    0xe4, 0xca, 0x1d, 0xa5, 0x06, 0x2f, 0x05, 0x00, 0xf6, 0xb7, 0x09, 0xe3, 0xa4, 0x01, 0x00, 0x00,
];
const UNPACKED_LEN: u64 = 420;

/// Changes one of the cache's files: all of it, or the middle.
fn damage(cache: &Path, which: u8, change: &[u8]) {
    let mut files: Vec<_> = ["payloads", "by-file"]
        .iter()
        .flat_map(|part| fs::read_dir(cache.join(part)).into_iter().flatten())
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let path = &files[usize::from(which & 0x7f) % files.len()];
    if which & 0x80 == 0 {
        fs::write(path, change).expect("a small file");
        return;
    }
    let mut contents = fs::read(path).expect("a file of the cache");
    let (at, bytes) = change.split_at(change.len().min(1));
    let at = at.first().map_or(0, |at| usize::from(*at)) % contents.len().max(1);
    for (to, from) in contents[at..].iter_mut().zip(bytes) {
        *to = *from;
    }
    fs::write(path, contents).expect("a small file");
}
