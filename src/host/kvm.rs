//! Opening KVM, and telling people what to do when that fails.

use std::ffi::{CString, c_ulong};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kvm_bindings::{self as kvm, CpuId};
use kvm_ioctls::Kvm;
use thiserror::Error;

/// The one version of the KVM API there is (Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;

/// Where KVM is.
pub(super) const DEVICE: &str = "/dev/kvm";

/// Why this host cannot run VMs.
#[derive(Debug, Error)]
pub enum HostError {
    /// No device node.
    #[error(
        "/dev/kvm does not exist; load KVM with 'modprobe kvm_intel' or 'modprobe kvm_amd' (in a VM, its host must allow nested virtualization; in a container, pass --device /dev/kvm)"
    )]
    Absent,
    /// A device node that no driver serves.
    #[error(
        "/dev/kvm is there but no KVM module serves it; load one with 'modprobe kvm_intel' or 'modprobe kvm_amd', and see that virtualization is enabled in the firmware"
    )]
    NoDriver,
    /// The device may not be opened.
    #[error("no permission to use /dev/kvm; {advice}")]
    Permission {
        /// What to do about it.
        advice: String,
    },
    /// Anything else.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// The device is something else.
    #[error(
        "/dev/kvm is not the KVM device; make it anew with 'rm /dev/kvm && mknod /dev/kvm c 10 232'"
    )]
    NotKvm,
    /// Another KVM than the one that everybody knows.
    #[error(
        "KVM speaks version {0} of its API, Mayfly only version 12; use a Linux kernel of this age"
    )]
    ApiVersion(i32),
    /// KVM lacks something.
    #[error("KVM on this host lacks {name} ({purpose}); use Linux 5.10 or newer")]
    Capability {
        /// Its name in the API documentation.
        name: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
}

/// A capability of KVM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capability {
    pub(super) name: &'static str,
    number: u32,
    pub(super) purpose: &'static str,
}

macro_rules! capabilities {
    ($($name:ident: $purpose:literal),+ $(,)?) => {
        &[$(Capability {
            name: stringify!($name),
            number: kvm::$name,
            purpose: $purpose,
        }),+]
    };
}

/// Without these no VM can run. The last is the newest (Linux 4.17): a KVM that
/// has it has the others.
pub(super) const NEEDED: &[Capability] = capabilities![
    KVM_CAP_USER_MEMORY: "guest RAM",
    KVM_CAP_EXT_CPUID: "the guest's CPUID",
    KVM_CAP_IRQCHIP: "local APICs",
    KVM_CAP_IRQ_ROUTING: "interrupt routes",
    KVM_CAP_IRQFD: "interrupts without an exit",
    KVM_CAP_IOEVENTFD: "doorbells without an exit",
    KVM_CAP_SIGNAL_MSI: "message-signalled interrupts",
    KVM_CAP_MP_STATE: "start-up of further CPUs",
    KVM_CAP_VCPU_EVENTS: "exceptions and interrupts in flight",
    KVM_CAP_DEBUGREGS: "the CPUs' debug registers",
    KVM_CAP_XSAVE: "the CPUs' vector registers",
    KVM_CAP_XCRS: "the CPUs' extended control registers",
    KVM_CAP_ADJUST_CLOCK: "the guest's clock",
    KVM_CAP_IMMEDIATE_EXIT: "pausing",
    KVM_CAP_SYNC_REGS: "registers without a system call",
];

/// These make VMs faster or allow more.
pub(super) const OPTIONAL: &[Capability] = capabilities![
    KVM_CAP_SPLIT_IRQCHIP: "fast start-up",
    KVM_CAP_X2APIC_API: "more than 255 CPUs",
    KVM_CAP_TSC_DEADLINE_TIMER: "precise timers",
    KVM_CAP_GET_TSC_KHZ: "the guest's TSC frequency",
    KVM_CAP_X86_USER_SPACE_MSR: "MSRs that KVM does not know",
    KVM_CAP_X86_MSR_FILTER: "watching MSRs",
    KVM_CAP_READONLY_MEM: "read-only memory",
    KVM_CAP_IRQFD_RESAMPLE: "level interrupts without an exit",
    KVM_CAP_SYNC_MMU: "guest RAM that comes later",
    KVM_CAP_XSAVE2: "large vector state (AMX)",
    KVM_CAP_DIRTY_LOG_RING: "fast tracking of written pages",
];

impl Capability {
    pub(super) fn is_offered(&self, kvm: &Kvm) -> bool {
        kvm.check_extension_raw(c_ulong::from(self.number)) > 0
    }
}

