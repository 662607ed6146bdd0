//! The functions of a kernel by address, for many look-ups.

use std::fmt;

/// Farther from a function an address is not within it: no function is as long.
pub(super) const MAX_DISTANCE: u64 = 1 << 20;
/// Longest name that is shown (Linux: `KSYM_NAME_LEN`, 512, which none comes near).
pub(super) const MAX_NAME: usize = 128;
/// Functions that are kept at most, and bytes of their names: several times Linux's.
const MAX_FUNCTIONS: usize = 1 << 22;
const MAX_NAMES: usize = 64 << 20;

/// A function, and how far into it an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name, printable ASCII.
    pub name: String,
    /// Distance from its start in bytes.
    pub offset: u64,
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

/// Functions and their names, as they are linked.
#[derive(Debug, Default)]
pub struct SymbolTable {
    functions: Vec<Function>,
    /// The names, each with a NUL behind it.
    names: Vec<u8>,
    shift: u64,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    start: u64,
    /// Where its name begins.
    name: u32,
}

impl SymbolTable {
    /// A table whose names come with it: `functions` are starts and places in `names`.
    pub(super) fn with_names(functions: Vec<(u64, u32)>, names: Vec<u8>) -> Self {
        let functions = functions
            .into_iter()
            .take(MAX_FUNCTIONS)
            .map(|(start, name)| Function { start, name });
        Self {
            functions: functions.collect(),
            names,
            shift: 0,
        }
        .sorted()
    }

    /// A table of a few functions, for tests.
    #[cfg(test)]
    pub(crate) fn of(functions: &[(u64, &str)]) -> Self {
        let mut table = Self::default();
        for (start, name) in functions {
            table.push(*start, name.as_bytes());
        }
        table.sorted()
    }

    /// Adds a function; false if there is no room for more.
    pub(super) fn push(&mut self, start: u64, name: &[u8]) -> bool {
        let name = name.get(..MAX_NAME).unwrap_or(name);
        let at = self.names.len();
        if self.functions.len() >= MAX_FUNCTIONS || at.saturating_add(name.len()) >= MAX_NAMES {
            return false;
        }
        let Ok(at) = u32::try_from(at) else {
            return false;
        };
        self.functions.push(Function { start, name: at });
        self.names.extend_from_slice(name);
        self.names.push(0);
        true
    }

    /// In the order of addresses; of several at one address the first stays.
    pub(super) fn sorted(mut self) -> Self {
        self.functions.sort_by_key(|function| function.start);
        self.functions.dedup_by_key(|function| function.start);
        self
    }

    /// The same for a kernel that runs `shift` bytes above where it is linked.
    pub(crate) fn shifted_by(self, shift: u64) -> Self {
        Self { shift, ..self }
    }

    /// Whether there is no function at all.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// How many functions there are.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// The number, start and next start of the function that a run-time address is in.
    pub fn function_at(&self, address: u64) -> Option<(usize, u64)> {
        let linked = address.wrapping_sub(self.shift);
        let after = self
            .functions
            .partition_point(|function| function.start <= linked);
        let index = after.checked_sub(1)?;
        let start = self.functions.get(index)?.start;
        let inside = linked.checked_sub(start)? < MAX_DISTANCE;
        inside.then_some((index, start.wrapping_add(self.shift)))
    }

    /// The name of a function by its number, printable ASCII.
    pub fn name(&self, index: usize) -> Option<String> {
        let at = usize::try_from(self.functions.get(index)?.name).ok()?;
        let name = self.names.get(at..)?.split(|byte| *byte == 0).next()?;
        printable(name)
    }

    /// The function that a run-time address is in.
    pub fn nearest(&self, address: u64) -> Option<Symbol> {
        let (index, start) = self.function_at(address)?;
        Some(Symbol {
            name: self.name(index)?,
            offset: address.checked_sub(start)?,
        })
    }
}

/// A name goes into one line of text, so nothing that is not a letter of one may be in it.
fn printable(name: &[u8]) -> Option<String> {
    let letter = |byte: &u8| {
        if byte.is_ascii_graphic() {
            char::from(*byte)
        } else {
            '?'
        }
    };
    let name: String = name.iter().take(MAX_NAME).map(letter).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_kernel_is_looked_up_where_it_runs() {
        let mut table = SymbolTable::default();
        assert!(table.push(0x2000, b"second") && table.push(0x1000, b"first"));
        assert!(table.push(0x2000, b"alias"));
        let table = table.sorted().shifted_by(0x10_0000);
        assert_eq!(table.len(), 2);
        let name = |address| table.nearest(address).map(|symbol| symbol.to_string());
        assert_eq!(name(0x10_1fff).as_deref(), Some("first+0xfff"));
        assert_eq!(name(0x10_2001).as_deref(), Some("second+0x1"));
        assert_eq!(name(0x1000), None);
        assert_eq!(name(0x2000), None);
        assert_eq!(table.function_at(0x10_2001), Some((1, 0x10_2000)));
    }

    #[test]
    fn names_without_an_end_and_beyond_it_do_no_harm() {
        let table = SymbolTable::with_names(vec![(1, 0), (2, 2), (3, 99)], b"ab\x07".to_vec());
        assert_eq!(table.name(0).as_deref(), Some("ab?"));
        assert_eq!(table.name(1).as_deref(), Some("?"));
        assert_eq!(table.name(2), None);
        assert_eq!(table.name(3), None);
    }
}
