//! The small parts of a cache entry: identities, seals, hashes, atomic writing.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::super::image::read_full_at;

/// Lines longer than this are none of ours.
const LINE_MAX: u64 = 1024;
/// Read at a time when hashing a file, in bytes.
const HASH_CHUNK: usize = 1 << 20;

/// What tells one state of a file from every other: a change of its contents
/// changes its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Identity {
    /// The identity of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        Ok(Self {
            device: stat.dev(),
            inode: stat.ino(),
            len: stat.size(),
            modified_ns: nanoseconds(stat.mtime(), stat.mtime_nsec()),
            changed_ns: nanoseconds(stat.ctime(), stat.ctime_nsec()),
        })
    }

    /// The file's length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the last change is at least this long ago.
    pub(super) fn settled(&self, age: Duration) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| i128::try_from(now.as_nanos()).unwrap_or(0));
        let age = i128::try_from(age.as_nanos()).unwrap_or(i128::MAX);
        now.saturating_sub(self.changed_ns) >= age
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let identity = Self {
            device: u64::from_str_radix(parts.next()?, 16).ok()?,
            inode: u64::from_str_radix(parts.next()?, 16).ok()?,
            len: u64::from_str_radix(parts.next()?, 16).ok()?,
            modified_ns: parse_time(parts.next()?)?,
            changed_ns: parse_time(parts.next()?)?,
        };
        parts.next().is_none().then_some(identity)
    }
}

/// One word of hexadecimal numbers that is also a file name.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:x}-{:x}-{:x}-{:x}-{:x}",
            self.device, self.inode, self.len, self.modified_ns, self.changed_ns
        )
    }
}

fn parse_time(text: &str) -> Option<i128> {
    // `{:x}` prints a negative time (before 1970) in two's complement.
    u128::from_str_radix(text, 16).ok().map(u128::cast_signed)
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds)
        .saturating_mul(1_000_000_000)
        .saturating_add(i128::from(nanoseconds))
}

/// What vouches for a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    /// The payload's length in bytes.
    pub(super) len: u64,
    /// SHA-256 of the payload, in hexadecimal.
    pub(super) hash: String,
    /// The payload file as it was when its hash was right.
    pub(super) identity: Identity,
}

impl Seal {
    /// Reads a seal; `None` if it is not one (of this version).
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        if words.next()? != VERSION {
            return None;
        }
        let seal = Self {
            len: words.next()?.parse().ok()?,
            hash: words.next()?.to_owned(),
            identity: Identity::parse(words.next()?)?,
        };
        words.next().is_none().then_some(seal)
    }
}

const VERSION: &str = "mayfly-payload-1";

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION} {} {} {}", self.len, self.hash, self.identity)
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn hash_bytes(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// SHA-256 of a whole file in hexadecimal.
pub(super) fn hash_file(file: &File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; HASH_CHUNK];
    let mut offset = 0u64;
    loop {
        let count = read_full_at(file, offset, &mut chunk)?;
        hasher.update(chunk.get(..count).unwrap_or_default());
        if count < HASH_CHUNK {
            return Ok(hex(hasher.finalize().as_slice()));
        }
        offset = offset.saturating_add(count as u64);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one line of a small file, or `None` if there is no such thing.
pub(super) fn read_line(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(LINE_MAX)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

/// Writes a file so that whoever opens it sees all of it or the one before,
/// and returns it. Makes the directory if need be.
pub(super) fn write_atomically(path: &Path, contents: &[u8]) -> io::Result<File> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let dir = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let temporary = dir.join(format!(
        "{}{}-{}",
        super::evict::TEMPORARY,
        std::process::id(),
        SERIAL.fetch_add(1, Ordering::Relaxed)
    ));
    let written = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(contents).map(|()| file))
        .and_then(|file| fs::rename(&temporary, path).map(|()| file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_and_seals_survive_text() {
        let identity = Identity {
            device: 0xfe01,
            inode: u64::MAX,
            len: 42,
            modified_ns: -1,
            changed_ns: 1_700_000_000_123_456_789,
        };
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        let seal = Seal {
            len: 42,
            hash: hash_bytes(b"abc"),
            identity,
        };
        assert_eq!(Seal::parse(&seal.to_string()), Some(seal.clone()));
        let text = seal.to_string();
        for end in 0..text.len() - 32 {
            assert_eq!(Seal::parse(&text[..end]), None, "{end}");
        }
    }

    #[test]
    fn the_hash_is_sha256() {
        // FIPS 180-4, example "abc".
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_bytes(b"abc"), abc);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; HASH_CHUNK + 5]).unwrap();
        assert_eq!(
            hash_file(&file).unwrap(),
            hash_bytes(&vec![7; HASH_CHUNK + 5])
        );
    }

    #[test]
    fn a_write_changes_the_identity() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one").unwrap();
        let before = Identity::of(&file).unwrap();
        assert!(!before.settled(Duration::from_secs(60)));
        assert!(before.settled(Duration::ZERO));
        std::thread::sleep(Duration::from_millis(30));
        std::os::unix::fs::FileExt::write_at(&file, b"two", 0).unwrap();
        assert_ne!(Identity::of(&file).unwrap(), before);
    }
}
