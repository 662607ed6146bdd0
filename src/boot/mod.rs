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
mod kallsyms;
mod kaslr;
mod kernel;
mod linux;
mod lz4;
mod memory_map;
pub mod mptable;
mod packed;
pub mod payload;
mod pvh;
mod random;
mod setup_data;
mod symbol_table;
mod symbols;
#[cfg(test)]
pub(crate) mod testing;
pub mod virtio_mmio;

use std::ops::Range;

pub use cache::PayloadCache;
pub use cmdline::{
    DEFAULT_CMDLINE, UserCmdline, acpi_is_off, build_cmdline, check_cmdline, has_key, has_value,
    has_word,
};
pub use error::{BootError, FileRole};
pub use initrd::Initrd;
pub use kaslr::{Kaslr, KernelShift, RelocationError};
pub use kernel::{Kernel, KernelForm};
pub use memory_map::{MapEntry, MapKind, memory_map};
pub use payload::Compression;
pub use symbol_table::{Symbol, SymbolTable};
pub use symbols::{KernelSection, Symbols};

use self::kaslr::{Move, Situation};
use self::memory_map::low_ram_end;
use self::random::Random;
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
    /// Whether the kernel is put at a random address.
    pub kaslr: Kaslr,
    /// Whether guest memory is untouched, so that what must be zero is zero already.
    pub fresh_memory: bool,
}

