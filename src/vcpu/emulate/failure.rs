//! What KVM tells about an instruction that it could not emulate.

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
};
use kvm_ioctls::VcpuFd;

use super::error::EmulateError;

/// Longest x86 instruction in bytes (SDM vol. 2 §2.3.11).
pub(super) const MAX_INSTRUCTION: usize = 15;

/// Bytes at RIP: as many as KVM or the guest's page tables gave.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InstructionBytes {
    bytes: [u8; MAX_INSTRUCTION],
    len: usize,
}

impl InstructionBytes {
    /// At most the first 15 of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut new = Self::default();
        for (to, from) in new.bytes.iter_mut().zip(bytes) {
            *to = *from;
            new.len += 1;
        }
        new
    }

    /// What there is.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }

    /// The first byte.
    pub fn first(&self) -> Option<u8> {
        self.as_slice().first().copied()
    }

    /// The same with another first byte.
    pub fn with_first(mut self, byte: u8) -> Self {
        if let Some(first) = self.bytes.first_mut() {
            *first = byte;
            self.len = self.len.max(1);
        }
        self
    }
}

/// Reads `emulation_failure` of the `kvm_run` page after `KVM_EXIT_INTERNAL_ERROR`.
///
/// `None` where KVM gave no bytes: they are then to be fetched at RIP.
///
/// # Errors
/// [`EmulateError::NotAnEmulationFailure`] for another suberror.
pub(super) fn instruction_bytes(
    vcpu: &mut VcpuFd,
) -> Result<Option<InstructionBytes>, EmulateError> {
    // SAFETY: every member of this union is plain data for which any bit
    // pattern is a value, and the union lies wholly within the `kvm_run` page.
    let failure = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.emulation_failure };
    if failure.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return Err(EmulateError::NotAnEmulationFailure {
            suberror: failure.suberror,
        });
    }
    // `ndata` counts the words that follow: flags, then size and bytes in two.
    let has_bytes = failure.ndata >= 3
        && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if !has_bytes {
        return Ok(None);
    }
    // SAFETY: the flag read above says that KVM filled in this (only) member; it is plain data.
    let insn = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let len = usize::from(insn.insn_size).min(MAX_INSTRUCTION);
    Ok((len > 0).then(|| InstructionBytes::new(insn.insn_bytes.get(..len).unwrap_or(&[]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_longest_instruction_are_dropped() {
        assert_eq!(InstructionBytes::new(&[0x90; 40]).as_slice().len(), 15);
        assert_eq!(InstructionBytes::new(&[]).first(), None);
    }

    #[test]
    fn the_first_byte_can_be_replaced() {
        let bytes = InstructionBytes::new(&[0xcc, 0x01, 0xca]).with_first(0x0f);
        assert_eq!(bytes.as_slice(), [0x0f, 0x01, 0xca]);
    }
}
