//! Why a machine could not be made, and what the user is told.

use std::path::PathBuf;

use thiserror::Error;

use super::exit::ExitReason;
use crate::boot::BootError;
use crate::boot::acpi::AcpiError;
use crate::config::ConfigError;
use crate::console::ConsoleError;
use crate::devices::bus::BusError;
use crate::devices::pci::PciError;
use crate::devices::virtio::block::BlockError;
use crate::devices::virtio::block::disk::error::DiskError;
use crate::devices::virtio::net::NetError;
use crate::devices::virtio::net::tap::TapError;
use crate::devices::virtio::net::user::UserError;
use crate::host::HostError;
use crate::interrupts::InterruptError;
use crate::memory::MemoryError;
use crate::memory::layout::TooManyDevices;
use crate::one_line::one_line;
use crate::profile::ProfileError;
use crate::vcpu::cpuid::CpuidError;
use crate::vcpu::cpuid::model::ModelError;
use crate::vcpu::msr::MsrError;
use crate::vm::control::ControlError;

/// Why a machine could not be made or started.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The kernel, the initrd or what is made of them.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A value that this host's KVM cannot serve.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `/dev/kvm`.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The serial port's other end.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The interrupt controllers.
    #[error(transparent)]
    Interrupts(#[from] InterruptError),
    /// The VM generation id.
    #[error("cannot draw the VM's generation id from the host's random numbers")]
    GenerationId(#[source] rustix::io::Errno),
    /// ACPI tables.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// Two devices in one place.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// More virtio-mmio devices than places.
    #[error(transparent)]
    MmioDevices(#[from] TooManyDevices),
    /// No place on the PCI bus.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A disk's file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A disk's threads.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The user-mode network.
    #[error(transparent)]
    UserNet(#[from] UserError),
    /// A network interface's threads.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The entropy device's thread.
    #[error("cannot start the thread of the entropy device")]
    Rng(#[source] std::io::Error),
    /// The CPUID table.
    #[error(transparent)]
    CpuidTable(#[from] CpuidError),
    /// `--cpu`.
    #[error(transparent)]
    CpuModel(#[from] ModelError),
    /// The firmware's MSRs.
    #[error(transparent)]
    Msr(#[from] MsrError),
    /// The main thread's events.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The profile's file.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// `--profile` names a file that is read.
    #[error(
        "cannot write the profile to '{}': it is the kernel, the initrd or a disk; choose another file",
        .0.display()
    )]
    ProfileIsInput(PathBuf),
    /// `--serial file=` names a file that is read.
    #[error(
        "cannot write the serial output to '{}': it is the kernel, the initrd or a disk; choose another file",
        .0.display()
    )]
    SerialIsInput(PathBuf),
    /// KVM_CREATE_VM.
    #[error("cannot create a VM")]
    CreateVm(#[source] kvm_ioctls::Error),
    /// KVM_SET_IDENTITY_MAP_ADDR or KVM_SET_TSS_ADDR.
    #[error("cannot place the pages VT-x needs for real mode")]
    VmxPages(#[source] kvm_ioctls::Error),
    /// KVM_SET_USER_MEMORY_REGION.
    #[error("cannot give guest memory to KVM; choose a smaller --memory")]
    MemorySlot(#[source] kvm_ioctls::Error),
    /// KVM_GET_SUPPORTED_CPUID.
    #[error("cannot read the CPUID leaves that KVM supports")]
    SupportedCpuid(#[source] kvm_ioctls::Error),
    /// KVM_CREATE_VCPU.
    #[error("cannot create vCPU {id}; use fewer --cpus")]
    CreateVcpu {
        /// Which one.
        id: u32,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM_SET_CPUID2.
    #[error("cannot set the CPUID of vCPU {id}")]
    Cpuid {
        /// Which one.
        id: u32,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM_GET_SREGS, KVM_SET_SREGS or KVM_SET_REGS.
    #[error("cannot set the registers of the boot vCPU")]
    Registers(#[source] kvm_ioctls::Error),
    /// eventfd.
    #[error("cannot make an event descriptor")]
    EventDescriptor(#[source] std::io::Error),
    /// epoll.
    #[error("cannot wait for events: {0}")]
    EventLoop(String),
    /// sched_getaffinity.
    #[error("cannot tell which host CPUs there are for --cpu-pin")]
    Affinity(#[source] std::io::Error),
    /// sigaction.
    #[error("cannot install the signal that stops vCPUs")]
    Kick(#[source] vmm_sys_util::errno::Error),
    /// clone.
    #[error("cannot start the thread that writes the serial output")]
    Writer(#[source] std::io::Error),
    /// clone.
    #[error("cannot start the thread of vCPU {id}")]
    Thread {
        /// Which one.
        id: u32,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

impl BuildError {
    /// Why the VM ended, for the user: what can be mended on the command line
    /// is a usage error, the rest is the host's.
    pub fn reason(&self) -> ExitReason {
        let message = one_line(self);
        match self {
            Self::Memory(error) if !error.is_usage() => ExitReason::HostError { message },
            Self::Boot(_)
            | Self::Config(_)
            | Self::CpuModel(_)
            | Self::Console(_)
            | Self::Memory(_)
            | Self::MmioDevices(_)
            | Self::Pci(_)
            | Self::Disk(_)
            | Self::Tap(_)
            | Self::UserNet(_)
            | Self::Profile(_)
            | Self::ProfileIsInput(_)
            | Self::SerialIsInput(_) => ExitReason::Usage { message },
            _ => ExitReason::HostError { message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn code(error: MemoryError) -> u8 {
        BuildError::from(error).reason().code()
    }

    #[test]
    fn memory_that_the_host_does_not_give_is_its_own_fault() {
        let size = 1 << 30;
        let source = || io::Error::from_raw_os_error(libc::ENOMEM);
        for error in [
            MemoryError::Reserve {
                size,
                source: source(),
            },
            MemoryError::Memfd {
                size,
                source: source(),
            },
            MemoryError::Populate {
                size,
                source: source(),
            },
            MemoryError::Lock {
                size,
                source: source(),
            },
            MemoryError::Clear {
                size,
                source: source(),
            },
            MemoryError::LockLimit { size, limit: 0 },
            MemoryError::NoHugePages { page: 2 << 20 },
            MemoryError::NoKsm,
            MemoryError::NoNuma,
        ] {
            let told = error.to_string();
            assert_eq!(code(error), 244, "{told}");
        }
    }

    #[test]
    fn memory_that_can_never_be_is_the_users() {
        let present = "0".to_owned();
        assert_eq!(code(MemoryError::NoSuchNode { node: 7, present }), 245);
        assert_eq!(
            code(MemoryError::NotRam {
                addr: 0x9fc00,
                len: 4
            }),
            245
        );
    }
}
