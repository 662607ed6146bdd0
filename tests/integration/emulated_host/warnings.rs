//! What kernels print at warning level or above: each line is our fault until
//! docs/stock-kernels.md says why it is not.

/// The page with the table of explained lines: the first one under `## Warnings`, up to
/// what is no more.
const PAGE: &str = include_str!("../../../docs/stock-kernels.md");

/// What the page explains: the text between backquotes that begins a row of a table.
/// A line is explained by a row whose words it has in their order; `…` stands for any.
fn explained() -> Vec<Vec<&'static str>> {
    let (_, section) = PAGE
        .split_once("## Warnings")
        .expect("a section of warnings");
    let (table, _) = section.split_once("mended:").expect("what has been mended");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let texts = rows.filter_map(|row| Some(row.split_once("` |")?.0));
    texts.map(|text| text.split('…').collect()).collect()
}

fn explains(parts: &[&str], line: &str) -> bool {
    let mut rest = line;
    parts.iter().all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Each of these is one that the page explains.
#[track_caller]
pub fn are_explained(lines: &[&str]) {
    let explained = explained();
    for line in lines {
        println!("kernel: {line}");
        assert!(
            explained.iter().any(|parts| explains(parts, line)),
            "the kernel printed what docs/stock-kernels.md does not explain: {line}"
        );
    }
}

/// What `mayfly.kernel-warnings` had our init print.
#[track_caller]
pub fn told_by_init(output: &str) -> Vec<&str> {
    let lines: Vec<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix("mayfly-guest: kernel-warning "))
        .collect();
    let count = format!("mayfly-guest: kernel-warnings={}", lines.len());
    assert!(output.contains(&count), "no '{count}' in: {output}");
    lines
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
    are_explained(&lines[..1]);
    let explained = explained();
    for other in [oops, "[Firmware Bug]: TSC doesn't count with P0 frequency!"] {
        assert!(!explained.iter().any(|parts| explains(parts, other)));
    }

    assert!(explains(&["took ", " ns"], "hrtimer: interrupt took 12 ns"));
    assert!(!explains(&["took ", " ns"], "12 ns is what it took"));
    assert_eq!(
        told_by_init("mayfly-guest: kernel-warning 4: a\nmayfly-guest: kernel-warnings=1\n"),
        ["4: a"]
    );
}
