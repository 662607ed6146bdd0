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
use crate::profile::samples::Sample;

/// Candidates on a stack that are looked at.
const MAX_CANDIDATES: usize = 64;
/// A longer function is not searched for jumps.
const MAX_FUNCTION: u64 = 16 << 10;
/// What a link by a direct call counts, against 1 by an indirect one.
const DIRECT: u32 = 4;

/// The kernel's code, and what was found out about it.
pub(in crate::profile) struct Scan {
    code: Vec<KernelSection>,
    shift: u64,
    /// Whether the first function ends with a jump to the second.
    jumps: HashMap<(usize, usize), bool>,
    calls: HashMap<u64, Option<Call>>,
}

/// The instruction before a return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// To this address.
    Direct(u64),
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
            calls: HashMap::new(),
        }
    }

    /// The return addresses, the innermost first.
    pub(super) fn callers(&mut self, sample: &Sample<'_>, table: &SymbolTable) -> Vec<u64> {
        let Some((leaf, _)) = table.function_at(sample.place.rip) else {
            return Vec::new();
        };
        let mut candidates = self.candidates(sample, table);
        // From the outermost inwards: what lies above is known then.
        for index in (0..candidates.len()).rev() {
            let Some((inner, outer)) = candidates.get_mut(index..).and_then(<[_]>::split_first_mut)
            else {
                continue;
            };
            if let Some((score, next)) = self.best(inner.function, outer, table) {
                inner.score = score;
                inner.next = Some(index + 1 + next);
            }
        }
        let mut callers = Vec::new();
        let mut next = self.best(leaf, &candidates, table).map(|(_, next)| next);
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
    ) -> Option<(u32, usize)> {
        let mut best: Option<(u32, usize)> = None;
        for (index, candidate) in chains.iter().enumerate() {
            let link = match candidate.call {
                Call::Indirect => 1,
                Call::Direct(target) if self.leads_to(target, function, table) => DIRECT,
                Call::Direct(_) => continue,
            };
            let score = candidate.score.saturating_add(link);
            if best.is_none_or(|(most, _)| score > most) {
                best = Some((score, index));
            }
        }
        best
    }

    /// Whether a call to `target` may be in `function` afterwards.
    fn leads_to(&mut self, target: u64, function: usize, table: &SymbolTable) -> bool {
        let Some((called, start)) = table.function_at(target) else {
            return false;
        };
        if called == function {
            return true;
        }
        if let Some(known) = self.jumps.get(&(called, function)) {
            return *known;
        }
        let jumps = self.jumps_to(called, start, function, table);
        self.jumps.insert((called, function), jumps);
        jumps
    }

    /// Whether `from`, which begins at `start`, has a jump to the beginning of `to`.
    fn jumps_to(&self, from: usize, start: u64, to: usize, table: &SymbolTable) -> bool {
        let within = |address: u64| table.function_at(address).is_some_and(|(at, _)| at == from);
        let bytes = self.bytes(start, MAX_FUNCTION);
        let ends = |at: usize| start.wrapping_add(at as u64).wrapping_add(5);
        bytes
            .windows(5)
            .enumerate()
            .take_while(|(at, _)| at % 64 != 0 || within(ends(*at)))
            .filter(|(_, bytes)| is_jump(bytes))
            .filter_map(|(at, bytes)| Some(ends(at).wrapping_add_signed(distance(bytes)?)))
            .any(|target| {
                let entered = table.function_at(target);
                entered.is_some_and(|(function, start)| function == to && start == target)
            })
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
                let (function, _) = table.function_at(target)?;
                let name = table.name(function).unwrap_or_default();
                // Compilers' and the kernel's ways to call what is not known yet.
                let is_thunk = name.starts_with("__x86_indirect_") || name.starts_with("__SCT__");
                Some(match is_thunk {
                    true => Call::Indirect,
                    false => Call::Direct(target),
                })
            }
        });
        self.calls.insert(address, call);
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

/// Near jumps: JMP rel32, and the last five bytes of Jcc rel32.
fn is_jump(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0xe9 | 0x80..=0x8f))
}

/// The distance in the last four of five bytes.
fn distance(bytes: &[u8]) -> Option<i64> {
    let last = bytes.get(1..5)?.try_into().ok()?;
    Some(i32::from_le_bytes(last).into())
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
