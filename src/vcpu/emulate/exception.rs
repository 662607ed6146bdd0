//! Exceptions the guest is given instead of, or after, an instruction.

use kvm_bindings::kvm_vcpu_events;

/// `IA32_EFER`, `CR0` and other bits live where they are used; vectors live here (SDM vol. 3 §6.3.1).
pub(super) mod vector {
    pub const DIVIDE_ERROR: u8 = 0;
    pub const NMI: u8 = 2;
    pub const BREAKPOINT: u8 = 3;
    pub const INVALID_OPCODE: u8 = 6;
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    pub const SEGMENT_NOT_PRESENT: u8 = 11;
    pub const STACK_FAULT: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const X87_FLOATING_POINT: u8 = 16;
    pub const SIMD_FLOATING_POINT: u8 = 19;
}

/// Highest vector that KVM accepts as an exception; the rest are interrupts.
const LAST_EXCEPTION: u8 = 31;

/// An event to be delivered through the guest's IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    /// IDT vector.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// What CR2 becomes (page faults).
    pub cr2: Option<u64>,
}

impl Exception {
    const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            cr2: None,
        }
    }

    /// `#DE`.
    pub const fn divide_error() -> Self {
        Self::plain(vector::DIVIDE_ERROR)
    }

    /// `#UD`.
    pub const fn invalid_opcode() -> Self {
        Self::plain(vector::INVALID_OPCODE)
    }

    /// `#NM`.
    pub const fn device_not_available() -> Self {
        Self::plain(vector::DEVICE_NOT_AVAILABLE)
    }

    /// `#MF`.
    pub const fn x87_floating_point() -> Self {
        Self::plain(vector::X87_FLOATING_POINT)
    }

    /// `#XM`.
    pub const fn simd_floating_point() -> Self {
        Self::plain(vector::SIMD_FLOATING_POINT)
    }

    /// `#GP(0)`.
    pub const fn general_protection() -> Self {
        Self {
            error_code: Some(0),
            ..Self::plain(vector::GENERAL_PROTECTION)
        }
    }

    /// `#GP` with an error code that names a descriptor.
    pub const fn general_protection_at(error_code: u32) -> Self {
        Self {
            error_code: Some(error_code),
            ..Self::plain(vector::GENERAL_PROTECTION)
        }
    }

    /// `#NP` with an error code that names a descriptor.
    pub const fn not_present_at(error_code: u32) -> Self {
        Self {
            error_code: Some(error_code),
            ..Self::plain(vector::SEGMENT_NOT_PRESENT)
        }
    }

    /// `#SS(0)`.
    pub const fn stack_fault() -> Self {
        Self {
            error_code: Some(0),
            ..Self::plain(vector::STACK_FAULT)
        }
    }

    /// `#PF` for linear address `cr2`.
    pub const fn page_fault(cr2: u64, error_code: u32) -> Self {
        Self {
            vector: vector::PAGE_FAULT,
            error_code: Some(error_code),
            cr2: Some(cr2),
        }
    }

    /// INT3 or INT n: delivered with RIP past the instruction, no error code.
    pub const fn software(vector: u8) -> Self {
        Self::plain(vector)
    }

    /// Enters this exception into the vCPU's events, all else as it is.
    ///
    /// CR2 is not part of the events; the caller writes it.
    pub fn queue(&self, events: &mut kvm_vcpu_events) {
        events.flags = 0;
        if self.vector == vector::NMI {
            // KVM takes no exception of this number. That further NMIs wait for
            // the handler's IRET is more than INT 2 does; none come from elsewhere.
            events.nmi.injected = 1;
            return;
        }
        if self.vector > LAST_EXCEPTION {
            events.interrupt.injected = 1;
            events.interrupt.nr = self.vector;
            events.interrupt.soft = 1;
            return;
        }
        events.exception.injected = 1;
        events.exception.pending = 0;
        events.exception.nr = self.vector;
        events.exception.has_error_code = self.error_code.is_some().into();
        events.exception.error_code = self.error_code.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fault_carries_its_error_code() {
        let mut events = kvm_vcpu_events::default();
        events.nmi.masked = 1;
        Exception::page_fault(0x1000, 6).queue(&mut events);
        assert_eq!((events.exception.injected, events.exception.nr), (1, 14));
        assert_eq!(
            (events.exception.has_error_code, events.exception.error_code),
            (1, 6)
        );
        assert_eq!(events.nmi.masked, 1, "other events stay");
    }

    #[test]
    fn a_breakpoint_has_no_error_code() {
        let mut events = kvm_vcpu_events::default();
        Exception::software(vector::BREAKPOINT).queue(&mut events);
        assert_eq!(
            (events.exception.nr, events.exception.has_error_code),
            (3, 0)
        );
    }

    #[test]
    fn vectors_past_31_are_soft_interrupts() {
        let mut events = kvm_vcpu_events::default();
        Exception::software(0x80).queue(&mut events);
        assert_eq!(
            (
                events.interrupt.injected,
                events.interrupt.nr,
                events.interrupt.soft
            ),
            (1, 0x80, 1)
        );
        assert_eq!(events.exception.injected, 0);
    }
}
