//! bzImage: the setup header, where the compressed payload is, and where the
//! image's own 64-bit entry is.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst`.

use std::mem::offset_of;

use linux_loader::loader::bootparam::{XLF_CAN_BE_LOADED_ABOVE_4G, XLF_KERNEL_64, boot_params};

use super::bytes::{u8_at, u16_at, u32_at, u64_at};
use super::elf::Segment;
use super::error::BootError;
use super::image::Image;
use super::initrd::InitrdLimits;
use super::linux::{HDR, HDR_LEN};
use crate::memory::layout::HIGH_RAM_START;

/// The boot sector's signature, and the setup header's.
const BOOT_FLAG: u16 = 0xaa55;
const SECTOR: u64 = 512;
/// Protocols that brought the fields used here.
const V2_03_INITRD_MAX: u16 = 0x0203;
const V2_05_ALIGNMENT: u16 = 0x0205;
const V2_06_CMDLINE_SIZE: u16 = 0x0206;
const V2_08_PAYLOAD: u16 = 0x0208;
const V2_09_SETUP_DATA: u16 = 0x0209;
const V2_10_PREF_ADDRESS: u16 = 0x020a;
const V2_12_XLOADFLAGS: u16 = 0x020c;
/// The 64-bit entry lies this far into the protected-mode code.
const ENTRY64: u64 = 0x200;
/// Longest kernel version string that is read.
const RELEASE_MAX: usize = 128;

/// The setup header of a bzImage, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetupHeader {
    /// The header as the zero page takes it, from `setup_sects` on.
    raw: Vec<u8>,
    version: u16,
    setup_len: u64,
    payload: Option<(u64, u64)>,
    xloadflags: u16,
    initrd_addr_max: Option<u32>,
    cmdline_size: Option<u32>,
    pref_address: Option<u64>,
    init_size: Option<u32>,
    alignment: Option<u32>,
    release_at: Option<u64>,
}

/// Whether the bytes begin as a bzImage does.
pub(super) fn is_bzimage(head: &[u8]) -> bool {
    u16_at(head, offset_of!(boot_params, hdr.boot_flag)) == Some(BOOT_FLAG)
        && head
            .get(offset_of!(boot_params, hdr.header)..)
            .is_some_and(|rest| rest.starts_with(b"HdrS"))
}

impl SetupHeader {
    /// Reads the header from the first bytes of a bzImage; `None` if they end
    /// before it does.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let version = u16_at(head, offset_of!(boot_params, hdr.version))?;
        // The byte after the jump instruction is its distance: it ends the header.
        let jump = u8_at(head, offset_of!(boot_params, hdr.jump).checked_add(1)?)?;
        let end = offset_of!(boot_params, hdr.header).checked_add(usize::from(jump))?;
        let raw = head.get(HDR..end.min(HDR.checked_add(HDR_LEN)?))?.to_vec();
        let since = |first: u16| version >= first;
        let word = |first: u16, at: usize| {
            if since(first) { u32_at(head, at) } else { None }
        };
        let sectors = match u8_at(head, offset_of!(boot_params, hdr.setup_sects))? {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let setup_len = sectors.checked_add(1)?.checked_mul(SECTOR)?;
        let payload_offset = word(V2_08_PAYLOAD, offset_of!(boot_params, hdr.payload_offset));
        let payload_len = word(V2_08_PAYLOAD, offset_of!(boot_params, hdr.payload_length));
        let payload = match (payload_offset, payload_len) {
            (Some(offset), Some(len)) if len > 0 => {
                Some((setup_len.checked_add(u64::from(offset))?, u64::from(len)))
            }
            _ => None,
        };
        Some(Self {
            raw,
            version,
            setup_len,
            payload,
            xloadflags: if since(V2_12_XLOADFLAGS) {
                u16_at(head, offset_of!(boot_params, hdr.xloadflags))?
            } else {
                0
            },
            initrd_addr_max: word(
                V2_03_INITRD_MAX,
                offset_of!(boot_params, hdr.initrd_addr_max),
            ),
            cmdline_size: word(
                V2_06_CMDLINE_SIZE,
                offset_of!(boot_params, hdr.cmdline_size),
            ),
            pref_address: if since(V2_10_PREF_ADDRESS) {
                u64_at(head, offset_of!(boot_params, hdr.pref_address))
            } else {
                None
            },
            init_size: word(V2_10_PREF_ADDRESS, offset_of!(boot_params, hdr.init_size)),
            alignment: word(
                V2_05_ALIGNMENT,
                offset_of!(boot_params, hdr.kernel_alignment),
            ),
            release_at: u16_at(head, offset_of!(boot_params, hdr.kernel_version))
                .filter(|at| *at != 0)
                .and_then(|at| u64::from(at).checked_add(SECTOR)),
        })
    }

