//! Tables as scripts/kallsyms.c lays them out, made by an encoder of the tests' own.

use proptest::prelude::*;

use super::*;

const BASE: u64 = 0xffff_ffff_8100_0000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// Linux until 6.1.
    Old,
    /// 6.2 and 6.3.
    OldWithSequence,
    /// From 6.4 on.
    New,
}

/// Texts that stand for unused codes, as the real tool picks frequent ones.
const TOKENS_OF_TWO_AND_MORE: [(u8, &str); 4] = [
    (0x80, "init"),
    (0x81, "__"),
    (0xfe, "tsys_"),
    (0x01, "_x86"),
];

fn token(code: u8) -> Vec<u8> {
    let long = TOKENS_OF_TWO_AND_MORE.iter().find(|(c, _)| *c == code);
    match long {
        Some((_, text)) => text.as_bytes().to_vec(),
        None if code.is_ascii_graphic() => vec![code],
        None => Vec::new(),
    }
}

fn compressed(name: &str) -> Vec<u8> {
    let (mut rest, mut codes) = (name, Vec::new());
    while !rest.is_empty() {
        let long = TOKENS_OF_TWO_AND_MORE
            .iter()
            .find(|(_, text)| rest.starts_with(text));
        let (code, len) = long.map_or((rest.as_bytes()[0], 1), |(code, text)| (*code, text.len()));
        codes.push(code);
        rest = &rest[len..];
    }
    let mut out = match codes.len() {
        short @ ..128 => vec![short as u8],
        long => vec![long as u8 & 0x7f | 0x80, (long >> 7) as u8],
    };
    out.extend(codes);
    out
}

/// An image with the tables of `symbols`, which are in the order of their addresses.
fn image(symbols: &[(u64, String)], order: Order, percpu: bool, align: usize) -> Vec<u8> {
    let mut names = Vec::new();
    let mut markers = Vec::new();
    for (index, (_, name)) in symbols.iter().enumerate() {
        if index % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        names.extend(compressed(name));
    }
    let (mut table, mut index) = (Vec::new(), Vec::new());
    for code in 0..=255 {
        index.extend((table.len() as u16).to_le_bytes());
        table.extend(token(code));
        table.push(0);
    }
    let offsets: Vec<u8> = symbols
        .iter()
        .flat_map(|(address, _)| {
            let word = match (percpu, *address < BASE) {
                (true, true) => *address as u32,
                (true, false) => (BASE.wrapping_sub(*address).wrapping_sub(1)) as u32,
                (false, _) => (address - BASE) as u32,
            };
            word.to_le_bytes()
        })
        .collect();
    let base = BASE.to_le_bytes().to_vec();
    let count = (symbols.len() as u32).to_le_bytes().to_vec();
    let sequence = vec![0x42; 3 * symbols.len()];
    let parts = match order {
        Order::Old => vec![offsets, base, count, names, markers, table, index],
        Order::OldWithSequence => {
            vec![offsets, base, count, names, markers, sequence, table, index]
        }
        Order::New => vec![count, names, markers, table, index, offsets, base, sequence],
    };
    let mut image = vec![0x90; 4096];
    for part in parts {
        // A pointer is aligned like one, whatever the rest is.
        let align = if part.len() == 8 { 8 } else { align };
        image.resize(image.len().next_multiple_of(align), 0);
        image.extend(part);
    }
    image.resize(image.len() + 4096, 0xcc);
    image
}

/// 700 symbols, functions and others, some of them per-CPU numbers at the beginning.
fn sample(percpu: bool) -> Vec<(u64, String)> {
    let mut symbols = Vec::new();
    if percpu {
        symbols.extend((0..5).map(|n| (n * 8, format!("Apercpu_{n}"))));
    }
    for n in 0..700u64 {
        let name = match n % 7 {
            0 => format!("Tinit_function_{n}"),
            1 => format!("tsys_call_{n}.isra.0"),
            2 => format!("dsome_data_{n}"),
            3 => format!("W__weak_x86_{n}"),
            4 => format!("t{}_{n}", "long_name_".repeat(25)),
            _ => format!("tlocal_{n}"),
        };
        symbols.push((BASE + n * 0x40, name));
    }
    symbols
}

fn check(order: Order, percpu: bool, align: usize) {
    let symbols = sample(percpu);
    let table = functions(&image(&symbols, order, percpu, align))
        .unwrap_or_else(|| panic!("no table: {order:?} {percpu} {align}"));
    let is_function = |name: &str| name.starts_with(['t', 'T', 'W']);
    let expected = symbols.iter().filter(|(_, name)| is_function(name)).count();
    assert_eq!(table.len(), expected);
    for (address, name) in symbols.iter().filter(|(_, name)| is_function(name)) {
        let found = table.nearest(*address + 5).expect("a name");
        let shown = name[1..].get(..MAX_NAME).unwrap_or(&name[1..]);
        assert_eq!(found.to_string(), format!("{shown}+0x5"));
    }
}

#[test]
fn tables_of_all_kernels_are_found_and_read() {
    for order in [Order::Old, Order::OldWithSequence, Order::New] {
        for percpu in [false, true] {
            check(order, percpu, 8);
        }
    }
    check(Order::New, true, 4);
}

#[test]
fn an_image_without_tables_has_no_names() {
    assert!(functions(&[]).is_none());
    assert!(functions(DIGITS).is_none());
    assert!(functions(&DIGITS.repeat(5000)).is_none());
    assert!(functions(&vec![0; 1 << 20]).is_none());
}

#[test]
fn tables_that_do_not_fit_each_other_are_not_believed() {
    let symbols = sample(false);
    let good = image(&symbols, Order::New, false, 8);
    let count_at = 4096;
    assert_eq!(u32_at(&good, count_at), Some(700));
    for wrong in [0, 1, 699, 701, u32::MAX] {
        let mut bad = good.clone();
        bad[count_at..count_at + 4].copy_from_slice(&wrong.to_le_bytes());
        assert!(functions(&bad).is_none(), "{wrong} symbols");
    }
    let mut unsorted = symbols;
    unsorted[300].0 += 0x1000;
    assert!(functions(&image(&unsorted, Order::New, false, 8)).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn hostile_images_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        words in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..3),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
        is_new: bool,
    ) {
        let order = if is_new { Order::New } else { Order::Old };
        let mut image = image(&sample(true), order, true, 8);
        for (at, byte) in changes {
            let at = at.index(image.len());
            image[at] = byte;
        }
        for (at, word) in words {
            let at = at.index(image.len() - 4);
            image[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        if is_cut {
            image.truncate(cut.index(image.len()));
        }
        if let Some(table) = functions(&image) {
            prop_assert!(table.len() <= 705);
        }
    }
}
