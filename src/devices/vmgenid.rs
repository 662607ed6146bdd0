//! The VM generation id (Microsoft, "Virtual Machine Generation ID", 2012): 16 random
//! bytes in memory that firmware reserves, by which a guest learns that it is no longer
//! the only one with its past, and renews its random numbers and what else must be
//! its own.
//!
//! A start of a VM draws one. It stays the same across a reboot, a pause and a resume,
//! and becomes another one where a saved state is started a second time. The DSDT
//! tells where it lies ([`boot::acpi`](crate::boot::acpi)).

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::memory::layout::VM_GENERATION_ID;
use crate::memory::{GuestRam, MemoryError};

/// Everything there is to save.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmGenidState {
    /// The id as the guest reads it.
    pub id: [u8; 16],
}

impl VmGenidState {
    /// A new generation.
    ///
    /// # Errors
    /// What the host's getrandom(2) says.
    pub fn random() -> Result<Self, Errno> {
        let mut id = [0; 16];
        // Up to 256 bytes come all at once.
        getrandom(&mut id, GetRandomFlags::empty())?;
        Ok(Self { id })
    }
}

/// The id of a machine. The guest only ever reads it, in memory; if it writes there it
/// has but itself to deceive, and a reboot brings the id back.
pub struct VmGenid {
    state: VmGenidState,
}

impl VmGenid {
    /// Builds it with that id.
    pub fn from_state(state: VmGenidState) -> Self {
        Self { state }
    }

    /// The state to save.
    pub fn state(&self) -> VmGenidState {
        self.state.clone()
    }

    /// Writes the id to where the guest looks for it: [`VM_GENERATION_ID`].
    ///
    /// # Errors
    /// [`MemoryError`] if the guest has no memory there.
    pub fn place(&self, ram: &GuestRam) -> Result<(), MemoryError> {
        ram.write(VM_GENERATION_ID, &self.state.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_an_id_of_its_own() {
        let (one, other) = (VmGenidState::random(), VmGenidState::random());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_ne!(one, other);
        assert_ne!(one.id, [0; 16]);
    }

    #[test]
    fn the_id_lies_in_memory_that_is_the_guests_to_read_only() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let id = *b"not so random...";
        let genid = VmGenid::from_state(VmGenidState { id });
        genid.place(&ram).unwrap();
        let mut found = [0; 18];
        ram.read(0xf_efff, &mut found).unwrap();
        assert_eq!(&found, b"\0not so random...\0");
        assert_eq!(genid.state().id, id);
    }

    #[test]
    fn a_guest_that_ends_before_its_place_is_an_error() {
        let ram = GuestRam::new(64 << 10).unwrap();
        let genid = VmGenid::from_state(VmGenidState { id: [1; 16] });
        genid.place(&ram).unwrap_err();
    }
}
