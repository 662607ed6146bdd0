//! How the emulation of an instruction can end otherwise than by its completion.

use thiserror::Error;

use super::exception::Exception;

/// Why the emulator gave up. Each is an end of the VM, told to the user in one line.
#[derive(Debug, Error)]
pub enum EmulateError {
    /// The emulator has no semantics for the instruction.
    #[error(
        "cannot emulate '{mnemonic}' (bytes {bytes}) at RIP {rip:#x}, CPL {cpl}: KVM handed it back and Mayfly's emulator does not cover it"
    )]
    NotCovered {
        /// Lower-case mnemonic.
        mnemonic: String,
        /// The instruction's bytes in hexadecimal.
        bytes: String,
        /// Where it is.
        rip: u64,
        /// Privilege level it ran at.
        cpl: u8,
    },
    /// The control registers name a paging mode that no processor has.
    #[error(
        "cannot emulate an instruction at RIP {rip:#x}: the guest's control registers have long mode without PAE"
    )]
    PagingMode {
        /// Where the instruction is.
        rip: u64,
    },
    /// The exit was an internal error of another kind.
    #[error(
        "KVM reports internal error {suberror}, which is not a failed emulation; see the kernel log"
    )]
    NotAnEmulationFailure {
        /// `suberror` of `KVM_EXIT_INTERNAL_ERROR`.
        suberror: u32,
    },
    /// An ioctl that reads or writes the vCPU failed.
    #[error("cannot {action} while emulating an instruction")]
    Kvm {
        /// What was being done.
        action: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// What stops an instruction before it completes.
#[derive(Debug)]
pub(super) enum Stop {
    /// The guest gets an exception; its registers stay as they were.
    Fault(Exception),
    /// The instruction completed and raises an event (INT n): registers are taken over first.
    Trap(Exception),
    /// No semantics for this instruction, or for this form of it.
    NotCovered,
    /// Something else changed the guest under our hands: run the instruction anew.
    Retry,
    /// The guest's paging mode is not one that the walk knows.
    PagingMode,
    /// The vCPU's state could not be reached.
    Failed(EmulateError),
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Self {
        Self::Fault(exception)
    }
}

impl From<EmulateError> for Stop {
    fn from(error: EmulateError) -> Self {
        Self::Failed(error)
    }
}
