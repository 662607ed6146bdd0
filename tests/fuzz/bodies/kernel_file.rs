//! Kernel and initrd files: recognised, unpacked, placed in guest memory and moved by
//! their relocation data; the names of the kernel's functions.
//!
//! Input: choices (8 bits), the initrd's length (16 bits), initrd, kernel. What is in
//! memory afterwards is checked against the file and the boot protocols, read by
//! hand here. The initrd's bytes are the `System.map` too.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use mayfly::boot::{
    BootError, BootOptions, BootProtocol, Entry, Initrd, Kernel, KernelForm, KernelShift,
    PayloadCache, load,
};
use mayfly::memory::GuestRam;
use mayfly::memory::layout::{ACPI_END, ACPI_START, CMDLINE_ADDR, PCI_HOLE_START};
use mayfly::one_line::one_line;

use super::script::{Script, u16_at, u32_at, u64_at};

const MIB: u64 = 1 << 20;
/// The choices: which memory size, and what else.
const MEMORY: [u64; 8] = [
    MIB,
    2 * MIB,
    4 * MIB,
    16 * MIB,
    64 * MIB,
    256 * MIB,
    (3 << 30) + 8 * MIB,
    6 << 30,
];
const USED_MEMORY: u8 = 1 << 3;
const PVH: u8 = 1 << 4;
const WITH_INITRD: u8 = 1 << 5;
const UNPACK_INITRD: u8 = 1 << 6;
const RSDP: u8 = 1 << 7;
/// Beyond this, clearing used memory takes the fuzzer's time and finds nothing.
const USED_MEMORY_MAX: u64 = 16 * MIB;
const USED: u8 = 0xa5;

const CMDLINE: &str = "console=ttyS0 quiet";
const RSDP_ADDR: u64 = ACPI_START;

/// Opens the kernel and loads it.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let choices = script.u8();
    let initrd_len = usize::from(script.u16());
    let initrd_bytes = script.bytes(initrd_len);
    let kernel_bytes = script.rest();

    let kernel_file = MemoryFile::new(kernel_bytes);
    let kernel = match Kernel::open(&kernel_file.path(), &PayloadCache::none()) {
        Ok(kernel) => kernel,
        Err(error) => return check_line(&error),
    };
    if let Some(release) = kernel.release() {
        assert!(release.len() <= 128 && release.bytes().all(|b| b.is_ascii_graphic()));
    }
    let initrd_file = MemoryFile::new(initrd_bytes);
    let initrd = if choices & WITH_INITRD != 0 {
        let cache = PayloadCache::none();
        let unpack = (choices & UNPACK_INITRD != 0).then_some(&cache);
        match Initrd::open(&initrd_file.path(), unpack) {
            Ok(initrd) => Some(initrd),
            Err(error) => return check_line(&error),
        }
    } else {
        None
    };
    let options = BootOptions {
        protocol: if choices & PVH != 0 {
            BootProtocol::Pvh
        } else {
            BootProtocol::Linux64
        },
        rsdp: (choices & RSDP != 0).then_some(RSDP_ADDR),
        fresh_memory: choices & USED_MEMORY == 0,
        ..BootOptions::default()
    };
    let memory = MEMORY[usize::from(choices & 7)];
    let ram = memory_of(memory, &options);
    match load(&kernel, initrd.as_ref(), CMDLINE, &ram, options) {
        Ok(loaded) => {
            let place = check_boot(&ram, loaded.entry, &options);
            check_initrd(&ram, place, initrd.as_ref(), initrd_bytes);
            check_reserved(&ram, options.fresh_memory);
            let memory = Memory {
                ram: &ram,
                fresh: options.fresh_memory,
                shift: loaded.shift,
            };
            check_kernel(&memory, kernel.form(), kernel_bytes);
        }
        Err(error) => check_line(&error),
    }
    check_names(&kernel, initrd_file);
}

/// A name is one for a line of text, and the address is within the function.
fn check_names(kernel: &Kernel, map: MemoryFile) {
    let Some(symbols) = kernel.symbols(Some(map.0)) else {
        return;
    };
    for address in [0x20_0010, 0xffff_ffff_8100_0010, u64::MAX] {
        if let Some(symbol) = symbols.nearest(address) {
            assert!((1..=128).contains(&symbol.name.len()));
            assert!(symbol.name.bytes().all(|byte| byte.is_ascii_graphic()));
            assert!(symbol.offset < 1 << 20 && symbol.offset <= address);
        }
    }
}

/// Guest memory; such as was in use before is full of [`USED`].
fn memory_of(memory: u64, options: &BootOptions) -> GuestRam {
    if options.fresh_memory {
        return GuestRam::new(memory).expect("memory is reserved, not taken");
    }
    let memory = memory.min(USED_MEMORY_MAX);
    let ram = GuestRam::new(memory).expect("memory is reserved, not taken");
    ram.write(0, &vec![USED; memory as usize])
        .expect("all of RAM");
    ram
}

