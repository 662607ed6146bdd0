//! What kernels print at warning level or above: each line is our fault until
//! docs/stock-kernels.md says why it is not.

use std::panic;

/// The page with the table of explained lines: the first one under `## Warnings`, up to
/// what is no more.
const PAGE: &str = include_str!("../../../docs/stock-kernels.md");

/// What each kernel says on the emulated host, whose processor is always the same: if a boot
/// has not told it, then its other warnings have not been seen either.
const ALWAYS_TOLD: &str = "Speculative Return Stack Overflow: ";

/// A boot on the emulated host.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel, by the page's name for it: `6.1`, `6.12` or `generic`.
    pub kernel: &'a str,
    /// Whether the machine has a disk or any other device on its PCI.
    pub has_device: bool,
}

/// A row of the page's table.
#[derive(Debug)]
struct Row {
    /// Its line, cut at each `…`, which stands for any text.
    parts: Vec<&'static str>,
    /// Of which boots it tells: names of kernels or `all`, then what else there must be.
    boots: &'static str,
}

/// The page's table: a row begins with a line between backquotes, then a column says where
/// it is seen.
fn explained() -> Vec<Row> {
    let (_, section) = PAGE
        .split_once("## Warnings")
        .expect("a section of warnings");
    let (table, _) = section.split_once("mended:").expect("what has been mended");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let columns = row.split_once("` | ");
        let columns = columns.and_then(|(text, rest)| Some((text, rest.split_once(" |")?.0)));
        let (text, boots) = columns.unwrap_or_else(|| panic!("not three columns: {row}"));
        Row {
            parts: text.split('…').collect(),
            boots,
        }
    })
    .collect()
}

impl Row {
    /// Whether the row is about this boot and is the whole of this line.
    fn explains(&self, boot: Boot, line: &str) -> bool {
        self.is_about(boot) && is_made_of(&self.parts, line)
    }

    fn is_about(&self, boot: Boot) -> bool {
        let mut words = self.boots.split(", ");
        let kernels = words.next().unwrap_or_default();
        let is_kernel = kernels == "all" || kernels.split(" and ").any(|name| name == boot.kernel);
        is_kernel
            && words.all(|word| match word {
                "emulated host" => true,
                "kvm-pvm host" => false,
                "no device" => !boot.has_device,
                _ => panic!("this test cannot read '{word}' in {self:?}"),
            })
    }
}

/// Whether a line consists of these parts, with any text between two of them.
fn is_made_of(parts: &[&str], line: &str) -> bool {
    let [first, between @ .., last] = parts else {
        return parts == [line];
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    for part in between {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// All that a boot has told is what the page explains of such a boot; and it has told
/// something.
#[track_caller]
pub fn are_explained(boot: Boot, lines: &[&str]) {
    let explained = explained();
    for line in lines {
        println!("kernel: {line}");
        assert!(
            explained.iter().any(|row| row.explains(boot, line)),
            "the kernel printed what docs/stock-kernels.md does not explain of {boot:?}: {line}"
        );
    }
    assert!(
        lines.iter().any(|line| line.starts_with(ALWAYS_TOLD)),
        "no '{ALWAYS_TOLD}' of {boot:?}, only {lines:#?}"
    );
}

/// What `mayfly.kernel-warnings` had our init print, `LEVEL: TEXT` each; the texts.
#[track_caller]
pub fn told_by_init(output: &str) -> Vec<&str> {
    let lines: Vec<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix("mayfly-guest: kernel-warning "))
        .collect();
    let count = format!("mayfly-guest: kernel-warnings={}", lines.len());
    let counted = output.lines().any(|line| line == count);
    assert!(counted, "no line '{count}' in: {output}");
    let texts = lines.into_iter().map(|line| match line.split_once(": ") {
        Some((level, text)) if level.parse::<u8>().is_ok() => text,
        _ => panic!("not a level and a text: {line}"),
    });
    texts.collect()
}

/// What a kernel itself has put on its console: `[    1.579731] TEXT`.
pub fn told_on_the_console(output: &str) -> Vec<&str> {
    let text = |line: &'_ str| -> Option<usize> {
        let (time, _) = line.strip_prefix('[')?.split_once("] ")?;
        let is_time = time.contains('.') && time.trim_start().parse::<f64>().is_ok();
        is_time.then_some(time.len() + 3)
    };
    output
        .lines()
        .filter_map(|line| Some(&line[text(line)?..]))
        .collect()
}

#[test]
fn only_what_the_page_has_is_explained() {
    let console = "\
        [    1.579731] Speculative Return Stack Overflow: IBPB-extending microcode not applied!\n\
        [  OK  ] Started something.\n\
        [12] no kernel's\n\
        [   12.000001] Oops: 0000\n";
    let lines = told_on_the_console(console);
    let oops = "Oops: 0000";
    let known = "Speculative Return Stack Overflow: IBPB-extending microcode not applied!";
    assert_eq!(lines, [known, oops]);
    let boot = Boot {
        kernel: "6.1",
        has_device: true,
    };
    are_explained(boot, &lines[..1]);
    for seen in [&lines[..], &[]] {
        assert!(panic::catch_unwind(|| are_explained(boot, seen)).is_err());
    }
    let explained = explained();
    let explains = |boot, line: &str| explained.iter().any(|row| row.explains(boot, line));
    let within = format!("Oops: {known}");
    for other in [
        oops,
        &within,
        "[Firmware Bug]: TSC doesn't count with P0 frequency!",
        "INFO: task kworker/1:2:61 blocked for more than 120 seconds.",
    ] {
        assert!(!explains(boot, other), "{other}");
    }
    for row in &explained {
        // Each can be read.
        row.is_about(boot);
    }

    // A column says of which boots a line is explained.
    let no_pci = "PCI: System does not support PCI";
    let unstable = "clocksource: timekeeping watchdog on CPU1: 'tsc-early' retried";
    let initramfs_only = Boot {
        has_device: false,
        ..boot
    };
    let newer = Boot {
        kernel: "6.12",
        ..boot
    };
    assert!(explains(initramfs_only, no_pci) && !explains(boot, no_pci));
    assert!(explains(newer, unstable) && !explains(boot, unstable));
    let on_kvm_pvm = "amd_pstate: the _CPC object is not present in SBIOS or ACPI disabled";
    assert!(!explains(newer, on_kvm_pvm));
}

#[test]
fn a_row_is_a_whole_line_but_for_what_it_leaves_open() {
    let took = ["hrtimer: interrupt took ", " ns"];
    assert!(is_made_of(&took, "hrtimer: interrupt took 12 ns"));
    for line in [
        "4: hrtimer: interrupt took 12 ns",
        "hrtimer: interrupt took 12 ns and more",
        "hrtimer: interrupt took ",
    ] {
        assert!(!is_made_of(&took, line), "{line}");
    }
    assert!(is_made_of(&["a", "b", ""], "a b c"));
    assert!(!is_made_of(&["a", "b", ""], "b a"));
    assert!(is_made_of(&["a"], "a"));
    assert!(!is_made_of(&["a"], "a b"));
}

#[test]
fn the_init_tells_as_many_warnings_as_it_counts() {
    let told = |count: &str| {
        let line = "mayfly-guest: kernel-warning 4: a";
        told_by_init(&format!("{line}\nmayfly-guest: kernel-warnings={count}\n")).join(" ")
    };
    assert_eq!(told("1"), "a");
    for count in ["0", "12"] {
        assert!(panic::catch_unwind(|| told(count)).is_err());
    }
}
