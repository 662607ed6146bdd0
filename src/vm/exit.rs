//! Why a VM ended, and the exit code each reason becomes.

use serde::Serialize;

/// The highest status a guest may pass on; higher ones become this one.
pub const GUEST_STATUS_MAX: u8 = 239;

/// Why a VM ended: one closed list, one exit code each (docs/exit-codes.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum ExitReason {
    /// The guest powered itself off (ACPI S5).
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// The guest passed a status on through the debug-exit port.
    GuestStatus {
        /// The status, at most [`GUEST_STATUS_MAX`].
        status: u8,
    },
    /// The guest kernel panicked.
    KernelPanic,
    /// A vCPU met a triple fault.
    TripleFault,
    /// `--timeout` ran out.
    Timeout,
    /// The user ended the VM (escape key, SIGINT, SIGTERM, SIGHUP, SIGQUIT).
    UserQuit,
    /// The VMM or the host failed.
    HostError {
        /// The one line that tells what failed.
        message: String,
    },
    /// The command line or the configuration cannot be used.
    Usage {
        /// The one line that tells what is wrong.
        message: String,
    },
}

impl ExitReason {
    /// The status of a guest that wrote `value` to the debug-exit port.
    pub fn from_guest_status(value: u32) -> Self {
        let status = u8::try_from(value).unwrap_or(u8::MAX).min(GUEST_STATUS_MAX);
        Self::GuestStatus { status }
    }

    /// The process exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Reset => 0,
            Self::GuestStatus { status } => *status,
            Self::KernelPanic => 240,
            Self::TripleFault => 241,
            Self::Timeout => 242,
            Self::UserQuit => 243,
            Self::HostError { .. } => 244,
            Self::Usage { .. } => 245,
        }
    }

    /// The reason's name in `--json`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::GuestStatus { .. } => "guest-status",
            Self::KernelPanic => "kernel-panic",
            Self::TripleFault => "triple-fault",
            Self::Timeout => "timeout",
            Self::UserQuit => "user-quit",
            Self::HostError { .. } => "host-error",
            Self::Usage { .. } => "usage",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_status_is_passed_on_up_to_239() {
        assert_eq!(ExitReason::from_guest_status(0).code(), 0);
        assert_eq!(ExitReason::from_guest_status(42).code(), 42);
        assert_eq!(ExitReason::from_guest_status(239).code(), 239);
        assert_eq!(ExitReason::from_guest_status(240).code(), 239);
        assert_eq!(ExitReason::from_guest_status(u32::MAX).code(), 239);
    }

    #[test]
    fn mayflys_own_codes_start_at_240_and_differ() {
        let message = String::new();
        let own = [
            ExitReason::KernelPanic,
            ExitReason::TripleFault,
            ExitReason::Timeout,
            ExitReason::UserQuit,
            ExitReason::HostError {
                message: message.clone(),
            },
            ExitReason::Usage { message },
        ];
        let codes: Vec<u8> = own.iter().map(ExitReason::code).collect();
        assert_eq!(codes, [240, 241, 242, 243, 244, 245]);
    }
}
