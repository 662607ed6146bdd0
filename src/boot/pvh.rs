//! The structures of the PVH boot protocol: start info, module, memory map.
//!
//! Source: Xen `docs/misc/pvh.pandoc` and `xen/include/public/arch-x86/hvm/start_info.h`;
//! the layouts come from linux-loader's translation of that header.

use std::mem::offset_of;

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};

use super::bytes::put;
use super::error::BootError;
use super::memory_map::MapEntry;
use super::{Places, memory_error};
use crate::memory::GuestRam;
use crate::memory::layout::{CMDLINE_ADDR, PVH_END, PVH_START_INFO};

/// The version that has the memory map.
const VERSION: u32 = 1;
/// The module list follows the start info, on an 8-byte boundary.
const MODLIST: usize = size_of::<hvm_start_info>().next_multiple_of(8);
/// The memory map follows the list's one entry.
const MEMMAP: usize = MODLIST + size_of::<hvm_modlist_entry>();
/// Bytes there are for all of it.
const ROOM: usize = (PVH_END - PVH_START_INFO) as usize;

/// Writes the start info and what it points to, and returns its address.
///
/// # Errors
/// [`BootError::Memory`] if its place is not RAM.
pub(super) fn write_start_info(
    ram: &GuestRam,
    places: &Places,
    map: &[MapEntry],
) -> Result<u64, BootError> {
    ram.write(PVH_START_INFO, &start_info(places, map))
        .map_err(|source| memory_error("PVH start info", source))?;
    Ok(PVH_START_INFO)
}

fn start_info(places: &Places, map: &[MapEntry]) -> [u8; ROOM] {
    let mut page = [0; ROOM];
    let address_of = |offset: usize| PVH_START_INFO.saturating_add(offset as u64);
    let mut put32 = |at: usize, value: u32| put(&mut page, at, &value.to_le_bytes());
    put32(offset_of!(hvm_start_info, magic), XEN_HVM_START_MAGIC_VALUE);
    put32(offset_of!(hvm_start_info, version), VERSION);
    put32(
        offset_of!(hvm_start_info, nr_modules),
        u32::from(places.initrd.is_some()),
    );
    put32(
        offset_of!(hvm_start_info, memmap_entries),
        u32::try_from(map.len()).unwrap_or(0),
    );
    let mut put64 = |at: usize, value: u64| put(&mut page, at, &value.to_le_bytes());
    put64(offset_of!(hvm_start_info, cmdline_paddr), CMDLINE_ADDR);
    put64(
        offset_of!(hvm_start_info, rsdp_paddr),
        places.rsdp.unwrap_or(0),
    );
    put64(offset_of!(hvm_start_info, memmap_paddr), address_of(MEMMAP));
    if let Some(initrd) = &places.initrd {
        put64(
            offset_of!(hvm_start_info, modlist_paddr),
            address_of(MODLIST),
        );
        put64(MODLIST, initrd.start);
        put64(
            MODLIST.saturating_add(offset_of!(hvm_modlist_entry, size)),
            initrd.end.saturating_sub(initrd.start),
        );
    }
    let table = (MEMMAP..).step_by(size_of::<hvm_memmap_table_entry>());
    for (entry, at) in map.iter().zip(table) {
        put64(at, entry.start);
        put64(at.saturating_add(8), entry.len);
        put64(at.saturating_add(16), u64::from(entry.kind as u32));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::bytes::{u32_at, u64_at};
    use super::super::memory_map::memory_map;
    use super::*;

    // Offsets are those of start_info.h, written out.
    #[test]
    fn the_fields_are_where_the_kernel_looks() {
        let map = memory_map(&GuestRam::new(6 << 30).unwrap());
        let places = Places {
            initrd: Some(0x700_0000..0x700_1234),
            rsdp: Some(0xe_0000),
            ..Places::default()
        };
        let page = start_info(&places, &map);
        assert_eq!(u32_at(&page, 0), Some(0x336e_c578));
        assert_eq!(u32_at(&page, 4), Some(1));
        assert_eq!(u32_at(&page, 12), Some(1));
        assert_eq!(u64_at(&page, 16), Some(0x6038));
        assert_eq!(u64_at(&page, 24), Some(0x1_0000));
        assert_eq!(u64_at(&page, 32), Some(0xe_0000));
        assert_eq!(u64_at(&page, 40), Some(0x6058));
        assert_eq!(u32_at(&page, 48), Some(map.len() as u32));
        assert_eq!(u64_at(&page, 0x38), Some(0x700_0000));
        assert_eq!(u64_at(&page, 0x40), Some(0x1234));
        let last = 0x58 + 24 * (map.len() - 1);
        assert_eq!(u64_at(&page, last), Some(0x1_0000_0000));
        assert_eq!(u64_at(&page, last + 8), Some(3 << 30));
        assert_eq!(u32_at(&page, last + 16), Some(1));
        assert!(last + 24 <= ROOM);
    }

    #[test]
    fn without_an_initrd_there_is_no_module() {
        let page = start_info(&Places::default(), &[]);
        assert_eq!(u32_at(&page, 12), Some(0));
        assert_eq!(u64_at(&page, 16), Some(0));
        assert_eq!(u64_at(&page, 32), Some(0));
    }
}
