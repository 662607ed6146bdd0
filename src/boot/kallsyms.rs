//! The symbol tables that a kernel has of itself (CONFIG_KALLSYMS), found in its image.
//!
//! Distributions strip their kernels, but these tables stay, for back traces. They are
//! parts of `.rodata` without headers or symbols (Linux scripts/kallsyms.c), so they
//! are found by what they must look like:
//!
//! ```text
//! until 6.3:  offsets  relative_base  num_syms  names  markers  [seqs]  token_table  token_index
//! since 6.4:                          num_syms  names  markers  token_table  token_index  offsets
//!                                                                            relative_base  seqs
//! ```
//!
//! `token_table` holds 256 NUL-terminated texts, `token_index` where each begins (16
//! bits). A name is a length and as many numbers of tokens, whose texts make its type
//! (nm's letter) and the name. `markers` has the place of each 256th name. Whoever
//! made the image may have made anything of it: a table that does not fit the others
//! to the last byte is none, and the search is bounded.

use memchr::memmem;

use super::bytes::{u8_at, u16_at, u32_at, u64_at};
use super::symbol_table::{MAX_NAME, SymbolTable};

const TOKENS: usize = 256;
const TOKEN_INDEX_LEN: usize = 2 * TOKENS;
/// Longest token table: what 16 bits can point to.
const MAX_TOKEN_TABLE: usize = 1 << 16;
/// Names between two markers.
const MARKED: usize = 256;
/// More symbols than this no kernel has; the cloud kernels have 100,000 to 200,000.
const MAX_SYMBOLS: usize = 1 << 22;
/// Tables that look right at first are looked at this often.
const MAX_TRIES: usize = 64;
/// Steps of all searches together, so that no image holds one up for long.
const MAX_STEPS: usize = 1 << 28;
/// The digits with their NULs: they are tokens of their own in every table, for
/// names have them all.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// Where kernels live: the upper 2 GiB.
const KERNEL_SPACE: u64 = 0xffff_ffff_8000_0000;

/// The functions of the kernel in `image`, as linked, if it has such tables.
pub(super) fn functions(image: &[u8]) -> Option<SymbolTable> {
    let mut steps = MAX_STEPS;
    memmem::find_iter(image, DIGITS)
        .take(MAX_TRIES)
        .filter_map(|digits| Tokens::around(image, digits))
        .find_map(|tokens| {
            let names = Names::before(image, &tokens, &mut steps)?;
            let places = Places::near(image, &tokens, &names)?;
            decode(image, &tokens, &names, &places)
        })
}

/// The token table and its index.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    table: &'a [u8],
    /// 256 words of 16 bits.
    index: &'a [u8],
    /// Where the table begins.
    start: usize,
    /// Where the index ends.
    end: usize,
}

impl<'a> Tokens<'a> {
    /// The table whose digits are at `digits`.
    fn around(image: &'a [u8], digits: usize) -> Option<Self> {
        let first = digits.checked_next_multiple_of(2)?;
        let last = digits.saturating_add(MAX_TOKEN_TABLE);
        let zero = usize::from(b'0');
        (first..last).step_by(2).find_map(|at| {
            // A step in the index over each of the digits.
            let base = u16_at(image, at.checked_add(2 * zero)?)?;
            let next = u16_at(image, at.checked_add(2 * zero + 2)?)?;
            if u16_at(image, at)? != 0 || base == 0 || next != base.checked_add(2)? {
                return None;
            }
            let start = digits.checked_sub(usize::from(base))?;
            let end = at.checked_add(TOKEN_INDEX_LEN)?;
            let tokens = Self {
                table: image.get(start..at)?,
                index: image.get(at..end)?,
                start,
                end,
            };
            tokens.is_consistent().then_some(tokens)
        })
    }

    /// Each token ends where the next begins.
    fn is_consistent(&self) -> bool {
        let mut expected = 0;
        (0..TOKENS).all(|token| {
            let begins = u16_at(self.index, 2 * token).map(usize::from);
            let text = begins.and_then(|at| {
                let rest = self.table.get(at..)?;
                rest.get(..memchr::memchr(0, rest)?)
            });
            let fits = begins == Some(expected) && text.is_some();
            expected = expected.saturating_add(text.map_or(0, <[u8]>::len) + 1);
            fits
        })
    }

