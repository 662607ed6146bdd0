//! What the tests of this room share: small kernels, and every compression.

use std::io::Write;
use std::path::PathBuf;

use super::bytes::put;

/// Compresses, as a test wants it.
pub(super) type Packer = fn(&[u8]) -> Vec<u8>;

/// Every format Mayfly unpacks, by name.
pub(super) const PACKERS: [(&str, Packer); 6] = [
    ("gzip", gzip),
    ("bzip2", bzip2),
    ("lzma", lzma),
    ("xz", xz),
    ("lz4", lz4),
    ("zstd", zstd),
];

/// Data that compresses a little, in part.
pub(super) fn sample() -> Vec<u8> {
    let mut state = 1u32;
    (0..9_000u32)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 3 == 0 {
                (state >> 24) as u8
            } else {
                (i / 64) as u8
            }
        })
        .collect()
}

pub(super) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn lzma(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::LzmaOptions::with_preset(6);
    let mut encoder = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// With the x86 filter, as kernel builds do it.
pub(super) fn xz(data: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(6);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = super::lz4::LEGACY_MAGIC.to_vec();
    for block in data.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

pub(super) fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Guest-physical address of [`elf`]'s code.
pub(super) const ELF_ADDR: u64 = 0x20_0000;
/// [`elf`]'s PVH entry.
pub(super) const ELF_PVH: u64 = ELF_ADDR + 0x40;

/// An x86-64 ELF with a note, one segment of `code`, and 0x2000 bytes of BSS.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    const NOTE_AT: u64 = 64 + 2 * 56;
    const CODE_AT: u64 = 0x200;
    let mut image = vec![0; CODE_AT as usize];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &2u16.to_le_bytes());
    put(&mut image, 18, &62u16.to_le_bytes());
    put(&mut image, 24, &ELF_ADDR.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &2u16.to_le_bytes());
    put_phdr(
        &mut image,
        64,
        1,
        [
            CODE_AT,
            ELF_ADDR,
            code.len() as u64,
            code.len() as u64 + 0x2000,
        ],
    );
    put_phdr(&mut image, 120, 4, [NOTE_AT, 0, 24, 24]);
    let note = NOTE_AT as usize;
    put(&mut image, note, &4u32.to_le_bytes());
    put(&mut image, note + 4, &8u32.to_le_bytes());
    put(&mut image, note + 8, &18u32.to_le_bytes());
    put(&mut image, note + 12, b"Xen\0");
    put(&mut image, note + 16, &ELF_PVH.to_le_bytes());
    image.extend_from_slice(code);
    image
}

/// Writes a program header: offset, address, bytes in the file, bytes in memory.
pub(super) fn put_phdr(image: &mut [u8], at: usize, kind: u32, fields: [u64; 4]) {
    let [offset, addr, file_len, mem_len] = fields;
    put(image, at, &kind.to_le_bytes());
    put(image, at + 8, &offset.to_le_bytes());
    put(image, at + 24, &addr.to_le_bytes());
    put(image, at + 32, &file_len.to_le_bytes());
    put(image, at + 40, &mem_len.to_le_bytes());
}

/// A bzImage of protocol 2.15 round a payload, with the size trailer that
/// kernel builds append to every format but gzip (which has its own).
pub(super) fn bzimage(packed: &[u8], unpacked_len: usize) -> Vec<u8> {
    const SETUP_SECTS: usize = 4;
    const PAYLOAD_AT: u32 = 0x400;
    let mut payload = packed.to_vec();
    if !packed.starts_with(&[0x1f, 0x8b]) {
        payload.extend_from_slice(&(unpacked_len as u32).to_le_bytes());
    }
    let mut image = vec![0; (SETUP_SECTS + 1) * 512 + PAYLOAD_AT as usize];
    put(&mut image, 0x1f1, &[SETUP_SECTS as u8]);
    put(&mut image, 0x1fe, &0xaa55u16.to_le_bytes());
    put(&mut image, 0x200, &[0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020fu16.to_le_bytes());
    put(&mut image, 0x20e, &0x100u16.to_le_bytes());
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x234, &[1, 21]);
    put(&mut image, 0x236, &3u16.to_le_bytes());
    put(&mut image, 0x238, &1023u32.to_le_bytes());
    put(&mut image, 0x248, &PAYLOAD_AT.to_le_bytes());
    put(&mut image, 0x24c, &(payload.len() as u32).to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x10_0000u32.to_le_bytes());
    put(&mut image, 0x300, b"6.12.0-test (someone@somewhere) #1\0");
    image.extend_from_slice(&payload);
    image
}

/// A file with these contents in a directory that goes away with the test.
pub(crate) fn file(contents: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, contents).unwrap();
    (dir, path)
}

/// Where [`movable_elf`] is linked for, guest-physical.
pub(super) const MOVABLE_ADDR: u64 = 0x100_0000;
/// The virtual address of what is linked for the guest-physical address 0.
pub(super) const MAP: u64 = 0xffff_ffff_8000_0000;

/// An ELF linked at [`MOVABLE_ADDR`] that ends with its section headers, as Linux does: a
/// segment of 0x1000 bytes with values at the offsets
///
/// - 0x10, 64 bits: the kernel's virtual address plus 0x10
/// - 0x20, 32 bits: the lower half of the same plus 0x20
/// - 0x31, 32 bits, which is no multiple of 4: a number less the virtual address
///
/// and 0x2000 bytes of BSS. It has no relocation table.
pub(super) fn movable_elf() -> Vec<u8> {
    const SECTION_HEADER_LEN: u16 = 64;
    let mut code = vec![0x90; 0x1000];
    let virtual_address = MAP + MOVABLE_ADDR;
    put(&mut code, 0x10, &(virtual_address + 0x10).to_le_bytes());
    put(
        &mut code,
        0x20,
        &(virtual_address as u32 + 0x20).to_le_bytes(),
    );
    put(
        &mut code,
        0x31,
        &0x7000_0000u32
            .wrapping_sub(virtual_address as u32)
            .to_le_bytes(),
    );
    let mut image = elf(&code);
    let fields = [0x200, MOVABLE_ADDR, 0x1000, 0x3000];
    put_phdr(&mut image, 64, 1, fields);
    put(&mut image, 24, &MOVABLE_ADDR.to_le_bytes());
    let end = image.len() as u64;
    put(&mut image, 40, &end.to_le_bytes());
    put(&mut image, 58, &SECTION_HEADER_LEN.to_le_bytes());
    put(&mut image, 60, &2u16.to_le_bytes());
    image.resize(image.len() + 2 * usize::from(SECTION_HEADER_LEN), 0xee);
    image
}

/// A relocation table of these lists of offsets into [`movable_elf`]'s segment; without
/// `inverse`, as Linux 6.15 and later have it.
pub(super) fn relocation_table(wide: &[u32], inverse: Option<&[u32]>, narrow: &[u32]) -> Vec<u8> {
    let mut table = Vec::new();
    for list in [Some(wide), inverse, Some(narrow)].into_iter().flatten() {
        table.extend_from_slice(&[0; 4]);
        for offset in list {
            let entry = (MAP + MOVABLE_ADDR) as u32 + offset;
            table.extend_from_slice(&entry.to_le_bytes());
        }
    }
    table
}
