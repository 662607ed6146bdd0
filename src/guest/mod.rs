//! The default guest (placeholder of this branch: the real one is on `tiny`).

use std::path::PathBuf;

/// Which kernel of the tiny guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Several CPUs, ACPI, PCI and all virtio drivers.
    Full,
    /// One CPU.
    Minimal,
}

/// The files of a built guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestImage {
    /// The kernel as ELF.
    pub vmlinux: PathBuf,
    /// The kernel as bzImage.
    pub bzimage: PathBuf,
    /// Initramfs with the init.
    pub init: PathBuf,
    /// Initramfs with a shell.
    pub shell: PathBuf,
    /// Symbols.
    pub system_map: PathBuf,
}

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No environment variable says where the cache is.
    #[error("cannot tell where to keep the guest")]
    NoCache,
}

/// Finds or builds the guest.
///
/// # Errors
/// Always, in this branch.
pub fn ensure(_: Variant, _: &mut dyn FnMut(u8, &str)) -> Result<GuestImage, GuestError> {
    Err(GuestError::NoCache)
}
