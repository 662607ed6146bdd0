//! Where the instructions run: page tables of every kind, a device, registers.

use std::sync::{Arc, Mutex};

use mayfly::devices::BusDevice;
use mayfly::devices::bus::Bus;
use mayfly::memory::GuestRam;
use mayfly::vcpu::emulate::Sandbox;

use super::super::script::Script;

/// Size of RAM in bytes.
const RAM: u64 = 4 << 20;
/// The page tables of 64-bit mode: PML4, two PDPTs, one PD, one PT.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const HIGH_PDPT: u64 = 0x3000;
const PD: u64 = 0x4000;
const PT: u64 = 0x5000;
/// Those of PAE paging, which shares PD and PT, and of 32-bit paging.
const PAE_PDPT: u64 = 0x6000;
const PD_32: u64 = 0x7000;
const PT_32: u64 = 0x8000;
/// The end of the page tables.
const TABLES_END: u64 = 0x9000;
/// Pages that the page table maps, each in a way of its own, to themselves.
pub const PAGES: std::ops::Range<u64> = 16..30;
/// Memory that nothing maps.
pub const SECRET: std::ops::Range<u64> = 0x10_0000..0x10_2000;
/// What is in it.
pub const SECRET_BYTE: u8 = 0x5a;
/// A large page for users.
const USER_2M: u64 = 0x20_0000;
/// A large page of device memory, of which only the first page is a device's.
const DEVICE_2M: u64 = 0x40_0000;
const DEVICE: u64 = 0xd000_0000;
/// The same first gigabyte, for the kernel alone.
const HIGH: u64 = 0xffff_ffff_c000_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const RESERVED: u64 = 1 << 51;
const KEY_1: u64 = 1 << 59;
const NO_EXECUTE: u64 = 1 << 63;
const ALL: u64 = PRESENT | WRITABLE | USER;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
/// Flags that software can have set between two instructions, but for TF, RF and VM.
const FLAGS: u64 = 0x24_7cd5;

/// How page `number` is mapped.
fn mapping(number: u64) -> u64 {
    let to = number << 12;
    match number % 10 {
        0 | 1 => to | ALL,
        2 => to | PRESENT | WRITABLE,
        3 => to | PRESENT | USER,
        4 => to | PRESENT,
        5 => to | ALL | NO_EXECUTE,
        6 => to | WRITABLE | USER,
        7 => to | ALL | RESERVED,
        8 => DEVICE | ALL,
        _ => to | ALL | KEY_1,
    }
}

/// The same for 32-bit paging, which has no bits beyond the address.
fn mapping_32(number: u64) -> u32 {
    match number % 10 {
        7 => 0,
        _ => (mapping(number) & 0xffff_ffff) as u32,
    }
}

/// Whether users may write to page `number`.
pub fn is_users(number: u64) -> bool {
    matches!(number % 10, 0 | 1 | 5 | 9)
}

/// A device as the bus promises them: accesses within its range, of 1, 2, 4 or 8 bytes.
struct Strict([u8; 4096]);

impl BusDevice for Strict {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4 | 8), "{} bytes", data.len());
        let offset = offset as usize;
        data.copy_from_slice(&self.0[offset..offset + data.len()]);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4 | 8), "{} bytes", data.len());
        let offset = offset as usize;
        self.0[offset..offset + data.len()].copy_from_slice(data);
    }
}

/// What the input chose beyond the sandbox itself.
pub struct World {
    pub sandbox: Sandbox,
    /// The instruction is fetched at RIP and not just given.
    pub fetch: bool,
    /// The input has written to the page tables.
    pub own_tables: bool,
}

/// The world that the script describes.
pub fn world(script: &mut Script) -> World {
    let ram = GuestRam::new(RAM).expect("memory is reserved, not taken");
    let mut bus = Bus::new();
    let device = Arc::new(Mutex::new(Strict([0x77; 4096])));
    bus.insert(DEVICE, 4096, device).expect("an empty bus");
    write_tables(&ram);
    let mut sandbox = Sandbox::new(ram, bus);
    let mode = script.u8();
    set_mode(&mut sandbox, mode);
    set_control(&mut sandbox, script);
    set_registers(&mut sandbox, script);
    set_state(&mut sandbox, script);
    let own_tables = write_memory(&sandbox.ram, script);
    World {
        sandbox,
        fetch: mode & 1 << 4 != 0,
        own_tables,
    }
}

fn write_tables(ram: &GuestRam) {
    let put = |table: u64, index: u64, entry: u64| {
        ram.write_u64(table + index * 8, entry).expect("RAM");
    };
    put(PML4, 0, PDPT | ALL);
    put(PML4, 511, HIGH_PDPT | PRESENT | WRITABLE);
    put(PDPT, 0, PD | ALL);
    put(HIGH_PDPT, 511, PD | ALL);
    put(PD, 0, PT | ALL);
    put(PD, USER_2M >> 21, USER_2M | LARGE | ALL);
    put(PD, DEVICE_2M >> 21, DEVICE | LARGE | ALL);
    for number in PAGES {
        put(PT, number, mapping(number));
    }
    put(PAE_PDPT, 0, PD | PRESENT);
    ram.write(PD_32, &((PT_32 | ALL) as u32).to_le_bytes())
        .expect("RAM");
    for number in PAGES {
        let entry = mapping_32(number).to_le_bytes();
        ram.write(PT_32 + number * 4, &entry).expect("RAM");
    }
    let len = (SECRET.end - SECRET.start) as usize;
    ram.write(SECRET.start, &vec![SECRET_BYTE; len])
        .expect("RAM");
}

