//! How many instructions a start takes on the emulated host, compared with a kept
//! baseline, so that a regression shows where clocks are too noisy.
//!
//! QEMU counts: one instruction is one tick of the host's TSC (`-icount`), so that
//! the same program takes nearly the same number each time. VMM, guest and what the
//! host kernel does for them are counted together; waits (for a grace period, say)
//! are not.
//!
//! `cargo bench --bench instructions` fails if a number is above its baseline by
//! more than the noise; with `-- --write` it writes tests/bench/baseline.json anew.
//! Another kernel or QEMU gives other numbers, so the baseline names its own.
//!
//! `-- disk` counts instructions a disk request instead, Mayfly's and QEMU's, and
//! fails if Mayfly's are more; `-- net` does so with frames of a network device.

#[path = "../integration/common/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the integration tests"
)]
mod common;
#[path = "instructions/disk.rs"]
mod disk;
#[path = "../integration/emulated_host/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the integration tests"
)]
mod emulated_host;
#[path = "disk/machines.rs"]
mod machines;
#[allow(dead_code, reason = "shared with the other benches")]
mod microvm;
#[path = "instructions/net.rs"]
mod net;
#[path = "net/machines.rs"]
mod net_machines;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use common::guests;
use mayfly::boot::{Kernel, PayloadCache};
use serde::{Deserialize, Serialize};

/// More than this times the baseline is a regression.
const TOLERANCE: f64 = 1.02;
/// Runs of each, of which the least counts: what disturbs one only adds. Linux waits
/// a tick of its timer more in most of them, so one of several is needed.
const BARE_RUNS: usize = 20;
const LINUX_RUNS: usize = 12;
/// KVM is not to poll for a halted guest's next interrupt: the kernel would charge it
/// with the wait, which hangs on where its timer ticks fall.
const NO_POLLING: &str = "echo 0 >/sys/module/kvm/parameters/halt_poll_ns || exit\n";
/// Firmware that QEMU looks for.
const FIRMWARE: [&str; 4] = [
    "/usr/share/qemu/qboot.rom",
    "/usr/share/seabios/bios-microvm.bin",
    "/usr/share/qemu/pvh.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
];
/// The kept numbers.
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/baseline.json");

/// Instructions by what was run, and on what they were counted.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Counts {
    /// The emulated host's kernel.
    host: String,
    /// QEMU's version.
    qemu: String,
    /// The least of the runs of each.
    instructions: BTreeMap<String, u64>,
}

/// What is counted.
struct Start {
    name: &'static str,
    command: Command,
    runs: usize,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, command @ ..] = &arguments[..]
        && word == net::PEER
    {
        return net::beside_peer(command);
    }
    let asked = |what| arguments.iter().any(|argument| argument == what);
    let verdict = |kept| match kept {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    if asked("disk") {
        return Ok(verdict(disk::judge()?));
    }
    if asked("net") {
        return Ok(verdict(net::judge()?));
    }
    let write = asked("--write");
    let now = Counts {
        host: kernel_release(&emulated_host::host_files().join("vmlinuz"))?,
        qemu: qemu_version()?,
        instructions: measure()?,
    };
    if write {
        fs::write(BASELINE, serde_json::to_string_pretty(&now)? + "\n")?;
        println!("{:#?}\nwritten to {BASELINE}", now.instructions);
        return Ok(ExitCode::SUCCESS);
    }
    let baseline: Counts = serde_json::from_str(&fs::read_to_string(BASELINE)?)?;
    compare(&now, &baseline)
}

/// Prints the numbers beside the baseline's.
fn compare(now: &Counts, baseline: &Counts) -> Result<ExitCode, Box<dyn Error>> {
    let mut regressed = false;
    println!("{:24}{:>14}{:>14}{:>8}", "", "now", "baseline", "ratio");
    for (name, count) in &now.instructions {
        let before = baseline
            .instructions
            .get(name)
            .ok_or_else(|| format!("no '{name}' in {BASELINE}; write it with -- --write"))?;
        let ratio = *count as f64 / *before as f64;
        println!("{name:24}{count:14}{before:14}{ratio:8.3}");
        regressed |= ratio > TOLERANCE;
    }
    if (&now.host, &now.qemu) != (&baseline.host, &baseline.qemu) {
        println!(
            "not comparable: the baseline was counted on Linux {} by QEMU {}, this on {} by {}",
            baseline.host, baseline.qemu, now.host, now.qemu
        );
        return Ok(ExitCode::FAILURE);
    }
    if regressed {
        println!("more than {TOLERANCE} times the baseline");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts each start on one emulated host.
fn measure() -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
    let count = emulated_host::compile("count.c");
    let mut root = emulated_host::mayfly_root();
    root.add_program(&count);
    let mut host = emulated_host::machine::EmulatedHost::new(emulated_host::host_files());
    host.icount = true;
    host.timeout = Duration::from_secs(300);
    host.environment = emulated_host::environment();
    let starts = [
        Start {
            name: "bare guest, floor",
            command: common::startup::floor_program(),
            runs: BARE_RUNS,
        },
        Start {
            name: "bare guest, mayfly",
            command: common::startup::mayfly(),
            runs: BARE_RUNS,
        },
        Start {
            name: "tiny Linux, mayfly",
            command: default_guest(),
            runs: LINUX_RUNS,
        },
    ];
    let mut script = NO_POLLING.to_owned();
    for Start {
        name,
        command,
        runs,
    } in &starts
    {
        let run = format!("{} {}", count.display(), shell_words(command));
        script.push_str(&format!(
            "echo 'start: {name}'; for run in $(seq {runs}); do {run} || exit; done\n"
        ));
    }
    let outcome = host.run(root, &["sh", "-c", &script])?;
    if outcome.status != 0 {
        return Err(format!("status {} there:\n{}", outcome.status, outcome.output).into());
    }
    let counts = counts_of_each(&outcome.output);
    starts
        .iter()
        .map(|start| match counts.get(start.name) {
            Some(counts) if counts.len() == start.runs => {
                let least = counts.iter().min().copied().unwrap_or(0);
                Ok((start.name.to_owned(), least))
            }
            _ => Err(format!("not all runs of '{}' were counted", start.name).into()),
        })
        .collect()
}

/// `mayfly run`: the tiny Linux boots and powers off.
fn default_guest() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mayfly"));
    command.arg("run");
    command
}

/// The command for a shell; none of the words has a quote in it.
fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    words.join(" ")
}

/// The numbers that count.c printed, by the start they belong to.
fn counts_of_each(output: &str) -> BTreeMap<&str, Vec<u64>> {
    let mut counts: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut current = "";
    for line in output.lines() {
        let line = line.trim_end();
        if let Some(name) = line.strip_prefix("start: ") {
            current = name;
        }
        let count = line.strip_prefix("charged: ");
        if let Some(count) = count.and_then(|text| text.parse().ok()) {
            counts.entry(current).or_default().push(count);
        }
    }
    counts
}

fn qemu_version() -> Result<String, Box<dyn Error>> {
    let output = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `QEMU emulator version 10.0.2 (Debian …)`
    let version = text.split_whitespace().nth(3).unwrap_or("unknown");
    Ok(version.to_owned())
}

/// The release of a bzImage.
fn kernel_release(path: &Path) -> Result<String, Box<dyn Error>> {
    let kernel = Kernel::open(path, &PayloadCache::none())?;
    Ok(kernel.release().unwrap_or("unknown").to_owned())
}
