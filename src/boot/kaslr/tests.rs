//! Whole loads of a small kernel that can be moved.

use std::collections::HashSet;

use super::*;
use crate::boot::bytes::{put, u32_at, u64_at};
use crate::boot::testing::{self, MAP, MOVABLE_ADDR, movable_elf, relocation_table};
use crate::boot::{BootOptions, Entry, Initrd, Loaded, PayloadCache, load};

const MEMORY: u64 = 64 << 20;
const MIB2: u64 = 2 << 20;

/// The kernel with its relocation table, as a bzImage.
fn movable() -> Vec<u8> {
    with_table(&relocation_table(&[0x10], Some(&[0x31]), &[0x20]))
}

fn with_table(table: &[u8]) -> Vec<u8> {
    let payload = [movable_elf().as_slice(), table].concat();
    testing::bzimage(&testing::zstd(&payload), payload.len())
}

struct Boot {
    ram: GuestRam,
    loaded: Loaded,
}

fn boot(kernel: &[u8], cmdline: &str, options: BootOptions) -> Result<Boot, BootError> {
    let (_kernel_dir, kernel) = testing::file(kernel);
    let (_initrd_dir, initrd) = testing::file(&vec![0xa5; 1 << 20]);
    let kernel = Kernel::open(&kernel, &PayloadCache::none())?;
    let initrd = Initrd::open(&initrd, None)?;
    let ram = GuestRam::new(MEMORY).unwrap();
    let loaded = load(&kernel, Some(&initrd), cmdline, &ram, options)?;
    Ok(Boot { ram, loaded })
}

fn with(kaslr: Kaslr) -> BootOptions {
    BootOptions {
        kaslr,
        ..BootOptions::default()
    }
}

fn read(ram: &GuestRam, addr: u64) -> Vec<u8> {
    let mut page = vec![0; 4096];
    ram.read(addr, &mut page).unwrap();
    page
}

/// Bit 1 of `loadflags` (boot.rst, "KASLR_FLAG").
fn flag(ram: &GuestRam) -> bool {
    read(ram, 0x7000)[0x211] & 2 != 0
}

#[test]
fn a_moved_kernel_knows_where_it_is() {
    for table in [
        relocation_table(&[0x10], Some(&[0x31]), &[0x20]),
        relocation_table(&[0x10], None, &[0x20]),
    ] {
        let Boot { ram, loaded } = boot(&with_table(&table), "quiet", with(Kaslr::On)).unwrap();
        let KernelShift { physical, virtual_ } = loaded.shift;
        let start = MOVABLE_ADDR + physical;
        let entry = Entry::Linux64 {
            rip: start,
            rsi: 0x7000,
        };
        assert_eq!(loaded.entry, entry);
        let code = read(&ram, start);
        let address = MAP + MOVABLE_ADDR + virtual_;
        assert_eq!(u64_at(&code, 0x10), Some(address + 0x10));
        assert_eq!(u32_at(&code, 0x20), Some(address as u32 + 0x20));
        let old = table.len() == 24;
        let inverse = if old { address } else { MAP + MOVABLE_ADDR };
        let distance = 0x7000_0000u32.wrapping_sub(inverse as u32);
        assert_eq!(u32_at(&code, 0x31), Some(distance));
        assert!(flag(&ram));
    }
}

#[test]
fn each_load_draws_addresses_in_which_everything_fits() {
    let mut physical = HashSet::new();
    let mut virtual_ = HashSet::new();
    for _ in 0..24 {
        let Boot { ram, loaded } = boot(&movable(), "quiet", with(Kaslr::Auto)).unwrap();
        let shift = loaded.shift;
        assert_eq!((shift.physical % MIB2, shift.virtual_ % MIB2), (0, 0));
        assert!(MOVABLE_ADDR + shift.virtual_ + 0x3000 <= 1 << 30);
        // 1 MiB of initrd at the end, whatever the kernel does.
        let zero_page = read(&ram, 0x7000);
        assert_eq!(u32_at(&zero_page, 0x218), Some(63 << 20));
        assert!(MOVABLE_ADDR + shift.physical + 0x3000 <= 63 << 20);
        assert_eq!(read(&ram, 63 << 20), [0xa5; 4096]);
        physical.insert(shift.physical);
        virtual_.insert(shift.virtual_);
    }
    // Of 24 and of 504 places; that one has so few is less likely than one in 10^18.
    assert!(
        physical.len() > 3 && virtual_.len() > 6,
        "{physical:?} {virtual_:?}"
    );
}

#[test]
fn it_stays_where_nokaslr_or_the_user_says_so() {
    for (cmdline, kaslr) in [
        ("quiet", Kaslr::Off),
        ("nokaslr quiet", Kaslr::Auto),
        ("quiet nokaslr", Kaslr::Auto),
        ("quiet\tnokaslr", Kaslr::Auto),
        // Linux's decompressor knows neither what is for init nor quotation marks.
        ("quiet -- nokaslr", Kaslr::Auto),
        ("dyndbg=\"file x nokaslr +p\"", Kaslr::Auto),
    ] {
        let Boot { ram, loaded } = boot(&movable(), cmdline, with(kaslr)).unwrap();
        assert_eq!(loaded.shift, KernelShift::default(), "{cmdline}");
        assert_eq!(read(&ram, MOVABLE_ADDR), movable_elf()[0x200..0x1200]);
        assert!(!flag(&ram));
    }
}

