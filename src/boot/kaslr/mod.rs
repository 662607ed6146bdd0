//! In-monitor KASLR: the kernel at a random physical and virtual address.
//!
//! Linux chooses its address in the decompressor of a bzImage, which a VMM that starts
//! the unpacked kernel passes by. So it is chosen here, by the same rules: the physical
//! and the virtual address each on its own, in steps of the kernel's alignment, and the
//! relocation table that the bzImage carries is applied to the kernel in guest memory.
//! Source: Linux `arch/x86/boot/compressed/kaslr.c`; the idea is that of "KASLR in the
//! age of MicroVMs", EuroSys 2022.

mod relocations;
mod slots;

use std::ops::Range;

pub use relocations::RelocationError;
use relocations::{MAX_TABLE, Relocations};
use slots::Slots;

use super::BootProtocol;
use super::cmdline;
use super::error::BootError;
use super::kernel::{Kernel, KernelForm};
use super::random::Random;
use crate::memory::GuestRam;

/// Linux maps its image within this much of virtual memory (`KERNEL_IMAGE_SIZE` with
/// `CONFIG_RANDOMIZE_BASE`, which only kernels with relocation data have).
const KERNEL_IMAGE_SIZE: u64 = 1 << 30;

/// Whether the kernel is put at a random address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kaslr {
    /// Where the file has relocation data and the command line has no `nokaslr`.
    #[default]
    Auto,
    /// Or loading fails.
    On,
    /// At the address it was linked for.
    Off,
}

/// How far from the addresses it was linked for a kernel runs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelShift {
    /// Of its guest-physical addresses.
    pub physical: u64,
    /// Of its virtual addresses; less than 1 GiB.
    pub virtual_: u64,
}

/// A kernel that is about to be moved.
pub(super) struct Move {
    /// How far.
    pub(super) shift: KernelShift,
    relocations: Relocations,
}

/// What decides where a kernel may be.
pub(super) struct Situation<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) protocol: BootProtocol,
    pub(super) cmdline: &'a str,
    /// Where the kernel was linked for, guest-physical.
    pub(super) linked: &'a Range<u64>,
    /// Where the initrd will be; clear of `linked`.
    pub(super) initrd: Option<&'a Range<u64>>,
    /// End of the RAM that a kernel can start in (exclusive).
    pub(super) ram_end: u64,
}

impl Move {
    /// Draws an address; `None` if the kernel is to stay where it was linked for.
    ///
    /// # Errors
    /// [`BootError::Unmovable`] if [`Kaslr::On`] cannot be had, [`BootError::Read`].
    pub(super) fn draw(
        choice: Kaslr,
        situation: &Situation<'_>,
        random: &Random,
    ) -> Result<Option<Self>, BootError> {
        if choice == Kaslr::Off {
            return Ok(None);
        }
        let relocations = match (situation.relocations()?, choice) {
            (Ok(relocations), _) => relocations,
            (Err(reason), Kaslr::On) => {
                return Err(BootError::Unmovable {
                    path: situation.kernel.path().to_owned(),
                    reason,
                });
            }
            (Err(reason), _) => {
                log::info!("no KASLR: {reason}");
                return Ok(None);
            }
        };
        let linked = situation.linked;
        let align = situation.kernel.alignment();
        let physical = Slots::new(linked, align, situation.physical_end(), situation.initrd);
        let virtual_ = Slots::new(linked, align, KERNEL_IMAGE_SIZE, None);
        let shift = KernelShift {
            physical: physical.shift(random.physical),
            virtual_: virtual_.shift(random.virtual_),
        };
        log::info!(
            "KASLR: kernel at {:#x} (one of {} places, {:.1} bits), \
             moved by {:#x} in virtual memory (one of {}, {:.1} bits); {} relocations",
            linked.start.saturating_add(shift.physical),
            physical.count(),
            physical.bits(),
            shift.virtual_,
            virtual_.count(),
            virtual_.bits(),
            relocations.len(),
        );
        Ok(Some(Self { shift, relocations }))
    }

    /// Makes the kernel, which has been placed with this shift, one that runs with it.
    ///
    /// # Errors
    /// [`BootError::Relocations`].
    pub(super) fn relocate(&self, kernel: &Kernel, ram: &GuestRam) -> Result<(), BootError> {
        self.relocations
            .apply(ram, kernel.segments(), self.shift)
            .map_err(|source| BootError::Relocations {
                path: kernel.path().to_owned(),
                source,
            })
    }
}

impl Situation<'_> {
    /// The kernel's relocation table, or why there is no use in it.
    fn relocations(&self) -> Result<Result<Relocations, &'static str>, BootError> {
        // Linux reads this one in the decompressor, and from then on a flag of the zero page.
        if cmdline::has_word(self.cmdline, "nokaslr") {
            return Ok(Err("the kernel command line says nokaslr"));
        }
        if self.protocol == BootProtocol::Pvh {
            return Ok(Err("PVH enters a kernel at the address it was linked for"));
        }
        if self.kernel.form() == KernelForm::BzImage {
            return Ok(Err(
                "it unpacks itself in the guest, and chooses its address there if it can",
            ));
        }
        let table = self.kernel.behind_elf(MAX_TABLE)?;
        Ok(table.and_then(Relocations::parse).ok_or(
            "the file has no relocation data; \
             give the bzImage (vmlinuz) of a kernel with CONFIG_RANDOMIZE_BASE",
        ))
    }

    /// End of the RAM to draw the physical address from (exclusive). Where the command
    /// line says which RAM there is, what lies where in it, or that large pieces of it
    /// are wanted whole, the kernel is not moved into the way of that.
    fn physical_end(&self) -> u64 {
        let has = |key| cmdline::has_key(self.cmdline, key);
        let crash_kernel_has_place = cmdline::values(self.cmdline, "crashkernel")
            .iter()
            .any(|value| value.contains('@'));
        let places_memory =
            has("mem") || has("memmap") || crash_kernel_has_place || self.wants_gib_pages();
        if places_memory {
            self.linked.end
        } else {
            self.ram_end
        }
    }

    /// Whether the kernel is to take huge pages of 1 GiB, which it does when it starts,
    /// out of whole aligned GiB: one in which it lies itself is none. There are two sizes;
    /// what is not plainly the other one counts.
    fn wants_gib_pages(&self) -> bool {
        let is_large = |size: &&str| !size.eq_ignore_ascii_case("2M");
        let names_large = |key| cmdline::values(self.cmdline, key).iter().any(is_large);
        cmdline::has_key(self.cmdline, "hugepages")
            && (names_large("hugepagesz") || names_large("default_hugepagesz"))
    }
}

#[cfg(test)]
mod tests;
