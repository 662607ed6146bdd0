//! Guest memory and the map of it that the guest is given.

use crate::common::{Mayfly, Outcome};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const USABLE: u64 = 1;

/// One line of the guest's `e820`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    start: u64,
    length: u64,
    kind: u64,
}

impl Range {
    fn end(&self) -> u64 {
        self.start + self.length
    }
}

fn memory_map(outcome: &Outcome) -> Vec<Range> {
    let guest = outcome.guest();
    let parse = |line: &str| {
        let mut words = line
            .split(' ')
            .map(|word| u64::from_str_radix(word, 16).expect("a hexadecimal number"));
        let mut next = || words.next().expect("three numbers");
        Range {
            start: next(),
            length: next(),
            kind: next(),
        }
    };
    let lines = guest.lines().filter_map(|line| line.strip_prefix("e820 "));
    lines.map(parse).collect()
}

/// Runs the memory guest by `protocol`, checks what holds for every map, and
/// returns the map.
fn checked_map(protocol: &str, memory: &str, size: u64) -> Vec<Range> {
    let outcome = Mayfly::bare("memory")
        .args(["--memory", memory, "--boot-protocol", protocol])
        .outcome();
    outcome.all_held();
    let map = memory_map(&outcome);
    assert!(map.is_sorted(), "not sorted: {outcome}");
    for pair in map.windows(2) {
        assert!(pair[0].end() <= pair[1].start, "overlap: {outcome}");
    }
    let usable: Vec<&Range> = map.iter().filter(|range| range.kind == USABLE).collect();
    for range in &usable {
        let hole = 3 * GIB..4 * GIB;
        let beside = range.end() <= hole.start || range.start >= hole.end;
        assert!(beside, "RAM in the PCI hole: {outcome}");
        // EBDA, video memory and ACPI tables are no free memory.
        let low = range.end() <= 0xa_0000 || range.start >= MIB;
        assert!(low, "RAM below 1 MiB where none is: {outcome}");
    }
    let total: u64 = usable.iter().map(|range| range.length).sum();
    assert_eq!(outcome.fact("ram"), total, "{outcome}");
    assert!((size - MIB..=size).contains(&total), "total: {outcome}");
    map
}

#[test]
fn map_of_a_small_machine() {
    for protocol in ["linux64", "pvh"] {
        let map = checked_map(protocol, "64M", 64 * MIB);
        let last = map.iter().rfind(|range| range.kind == USABLE);
        assert_eq!(last.map(Range::end), Some(64 * MIB), "{map:?}");
    }
}

#[test]
fn six_gib_go_round_the_pci_hole() {
    for protocol in ["linux64", "pvh"] {
        let map = checked_map(protocol, "6G", 6 * GIB);
        let ends: Vec<(u64, u64)> = map
            .iter()
            .filter(|range| range.kind == USABLE && range.start >= MIB)
            .map(|range| (range.start, range.end()))
            .collect();
        assert_eq!(ends, [(MIB, 3 * GIB), (4 * GIB, 7 * GIB)], "{map:?}");
    }
}

#[test]
fn exactly_three_gib_fit_below_the_hole() {
    let map = checked_map("linux64", "3GiB", 3 * GIB);
    assert!(
        map.iter()
            .all(|range| range.kind != USABLE || range.end() <= 3 * GIB)
    );
}

#[test]
fn more_memory_than_the_host_has() {
    checked_map("linux64", "64G", 64 * GIB);
}
