//! What a network device gives a guest: Mayfly and QEMU's microvm at a tap each, in
//! turn.
//!
//! The guest is bare and polls its rings in user mode, where every host runs guest code
//! natively (guest-images/bare/net_bench.S); at the other end is a packet socket on the
//! tap. Times are the guest's own, by kvmclock. All is in a network namespace that the
//! bench makes, so it wants to be root (or `unshare --map-root-user --net`).
//!
//! `cargo bench --bench net`; a number sets the rounds, and another word leaves out the
//! workloads without it (`-- '64 bytes'`). Fails if a bound on system calls or exits is
//! broken. Times and ratios are printed and not judged: on a busy machine they say
//! little. docs/decisions.md has results.

#[path = "../integration/common/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the integration tests"
)]
mod common;
#[path = "net/machines.rs"]
mod machines;
mod microvm;

use std::error::Error;
use std::fmt;
use std::process::{ExitCode, Stdio};

use common::netns::{Queues, in_namespace, tap};
use common::peer::Peer;
use machines::{Machine, Mode, Workload};
use serde_json::Value;

type Failure = Box<dyn Error + Send + Sync>;

/// Rounds of all contenders, unless the command line gives another number.
const ROUNDS: usize = 5;
const TAP: &str = "tap0";
/// Pieces as long as Ethernet's frames in a big segment.
const PIECES: f64 = 45.0;
/// Exits to userspace that thousands of frames more may cause: none, but for those of
/// the digits that the guest prints.
const MAX_EXITS: u64 = 100;

const WORKLOADS: [(&str, Workload); 7] = [
    (
        "64 bytes to the host",
        Workload::new(Mode::Send, 64, 100_000),
    ),
    (
        "64 bytes to the guest",
        Workload::new(Mode::Receive, 64, 100_000),
    ),
    (
        "1500 bytes to the host",
        Workload::new(Mode::Send, 1514, 100_000),
    ),
    (
        "1500 bytes to the guest",
        Workload::new(Mode::Receive, 1514, 100_000),
    ),
    ("64 KiB to the host", Workload::big(Mode::Send, 20_000)),
    ("64 KiB to the guest", Workload::big(Mode::Receive, 10_000)),
    (
        "round trip of 64 bytes",
        Workload::new(Mode::Return, 64, 5000),
    ),
];

/// Who serves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Qemu,
    Mayfly(&'static str),
}

impl fmt::Display for Contender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qemu => write!(out, "QEMU microvm"),
            Self::Mayfly(transport) => write!(out, "mayfly {transport}"),
        }
    }
}

const CONTENDERS: [Contender; 3] = [
    Contender::Qemu,
    Contender::Mayfly("mmio"),
    Contender::Mayfly("pci"),
];

fn main() -> Result<ExitCode, Failure> {
    let mut rounds = ROUNDS;
    let mut part = String::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--bench" => {}
            text => match text.parse() {
                Ok(number) => rounds = number,
                Err(_) => text.clone_into(&mut part),
            },
        }
    }
    in_namespace(|| {
        tap(TAP, Queues::One);
        compare(rounds.max(1), &part)?;
        judge()
    })
}

/// Runs all contenders on all workloads, in turn, and prints what they reached.
fn compare(rounds: usize, part: &str) -> Result<(), Failure> {
    let qemu = microvm::is_there();
    println!("minimum, median and maximum of {rounds} rounds, and of the ratios to QEMU in each");
    for (name, workload) in WORKLOADS {
        if !name.contains(part) {
            continue;
        }
        let contenders: Vec<Contender> = CONTENDERS
            .into_iter()
            .filter(|contender| qemu || *contender != Contender::Qemu)
            .collect();
        let mut figures = vec![Vec::new(); contenders.len()];
        for _ in 0..rounds {
            for (contender, figures) in contenders.iter().zip(&mut figures) {
                figures.push(figure(*contender, workload)?);
            }
        }
        println!("{name}, {}", unit(workload));
        for (contender, own) in contenders.iter().zip(&figures) {
            let mut line = format!("  {:14}{}", contender.to_string(), spread(own, 11, 1));
            if *contender != Contender::Qemu && qemu {
                let ratios: Vec<f64> = own.iter().zip(&figures[0]).map(|(a, b)| a / b).collect();
                line += "   ratio";
                line += &spread(&ratios, 7, 2);
            }
            println!("{line}");
        }
    }
    Ok(())
}