/// CPL; 64-bit, compatibility, protected or 16-bit mode; no, 32-bit, PAE or 4-level paging.
fn set_mode(sandbox: &mut Sandbox, mode: u8) {
    let sregs = &mut sandbox.sregs;
    sregs.cr3 = PML4;
    for segment in [
        &mut sregs.cs,
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        segment.limit = 0xffff_ffff;
        (segment.present, segment.s, segment.type_) = (1, 1, 3);
        segment.db = 1;
    }
    (sregs.cs.type_, sregs.cs.db) = (11, 0);
    if mode & 1 != 0 {
        (sregs.cs.selector, sregs.cs.dpl) = (0x33, 3);
        (sregs.ss.selector, sregs.ss.dpl) = (0x2b, 3);
    }
    if mode & 2 != 0 {
        sregs.cs.l = 0;
        sregs.cs.db = u8::from(mode & 4 == 0);
    }
    if mode & 8 != 0 {
        sregs.cs.l = 0;
        sregs.cs.db = 1;
        sregs.efer &= !(EFER_LMA | 1 << 8);
        match mode >> 5 & 5 {
            1 => sregs.cr3 = PAE_PDPT,
            5 => (sregs.cr3, sregs.cr4) = (PD_32, sregs.cr4 & !CR4_PAE),
            _ => sregs.cr0 &= !CR0_PG,
        }
    }
    if mode & 1 << 6 != 0 {
        sregs.efer &= !EFER_NXE;
    }
}

/// Bits of CR0 and CR4 that change what instructions do.
fn set_control(sandbox: &mut Sandbox, script: &mut Script) {
    const CR0: [u32; 5] = [1, 2, 3, 16, 18];
    const CR4: [u32; 11] = [2, 7, 9, 10, 11, 12, 16, 18, 20, 21, 22];
    let toggled = |bits: &[u32], by: u64| -> u64 {
        let chosen = bits.iter().enumerate().filter(|(i, _)| by >> i & 1 != 0);
        chosen.map(|(_, bit)| 1 << bit).sum()
    };
    sandbox.sregs.cr0 ^= toggled(&CR0, script.u8().into());
    sandbox.sregs.cr4 ^= toggled(&CR4, script.u16().into());
}

fn set_registers(sandbox: &mut Sandbox, script: &mut Script) {
    let is_64_bit = sandbox.sregs.cs.l != 0;
    let mut next = || {
        let value = number(script);
        if is_64_bit {
            value
        } else {
            value & 0xffff_ffff
        }
    };
    let regs = &mut sandbox.regs;
    for register in [
        &mut regs.rax,
        &mut regs.rbx,
        &mut regs.rcx,
        &mut regs.rdx,
        &mut regs.rsi,
        &mut regs.rdi,
        &mut regs.rsp,
        &mut regs.rbp,
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r15,
        &mut regs.rip,
    ] {
        *register = next();
    }
    (sandbox.sregs.fs.base, sandbox.sregs.gs.base) = (next(), next());
    sandbox.regs.rflags = 2 | u64::from(script.u32()) & FLAGS;
}

/// A register's contents: mostly an address that leads somewhere.
fn number(script: &mut Script) -> u64 {
    let pages = PAGES.end - PAGES.start;
    let page = |script: &mut Script| (PAGES.start + u64::from(script.u8()) % pages) << 12;
    match script.u8() % 8 {
        0 | 1 => page(script) + u64::from(script.u16() & 0xfff),
        2 => page(script) + 0x1000 - u64::from(script.u8() % 80),
        3 => page(script) + 64 * u64::from(script.u8() % 64),
        4 => HIGH + page(script) + u64::from(script.u8()),
        5 => script.u64(),
        6 => script.u8().into(),
        _ => script.choose(&[USER_2M, DEVICE_2M, USER_2M - 8]) + u64::from(script.u16()),
    }
}

/// XCR0, the vector registers and a few MSRs.
fn set_state(sandbox: &mut Sandbox, script: &mut Script) {
    const IA32_XSS: u32 = 0xda0;
    const TSC_AUX: u32 = 0xc000_0103;
    let xcr0 = script.choose(&[7, 1, 3, 0xe7, 0x207, 0x2e7]);
    let in_use = u64::from(script.u16()) & xcr0;
    let seed = script.u8();
    sandbox.state.xcr0 = xcr0;
    let image = sandbox.xsave_mut();
    image[512..520].copy_from_slice(&in_use.to_le_bytes());
    for (at, byte) in image.iter_mut().enumerate() {
        // XMM registers, and all that lies behind the header.
        if (160..416).contains(&at) || at >= 576 {
            *byte = (at as u8).wrapping_mul(seed).rotate_left(3) ^ seed;
        }
    }
    let xss = u64::from(script.u16());
    sandbox.state.msrs.insert(IA32_XSS, xss);
    sandbox.state.msrs.insert(TSC_AUX, u64::from(script.u8()));
}

/// Contents of memory; whether page tables are among them.
fn write_memory(ram: &GuestRam, script: &mut Script) -> bool {
    let mut own_tables = false;
    for _ in 0..script.u8() % 8 {
        let (place, len) = (u64::from(script.u16()), usize::from(script.u8() % 129));
        // In steps of 8 bytes over the tables and the mapped pages.
        let at = (place * 8) % (PAGES.end << 12);
        let bytes = script.bytes(len);
        ram.write(at, bytes).expect("RAM");
        own_tables |= at < TABLES_END && !bytes.is_empty();
    }
    own_tables
}