    /// The header as the zero page takes it.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Where the compressed payload is in the file, and its length in bytes.
    pub(super) fn payload(&self) -> Option<(u64, u64)> {
        self.payload
    }

    /// Bytes from the load address that starting takes; 0 if the header does not say.
    pub(super) fn init_size(&self) -> u64 {
        u64::from(self.init_size.unwrap_or(0))
    }

    /// The distances in bytes at which the kernel can be placed, if the header says
    /// something that can be.
    pub(super) fn alignment(&self) -> Option<u64> {
        self.alignment
            .filter(|alignment| alignment.is_power_of_two())
            .map(u64::from)
    }

    /// Whether the kernel looks at `hdr.setup_data`.
    pub(super) fn takes_setup_data(&self) -> bool {
        self.version >= V2_09_SETUP_DATA
    }

    /// Longest command line in bytes, without the NUL, if the header says.
    pub(super) fn cmdline_max(&self) -> Option<usize> {
        self.cmdline_size
            .filter(|size| *size > 0)
            .and_then(|size| usize::try_from(size).ok())
    }

    /// Where an initrd may lie.
    pub(super) fn initrd_limits(&self) -> InitrdLimits {
        // Before 2.03 the limit was fixed (boot.rst, `initrd_addr_max`).
        let max = self.initrd_addr_max.filter(|max| *max > 0);
        InitrdLimits {
            end: u64::from(max.unwrap_or(0x37ff_ffff)).saturating_add(1),
            above_4g: self.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0,
        }
    }

    /// The kernel's release, such as `6.12.9-amd64`, from its version string.
    pub(super) fn release(&self, image: &Image) -> Result<Option<String>, BootError> {
        let Some(at) = self.release_at.filter(|at| *at < self.setup_len) else {
            return Ok(None);
        };
        let bytes = image.read_vec(at, RELEASE_MAX)?;
        let word: String = bytes
            .iter()
            .take_while(|byte| byte.is_ascii_graphic())
            .map(|byte| char::from(*byte))
            .collect();
        Ok(Some(word).filter(|word| !word.is_empty()))
    }