/// What a workload is measured in.
fn unit(workload: Workload) -> &'static str {
    match workload {
        Workload {
            mode: Mode::Return, ..
        } => "median in microseconds (less is better)",
        Workload { big: true, .. } => "megabytes a second",
        _ => "thousand packets a second",
    }
}

/// Minimum, median and maximum.
fn spread(figures: &[f64], width: usize, digits: usize) -> String {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    [0, sorted.len() / 2, sorted.len() - 1]
        .map(|place| format!("{:width$.digits$}", sorted[place]))
        .concat()
}

/// One run, in the workload's unit.
fn figure(contender: Contender, workload: Workload) -> Result<f64, Failure> {
    let text = run(contender, workload)?;
    let seconds = number(&text, "ns=")? / 1e9;
    Ok(match workload.mode {
        Mode::Return => {
            let ticks = number(&text, "ticks=")?;
            number(&text, "median=")? / (ticks / seconds) * 1e6
        }
        _ if workload.big => (workload.count * workload.size) as f64 / seconds / 1e6,
        _ => workload.count as f64 / seconds / 1e3,
    })
}

/// What the guest (and Mayfly) printed.
fn run(contender: Contender, workload: Workload) -> Result<String, Failure> {
    let words = workload.words();
    let machine = Machine {
        guest: "net_bench",
        tap: TAP,
        words: &words,
    };
    let mut command = match contender {
        Contender::Qemu => machine.qemu(microvm::processor()),
        Contender::Mayfly(transport) => machine.mayfly(transport),
    };
    let peer = Peer::start(TAP);
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    if !output.status.success() || !text.contains("done") {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{text}{error}", output.status).into());
    }
    let sent = workload.count + workload.warm();
    if workload.mode == Mode::Send && !peer.has_got(sent) {
        let got = peer.frames() + peer.lost();
        return Err(format!("{contender}: the host got {got} of {sent} frames").into());
    }
    Ok(text)
}

/// The value of `name=` in what the guest printed.
fn number(text: &str, name: &str) -> Result<f64, Failure> {
    let mut words = text.split_whitespace();
    words
        .find_map(|word| word.strip_prefix(name)?.parse::<f64>().ok())
        .ok_or_else(|| format!("no '{name}' in {text}").into())
}

/// Compares what repeats with its bounds: system calls a packet, exits.
fn judge() -> Result<ExitCode, Failure> {
    let mut kept = true;
    for transport in ["mmio", "pci"] {
        for (name, workload) in WORKLOADS {
            let (frames, packets, bound) = match workload {
                Workload {
                    mode: Mode::Return, ..
                } => continue,
                Workload { big: true, .. } => (500, PIECES, 0.2),
                Workload { size: 64, .. } => (5000, 1.0, 1.2),
                _ => continue,
            };
            let few = Costs::of(transport, workload, frames)?;
            let many = Costs::of(transport, workload, 3 * frames)?;
            let more = (many.frames - few.frames) as f64 * packets;
            let calls = (many.calls as f64 - few.calls as f64) / more;
            let exits = many.exits.saturating_sub(few.exits);
            println!(
                "{transport:4} {name}: {calls:.3} system calls a packet (below {bound}), \
                 {exits} more exits for {more} more packets (at most {MAX_EXITS})"
            );
            kept &= calls < bound && exits <= MAX_EXITS;
        }
    }
    if kept {
        return Ok(ExitCode::SUCCESS);
    }
    println!("a bound is broken");
    Ok(ExitCode::FAILURE)
}

/// What a run cost, by its `--json`.
struct Costs {
    frames: u64,
    calls: u64,
    exits: u64,
}

impl Costs {
    fn of(transport: &'static str, workload: Workload, count: u64) -> Result<Self, Failure> {
        let workload = Workload { count, ..workload };
        let text = run(Contender::Mayfly(transport), workload)?;
        let line = text.lines().last().unwrap_or_default();
        let report: Value = serde_json::from_str(line)?;
        let exits = report["exits"].as_object().ok_or("no exits")?;
        let net = |name: &str| {
            report["nets"][0][name]
                .as_u64()
                .ok_or_else(|| format!("no '{name}' of a network in {line}"))
        };
        let frames = match workload.mode {
            Mode::Send => net("frames_sent")?,
            _ => net("frames_received")?,
        };
        Ok(Self {
            frames,
            calls: net("system_calls")?,
            exits: exits.values().filter_map(Value::as_u64).sum(),
        })
    }
}