/// An error is one line for a person, of a sane length.
pub fn check_line(error: &BootError) {
    let line = one_line(error);
    assert!(!line.is_empty() && !line.contains('\n'));
    assert!(line.len() < 1000, "{} bytes", line.len());
}

fn read(ram: &GuestRam, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.read(addr, &mut bytes).expect("it must be RAM");
    bytes
}

/// What the boot protocol's structure says, and where it says the initrd is.
fn check_boot(ram: &GuestRam, entry: Entry, options: &BootOptions) -> Option<(u64, u64)> {
    let (rip, cmdline, rsdp, initrd) = match entry {
        Entry::Linux64 { rip, rsi } => {
            assert_eq!(options.protocol, BootProtocol::Linux64);
            // Linux Documentation/arch/x86/zero-page.rst.
            let page = read(ram, rsi, 4096);
            let split =
                |low, high| u64::from(u32_at(&page, low)) | u64::from(u32_at(&page, high)) << 32;
            assert_eq!(u16_at(&page, 0x1fe), 0xaa55);
            assert_eq!((&page[0x202..0x206], page[0x1ef]), (b"HdrS".as_slice(), 0));
            check_map(ram, &page[0x2d0..], usize::from(page[0x1e8]), 20);
            if u16_at(&page, 0x206) >= 0x209 {
                check_seed(ram, u64_at(&page, 0x250));
            }
            let initrd = (split(0x218, 0x0c0), split(0x21c, 0x0c4));
            (rip, split(0x228, 0x0c8), u64_at(&page, 0x070), initrd)
        }
        Entry::Pvh { rip, rbx } => {
            assert_eq!(options.protocol, BootProtocol::Pvh);
            // Xen include/public/arch-x86/hvm/start_info.h.
            let info = read(ram, rbx, 56);
            assert_eq!((u32_at(&info, 0), u32_at(&info, 4)), (0x336e_c578, 1));
            let count = u32_at(&info, 48) as usize;
            let table = read(ram, u64_at(&info, 40), count * 24);
            check_map(ram, &table, count, 24);
            let initrd = match u32_at(&info, 12) {
                0 => (0, 0),
                count => {
                    assert_eq!(count, 1);
                    let module = read(ram, u64_at(&info, 16), 32);
                    (u64_at(&module, 0), u64_at(&module, 8))
                }
            };
            assert!(rip <= u64::from(u32::MAX));
            (rip, u64_at(&info, 24), u64_at(&info, 32), initrd)
        }
    };
    assert!((MIB..PCI_HOLE_START).contains(&rip) && ram.contains(rip, 1));
    assert_eq!(rsdp, options.rsdp.unwrap_or(0));
    assert_eq!(cmdline, CMDLINE_ADDR);
    let line = read(ram, cmdline, CMDLINE.len() + 1);
    assert_eq!(line, [CMDLINE.as_bytes(), b"\0"].concat());
    (initrd.1 > 0).then_some(initrd)
}

/// One node of `setup_data`: no next one, type 9 (SETUP_RNG_SEED), 32 bytes, of which
/// some are not zero.
fn check_seed(ram: &GuestRam, at: u64) {
    let node = read(ram, at, 16 + 32);
    let header = (u64_at(&node, 0), u32_at(&node, 8), u32_at(&node, 12));
    assert_eq!(header, (0, 9, 32));
    assert!(node[16..].iter().any(|byte| *byte != 0));
}

/// Entries of a start, a length and a type: sorted, disjoint, RAM where they say so.
fn check_map(ram: &GuestRam, table: &[u8], count: usize, entry_len: usize) {
    assert!(count > 0);
    let mut end = 0;
    for entry in table.chunks(entry_len).take(count) {
        let (start, len) = (u64_at(entry, 0), u64_at(entry, 8));
        assert!(start >= end && len > 0);
        end = start + len;
        if u32_at(entry, 16) == 1 {
            assert!(ram.contains(start, len as usize));
        }
    }
}

fn check_initrd(ram: &GuestRam, place: Option<(u64, u64)>, initrd: Option<&Initrd>, bytes: &[u8]) {
    let Some(initrd) = initrd else {
        assert_eq!(place, None);
        return;
    };
    if initrd.size() == 0 {
        assert!(initrd.unpacked());
        return;
    }
    let (start, len) = place.expect("it was placed");
    assert_eq!((start % 4096, len), (0, initrd.size()));
    assert!(start >= MIB);
    let placed = read(ram, start, len as usize);
    if !initrd.unpacked() {
        assert!(placed == bytes);
    }
}

/// Neither kernel nor initrd got into what the VMM keeps in the first MiB.
fn check_reserved(ram: &GuestRam, fresh: bool) {
    let untouched = if fresh { 0 } else { USED };
    for (start, end) in [(0, 0x6000), (0x8000, 0x1_0000), (ACPI_START, ACPI_END)] {
        let bytes = read(ram, start, (end - start) as usize);
        assert!(bytes.iter().all(|byte| *byte == untouched), "{start:#x}");
    }
}

