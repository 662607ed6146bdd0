//! Where unpacked payloads are kept between runs.
//!
//! ```text
//! payloads/SHA256.kernel        what the file with that hash unpacks to
//! payloads/SHA256.kernel.seal   its length, its own hash, and its identity
//! by-file/IDENTITY              the hash of the file with that identity
//! ```
//!
//! An identity is what a file's `stat` says: device, inode, size, and the times
//! of the last changes to contents and inode. As long as it is the same, the
//! contents are, so a warm start reads two lines and neither hashes nor
//! unpacks. A payload whose identity differs from its seal is hashed, and
//! rebuilt unless the hash is right.
//!
//! A cache that cannot be read or written only costs time: nothing here is an
//! error for the user.

mod entry;
mod evict;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::debug;

use self::entry::{Identity, Seal, hash_file, read_line, write_atomically};
use super::error::BootError;
use super::image::Image;
use crate::user_cache;

/// A file changed less than this before it was hashed may change again within
/// one tick of the file system's clock, without a new identity.
const SETTLE: Duration = Duration::from_millis(100);

/// What a payload was unpacked from; one file may be both, in theory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayloadKind {
    /// The ELF of a kernel.
    Kernel,
    /// An initrd with all its parts unpacked.
    Initrd,
}

/// The cache of unpacked payloads, or its absence.
#[derive(Clone, Debug, Default)]
pub struct PayloadCache {
    dir: Option<PathBuf>,
}

impl PayloadCache {
    /// The user's cache ([`user_cache`]); where there is no place for it there is none.
    pub fn from_env() -> Self {
        Self {
            dir: user_cache::folder(),
        }
    }

    /// A cache in this directory, which need not exist yet.
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: Some(dir.to_owned()),
        }
    }

    /// No cache: everything is unpacked each time.
    pub fn none() -> Self {
        Self::default()
    }

    /// What `image` unpacks to, and whether that was in the cache; if it was
    /// not, `unpack` makes it and the cache keeps it.
    ///
    /// # Errors
    /// Those of `unpack`.
    pub(super) fn unpacked(
        &self,
        image: &Image,
        kind: PayloadKind,
        unpack: impl FnOnce() -> Result<Vec<u8>, BootError>,
    ) -> Result<(Image, bool), BootError> {
        let slot = self
            .dir
            .as_deref()
            .zip(image.file())
            .and_then(|(dir, file)| Slot::find(dir, file, kind));
        if let Some((payload, len)) = slot.as_ref().and_then(Slot::open) {
            return Ok((image.with_file(payload, len), true));
        }
        let payload = unpack()?;
        if let Some(slot) = slot {
            match slot.store(&payload) {
                Ok(()) => evict::evict(&slot.payloads, &slot.by_file),
                Err(error) => debug!("cannot cache '{}': {error}", slot.payload().display()),
            }
        }
        Ok((image.with_bytes(payload), false))
    }
}

/// The place of one file's payload in the cache.
#[derive(Debug)]
struct Slot {
    payloads: PathBuf,
    by_file: PathBuf,
    name: String,
}

impl Slot {
    /// Finds the slot by the file's hash: remembered, or worked out and remembered.
    fn find(dir: &Path, file: &File, kind: PayloadKind) -> Option<Self> {
        let by_file = dir.join("by-file");
        let identity = Identity::of(file).ok()?;
        let known = by_file.join(identity.to_string());
        let hash = match read_line(&known).filter(|line| is_hash(line)) {
            Some(hash) => hash,
            None => {
                let settled = identity.settled(SETTLE);
                let hash = hash_file(file).ok()?;
                if settled && Identity::of(file).ok()? == identity {
                    let kept = write_atomically(&known, hash.as_bytes());
                    if let Err(error) = kept {
                        debug!("cannot write '{}': {error}", known.display());
                    }
                }
                hash
            }
        };
        let suffix = match kind {
            PayloadKind::Kernel => "kernel",
            PayloadKind::Initrd => "initrd",
        };
        Some(Self {
            payloads: dir.join("payloads"),
            by_file,
            name: format!("{hash}.{suffix}"),
        })
    }

    fn payload(&self) -> PathBuf {
        self.payloads.join(&self.name)
    }

    fn seal(&self) -> PathBuf {
        self.payloads.join(format!("{}.seal", self.name))
    }

    /// Opens the payload if it is there and whole, with its length.
    fn open(&self) -> Option<(File, u64)> {
        let seal_path = self.seal();
        let seal = Seal::parse(&read_line(&seal_path)?)?;
        let payload = File::open(self.payload()).ok()?;
        let identity = Identity::of(&payload).ok()?;
        if identity == seal.identity && identity.len() == seal.len {
            evict::touch(&seal_path);
            return Some((payload, seal.len));
        }
        // Moved or restored from a backup, perhaps; or damaged.
        if identity.len() != seal.len || hash_file(&payload).ok()? != seal.hash {
            debug!("rebuilding damaged '{}'", self.payload().display());
            return None;
        }
        let renewed = Seal { identity, ..seal };
        let _ = write_atomically(&seal_path, renewed.to_string().as_bytes());
        Some((payload, renewed.len))
    }

