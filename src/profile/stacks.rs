//! How often each stack was seen, in bounded memory.
//!
//! What lies on a stack is up to the guest, which may make each sample's another one. So
//! stacks are kept as numbers of names, and what they take, in memory and as lines
//! of the file, comes out of a budget for the whole run. When that is used up, a new stack is
//! counted without its callers, and when there is no room for more of those either, as its
//! vCPU's: the weight is always counted.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use super::budget::Budget;

/// Stands for frames that were not resolved or not kept.
pub(super) const OTHER: &str = "[other]";
/// Bytes for stacks with their callers, and for those without.
const ROOM: u64 = 32 << 20;
const RESERVE: u64 = 4 << 20;
/// Bytes that a stack or a name takes beside its numbers or letters: its place in a
/// hash table that is half full, what the allocator adds, and its count in the file.
const OVERHEAD: u64 = 128;

/// The frames of a sample, the outermost first.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The vCPU, and its mode.
    pub outer: Vec<String>,
    /// Who called the function that was hit.
    pub callers: Vec<String>,
    /// That function, and what the vCPU waits for.
    pub inner: Vec<String>,
}

/// Stacks with their counts.
#[derive(Debug)]
pub(super) struct Stacks {
    table: Table,
    room: Budget,
    reserve: Budget,
}

impl Default for Stacks {
    fn default() -> Self {
        Self::with_room_for(ROOM, RESERVE)
    }
}

impl Stacks {
    fn with_room_for(room: u64, reserve: u64) -> Self {
        Self {
            table: Table::default(),
            room: Budget::of(room),
            reserve: Budget::of(reserve),
        }
    }

    /// Counts `weight` samples of a stack.
    pub(super) fn count(&mut self, frames: &Frames, weight: u64) {
        let Self {
            table,
            room,
            reserve,
        } = self;
        let outer = frames.outer.iter().map(String::as_str);
        let callers = frames.callers.iter().map(String::as_str);
        let inner = frames.inner.iter().map(String::as_str);
        if table.count(
            outer.clone().chain(callers).chain(inner.clone()),
            weight,
            room,
        ) {
            return;
        }
        let between = (!frames.callers.is_empty()).then_some(OTHER);
        if table.count(outer.clone().chain(between).chain(inner), weight, reserve) {
            return;
        }
        // There are as many of these as vCPUs.
        let least = outer.take(1).chain([OTHER]);
        table.count(least, weight, &mut Budget::of(u64::MAX));
    }

    /// Stacks with their counts, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u32], u64)> {
        let counts = self.table.counts.iter();
        counts.map(|(stack, count)| (&**stack, *count))
    }

    /// The name of a frame.
    pub(super) fn name(&self, number: u32) -> &str {
        self.table.name(number)
    }

    fn names<'a>(&'a self, stack: &'a [u32]) -> impl Iterator<Item = &'a str> {
        stack.iter().map(|number| self.name(*number))
    }

    /// Writes a line for each stack, in the order of the frames' names.
    ///
    /// # Errors
    /// What `out` says.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut lines: Vec<(&[u32], u64)> = self.iter().collect();
        lines.sort_unstable_by(|(a, _), (b, _)| self.names(a).cmp(self.names(b)));
        for (stack, count) in lines {
            let names: Vec<&str> = self.names(stack).collect();
            writeln!(out, "{} {count}", names.join(";"))?;
        }
        Ok(())
    }
}

/// Names with numbers, and what was counted by those.
#[derive(Debug, Default)]
struct Table {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    counts: HashMap<Box<[u32]>, u64>,
}

impl Table {
    /// Counts a stack; false if it is a new one that there is no room for.
    fn count<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a str>,
        weight: u64,
        room: &mut Budget,
    ) -> bool {
        let stack: Option<Vec<u32>> = frames.map(|name| self.number(name, room)).collect();
        let Some(stack) = stack else {
            return false;
        };
        if let Some(count) = self.counts.get_mut(stack.as_slice()) {
            *count = count.saturating_add(weight);
            return true;
        }
        // Each frame's number, its name in the file and what parts it from the next.
        let frames = stack
            .iter()
            .map(|number| self.name(*number).len() as u64 + 5);
        let is_room = room.take(frames.sum::<u64>().saturating_add(OVERHEAD));
        if is_room {
            self.counts.insert(stack.into_boxed_slice(), weight);
        }
        is_room
    }

    /// The number that stands for a name, if it has one or there is room for it.
    fn number(&mut self, name: &str, room: &mut Budget) -> Option<u32> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let number = u32::try_from(self.names.len()).ok()?;
        let cost = OVERHEAD.saturating_add(name.len() as u64);
        room.take(cost).then(|| {
            let name: Arc<str> = Arc::from(name);
            self.names.push(name.clone());
            self.numbers.insert(name, number);
            number
        })
    }

    fn name(&self, number: u32) -> &str {
        let index = usize::try_from(number).ok();
        let name = index.and_then(|index| self.names.get(index));
        name.map_or(OTHER, |name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(callers: &[String], leaf: &str) -> Frames {
        Frames {
            outer: vec!["vcpu0".to_owned(), "[kernel]".to_owned()],
            callers: callers.to_vec(),
            inner: vec![leaf.to_owned()],
        }
    }

    fn text(stacks: &Stacks) -> String {
        let mut text = Vec::new();
        stacks.write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Counts of the lines that begin and end so.
    fn sum(text: &str, first: &str, last: &str) -> u64 {
        let lines = text.lines().map(|line| line.rsplit_once(' ').unwrap());
        let found = lines.filter(|(stack, _)| stack.starts_with(first) && stack.ends_with(last));
        found.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
    }

    #[test]
    fn stacks_without_end_take_no_more_than_their_room() {
        let mut stacks = Stacks::with_room_for(100_000, 10_000);
        let names: Vec<String> = (0..128)
            .map(|name| format!("{name:03}{}", "x".repeat(125)))
            .collect();
        // Another stack each time, and one that was there before.
        for turn in 0..1000usize {
            let mut callers = names.clone();
            callers.rotate_left(turn % 128);
            callers.truncate(128 - turn / 128);
            stacks.count(&frames(&callers, "leaf"), 1);
            stacks.count(&frames(&names, "leaf"), 2);
        }
        let all = text(&stacks);
        assert!(all.len() < 110_000, "{}", all.len());
        assert_eq!(sum(&all, "vcpu0;[kernel]", ";leaf"), 3000);
        let first = format!("vcpu0;[kernel];{};", names[0]);
        assert!(sum(&all, &first, ";leaf") >= 2000);
        assert!(sum(&all, "vcpu0;[kernel];[other];leaf", "") > 900);
        // Nor do functions without end.
        for turn in 0..1000 {
            stacks.count(&frames(&names, &format!("leaf{turn}")), 1);
        }
        let all = text(&stacks);
        assert!(all.len() < 110_000, "{}", all.len());
        assert_eq!(sum(&all, "vcpu0;", ""), 4000);
        assert!(sum(&all, "vcpu0;[kernel];[other];leaf7", "leaf7") == 1);
        assert!(sum(&all, "vcpu0;[other]", "") > 900);
    }

    #[test]
    fn a_stack_without_callers_is_never_said_to_have_some() {
        let mut stacks = Stacks::with_room_for(0, 10_000);
        stacks.count(&frames(&[], "leaf"), 1);
        assert_eq!(text(&stacks), "vcpu0;[kernel];leaf 1\n");
    }
}
