//! What a start needs of the host's random numbers, drawn by one system call.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::bytes::u64_at;
use super::error::BootError;

/// Bytes with which the guest seeds its random generator.
pub(super) const SEED_LEN: usize = 32;

/// Fresh random numbers of one start.
pub(super) struct Random {
    /// For the kernel's physical address.
    pub(super) physical: u64,
    /// For its virtual address.
    pub(super) virtual_: u64,
    /// For the guest's random generator.
    pub(super) seed: [u8; SEED_LEN],
}

impl Random {
    /// Draws them.
    ///
    /// # Errors
    /// [`BootError::Random`] if the host has none.
    pub(super) fn draw() -> Result<Self, BootError> {
        let mut bytes = [0; 16 + SEED_LEN];
        fill(&mut bytes).map_err(|error| BootError::Random {
            source: error.into(),
        })?;
        let mut seed = [0; SEED_LEN];
        seed.copy_from_slice(&bytes[16..]);
        Ok(Self {
            physical: u64_at(&bytes, 0).unwrap_or_default(),
            virtual_: u64_at(&bytes, 8).unwrap_or_default(),
            seed,
        })
    }
}

/// Fills `bytes`. Up to 256 come at once, unless a signal is faster (getrandom(2)).
fn fill(bytes: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(count) => done = done.saturating_add(count),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_draws_are_alike() {
        let (one, other) = (Random::draw().unwrap(), Random::draw().unwrap());
        assert_ne!(one.seed, other.seed);
        assert_ne!(one.physical, other.physical);
        assert_ne!(one.virtual_, other.virtual_);
        assert_ne!(one.physical, one.virtual_);
    }
}