    /// Keeps the payload: contents first, then the seal that vouches for them.
    fn store(&self, payload: &[u8]) -> std::io::Result<()> {
        let file = write_atomically(&self.payload(), payload)?;
        let seal = Seal {
            len: payload.len() as u64,
            hash: entry::hash_bytes(payload),
            identity: Identity::of(&file)?,
        };
        write_atomically(&self.seal(), seal.to_string().as_bytes())?;
        Ok(())
    }
}

/// Whether the text is a SHA-256 hash, and so a safe file name.
fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::thread::sleep;

    use super::super::error::FileRole;
    use super::*;

    /// A cache, a file, and how often it was unpacked.
    struct Fixture {
        dir: tempfile::TempDir,
        unpacked: Cell<u32>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("kernel"), b"packed").unwrap();
            sleep(SETTLE * 2);
            Self {
                dir,
                unpacked: Cell::new(0),
            }
        }

        /// Opens the file through the cache: contents, and whether they were cached.
        fn get(&self) -> (Vec<u8>, bool) {
            let cache = PayloadCache::at(&self.dir.path().join("cache"));
            let kernel = self.dir.path().join("kernel");
            let image = Image::open(&kernel, FileRole::Kernel, 1 << 20).unwrap();
            let (payload, cached) = cache
                .unpacked(&image, PayloadKind::Kernel, || {
                    self.unpacked.set(self.unpacked.get() + 1);
                    Ok(b"unpacked".to_vec())
                })
                .unwrap();
            (payload.read_vec(0, 100).unwrap(), cached)
        }

        fn cached(&self, part: &str) -> Vec<PathBuf> {
            fs::read_dir(self.dir.path().join("cache").join(part))
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path())
                .collect()
        }

        fn payload(&self) -> PathBuf {
            let mut files = self.cached("payloads");
            files.retain(|path| path.extension().is_some_and(|end| end == "kernel"));
            assert_eq!(files.len(), 1);
            files.remove(0)
        }
    }

    #[test]
    fn the_second_start_does_not_unpack() {
        let fixture = Fixture::new();
        assert_eq!(fixture.get(), (b"unpacked".to_vec(), false));
        assert_eq!(fixture.get(), (b"unpacked".to_vec(), true));
        assert_eq!(fixture.unpacked.get(), 1);
        assert_eq!(fixture.cached("payloads").len(), 2, "nothing is left over");
        assert_eq!(fixture.cached("by-file").len(), 1);
    }

    #[test]
    fn a_changed_file_is_unpacked_anew() {
        let fixture = Fixture::new();
        fixture.get();
        fs::write(fixture.dir.path().join("kernel"), b"PACKED").unwrap();
        assert!(!fixture.get().1);
        assert_eq!(fixture.unpacked.get(), 2);
    }

    #[test]
    fn a_file_that_just_changed_is_hashed_each_time() {
        let fixture = Fixture::new();
        fs::write(fixture.dir.path().join("kernel"), b"packed").unwrap();
        fixture.get();
        assert_eq!(fixture.cached("by-file").len(), 0);
        assert!(fixture.get().1, "the hash finds it all the same");
    }

    #[test]
    fn a_damaged_payload_is_rebuilt() {
        let fixture = Fixture::new();
        for damage in [b"unpackeD".as_slice(), b"unp", b""] {
            fixture.get();
            sleep(SETTLE);
            fs::write(fixture.payload(), damage).unwrap();
            assert_eq!(fixture.get(), (b"unpacked".to_vec(), false));
            assert!(fixture.get().1);
        }
        fs::remove_file(fixture.payload()).unwrap();
        assert!(!fixture.get().1);
    }

    #[test]
    fn a_payload_that_only_looks_different_is_kept() {
        let fixture = Fixture::new();
        fixture.get();
        sleep(SETTLE);
        let payload = fixture.payload();
        let file = File::options().write(true).open(&payload).unwrap();
        file.write_at(b"u", 0).unwrap();
        assert!(fixture.get().1);
        assert_eq!(fixture.unpacked.get(), 1);
    }

    #[test]
    fn a_seal_with_a_wrong_length_vouches_for_nothing() {
        let fixture = Fixture::new();
        for wrong in [" 1 ", " 9 "] {
            fixture.get();
            let mut seal = fixture.payload().into_os_string();
            seal.push(".seal");
            let line = fs::read_to_string(&seal).unwrap();
            fs::write(&seal, line.replacen(" 8 ", wrong, 1)).unwrap();
            assert_eq!(fixture.get(), (b"unpacked".to_vec(), false), "{wrong}");
        }
    }

    #[test]
    fn a_garbled_index_is_no_harm() {
        let fixture = Fixture::new();
        fixture.get();
        for path in fixture.cached("by-file") {
            fs::write(path, "../../etc/passwd").unwrap();
        }
        assert!(fixture.get().1);
        for path in fixture.cached("payloads") {
            if path.extension().is_some_and(|end| end == "seal") {
                fs::write(path, [0xff; 100]).unwrap();
            }
        }
        assert!(!fixture.get().1);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let fixture = Fixture::new();
        fs::write(fixture.dir.path().join("cache"), b"a file in its place").unwrap();
        assert!(!fixture.get().1);
        assert!(!fixture.get().1);
    }
}