#[test]
fn it_moves_where_another_word_only_looks_like_nokaslr() {
    for cmdline in [
        "nokaslrs",
        "nokaslr=1",
        "\"nokaslr\"",
        "NOKASLR",
        "no-kaslr",
    ] {
        let boot = boot(&movable(), cmdline, with(Kaslr::Auto)).unwrap();
        assert!(flag(&boot.ram), "{cmdline}");
    }
}

#[test]
fn a_command_line_that_places_memory_pins_the_physical_address() {
    for cmdline in [
        "mem=48M",
        "memmap=1M$32M",
        "crashkernel=16M@32M",
        "hugepagesz=1G hugepages=2",
        "hugepagesz=2M hugepagesz=\"1024M\" hugepages=2",
        "hugepagesz=0x40000000 hugepages=2",
        "default_hugepagesz=1G hugepages=2",
    ] {
        for _ in 0..8 {
            let boot = boot(&movable(), cmdline, with(Kaslr::On)).unwrap();
            assert_eq!(boot.loaded.shift.physical, 0, "{cmdline}");
            assert!(flag(&boot.ram));
        }
    }
}

#[test]
fn a_command_line_that_places_nothing_does_not() {
    for cmdline in [
        "crashkernel=16M",
        "hugepages=2",
        "hugepagesz=2M hugepages=2",
        "-- mem=48M",
        "-- hugepagesz=1G hugepages=2",
    ] {
        let shifts = (0..24).map(|_| {
            let boot = boot(&movable(), cmdline, with(Kaslr::On)).unwrap();
            boot.loaded.shift.physical
        });
        // Of 24 places 24 times the first: less likely than one in 10^33.
        assert!(shifts.max() > Some(0), "{cmdline}");
    }
}

#[test]
fn what_cannot_be_moved_is_told_where_that_was_asked_for() {
    let pvh = |kaslr| BootOptions {
        protocol: BootProtocol::Pvh,
        ..with(kaslr)
    };
    let elf = testing::elf(&[0x90; 0x1000]);
    let opaque = testing::bzimage(b"\x89LZO", 4);
    for (kernel, cmdline, options, reason) in [
        (
            &elf,
            "",
            with as fn(Kaslr) -> _,
            "no relocation data; give the bzImage",
        ),
        (&movable_elf(), "", with, "no relocation data"),
        (&movable(), "nokaslr", with, "says nokaslr"),
        (&opaque, "", with, "unpacks itself"),
        (&elf, "", pvh as fn(Kaslr) -> _, "PVH"),
    ] {
        let auto = boot(kernel, cmdline, options(Kaslr::Auto)).unwrap();
        assert_eq!(auto.loaded.shift, KernelShift::default(), "{reason}");
        let error = boot(kernel, cmdline, options(Kaslr::On))
            .err()
            .expect(reason);
        assert!(matches!(error, BootError::Unmovable { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_corrupt_table_is_an_error_unless_it_is_not_used() {
    let kernel = with_table(&relocation_table(&[0x10], Some(&[0x31]), &[0x1000]));
    for kaslr in [Kaslr::Auto, Kaslr::On] {
        let error = boot(&kernel, "quiet", with(kaslr)).err().unwrap();
        let line = crate::one_line::one_line(&error);
        assert!(
            line.contains("corrupt relocation table") && line.contains("0x81001000"),
            "{line}"
        );
    }
    assert!(boot(&kernel, "quiet", with(Kaslr::Off)).is_ok());
}

#[test]
fn the_cache_keeps_the_table_with_the_kernel() {
    let (dir, path) = testing::file(&movable());
    let cache = PayloadCache::at(&dir.path().join("cache"));
    for expected in [false, true] {
        let kernel = Kernel::open(&path, &cache).unwrap();
        assert!(matches!(kernel.form(), KernelForm::Unpacked { cached, .. } if cached == expected));
        let ram = GuestRam::new(MEMORY).unwrap();
        load(&kernel, None, "quiet", &ram, with(Kaslr::On)).unwrap();
    }
}

#[test]
fn the_header_says_how_far_apart_places_are() {
    let mut image = movable();
    put(&mut image, 0x230, &0x100_0000u32.to_le_bytes());
    for _ in 0..8 {
        let shift = boot(&image, "", with(Kaslr::On)).unwrap().loaded.shift;
        assert_eq!(
            (shift.physical % (16 << 20), shift.virtual_ % (16 << 20)),
            (0, 0)
        );
    }
    // What cannot be: neither a power of two, nor less than 2 MiB.
    for wrong in [0u32, 3 << 20, 4096] {
        put(&mut image, 0x230, &wrong.to_le_bytes());
        let shift = boot(&image, "", with(Kaslr::On)).unwrap().loaded.shift;
        assert_eq!((shift.physical % MIB2, shift.virtual_ % MIB2), (0, 0));
    }
}
