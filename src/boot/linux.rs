//! The zero page (`struct boot_params`) of the 64-bit Linux boot protocol.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`. Field
//! offsets come from linux-loader's translation of the kernel's header.

use std::mem::offset_of;

use linux_loader::loader::bootparam::{
    KASLR_FLAG, KEEP_SEGMENTS, LOADED_HIGH, boot_e820_entry, boot_params, setup_header,
};

use super::bytes::put;
use super::error::BootError;
use super::memory_map::MapEntry;
use super::{Places, memory_error};
use crate::memory::GuestRam;
use crate::memory::layout::{CMDLINE_ADDR, ZERO_PAGE};

/// Where the setup header begins, in the zero page and in a bzImage alike.
pub(super) const HDR: usize = offset_of!(boot_params, hdr);
/// Room for the setup header in the zero page, in bytes.
pub(super) const HDR_LEN: usize = size_of::<setup_header>();
/// "Some other loader": the kernel's list has no number for Mayfly.
const LOADER_UNDEFINED: u8 = 0xff;
/// The newest protocol version whose fields a header of ours fills.
const PROTOCOL_VERSION: u16 = 0x020f;
const BOOT_FLAG: u16 = 0xaa55;
const VIDEO_NORMAL: u16 = 0xffff;

/// Writes the zero page. `header` is the setup header of the bzImage the
/// kernel came from; without one (a `vmlinux` has none) the fields the kernel
/// proper reads are filled in here.
///
/// # Errors
/// [`BootError::Memory`] if the zero page's place is not RAM.
pub(super) fn write_zero_page(
    ram: &GuestRam,
    header: Option<&[u8]>,
    places: &Places,
    map: &[MapEntry],
) -> Result<(), BootError> {
    let page = zero_page(header, places, map);
    ram.write(ZERO_PAGE, &page)
        .map_err(|source| memory_error("zero page", source))
}

fn zero_page(header: Option<&[u8]>, places: &Places, map: &[MapEntry]) -> [u8; 4096] {
    let mut page = [0; 4096];
    match header {
        Some(header) => put(&mut page, HDR, header.get(..HDR_LEN).unwrap_or(header)),
        None => put_synthetic_header(&mut page),
    }
    page[offset_of!(boot_params, hdr.type_of_loader)] = LOADER_UNDEFINED;
    let flags = &mut page[offset_of!(boot_params, hdr.loadflags)];
    *flags = (*flags | LOADED_HIGH | KEEP_SEGMENTS) & !KASLR_FLAG;
    if places.kernel_moved {
        // So the kernel moves its memory regions as well (`kernel_randomize_memory`).
        *flags |= KASLR_FLAG;
    }
    if let Some(setup_data) = places.setup_data {
        put(
            &mut page,
            offset_of!(boot_params, hdr.setup_data),
            &setup_data.to_le_bytes(),
        );
    }
    put(
        &mut page,
        offset_of!(boot_params, hdr.vid_mode),
        &VIDEO_NORMAL.to_le_bytes(),
    );
    put_split(
        &mut page,
        offset_of!(boot_params, hdr.cmd_line_ptr),
        offset_of!(boot_params, ext_cmd_line_ptr),
        CMDLINE_ADDR,
    );
    if let Some(initrd) = &places.initrd {
        put_split(
            &mut page,
            offset_of!(boot_params, hdr.ramdisk_image),
            offset_of!(boot_params, ext_ramdisk_image),
            initrd.start,
        );
        put_split(
            &mut page,
            offset_of!(boot_params, hdr.ramdisk_size),
            offset_of!(boot_params, ext_ramdisk_size),
            initrd.end.saturating_sub(initrd.start),
        );
    }
    if let Some(rsdp) = places.rsdp {
        put(
            &mut page,
            offset_of!(boot_params, acpi_rsdp_addr),
            &rsdp.to_le_bytes(),
        );
    }
    put_e820(&mut page, map);
    page
}

