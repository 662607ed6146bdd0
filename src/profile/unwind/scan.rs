//! Unwinding without tables: return addresses that calls explain.
//!
//! Old return addresses stay on a stack long after the functions they were for have
//! returned. One is believed only if the bytes before it are a CALL, in the kernel's
//! file, and that CALL goes to the function below it, or to one that ends with a jump to
//! it, or where only the processor knew (indirect calls). Of all chains that fit, the one
//! with the most links is taken.

use std::collections::HashMap;

use super::MAX_DEPTH;
use crate::boot::{KernelSection, SymbolTable};
use crate::profile::budget::Budget;
use crate::profile::samples::Sample;

/// Candidates on a stack that are looked at.
const MAX_CANDIDATES: usize = 64;
/// Bytes of a function that are searched for jumps, and targets of them that are kept.
const MAX_FUNCTION: u64 = 16 << 10;
const MAX_TARGETS: usize = 16;
/// Jumps in a row, and functions that are reached by them.
const MAX_JUMPS: usize = 3;
const MAX_REACHED: usize = 64;
/// Functions and return addresses at most of which is kept what was found out: there are
/// as many of them as the kernel's file says.
const MAX_FUNCTIONS: usize = 1 << 14;
const MAX_CALLS: usize = 1 << 16;
/// What a link by a direct call counts, against 1 by an indirect one.
const DIRECT: u32 = 4;

/// The kernel's code, and what was found out about it.
pub(in crate::profile) struct Scan {
    code: Vec<KernelSection>,
    shift: u64,
    /// The functions that a function jumps to.
    jumps: HashMap<usize, Vec<Function>>,
    /// The numbers of those that a call to a function may end up in, ascending.
    reached: HashMap<usize, Vec<usize>>,
    calls: HashMap<u64, Option<Call>>,
}

/// A function's number, and where it begins.
type Function = (usize, u64);

/// The instruction before a return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// To this function.
    Direct(Function),
    /// By a register or memory, or through a thunk for that.
    Indirect,
}

/// A return address that may be one.
struct Candidate {
    address: u64,
    function: usize,
    call: Call,
    /// The best chain from here outwards, and its next link.
    score: u32,
    next: Option<usize>,
}

impl Scan {
    /// For a kernel that runs `shift` bytes above where its code is linked.
    pub(super) fn new(code: Vec<KernelSection>, shift: u64) -> Self {
        Self {
            code,
            shift,
            jumps: HashMap::new(),
            reached: HashMap::new(),
            calls: HashMap::new(),
        }
    }

    /// The return addresses, the innermost first; some of them if `work` is used up.
    pub(super) fn callers(
        &mut self,
        sample: &Sample<'_>,
        table: &SymbolTable,
        work: &mut Budget,
    ) -> Vec<u64> {
        let Some((leaf, _)) = table.function_at(sample.place.rip) else {
            return Vec::new();
        };
        work.spend(sample.stack.code().count() as u64);
        let mut candidates = self.candidates(sample, table);
        // From the outermost inwards: what lies above is known then.
        for index in (0..candidates.len()).rev() {
            let Some((inner, outer)) = candidates.get_mut(index..).and_then(<[_]>::split_first_mut)
            else {
                continue;
            };
            if let Some((score, next)) = self.best(inner.function, outer, table, work) {
                inner.score = score;
                inner.next = Some(index + 1 + next);
            }
        }
        let mut callers = Vec::new();
        let first = self.best(leaf, &candidates, table, work);
        let mut next = first.map(|(_, next)| next);
        while let Some(candidate) = next.and_then(|index| candidates.get(index)) {
            callers.push(candidate.address);
            next = candidate.next.filter(|_| callers.len() < MAX_DEPTH);
        }
        callers
    }

    fn candidates(&mut self, sample: &Sample<'_>, table: &SymbolTable) -> Vec<Candidate> {
        let code = sample.stack.code();
        let calls = code.filter_map(|address| {
            Some(Candidate {
                address,
                function: table.function_at(address.wrapping_sub(1))?.0,
                call: self.call_before(address, table)?,
                score: 0,
                next: None,
            })
        });
        calls.take(MAX_CANDIDATES).collect()
    }

    /// The best of the chains whose first link may have called `function`: its score
    /// with that link, and where it begins in `chains`.
    fn best(
        &mut self,
        function: usize,
        chains: &[Candidate],
        table: &SymbolTable,
        work: &mut Budget,
    ) -> Option<(u32, usize)> {
        work.spend(chains.len() as u64);
        let mut best: Option<(u32, usize)> = None;
        for (index, candidate) in chains.iter().enumerate() {
            let link = match candidate.call {
                Call::Indirect => 1,
                Call::Direct(called) if self.leads_to(called, function, table, work) => DIRECT,
                Call::Direct(_) => continue,
            };
            let score = candidate.score.saturating_add(link);
            if best.is_none_or(|(most, _)| score > most) {
                best = Some((score, index));
            }
        }
        best
    }

    /// Whether a call to `called` may be in `function` afterwards.
    fn leads_to(
        &mut self,
        called: Function,
        function: usize,
        table: &SymbolTable,
        work: &mut Budget,
    ) -> bool {
        if let Some(known) = self.reached.get(&called.0) {
            return known.binary_search(&function).is_ok();
        }
        let found = self.reach(called, table, work);
        let leads = found.binary_search(&function).is_ok();
        if self.reached.len() < MAX_FUNCTIONS {
            self.reached.insert(called.0, found);
        }
        leads
    }

