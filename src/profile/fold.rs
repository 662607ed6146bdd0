//! Stacks counted: Brendan Gregg's folded format, and the table of the busiest functions.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::io;

use super::activity::{Activity, Share};
use super::budget::Budget;
use super::samples::{Sample, Samples};
use super::stacks::{Frames, OTHER, Stacks};
use super::unwind::Unwinder;
use crate::boot::{SymbolTable, Symbols};

/// Work that looking for callers may take, over the whole run, for what lies on a stack
/// is up to the guest, and nobody hears signals meanwhile. A unit is a look-up: some
/// 20 to 100 ns.
const WORK: u64 = 1 << 26;
/// What it takes to name a caller.
const NAME_WORK: u64 = 4;
/// Rows of the table.
const ROWS: usize = 20;
/// Kernel modules are loaded here (Linux Documentation/arch/x86/x86_64/mm.rst).
const MODULES: std::ops::Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_ff00_0000;
/// What Linux adds to a physical address of its image for a virtual one.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// How often each stack was seen.
#[derive(Debug)]
pub(super) struct Folded {
    stacks: Stacks,
    shares: BTreeMap<Share, u64>,
    vcpus: usize,
    /// What resolving may still take.
    work: Budget,
}

/// What a kernel's addresses mean.
struct Resolver {
    table: SymbolTable,
    unwinder: Option<Unwinder>,
    is_moved: bool,
}

impl Resolver {
    /// By what the kernel's files tell, if there are any.
    fn of(symbols: Option<&Symbols>) -> Self {
        Self {
            table: symbols.and_then(Symbols::table).unwrap_or_default(),
            unwinder: symbols.map(Unwinder::of),
            is_moved: symbols.is_some_and(|symbols| symbols.shift() != 0),
        }
    }

    fn name(&self, address: u64) -> String {
        // Linux runs at its physical address until its own page tables are there.
        let early = address.wrapping_add(KERNEL_MAP);
        let found = self.table.function_at(address).or_else(|| {
            let is_early = address < u64::from(u32::MAX) && !self.is_moved;
            self.table.function_at(early).filter(|_| is_early)
        });
        match found.and_then(|(index, _)| self.table.name(index)) {
            // Frames are parted by semicolons.
            Some(name) => name.replace(';', "?"),
            None if MODULES.contains(&address) => "[module]".to_owned(),
            None => "[unknown]".to_owned(),
        }
    }

    /// The frames of a sample.
    fn frames(&mut self, vcpu: &str, sample: &Sample<'_>, work: &mut Budget) -> Frames {
        let mut frames = Frames::default();
        frames.outer.push(vcpu.to_owned());
        match sample.activity {
            Activity::NotStarted => {}
            _ if sample.place.user => frames.outer.push("[user]".to_owned()),
            _ => {
                frames.outer.push("[kernel]".to_owned());
                frames.callers = self.callers(sample, work);
                frames.inner.push(self.name(sample.place.rip));
            }
        }
        frames.inner.extend(sample.activity.frame());
        frames
    }

    /// Who called the function that was hit, the outermost first.
    fn callers(&mut self, sample: &Sample<'_>, work: &mut Budget) -> Vec<String> {
        let Some(unwinder) = &mut self.unwinder else {
            return Vec::new();
        };
        let Some(callers) = unwinder.callers(sample, &self.table, work) else {
            return vec![OTHER.to_owned()];
        };
        work.spend(NAME_WORK.saturating_mul(callers.len() as u64));
        // A return address may be the first of the next function.
        let callers = callers.iter().rev().map(|address| address.wrapping_sub(1));
        callers.map(|address| self.name(address)).collect()
    }
}

impl Default for Folded {
    fn default() -> Self {
        Self {
            stacks: Stacks::default(),
            shares: BTreeMap::new(),
            vcpus: 0,
            work: Budget::of(WORK),
        }
    }
}

impl Folded {
    /// Counts the samples of the VM's vCPUs, in their order.
    pub(super) fn add(&mut self, vcpus: &[Samples], symbols: Option<&Symbols>) {
        // A guest that resets in no time has none; its kernel's tables need not be read.
        let has_any = vcpus.iter().any(|samples| !samples.is_empty());
        self.resolve(vcpus, &mut Resolver::of(symbols.filter(|_| has_any)));
    }

    fn resolve(&mut self, vcpus: &[Samples], resolver: &mut Resolver) {
        self.vcpus = self.vcpus.max(vcpus.len());
        for (number, samples) in vcpus.iter().enumerate() {
            let vcpu = format!("vcpu{number}");
            for sample in samples.iter() {
                let frames = resolver.frames(&vcpu, &sample, &mut self.work);
                self.stacks.count(&frames, sample.weight);
                let share = sample.activity.share(sample.place.user);
                let of_share = self.shares.entry(share).or_default();
                *of_share = of_share.saturating_add(sample.weight);
            }
        }
    }

    fn total(&self) -> u64 {
        self.stacks.iter().map(|(_, count)| count).sum()
    }

    /// Writes the folded stacks, a line each.
    ///
    /// # Errors
    /// What `out` says.
    pub(super) fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.stacks.write(out)
    }

    /// The busiest functions, by the samples that hit them themselves.
    pub(super) fn table(&self, hz: u32) -> String {
        let total = self.total();
        let mut text = format!(
            "mayfly: {total} samples of {} vCPUs at {hz} Hz:",
            self.vcpus
        );
        for (share, count) in &self.shares {
            let _ = write!(text, " {share} {:.1} %", percent(*count, total));
        }
        let mut rows: Vec<(&str, Row)> = self.rows().into_iter().collect();
        rows.retain(|(_, row)| row.own > 0);
        rows.sort_by(|(a, x), (b, y)| y.own.cmp(&x.own).then(a.cmp(b)));
        rows.truncate(ROWS);
        text.push_str("\n   own %  total %  seconds  where\n");
        for (name, row) in rows {
            let _ = writeln!(
                text,
                "{:8.1} {:8.1} {:8.2}  {name}",
                percent(row.own, total),
                percent(row.total, total),
                row.own as f64 / f64::from(hz.max(1)),
            );
        }
        text
    }

    fn rows(&self) -> HashMap<&str, Row> {
        let mut rows: HashMap<&str, Row> = HashMap::new();
        let mut frames = Vec::new();
        for (stack, count) in self.stacks.iter() {
            if let Some(leaf) = stack.last() {
                rows.entry(self.stacks.name(*leaf)).or_default().own += count;
            }
            frames.clear();
            frames.extend(stack.iter().skip(1));
            // Recursion counts once.
            frames.sort_unstable();
            frames.dedup();
            for frame in &frames {
                rows.entry(self.stacks.name(*frame)).or_default().total += count;
            }
        }
        rows
    }
}

#[derive(Default)]
struct Row {
    own: u64,
    total: u64,
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / (whole.max(1)) as f64
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