/// What a kernel entered past its setup code still looks at.
fn put_synthetic_header(page: &mut [u8]) {
    put(
        page,
        offset_of!(boot_params, hdr.boot_flag),
        &BOOT_FLAG.to_le_bytes(),
    );
    put(page, offset_of!(boot_params, hdr.header), b"HdrS");
    put(
        page,
        offset_of!(boot_params, hdr.version),
        &PROTOCOL_VERSION.to_le_bytes(),
    );
}

/// Puts a 64-bit value into a field and the field that extends it.
fn put_split(page: &mut [u8], low: usize, high: usize, value: u64) {
    let bytes = value.to_le_bytes();
    let (low_half, high_half) = bytes.split_at(4);
    put(page, low, low_half);
    put(page, high, high_half);
}

fn put_e820(page: &mut [u8], map: &[MapEntry]) {
    let table = offset_of!(boot_params, e820_table);
    let mut count = 0u8;
    for (entry, at) in map
        .iter()
        .zip((table..).step_by(size_of::<boot_e820_entry>()))
    {
        put(page, at, &entry.start.to_le_bytes());
        put(page, at.saturating_add(8), &entry.len.to_le_bytes());
        put(
            page,
            at.saturating_add(16),
            &(entry.kind as u32).to_le_bytes(),
        );
        count = count.saturating_add(1);
    }
    put(page, offset_of!(boot_params, e820_entries), &[count]);
}

#[cfg(test)]
mod tests {
    use super::super::bytes::{u16_at, u32_at, u64_at};
    use super::super::memory_map::memory_map;
    use super::*;

    fn places() -> Places {
        Places {
            initrd: Some(0x1_2345_6000..0x1_2345_7800),
            rsdp: Some(0xe_0000),
            setup_data: Some(0xd_f000),
            kernel_moved: false,
        }
    }

    // Offsets below are those of zero-page.rst, written out so that the test
    // does not repeat what it tests.
    #[test]
    fn the_fields_are_where_the_kernel_looks() {
        let page = zero_page(None, &places(), &[]);
        assert_eq!(u64_at(&page, 0x070), Some(0xe_0000));
        assert_eq!(u32_at(&page, 0x0c0), Some(1));
        assert_eq!(u32_at(&page, 0x218), Some(0x2345_6000));
        assert_eq!(u32_at(&page, 0x21c), Some(0x1800));
        assert_eq!(u32_at(&page, 0x0c4), Some(0));
        assert_eq!(u32_at(&page, 0x228), Some(0x1_0000));
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(u16_at(&page, 0x1fe), Some(0xaa55));
        assert_eq!(page[0x210], 0xff);
        assert_eq!(page[0x211] & 0x41, 0x41);
        assert_eq!(page[0x1ef], 0, "sentinel");
        assert_eq!(u64_at(&page, 0x250), Some(0xd_f000));
    }

    #[test]
    fn the_kernels_own_header_is_kept_and_nothing_more() {
        let header = [0x5a; 300];
        let page = zero_page(Some(&header), &places(), &[]);
        assert_eq!(page[0x1f1], 0x5a);
        assert_eq!(page[0x25f], 0x5a);
        assert_eq!(page[0x26c], 0, "beyond the setup header");
        assert_eq!(page[0x210], 0xff);
        assert_eq!(page[0x211], (0x5a | 0x41) & !0x02);
    }

    #[test]
    fn the_flag_of_kaslr_says_whether_the_kernel_was_moved() {
        let mut places = places();
        for header in [None, Some([0xff; 300].as_slice()), Some(&[0; 300])] {
            for moved in [false, true] {
                places.kernel_moved = moved;
                let flags = zero_page(header, &places, &[])[0x211];
                assert_eq!(flags & 0x02 != 0, moved);
            }
        }
    }

    #[test]
    fn e820_carries_six_gib() {
        let map = memory_map(&GuestRam::new(6 << 30).unwrap());
        let page = zero_page(None, &places(), &map);
        let count = usize::from(page[0x1e8]);
        assert_eq!(count, map.len());
        let last = 0x2d0 + 20 * (count - 1);
        assert_eq!(u64_at(&page, last), Some(0x1_0000_0000));
        assert_eq!(u64_at(&page, last + 8), Some(3 << 30));
        assert_eq!(u32_at(&page, last + 16), Some(1));
    }
}