/// Opens `/dev/kvm` and checks that it is what Mayfly needs.
///
/// # Errors
/// [`HostError`], which says what to do.
pub fn open_kvm() -> Result<Kvm, HostError> {
    let kvm = open_path(Path::new(DEVICE))?;
    // Each question is a system call at every start, and whoever offers the newest
    // capability can do the rest and is KVM.
    if !NEEDED.last().is_some_and(|newest| newest.is_offered(&kvm)) {
        check_version(&kvm)?;
        require(|capability| capability.is_offered(&kvm))?;
    }
    Ok(kvm)
}

/// Names the first capability that is needed and not offered.
fn require(is_offered: impl Fn(&Capability) -> bool) -> Result<(), HostError> {
    match NEEDED.iter().find(|capability| !is_offered(capability)) {
        Some(missing) => Err(HostError::Capability {
            name: missing.name,
            purpose: missing.purpose,
        }),
        None => Ok(()),
    }
}

/// Opens the device and checks the API version, but no capabilities.
pub(super) fn open_device(path: &Path) -> Result<Kvm, HostError> {
    let kvm = open_path(path)?;
    check_version(&kvm)?;
    Ok(kvm)
}

fn open_path(path: &Path) -> Result<Kvm, HostError> {
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| HostError::Absent)?;
    Kvm::new_with_path(c_path).map_err(|error| open_error(path, error.into()))
}

fn check_version(kvm: &Kvm) -> Result<(), HostError> {
    match kvm.get_api_version() {
        API_VERSION => Ok(()),
        ..0 => Err(HostError::NotKvm),
        other => Err(HostError::ApiVersion(other)),
    }
}

fn open_error(path: &Path, error: io::Error) -> HostError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => HostError::Absent,
        Some(libc::ENODEV | libc::ENXIO) => HostError::NoDriver,
        Some(libc::EACCES | libc::EPERM) => HostError::Permission {
            advice: permission_advice(path),
        },
        _ => HostError::Open(error),
    }
}

/// Whom to make a member of which group, as far as the device tells.
fn permission_advice(path: &Path) -> String {
    let Ok(metadata) = fs::metadata(path) else {
        return "run as root, or ask for access to it".to_owned();
    };
    const GROUP_RW: u32 = 0o060;
    if metadata.mode() & GROUP_RW != GROUP_RW || metadata.gid() == 0 {
        return format!(
            "run 'sudo chown root:kvm {0} && sudo chmod 660 {0}' and become a member of the group with 'sudo usermod -aG kvm $USER'",
            path.display()
        );
    }
    let group = fs::read_to_string("/etc/group")
        .ok()
        .and_then(|text| group_name(&text, metadata.gid()))
        .unwrap_or_else(|| metadata.gid().to_string());
    format!("become a member of its group with 'sudo usermod -aG {group} $USER' and log in again")
}

/// The name of group `gid` in the text of `/etc/group` (`name:password:gid:members`).
fn group_name(text: &str, gid: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == gid).then(|| name.to_owned())
    })
}

/// The width of a guest's physical address in bits: CPUID 0x8000_0008, EAX bits
/// 7:0 (Intel SDM vol. 2A, CPUID), of what KVM offers to guests. 36, as on every
/// 64-bit processor, where KVM does not say.
pub fn physical_address_bits(supported: &CpuId) -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    const EVERY_PROCESSOR: u8 = 36;
    let sizes = supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == ADDRESS_SIZES);
    match sizes.map(|entry| entry.eax.to_le_bytes()[0]) {
        None | Some(0) => EVERY_PROCESSOR,
        Some(bits) => bits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_own_line() {
        let path = Path::new("/dev/null");
        let line = |errno| open_error(path, io::Error::from_raw_os_error(errno)).to_string();
        assert!(line(libc::ENOENT).contains("modprobe"));
        assert!(line(libc::ENODEV).contains("firmware"));
        assert!(line(libc::EACCES).contains("usermod -aG kvm"));
        assert!(line(libc::EIO).contains("cannot open"));
    }

    #[test]
    fn what_is_not_there_or_not_kvm_is_said() {
        let absent = open_device(Path::new("/dev/no-such-device")).unwrap_err();
        assert!(matches!(absent, HostError::Absent));
        let null = open_device(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(null, HostError::NotKvm), "{null:?}");
    }

    #[test]
    fn a_kvm_without_a_needed_capability_is_refused() {
        for lacking in NEEDED {
            let error = require(|capability| capability.name != lacking.name).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "KVM on this host lacks {} ({}); use Linux 5.10 or newer",
                    lacking.name, lacking.purpose
                )
            );
        }
        assert!(require(|_| true).is_ok());
    }

    #[test]
    fn groups_are_found_by_number() {
        let text = "root:x:0:\nbroken\nkvm:x:104:a,b\nshort:x\n";
        assert_eq!(group_name(text, 104).as_deref(), Some("kvm"));
        assert_eq!(group_name(text, 7), None);
    }
}