    /// The image's own protected-mode code as a segment, for a start through
    /// its 64-bit entry, and that entry.
    ///
    /// # Errors
    /// [`BootError::Bits32`] or [`BootError::NoEntry`] if it has no such
    /// entry, [`BootError::Truncated`] or [`BootError::Malformed`] if its
    /// sizes cannot be.
    pub(super) fn own_entry(&self, image: &Image) -> Result<(Segment, u64), BootError> {
        let path = || image.path().to_owned();
        if self.version < V2_12_XLOADFLAGS {
            return Err(BootError::NoEntry {
                path: path(),
                protocol: "64-bit",
                hint: "give its uncompressed vmlinux instead",
            });
        }
        if self.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(BootError::Bits32 { path: path() });
        }
        let file_len = image.len().saturating_sub(self.setup_len);
        if file_len <= ENTRY64 {
            return Err(BootError::Truncated {
                path: path(),
                what: "protected-mode code",
            });
        }
        let addr = self.pref_address.unwrap_or(HIGH_RAM_START);
        let segment = Segment {
            addr,
            offset: self.setup_len,
            file_len,
            mem_len: self.init_size().max(file_len),
        };
        match addr.checked_add(segment.mem_len) {
            Some(_) => Ok((segment, addr.saturating_add(ENTRY64))),
            None => Err(BootError::Malformed {
                path: path(),
                reason: "its load address wraps round the address space",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bytes::put;
    use super::super::error::FileRole;
    use super::super::testing;
    use super::*;

    fn header(image: &[u8]) -> SetupHeader {
        assert!(is_bzimage(image));
        SetupHeader::parse(image).unwrap()
    }

    #[test]
    fn the_limits_come_from_the_header() {
        let image = testing::bzimage(&testing::gzip(b"payload"), 7);
        let header = header(&image);
        assert_eq!(header.cmdline_max(), Some(1023));
        assert_eq!(header.init_size(), 0x10_0000);
        let limits = header.initrd_limits();
        assert_eq!((limits.end, limits.above_4g), (0x8000_0000, true));
        let (at, len) = header.payload().unwrap();
        assert_eq!(at, 5 * 512 + 0x400);
        assert_eq!(at + len, image.len() as u64);
        assert_eq!(header.raw()[0], 4);
        assert_eq!(header.raw().len(), 0x26c - 0x1f1);
    }

    #[test]
    fn old_protocols_lack_what_they_lack() {
        let mut image = testing::bzimage(&testing::gzip(b"payload"), 7);
        put(&mut image, 0x206, &0x0202u16.to_le_bytes());
        let header = header(&image);
        assert_eq!(header.payload(), None);
        assert_eq!(header.cmdline_max(), None);
        assert_eq!(header.initrd_limits().end, 0x3800_0000);
        assert!(!header.initrd_limits().above_4g);
    }

    #[test]
    fn the_release_is_one_word() {
        let (_dir, path) = testing::file(&testing::bzimage(&testing::gzip(b"x"), 1));
        let image = Image::open(&path, FileRole::Kernel, 1 << 20).unwrap();
        let head = image.read_vec(0, 4096).unwrap();
        let release = SetupHeader::parse(&head).unwrap().release(&image).unwrap();
        assert_eq!(release.as_deref(), Some("6.12.0-test"));
    }

    #[test]
    fn its_own_entry_is_0x200_into_the_code_at_the_preferred_address() {
        let bytes = testing::bzimage(&[0; 64], 64);
        let (_dir, path) = testing::file(&bytes);
        let image = Image::open(&path, FileRole::Kernel, 1 << 20).unwrap();
        let (segment, entry) = header(&bytes).own_entry(&image).unwrap();
        assert_eq!(segment.addr, 0x100_0000);
        assert_eq!(segment.offset, 5 * 512);
        assert_eq!(segment.mem_len, 0x10_0000);
        assert_eq!(entry, 0x100_0200);
    }

    #[test]
    fn a_32_bit_image_has_no_64_bit_entry() {
        let mut bytes = testing::bzimage(&[0; 64], 64);
        put(&mut bytes, 0x236, &0u16.to_le_bytes());
        let (_dir, path) = testing::file(&bytes);
        let image = Image::open(&path, FileRole::Kernel, 1 << 20).unwrap();
        let result = header(&bytes).own_entry(&image);
        assert!(matches!(result, Err(BootError::Bits32 { .. })));
    }

    proptest::proptest! {
        #[test]
        fn hostile_headers_do_not_panic(
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120),
            cut in 0usize..4096,
        ) {
            let mut bytes = testing::bzimage(&[0; 64], 64);
            put(&mut bytes, 0x1f1, &noise);
            put(&mut bytes, 0x1fe, &[0x55, 0xaa]);
            put(&mut bytes, 0x202, b"HdrS");
            bytes.truncate(cut.max(1));
            let (_dir, path) = testing::file(&bytes);
            let image = Image::open(&path, FileRole::Kernel, 1 << 20).unwrap();
            if let Some(header) = SetupHeader::parse(&bytes) {
                let _ = header.own_entry(&image);
                let _ = header.release(&image);
            }
        }
    }
}
