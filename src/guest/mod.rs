//! The default guest: the `tiny` Linux that Mayfly builds itself.
//!
//! The recipe in `guest-images/tiny/` is embedded in the binary, so an installed
//! `mayfly` can build the guest too. What is built lies in the user's cache
//! under a hash of the recipe; [`ensure`] finds it there or builds it.

mod build;
mod recipe;

use std::io;
use std::path::{Path, PathBuf};

use crate::user_cache;

/// Which kernel of the tiny guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Several CPUs, ACPI, PCI and all virtio drivers.
    Full,
    /// One CPU, an MP table and virtio-mmio: the fewest instructions to userspace.
    Minimal,
}

impl Variant {
    /// The name that the recipe and the cache use.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Full => "full",
            Variant::Minimal => "minimal",
        }
    }
}

/// The files of a built guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestImage {
    /// The kernel as an ELF file without symbols, with a PVH entry.
    pub vmlinux: PathBuf,
    /// The same kernel as a gzip bzImage.
    pub bzimage: PathBuf,
    /// An initramfs with the init only.
    pub init: PathBuf,
    /// An initramfs with the init and a shell, for `mayfly.shell`.
    pub shell: PathBuf,
    /// The kernel's symbols.
    pub system_map: PathBuf,
}

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No environment variable says where the cache is.
    #[error(
        "cannot tell where to keep the guest: set MAYFLY_CACHE, XDG_CACHE_HOME or HOME to a folder"
    )]
    NoCache,
    /// The recipe could not be written to the cache.
    #[error("cannot write the guest's recipe '{path}'")]
    WriteRecipe {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The build script could not be started or listened to.
    #[error("cannot run bash to build the guest")]
    RunScript(#[source] io::Error),
    /// The build script gave up; the text says why and what to do.
    #[error("cannot build the {variant} guest: {message}")]
    Build {
        /// The variant's name.
        variant: &'static str,
        /// The script's last words.
        message: String,
    },
    /// The cache holds half a guest, which the script never leaves there.
    #[error("the cached guest lacks '{0}': remove its folder and try again")]
    Incomplete(PathBuf),
}

/// Finds the guest in the user's cache, or builds it there (minutes).
///
/// `progress` hears the percentage done and what is being done; it is not called
/// when the guest is cached, and then no process is started either. The build
/// dies with the calling thread and cleans up after itself.
///
/// # Errors
///
/// See [`GuestError`]; most often a tool or the network is missing.
pub fn ensure(
    variant: Variant,
    progress: &mut dyn FnMut(u8, &str),
) -> Result<GuestImage, GuestError> {
    let cache = user_cache::folder().ok_or(GuestError::NoCache)?;
    ensure_in(&cache, variant, progress)
}

fn ensure_in(
    cache: &Path,
    variant: Variant,
    progress: &mut dyn FnMut(u8, &str),
) -> Result<GuestImage, GuestError> {
    let folder = cache
        .join("guests")
        .join(format!("tiny-{}-{}", variant.name(), recipe::hash()));
    if !folder.is_dir() {
        let script = recipe::write_to(&cache.join("guests"))?;
        build::run(&script, cache, variant, progress)?;
    }
    image_in(&folder)
}

fn image_in(folder: &Path) -> Result<GuestImage, GuestError> {
    let file = |name| {
        let path = folder.join(name);
        if path.is_file() {
            Ok(path)
        } else {
            Err(GuestError::Incomplete(path))
        }
    };
    Ok(GuestImage {
        vmlinux: file("vmlinux")?,
        bzimage: file("bzImage")?,
        init: file("init.cpio")?,
        shell: file("shell.cpio")?,
        system_map: file("System.map")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const FILES: [&str; 5] = [
        "vmlinux",
        "bzImage",
        "init.cpio",
        "shell.cpio",
        "System.map",
    ];

    /// A cache that seems to hold the guest; returns the guest's folder.
    fn fill(cache: &Path, variant: Variant) -> PathBuf {
        let name = format!("tiny-{}-{}", variant.name(), recipe::hash());
        let folder = cache.join("guests").join(name);
        fs::create_dir_all(&folder).unwrap();
        for file in FILES {
            fs::write(folder.join(file), file).unwrap();
        }
        folder
    }

    #[test]
    fn a_cached_guest_is_found_without_a_build() {
        let cache = tempfile::tempdir().unwrap();
        let folder = fill(cache.path(), Variant::Minimal);
        let image = ensure_in(cache.path(), Variant::Minimal, &mut |percent, text| {
            unreachable!("a build began: {percent} {text}")
        })
        .unwrap();
        assert_eq!(image.vmlinux, folder.join("vmlinux"));
        assert_eq!(image.shell, folder.join("shell.cpio"));
        assert!(!cache.path().join("guests/recipe").exists());
    }

    #[test]
    fn half_a_guest_is_named() {
        let cache = tempfile::tempdir().unwrap();
        let folder = fill(cache.path(), Variant::Full);
        fs::remove_file(folder.join("init.cpio")).unwrap();
        let error = ensure_in(cache.path(), Variant::Full, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("init.cpio"), "{error}");
    }

    #[test]
    fn the_script_computes_the_same_hash() {
        let cache = tempfile::tempdir().unwrap();
        let folder = fill(cache.path(), Variant::Full);
        let script = recipe::write_to(&cache.path().join("guests")).unwrap();
        let found = build::run(
            &script,
            cache.path(),
            Variant::Full,
            &mut |percent, text| unreachable!("a build began: {percent} {text}"),
        );
        assert_eq!(found.unwrap(), folder);
    }
}
