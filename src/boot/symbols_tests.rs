//! Symbol tables and `System.map`s, right and wrong.

use std::io::Write;

use proptest::prelude::*;

use super::super::bytes::put;
use super::super::symbol_table::{MAX_DISTANCE, MAX_NAME};
use super::*;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn name(symbols: &Symbols, address: u64) -> Option<String> {
    symbols.nearest(address).map(|symbol| symbol.to_string())
}

const BASE: u64 = 0xffff_ffff_8100_0000;

/// An ELF file with section headers at 0x40, symbols at 0x200, names at 0x400
/// (System V gABI, chapter 4).
fn elf_file(symbols: &[(&str, u8, u16, u64)]) -> Vec<u8> {
    let mut elf = vec![0; 0x400];
    put(&mut elf, 0, b"\x7fELF\x02\x01\x01");
    put(&mut elf, 0x28, &0x40u64.to_le_bytes());
    put(&mut elf, 0x3a, &64u16.to_le_bytes());
    put(&mut elf, 0x3c, &3u16.to_le_bytes());
    let mut names = vec![0];
    for (index, (name, info, section, value)) in symbols.iter().enumerate() {
        let at = 0x200 + 24 * index;
        put(&mut elf, at, &(names.len() as u32).to_le_bytes());
        put(&mut elf, at + 4, &[*info]);
        put(&mut elf, at + 6, &section.to_le_bytes());
        put(&mut elf, at + 8, &value.to_le_bytes());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    for (index, kind, offset, len, link) in [
        (1usize, 2u32, 0x200u64, 24 * symbols.len() as u64, 2u32),
        (2, 3, 0x400, names.len() as u64, 0),
    ] {
        let at = 0x40 + 64 * index;
        put(&mut elf, at + 4, &kind.to_le_bytes());
        put(&mut elf, at + 0x18, &offset.to_le_bytes());
        put(&mut elf, at + 0x20, &len.to_le_bytes());
        put(&mut elf, at + 0x28, &link.to_le_bytes());
    }
    elf.extend_from_slice(&names);
    elf
}

fn sample() -> Vec<u8> {
    elf_file(&[
        ("late", 0x12, 1, BASE + 0x2000),
        ("early", 0x02, 1, BASE),
        ("a_number", 0x00, 0xfff1, BASE + 0x1f00),
        ("elsewhere", 0x10, 0, BASE + 0x1f00),
        ("data", 0x11, 1, BASE + 0x1f00),
        ("label", 0x00, 1, BASE + 0x1000),
    ])
}

fn of_elf(bytes: &[u8]) -> Symbols {
    Symbols::new(Some(Source::File(file(bytes)).into()), None).unwrap()
}

#[test]
fn an_address_is_in_the_last_function_before_it() {
    let symbols = of_elf(&sample());
    let name = |distance: u64| name(&symbols, BASE + distance);
    assert_eq!(name(0).as_deref(), Some("early+0x0"));
    assert_eq!(name(0xfff).as_deref(), Some("early+0xfff"));
    assert_eq!(name(0x1fff).as_deref(), Some("label+0xfff"));
    assert_eq!(name(0x2000).as_deref(), Some("late+0x0"));
}

#[test]
fn addresses_elsewhere_have_no_name() {
    let symbols = of_elf(&sample());
    for address in [0, BASE - 1, BASE + 0x2000 + MAX_DISTANCE, u64::MAX] {
        assert_eq!(name(&symbols, address), None, "{address:#x}");
    }
}

#[test]
fn a_system_map_names_functions_only() {
    let map = "0000000000000000 D per_cpu\n\
               ffffffff81000000 T _text\n\
               ffffffff81000100 t helper.isra.0\n\
               ffffffff81000180 D data\n\
               ffffffff81000200 W weak one\n\
               nonsense\n\
               \n\
               ffffffff81000300 T \u{1b}[31mred";
    let symbols = Symbols::new(None, Some(file(map.as_bytes()))).unwrap();
    let name = |distance: u64| name(&symbols, BASE + distance);
    assert_eq!(name(0x80).as_deref(), Some("_text+0x80"));
    assert_eq!(name(0x1ff).as_deref(), Some("helper.isra.0+0xff"));
    assert_eq!(name(0x201).as_deref(), Some("weak+0x1"));
    assert_eq!(name(0x300).as_deref(), Some("?[31mred+0x0"));
}

#[test]
fn what_a_distribution_leaves_in_place_of_a_map_names_nothing() {
    let stub = "ffffffffffffffff B The real System.map is in the debug package\n";
    let symbols = Symbols::new(None, Some(file(stub.as_bytes()))).unwrap();
    assert_eq!(name(&symbols, u64::MAX), None);
}

#[test]
fn a_stripped_kernel_falls_back_on_its_map() {
    let stripped = elf_file(&[]);
    let map = file(b"ffffffff81000000 T _text\n");
    let symbols = Symbols::new(Some(Source::Bytes(stripped).into()), Some(map)).unwrap();
    assert_eq!(name(&symbols, BASE + 1).as_deref(), Some("_text+0x1"));
    assert!(Symbols::new(None, None).is_none());
}

#[test]
fn maps_are_looked_for_where_distributions_have_them() {
    let beside = |kernel: &str| map_path(Path::new(kernel)).unwrap();
    assert_eq!(
        beside("/boot/vmlinuz-6.1.0-31-amd64"),
        Path::new("/boot/System.map-6.1.0-31-amd64")
    );
    assert_eq!(beside("build/vmlinux"), Path::new("build/System.map"));
    assert_eq!(beside("bzImage"), Path::new("System.map"));
    assert_eq!(map_path(Path::new("/")), None);
}

#[test]
fn a_map_that_is_no_file_is_no_map() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("vmlinux");
    assert!(open_map(&kernel).is_none());
    std::fs::create_dir(dir.path().join("System.map")).unwrap();
    let map = open_map(&kernel);
    let symbols = Symbols::new(None, map);
    assert_eq!(symbols.and_then(|symbols| name(&symbols, BASE)), None);
}

proptest! {
    #[test]
    fn hostile_tables_never_panic(
        flips in prop::collection::vec((0usize..0x480, any::<u8>()), 0..12),
        words in prop::collection::vec((0usize..0x90, any::<u64>()), 0..3),
        cut in 0usize..0x480,
        address in prop_oneof![any::<u64>(), BASE..BASE + 0x4000],
    ) {
        let mut bytes = sample();
        for (at, byte) in flips {
            put(&mut bytes, at, &[byte]);
        }
        for (at, word) in words {
            put(&mut bytes, 8 * at, &word.to_le_bytes());
        }
        bytes.truncate(cut.max(0x40));
        if let Some(symbol) = of_elf(&bytes).nearest(address) {
            prop_assert!(symbol.offset < MAX_DISTANCE && symbol.name.len() <= MAX_NAME);
        }
    }

    #[test]
    fn hostile_maps_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), address: u64) {
        let map = [b"ffffffff81000000 T ".as_slice(), &bytes].concat();
        let symbols = Symbols::new(None, Some(file(&map))).unwrap();
        for address in [address, BASE] {
            if let Some(symbol) = symbols.nearest(address) {
                prop_assert!(symbol.name.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