/// What a kernel was put into, and how far from where it was linked for.
struct Memory<'a> {
    ram: &'a GuestRam,
    fresh: bool,
    shift: KernelShift,
}

/// A loadable segment: its address, its bytes from the file, where they end there, and
/// its length in memory.
struct Segment {
    addr: u64,
    bytes: Vec<u8>,
    file_end: u64,
    mem_len: u64,
}

/// Each segment's bytes are where its header says, moved together with all others
/// and relocated, and zeros behind them.
fn check_kernel(memory: &Memory<'_>, form: KernelForm, file: &[u8]) {
    let KernelShift { physical, virtual_ } = memory.shift;
    assert!(physical % (2 * MIB) == 0 && virtual_ % (2 * MIB) == 0 && virtual_ < 1 << 30);
    match form {
        KernelForm::Vmlinux => {
            let mut segments = segments(file);
            if virtual_ > 0 {
                relocate(&mut segments, file, virtual_);
            }
            for segment in segments {
                let addr = segment.addr + physical;
                check_segment(memory, addr, &segment.bytes, segment.mem_len);
            }
        }
        KernelForm::BzImage => {
            let sectors = match file[0x1f1] {
                0 => 4,
                sectors => usize::from(sectors),
            };
            let code = &file[(sectors + 1) * 512..];
            assert_eq!((physical, virtual_), (0, 0));
            check_segment(memory, u64_at(file, 0x258), code, code.len() as u64);
        }
        KernelForm::Unpacked { cached, .. } => assert!(!cached),
    }
}

fn segments(file: &[u8]) -> Vec<Segment> {
    let table = u64_at(file, 32) as usize;
    let count = usize::from(u16_at(file, 56));
    let mut segments = Vec::new();
    for phdr in file[table..].chunks(56).take(count) {
        let load = u32_at(phdr, 0) == 1;
        let [offset, _, addr, file_len, mem_len] = [8, 16, 24, 32, 40].map(|at| u64_at(phdr, at));
        if load && mem_len > 0 {
            let bytes = file[offset as usize..][..file_len as usize].to_vec();
            segments.push(Segment {
                addr,
                bytes,
                file_end: offset + file_len,
                mem_len,
            });
        }
    }
    segments
}

/// Adds the shift wherever the lists behind the ELF say so: places of 64 bits, places of
/// 32 bits from which it is subtracted (in tables of three lists), places of 32 bits.
fn relocate(segments: &mut [Segment], file: &[u8], shift: u64) {
    let headers = u64::from(u16_at(file, 58)) * u64::from(u16_at(file, 60));
    let headers_end = match headers {
        0 => 0,
        len => u64_at(file, 40) + len,
    };
    let end = headers_end.max(segments.iter().map(|one| one.file_end).max().unwrap_or(0));
    let words: Vec<u32> = file[end as usize..]
        .chunks(4)
        .map(|word| u32_at(word, 0))
        .collect();
    let lists: Vec<&[u32]> = words.split(|word| *word == 0).collect();
    let (wide, inverse, narrow) = match lists[..] {
        [[], wide, narrow] => (wide, [].as_slice(), narrow),
        [[], wide, inverse, narrow] => (wide, inverse, narrow),
        _ => panic!("{} lists", lists.len()),
    };
    let minus = shift.wrapping_neg();
    for (list, len, value) in [(wide, 8, shift), (inverse, 4, minus), (narrow, 4, shift)] {
        for entry in list {
            let linked = u64::from(*entry) - 0x8000_0000;
            let place = segments.iter_mut().find_map(|segment| {
                let at = linked.checked_sub(segment.addr)? as usize;
                segment.bytes.get_mut(at..at + len)
            });
            let place = place.expect("it is within a segment");
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(place);
            let sum = u64::from_le_bytes(bytes).wrapping_add(value);
            place.copy_from_slice(&sum.to_le_bytes()[..len]);
        }
    }
}

fn check_segment(memory: &Memory<'_>, addr: u64, bytes: &[u8], mem_len: u64) {
    let Memory { ram, fresh, .. } = *memory;
    assert!(read(ram, addr, bytes.len()) == bytes);
    let zeros = mem_len - bytes.len() as u64;
    // Of fresh memory the ends will do: it is not written at all.
    let near = if fresh { zeros.min(4096) } else { zeros };
    let behind = read(ram, addr + bytes.len() as u64, near as usize);
    let last = read(ram, addr + mem_len - near, near as usize);
    assert!(behind.iter().chain(&last).all(|byte| *byte == 0));
}

/// A file that is only in memory, and has a path all the same.
pub struct MemoryFile(File);

impl MemoryFile {
    /// A file with these contents.
    pub fn new(contents: &[u8]) -> Self {
        let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = File::from(fd.expect("a file in memory"));
        file.write_all(contents).expect("room in memory");
        Self(file)
    }

    /// Where it can be opened.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