    /// The text of a token.
    fn text(&self, token: u8) -> &'a [u8] {
        let text = || {
            let at = u16_at(self.index, 2 * usize::from(token))?;
            self.table.get(usize::from(at)..)?.split(|b| *b == 0).next()
        };
        text().unwrap_or_default()
    }
}

/// The compressed names.
struct Names {
    count: usize,
    /// Where the number of symbols is, and where the names begin.
    count_at: usize,
    start: usize,
}

impl Names {
    /// The names whose markers lie before the tokens.
    fn before(image: &[u8], tokens: &Tokens<'_>, steps: &mut usize) -> Option<Self> {
        let markers = Markers::before(image, tokens.start, steps)?;
        // The last marker's names are 256 at most, each of two bytes at least.
        let nearest = markers.start.checked_sub(markers.last)?;
        let farthest = nearest.saturating_sub(MARKED * (2 + MAX_TOKENS));
        (farthest..=nearest)
            .rev()
            .filter(|start| start.is_multiple_of(4))
            .find_map(|start| Self::at(image, start, &markers, steps))
    }

    /// The names that begin at `start`, if they are as many as the number in front
    /// of them says, and the markers fit.
    fn at(image: &[u8], start: usize, markers: &Markers, steps: &mut usize) -> Option<Self> {
        // The number has 32 bits and is aligned like a pointer or like itself.
        [8, 4].into_iter().find_map(|distance| {
            let count_at = start.checked_sub(distance)?;
            let count = usize::try_from(u32_at(image, count_at)?).ok()?;
            let padded = distance == 4 || u32_at(image, count_at.checked_add(4)?)? == 0;
            let fits = padded && count.div_ceil(MARKED) == markers.count;
            let names = Self {
                count,
                count_at,
                start,
            };
            (fits && names.is_consistent(image, markers, steps)).then_some(names)
        })
    }

    fn is_consistent(&self, image: &[u8], markers: &Markers, steps: &mut usize) -> bool {
        let mut at = self.start;
        for number in 0..self.count {
            if *steps == 0 || at >= markers.start {
                return false;
            }
            *steps -= 1;
            if number.is_multiple_of(MARKED) {
                let marker = markers.get(image, number / MARKED);
                if marker != Some(at.saturating_sub(self.start)) {
                    return false;
                }
            }
            let Some((_, next)) = name_at(image, at) else {
                return false;
            };
            at = next;
        }
        // Nothing but padding is between them and the markers.
        at <= markers.start && markers.start - at < 8
    }
}

/// A name's tokens at most: Linux has twelve bits for their number.
const MAX_TOKENS: usize = 1 << 12;

/// The tokens of the name at `at`, and where the next one is. Lengths beyond 127 take two bytes.
fn name_at(image: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let low = usize::from(u8_at(image, at)?);
    let (len, start) = if low & 0x80 == 0 {
        (low, at.checked_add(1)?)
    } else {
        let high = usize::from(u8_at(image, at.checked_add(1)?)?);
        (low & 0x7f | high << 7, at.checked_add(2)?)
    };
    let end = start.checked_add(len)?;
    let tokens = image.get(start..end)?;
    (1..=MAX_TOKENS).contains(&len).then_some((tokens, end))
}

/// Where each 256th name begins.
struct Markers {
    start: usize,
    count: usize,
    last: usize,
}

impl Markers {
    /// The array that ends at `end`, or before the three bytes a symbol that kernels 6.2 and
    /// 6.3 have in between.
    fn before(image: &[u8], end: usize, steps: &mut usize) -> Option<Self> {
        let end = end & !3;
        let farthest = end.saturating_sub(MAX_SYMBOLS * 3);
        let mut at = end;
        while at > farthest && *steps > 0 {
            *steps -= 1;
            if let Some(markers) = Self::ending_at(image, at, end, steps) {
                return Some(markers);
            }
            at = at.saturating_sub(4);
        }
        None
    }

