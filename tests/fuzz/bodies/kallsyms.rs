//! The tables that a kernel has of itself, found in an image of any content.
//!
//! Input: how the image is changed (count in 8 bits; each: place in 24 bits, a
//! byte), what it is cut to (24 bits, 0 for nothing), then the image; if that is empty,
//! one with sound tables in either order (by the first byte's lowest bit).

use std::fmt::Write;

use mayfly::boot::{Kernel, PayloadCache};

use super::kernel_file::MemoryFile;
use super::script::Script;

/// A name is one for a line of text, and the address within the function.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let first = script.u8();
    let changes: Vec<_> = (0..first / 2 % 16)
        .map(|_| (place(&mut script), script.u8()))
        .collect();
    let cut = place(&mut script);
    let rest = script.rest();
    let mut tables = match rest {
        [] => sound(first & 1 != 0),
        given => given.to_vec(),
    };
    let (len, changed) = (tables.len().max(1), changes.len());
    for (at, byte) in changes {
        if let Some(to) = tables.get_mut(at % len) {
            *to = byte;
        }
    }
    if cut != 0 {
        tables.truncate(cut % len);
    }
    let file = MemoryFile::new(&elf(&tables));
    let Ok(kernel) = Kernel::open(&file.path(), &PayloadCache::none()) else {
        return;
    };
    let Some(symbols) = kernel.symbols(None) else {
        return;
    };
    let is_sound = rest.is_empty() && changed == 0 && cut == 0;
    let Some(table) = symbols.table() else {
        assert!(!is_sound);
        return;
    };
    assert!(!is_sound || table.len() == 300);
    assert!(!table.is_empty() && table.len() <= tables.len());
    for index in 0..table.len().min(1000) {
        if let Some(name) = table.name(index) {
            assert!((1..=128).contains(&name.len()));
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
    for address in [BASE, BASE + 0x1234, u64::MAX, 0] {
        if let Some(symbol) = table.nearest(address) {
            assert!(symbol.offset < 1 << 20 && symbol.offset <= address);
        }
    }
}

fn place(script: &mut Script) -> usize {
    usize::from(script.u16()) | usize::from(script.u8()) << 16
}

const BASE: u64 = 0xffff_ffff_8100_0000;

/// A kernel file with one segment, and no section headers.
fn elf(segment: &[u8]) -> Vec<u8> {
    const CODE: u64 = 0x100_0000;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62, 1, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [CODE, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [0u16, 0, 64, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    let len = segment.len().max(1) as u64;
    for word in [0x1000, BASE, CODE, len, len, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.resize(0x1000, 0);
    file.extend(segment);
    file.resize(0x1000 + len as usize, 0);
    file
}

/// 300 functions, each letter its own token.
fn sound(is_new: bool) -> Vec<u8> {
    let (mut names, mut markers, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..300u32 {
        if number % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        let mut name = String::from("T");
        write!(name, "function_{number}").expect("a String takes everything");
        names.push(name.len() as u8);
        names.extend(name.bytes());
        offsets.extend((number * 0x40).to_le_bytes());
    }
    let (mut tokens, mut index) = (Vec::new(), Vec::new());
    for code in 0..=255u8 {
        index.extend((tokens.len() as u16).to_le_bytes());
        tokens.extend(code.is_ascii_graphic().then_some(code));
        tokens.push(0);
    }
    let (count, base) = (300u32.to_le_bytes().to_vec(), BASE.to_le_bytes().to_vec());
    let parts = match is_new {
        true => [count, names, markers, tokens, index, offsets, base],
        false => [offsets, base, count, names, markers, tokens, index],
    };
    let mut image = vec![0xcc; 64];
    for part in parts {
        image.resize(image.len().next_multiple_of(8), 0);
        image.extend(part);
    }
    image
}