impl Default for BootOptions {
    fn default() -> Self {
        Self {
            protocol: BootProtocol::Auto,
            rsdp: None,
            kaslr: Kaslr::Auto,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places {
    initrd: Option<Range<u64>>,
    rsdp: Option<u64>,
    setup_data: Option<u64>,
    /// Whether the kernel is not where it was linked for.
    kernel_moved: bool,
}

/// What [`load`] has put into guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Where and how the boot vCPU starts.
    pub entry: Entry,
    /// How far from the addresses it was linked for the kernel runs.
    pub shift: KernelShift,
}

/// Puts kernel, initrd, command line and boot structures into guest memory.
/// It needs no VM: errors of placement can come before one exists. Each call draws a new
/// address for the kernel and a new seed.
///
/// # Errors
/// [`BootError`] if something does not fit or cannot be read.
pub fn load(
    kernel: &Kernel,
    initrd: Option<&Initrd>,
    cmdline: &str,
    ram: &GuestRam,
    options: BootOptions,
) -> Result<Loaded, BootError> {
    cmdline::write_cmdline(ram, cmdline, kernel.cmdline_max())?;
    let mut initrd_limits = kernel.initrd_limits();
    let rip = match options.protocol {
        BootProtocol::Auto | BootProtocol::Linux64 => kernel.linux64_entry()?,
        BootProtocol::Pvh => {
            // Linux cuts the module's address to 32 bits.
            initrd_limits.above_4g = false;
            kernel.pvh_entry()?
        }
    };
    let linked = kernel.linked_range(ram)?;
    // The initrd first: then there is room for it wherever the kernel is.
    let initrd_place = initrd
        .map(|initrd| initrd.find_room(ram, &linked, initrd_limits))
        .transpose()?;
    let random = Random::draw()?;
    let situation = Situation {
        kernel,
        protocol: options.protocol,
        cmdline,
        linked: &linked,
        initrd: initrd_place.as_ref(),
        ram_end: low_ram_end(ram),
    };
    let moved = Move::draw(options.kaslr, &situation, &random)?;
    let shift = moved
        .as_ref()
        .map_or(KernelShift::default(), |moved| moved.shift);
    kernel.place(ram, options.fresh_memory, shift.physical)?;
    if let Some(moved) = &moved {
        moved.relocate(kernel, ram)?;
    }
    if let (Some(initrd), Some(place)) = (initrd, &initrd_place) {
        initrd.place(ram, place.start)?;
    }
    log::info!(
        "{}",
        what_is_loaded(kernel, options.protocol, initrd_place.as_ref())
    );
    let mut places = Places {
        initrd: initrd_place,
        rsdp: options.rsdp,
        setup_data: None,
        kernel_moved: moved.is_some(),
    };
    let map = memory_map(ram);
    let entry = match options.protocol {
        BootProtocol::Auto | BootProtocol::Linux64 => {
            if kernel.takes_setup_data() {
                places.setup_data = Some(setup_data::write(ram, &random.seed)?);
            }
            linux::write_zero_page(ram, kernel.setup_header(), &places, &map)?;
            Entry::Linux64 {
                rip: rip.saturating_add(shift.physical),
                rsi: ZERO_PAGE,
            }
        }
        BootProtocol::Pvh => {
            let rbx = pvh::write_start_info(ram, &places, &map)?;
            Entry::Pvh { rip, rbx }
        }
    };
    Ok(Loaded { entry, shift })
}

/// What `-v` tells of the kernel that is about to be entered.
fn what_is_loaded(kernel: &Kernel, protocol: BootProtocol, initrd: Option<&Range<u64>>) -> String {
    let release = kernel.release().map_or(String::new(), |r| format!(" {r}"));
    let protocol = match protocol {
        BootProtocol::Auto | BootProtocol::Linux64 => "the 64-bit Linux protocol",
        BootProtocol::Pvh => "PVH",
    };
    let initrd = initrd.map_or(String::new(), |range| {
        format!(", initrd at {:#x}..{:#x}", range.start, range.end)
    });
    format!(
        "kernel{release}: {}, entered through {protocol}{initrd}",
        kernel.form()
    )
}

fn memory_error(what: &'static str, source: MemoryError) -> BootError {
    BootError::Memory { what, source }
}

#[cfg(test)]
mod tests {
    use super::bytes::{u32_at, u64_at};
    use super::testing::{self, ELF_ADDR, ELF_PVH};
    use super::*;

    fn boot(
        kernel: &[u8],
        memory: u64,
        protocol: BootProtocol,
    ) -> Result<(GuestRam, Entry), BootError> {
        let (_kernel_dir, kernel_path) = testing::file(kernel);
        let (_initrd_dir, initrd_path) = testing::file(&[0xa5; 5000]);
        let kernel = Kernel::open(&kernel_path, &PayloadCache::none())?;
        let initrd = Initrd::open(&initrd_path, None)?;
        let ram = GuestRam::new(memory).unwrap();
        let options = BootOptions {
            protocol,
            rsdp: Some(0xe_0000),
            ..BootOptions::default()
        };
        let loaded = load(&kernel, Some(&initrd), "console=ttyS0", &ram, options)?;
        Ok((ram, loaded.entry))
    }

    fn page(ram: &GuestRam, addr: u64) -> Vec<u8> {
        let mut page = vec![0; 4096];
        ram.read(addr, &mut page).unwrap();
        page
    }

    #[test]
    fn the_64_bit_protocol_is_the_default() {
        let elf = testing::elf(&[0x90; 0x1000]);
        let (ram, entry) = boot(&elf, 64 << 20, BootProtocol::Auto).unwrap();
        let expected = Entry::Linux64 {
            rip: ELF_ADDR,
            rsi: 0x7000,
        };
        assert_eq!(entry, expected);
        let zero_page = page(&ram, 0x7000);
        assert_eq!(u32_at(&zero_page, 0x218), Some((64 << 20) - 0x2000));
        assert_eq!(u32_at(&zero_page, 0x21c), Some(5000));
        assert_eq!(u64_at(&zero_page, 0x70), Some(0xe_0000));
        assert!(page(&ram, 0x1_0000).starts_with(b"console=ttyS0\0"));
    }

    #[test]
    fn an_unpacked_kernel_keeps_its_setup_header() {
        let elf = testing::elf(&[0x90; 0x1000]);
        let image = testing::bzimage(&testing::zstd(&elf), elf.len());
        let (ram, _) = boot(&image, 64 << 20, BootProtocol::Linux64).unwrap();
        let zero_page = page(&ram, 0x7000);
        assert_eq!(u32_at(&zero_page, 0x238), Some(1023));
        assert_eq!(u64_at(&zero_page, 0x258), Some(0x100_0000));
        assert_eq!(zero_page[0x210], 0xff);
    }

    #[test]
    fn pvh_enters_at_the_notes_address() {
        let elf = testing::elf(&[0x90; 0x1000]);
        let (ram, entry) = boot(&elf, 64 << 20, BootProtocol::Pvh).unwrap();
        let expected = Entry::Pvh {
            rip: ELF_PVH,
            rbx: 0x6000,
        };
        assert_eq!(entry, expected);
        let start_info = page(&ram, 0x6000);
        assert_eq!(u32_at(&start_info, 0), Some(0x336e_c578));
        assert_eq!(u64_at(&start_info, 0x38), Some((64 << 20) - 0x2000));
    }

    #[test]
    fn verbose_output_says_how_the_kernel_is_entered() {
        let elf = testing::elf(&[0x90; 0x1000]);
        let (_dir, path) = testing::file(&testing::bzimage(&testing::zstd(&elf), elf.len()));
        let kernel = Kernel::open(&path, &PayloadCache::none()).unwrap();
        assert_eq!(
            what_is_loaded(&kernel, BootProtocol::Pvh, Some(&(0x1000..0x2000))),
            "kernel 6.12.0-test: zstd kernel, unpacked now, entered through PVH, \
             initrd at 0x1000..0x2000"
        );
    }

    #[test]
    fn one_mib_is_too_little() {
        let elf = testing::elf(&[0x90; 0x1000]);
        let result = boot(&elf, 1 << 20, BootProtocol::Auto);
        assert!(matches!(result, Err(BootError::MemoryTooSmall { .. })));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        #[test]
        fn hostile_kernels_end_in_an_error_or_an_entry(
            bzimage: bool,
            flips in proptest::collection::vec((0usize..0x300, 1u8..), 0..8),
            cut in 1usize..0x3000,
        ) {
            let elf = testing::elf(&[0x90; 0x1000]);
            let mut image = if bzimage {
                testing::bzimage(&testing::gzip(&elf), elf.len())
            } else {
                elf
            };
            for (at, mask) in flips {
                image[at] ^= mask;
            }
            image.truncate(cut);
            for protocol in [BootProtocol::Linux64, BootProtocol::Pvh] {
                let _ = boot(&image, 16 << 20, protocol);
            }
        }
    }
}