    /// Falls from marker to marker down to the first, which is 0.
    fn ending_at(image: &[u8], end: usize, limit: usize, steps: &mut usize) -> Option<Self> {
        let word = |at: usize| u32_at(image, at).map(|word| word as usize);
        let mut start = end.checked_sub(4)?;
        let last = word(start)?;
        let mut next = last;
        let mut count = 1;
        while next != 0 {
            start = start.checked_sub(4)?;
            let marker = word(start)?;
            let between = next.checked_sub(marker)?;
            let possible = 2 * MARKED..=(2 + MAX_TOKENS) * MARKED;
            if *steps == 0 || !possible.contains(&between) || count > MAX_SYMBOLS / MARKED {
                return None;
            }
            *steps -= 1;
            next = marker;
            count += 1;
        }
        // What lies behind is padding, or three bytes for each symbol.
        let behind = limit.saturating_sub(end);
        let most = count.saturating_mul(MARKED);
        let plausible = behind < 16 || behind <= 3 * most + 16 && behind >= 3 * (most - MARKED);
        (plausible && count > 1).then_some(Self { start, count, last })
    }

    fn get(&self, image: &[u8], index: usize) -> Option<usize> {
        let at = self.start.checked_add(index.checked_mul(4)?)?;
        u32_at(image, at).map(|word| word as usize)
    }
}

/// Where the symbols' addresses are.
struct Places {
    offsets: usize,
    base: u64,
    /// Whether offsets are negative, and those that are not are numbers (per-CPU symbols).
    absolute_percpu: bool,
}

impl Places {
    /// Tries the order of kernels since 6.4, then the one before.
    fn near(image: &[u8], tokens: &Tokens<'_>, names: &Names) -> Option<Self> {
        let len = names.count.checked_mul(4)?;
        let behind = [8, 4].into_iter().find_map(|align| {
            let offsets = tokens.end.checked_next_multiple_of(align)?;
            let base = offsets.checked_add(len)?.checked_next_multiple_of(8)?;
            Self::at(image, offsets, base, names.count)
        });
        behind.or_else(|| {
            let base = names.count_at.checked_sub(8)?;
            let offsets = base.checked_sub(len)?;
            // An odd number of them leaves a gap.
            [offsets, offsets.checked_sub(4)?]
                .into_iter()
                .filter(|offsets| offsets.is_multiple_of(8))
                .find_map(|offsets| Self::at(image, offsets, base, names.count))
        })
    }

    fn at(image: &[u8], offsets: usize, base: usize, count: usize) -> Option<Self> {
        let base = u64_at(image, base)?;
        let len = count.checked_mul(4)?;
        let words = image.get(offsets..offsets.checked_add(len)?)?;
        let negative = words
            .chunks_exact(4)
            .filter(|word| word.last().is_some_and(|byte| byte & 0x80 != 0))
            .count();
        let places = Self {
            offsets,
            base,
            absolute_percpu: negative > count / 2,
        };
        let sorted = (0..count)
            .map(|index| places.get(image, index))
            .is_sorted_by(|a, b| a.is_some() && b.is_some() && a <= b);
        (base >= KERNEL_SPACE && sorted).then_some(places)
    }

    fn get(&self, image: &[u8], index: usize) -> Option<u64> {
        let at = self.offsets.checked_add(index.checked_mul(4)?)?;
        let offset = u32_at(image, at)?;
        let signed = offset.cast_signed();
        Some(match (self.absolute_percpu, signed < 0) {
            (true, false) => u64::from(offset),
            (true, true) => self
                .base
                .wrapping_sub(1)
                .wrapping_sub(i64::from(signed).cast_unsigned()),
            (false, _) => self.base.wrapping_add(u64::from(offset)),
        })
    }
}

fn decode(
    image: &[u8],
    tokens: &Tokens<'_>,
    names: &Names,
    places: &Places,
) -> Option<SymbolTable> {
    let mut table = SymbolTable::default();
    let mut name = Vec::new();
    let mut at = names.start;
    for index in 0..names.count {
        let (compressed, next) = name_at(image, at)?;
        at = next;
        name.clear();
        for token in compressed {
            name.extend_from_slice(tokens.text(*token));
            // The type is in front.
            if name.len() > MAX_NAME {
                break;
            }
        }
        let Some((kind, text)) = name.split_first() else {
            continue;
        };
        let address = places.get(image, index)?;
        let is_function = matches!(kind, b't' | b'T' | b'w' | b'W') && !text.is_empty();
        if is_function && address >= places.base && !table.push(address, text) {
            break;
        }
    }
    (!table.is_empty()).then(|| table.sorted())
}

#[cfg(test)]
#[path = "kallsyms_tests.rs"]
mod tests;
