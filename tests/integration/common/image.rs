//! Kernel files made to measure: bzImages and small, possibly wrong, ELF files.

use std::io::Write;

/// Compresses data as a kernel's build does.
pub type Packer = fn(&[u8]) -> Vec<u8>;

/// Every compression of kernels that Mayfly unpacks, by name.
pub const PACKERS: [(&str, Packer); 6] = [
    ("gzip", gzip),
    ("bzip2", bzip2),
    ("lzma", lzma),
    ("xz", xz),
    ("lz4", lz4),
    ("zstd", zstd),
];

/// A gzip stream.
pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("compress");
    encoder.finish().expect("compress")
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(data).expect("compress");
    encoder.finish().expect("compress")
}

fn lzma(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let mut encoder =
        lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).expect("compress");
    encoder.write_all(data).expect("compress");
    encoder.finish().expect("compress")
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).expect("compress");
    encoder.write_all(data).expect("compress");
    encoder.finish().expect("compress")
}

/// The format of `lz4 -l`: a magic number, then blocks with their lengths.
fn lz4(data: &[u8]) -> Vec<u8> {
    let mut stream = 0x184c_2102u32.to_le_bytes().to_vec();
    for block in data.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        stream.extend((packed.len() as u32).to_le_bytes());
        stream.extend(packed);
    }
    stream
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A valid zstd stream of four bytes for every 128 KiB of zeros it unpacks to.
pub fn zstd_bomb(unpacked: u64) -> Vec<u8> {
    const BLOCK: u64 = 128 << 10;
    // Magic number; no content size, no checksum; a window of 128 KiB.
    let mut stream = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let blocks = unpacked.div_ceil(BLOCK);
    for block in 0..blocks {
        let last = u32::from(block + 1 == blocks);
        let header = (BLOCK as u32) << 3 | 1 << 1 | last; // one byte, repeated
        stream.extend(&header.to_le_bytes()[..3]);
        stream.push(0);
    }
    stream
}

/// What a bzImage carries and says about it.
pub struct BzImage {
    /// The protected-mode code; its 64-bit entry is at 0x200.
    pub code: Vec<u8>,
    /// The compressed kernel, which follows the code.
    pub payload: Vec<u8>,
    /// The bytes of memory the code needs from where it is loaded.
    pub init_size: u32,
}

impl BzImage {
    /// A bzImage whose own code is never meant to run.
    pub fn with_payload(packed: Vec<u8>, unpacked_len: usize) -> Vec<u8> {
        let mut payload = packed;
        // Every format but gzip, which has its own, gets the length appended.
        if !payload.starts_with(&[0x1f, 0x8b]) {
            payload.extend((unpacked_len as u32).to_le_bytes());
        }
        let mut code = vec![0; 0x200];
        code.extend([0x0f, 0x0b]); // ud2
        let image = Self {
            code,
            payload,
            init_size: 16 << 20,
        };
        image.bytes()
    }

    /// The file, by the boot protocol 2.15 (Documentation/arch/x86/boot.rst).
    pub fn bytes(&self) -> Vec<u8> {
        const SETUP_SECTORS: u8 = 1;
        let mut file = vec![0; 512 * (1 + usize::from(SETUP_SECTORS))];
        let payload_offset = self.code.len().next_multiple_of(16);
        let mut put = |at: usize, bytes: &[u8]| {
            file[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let length = payload_offset + self.payload.len();
        put(0x1f1, &[SETUP_SECTORS]);
        put(0x1f4, &(length.div_ceil(16) as u32).to_le_bytes());
        put(0x1fe, &0xaa55u16.to_le_bytes());
        put(0x200, &[0xeb, 0x66]); // jump behind the header: its length
        put(0x202, b"HdrS");
        put(0x206, &0x020fu16.to_le_bytes());
        put(0x211, &[1]); // loadflags: LOADED_HIGH
        put(0x214, &0x10_0000u32.to_le_bytes());
        put(0x22c, &0x7fff_ffffu32.to_le_bytes());
        put(0x230, &0x20_0000u32.to_le_bytes()); // alignment
        put(0x236, &1u16.to_le_bytes()); // xloadflags: XLF_KERNEL_64
        put(0x238, &2047u32.to_le_bytes());
        put(0x248, &(payload_offset as u32).to_le_bytes());
        put(0x24c, &(self.payload.len() as u32).to_le_bytes());
        put(0x258, &0x10_0000u64.to_le_bytes()); // pref_address
        put(0x260, &self.init_size.to_le_bytes());
        file.extend(&self.code);
        file.resize(1024 + payload_offset, 0);
        file.extend(&self.payload);
        file.resize(file.len().next_multiple_of(16), 0);
        file
    }
}

/// One PT_LOAD segment of [`elf`].
#[derive(Clone, Copy)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes in the file, all zero.
    pub file_size: u64,
    /// Bytes in memory.
    pub memory_size: u64,
}

/// An x86-64 ELF with these segments; enough to be judged, not to run.
pub fn elf(segments: &[Segment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes()); // ET_EXEC
    file.extend(62u16.to_le_bytes()); // EM_X86_64
    file.extend(1u32.to_le_bytes());
    let entry = segments.first().map_or(0, |segment| segment.address);
    file.extend(entry.to_le_bytes());
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64, 56, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 0x1000u64;
    for segment in segments {
        file.extend(1u32.to_le_bytes()); // PT_LOAD
        file.extend(7u32.to_le_bytes());
        for word in [
            offset,
            segment.address,
            segment.address,
            segment.file_size,
            segment.memory_size,
            0x1000,
        ] {
            file.extend(word.to_le_bytes());
        }
        offset += segment.file_size;
    }
    file.resize(usize::try_from(offset).expect("a small file"), 0);
    file
}

/// The bytes from 1 MiB on of a bare guest's ELF file, as a bzImage's
/// protected-mode code, and the memory it needs with its BSS.
pub fn flat(guest: &[u8]) -> (Vec<u8>, u32) {
    let word = |at: usize| u64::from_le_bytes(guest[at..at + 8].try_into().expect("8 bytes"));
    let half = |at: usize| u16::from_le_bytes(guest[at..at + 2].try_into().expect("2 bytes"));
    let base = 0x10_0000;
    let (mut code, mut end) = (Vec::new(), 0);
    for index in 0..usize::from(half(56)) {
        let header = word(32) as usize + index * 56;
        if guest[header] != 1 {
            continue;
        }
        let (offset, address) = (word(header + 8) as usize, word(header + 24) - base);
        let (in_file, in_memory) = (word(header + 32) as usize, word(header + 40));
        code.resize(code.len().max(address as usize + in_file), 0);
        code[address as usize..][..in_file].copy_from_slice(&guest[offset..][..in_file]);
        end = end.max(address + in_memory);
    }
    (code, u32::try_from(end).expect("a small guest"))
}
