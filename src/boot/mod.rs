//! From a kernel file to guest memory and the point where the vCPU enters it.
//!
//! In two stages, so that whatever the user can mend fails before a VM exists:
//! [`Kernel::open`] and [`Initrd::open`] look at the files; [`load`] puts them
//! into guest memory together with what the boot protocol asks for.

pub mod acpi;
mod bytes;
mod bzimage;
mod cache;
mod cmdline;
mod elf;
mod error;
mod image;
mod initrd;
mod kernel;
mod linux;
mod lz4;
mod memory_map;
mod packed;
mod payload;
mod pvh;
#[cfg(test)]
mod testing;

use std::ops::Range;

pub use cache::PayloadCache;
pub use cmdline::{DEFAULT_CMDLINE, UserCmdline, build_cmdline, check_cmdline};
pub use error::{BootError, FileRole};
pub use initrd::Initrd;
pub use kernel::{Kernel, KernelForm};
pub use memory_map::{MapEntry, MapKind, memory_map};
pub use payload::Compression;

use crate::memory::layout::ZERO_PAGE;
use crate::memory::{GuestRam, MemoryError};

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootProtocol {
    /// What suits the kernel: the 64-bit Linux protocol.
    #[default]
    Auto,
    /// The 64-bit Linux boot protocol.
    Linux64,
    /// PVH: the 32-bit entry in the kernel's Xen note.
    Pvh,
}

/// Choices for [`load`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootOptions {
    /// How the kernel is entered.
    pub protocol: BootProtocol,
    /// Guest-physical address of the RSDP, if there are ACPI tables.
    pub rsdp: Option<u64>,
    /// Whether guest memory is untouched, so that what must be zero is zero already.
    pub fresh_memory: bool,
}

impl Default for BootOptions {
    fn default() -> Self {
        Self {
            protocol: BootProtocol::Auto,
            rsdp: None,
            fresh_memory: true,
        }
    }
}

/// Where and how the boot vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode, paging on, identity map of the first 4 GiB.
    Linux64 {
        /// First instruction.
        rip: u64,
        /// The zero page.
        rsi: u64,
    },
    /// 32-bit protected mode, paging off.
    Pvh {
        /// First instruction.
        rip: u64,
        /// The `hvm_start_info` structure.
        rbx: u64,
    },
}

/// Where [`load`] put what the kernel must be told about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    initrd: Option<Range<u64>>,
    rsdp: Option<u64>,
}

/// Puts kernel, initrd, command line and boot structures into guest memory.
///
/// # Errors
/// [`BootError`] if something does not fit or cannot be read.
pub fn load(
    kernel: &Kernel,
    initrd: Option<&Initrd>,
    cmdline: &str,
    ram: &GuestRam,
    options: BootOptions,
) -> Result<Entry, BootError> {
    let range = kernel.place(ram, options.fresh_memory)?;
    let initrd = initrd
        .map(|initrd| initrd.place(ram, &range, kernel.initrd_limits()))
        .transpose()?;
    let places = Places {
        initrd,
        rsdp: options.rsdp,
    };
    cmdline::write_cmdline(ram, cmdline, kernel.cmdline_max())?;
    let map = memory_map(ram);
    match options.protocol {
        BootProtocol::Auto | BootProtocol::Linux64 => {
            let rip = kernel.linux64_entry()?;
            linux::write_zero_page(ram, kernel.setup_header(), &places, &map)?;
            Ok(Entry::Linux64 {
                rip,
                rsi: ZERO_PAGE,
            })
        }
        BootProtocol::Pvh => Ok(Entry::Pvh {
            rip: kernel.pvh_entry()?,
            rbx: pvh::write_start_info(ram, &places, &map)?,
        }),
    }
}

fn memory_error(what: &'static str, source: MemoryError) -> BootError {
    BootError::Memory { what, source }
}