    /// The functions that a call to `called` may end up in, ascending: what a function
    /// jumps to may jump on.
    fn reach(&mut self, called: Function, table: &SymbolTable, work: &mut Budget) -> Vec<usize> {
        let mut reached = vec![called];
        let mut done = 0;
        for _ in 0..MAX_JUMPS {
            let last = reached.get(done..).unwrap_or_default().to_vec();
            done = reached.len();
            for from in last {
                if work.is_used_up() || reached.len() >= MAX_REACHED {
                    break;
                }
                for to in self.jumps_of(from, table, work) {
                    if !reached.contains(to) {
                        reached.push(*to);
                    }
                }
            }
        }
        reached.truncate(MAX_REACHED);
        let mut functions: Vec<usize> = reached.into_iter().map(|(number, _)| number).collect();
        functions.sort_unstable();
        functions
    }

    /// The functions to whose beginning `from` jumps.
    fn jumps_of(&mut self, from: Function, table: &SymbolTable, work: &mut Budget) -> &[Function] {
        if !self.jumps.contains_key(&from.0) {
            // Those that are dropped are found again, which the budget bounds.
            if self.jumps.len() >= MAX_FUNCTIONS {
                self.jumps.clear();
            }
            let found = self.find_jumps(from, table, work);
            self.jumps.insert(from.0, found);
        }
        self.jumps.get(&from.0).map_or(&[], Vec::as_slice)
    }

    fn find_jumps(
        &self,
        (from, start): Function,
        table: &SymbolTable,
        work: &mut Budget,
    ) -> Vec<Function> {
        let code = self.bytes(start, MAX_FUNCTION);
        let targets = code.windows(5).enumerate().map_while(|(at, bytes)| {
            let here = start.wrapping_add(at as u64);
            let inside = at % 16 != 0 || table.function_at(here)?.0 == from;
            inside.then(|| {
                work.spend(1);
                jump(bytes).map(|distance| here.wrapping_add_signed(distance))
            })
        });
        let mut found: Vec<_> = targets
            .flatten()
            .filter_map(|target| {
                let (function, start) = table.function_at(target)?;
                (start == target && function != from).then_some((function, start))
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found.truncate(MAX_TARGETS);
        found
    }

    /// The call that returns to `address`, if there is one.
    fn call_before(&mut self, address: u64, table: &SymbolTable) -> Option<Call> {
        if let Some(known) = self.calls.get(&address) {
            return *known;
        }
        const LONGEST: u64 = 7;
        let bytes = self.bytes(address.wrapping_sub(LONGEST), LONGEST);
        let bytes: Option<[u8; 7]> = bytes.try_into().ok();
        let call = bytes.and_then(|bytes| match call_at_end(&bytes)? {
            None => Some(Call::Indirect),
            Some(distance) => {
                let target = address.wrapping_add_signed(distance);
                let called = table.function_at(target)?;
                let name = table.name(called.0).unwrap_or_default();
                // Compilers' and the kernel's ways to call what is not known yet.
                let is_thunk = name.starts_with("__x86_indirect_") || name.starts_with("__SCT__");
                Some(match is_thunk {
                    true => Call::Indirect,
                    false => Call::Direct(called),
                })
            }
        });
        if self.calls.len() < MAX_CALLS {
            self.calls.insert(address, call);
        }
        call
    }

    /// The code from a run-time address on, `len` bytes or fewer.
    fn bytes(&self, address: u64, len: u64) -> &[u8] {
        let linked = address.wrapping_sub(self.shift);
        let find = |section: &KernelSection| {
            let start = usize::try_from(linked.checked_sub(section.address)?).ok()?;
            let most = section.bytes.len().checked_sub(start)?;
            let len = usize::try_from(len).ok()?.min(most);
            Some(start..start.checked_add(len)?)
        };
        let found = self.code.iter().find_map(|section| {
            let range = find(section)?;
            section.bytes.get(range).filter(|bytes| !bytes.is_empty())
        });
        found.unwrap_or_default()
    }
}

/// How far a jump goes that five bytes begin with: JMP and Jcc, short and near (of the
/// near Jcc without its first byte).
fn jump(bytes: &[u8]) -> Option<i64> {
    match bytes.first()? {
        0xeb | 0x70..=0x7f => {
            let distance = i64::from(bytes.get(1)?.cast_signed());
            distance.checked_add(2)
        }
        0xe9 | 0x80..=0x8f => {
            let distance = i32::from_le_bytes(bytes.get(1..5)?.try_into().ok()?);
            i64::from(distance).checked_add(5)
        }
        _ => None,
    }
}

/// Whether seven bytes end with a CALL: its distance, or `None` for an indirect one
/// (SDM vol. 2, CALL: E8 rel32, FF /2).
fn call_at_end(bytes: &[u8; 7]) -> Option<Option<i64>> {
    let [a, b, c, d, e, f, g] = *bytes;
    if c == 0xe8 {
        let target = i32::from_le_bytes([d, e, f, g]);
        return Some(Some(target.into()));
    }
    let by_register = |modrm: u8| modrm & 0xf8 == 0xd0;
    let by_memory = |modrm: u8, length: u8| modrm & 0xf8 == length << 6 | 0x10;
    let has_sib = |modrm: u8| modrm & 7 == 4;
    let indirect = f == 0xff && (by_register(g) || by_memory(g, 0) && !matches!(g & 7, 4 | 5))
        || e == 0xff && (by_memory(f, 1) && !has_sib(f) || f == 0x14)
        || d == 0xff && by_memory(e, 1) && has_sib(e)
        || b == 0xff && (by_memory(c, 2) && !has_sib(c) || c == 0x15)
        || a == 0xff && (by_memory(b, 2) && has_sib(b) || b == 0x14 && c == 0x25)
        // A paravirtual call that the kernel has made a direct one, a byte shorter.
        || c == 0xff && d == 0x15;
    indirect.then_some(None)
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
