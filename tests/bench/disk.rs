//! What a disk gives a guest: Mayfly, QEMU's microvm and a native loop on the same
//! file, in turn.
//!
//! The guest is bare and polls its ring in user mode, where every host runs guest
//! code natively (guest-images/bare/blk_bench.S). Times are the guest's own, by
//! kvmclock. `cargo bench --bench disk` goes through the host's page cache;
//! `cargo bench --bench disk -- none` past it (`cache=none`). A number sets the rounds, and
//! another word leaves out the workloads without it (`-- 'read, 32'`).
//!
//! Fails if a bound on system calls, exits or allocations is broken. Times and ratios
//! are printed and not judged: on a busy machine they say little. docs/decisions.md
//! has results.

#[path = "disk/allocations.rs"]
mod allocations;
#[path = "../integration/common/guests.rs"]
#[allow(dead_code, reason = "shared with the integration tests")]
mod guests;
#[path = "disk/machines.rs"]
mod machines;
mod microvm;
#[path = "disk/native.rs"]
mod native;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use machines::{Machine, Workload};
use serde_json::Value;

/// Rounds of all contenders, unless the command line gives another number.
const ROUNDS: usize = 3;
/// Bytes of the disk.
const SIZE: u64 = 64 << 20;
/// System calls a request, by depth.
const MAX_CALLS: [(u64, f64); 2] = [(1, 2.0), (32, 0.5)];
/// Exits to userspace that a thousand requests may cause: none, but for those of the
/// digits that the guest prints.
const MAX_EXITS: u64 = 100;

const WORKLOADS: [(&str, Workload); 6] = [
    (
        "4 KiB random read, 1",
        Workload::new(4096, 1, false, true, 3000),
    ),
    (
        "4 KiB random write, 1",
        Workload::new(4096, 1, true, true, 3000),
    ),
    (
        "4 KiB random read, 32",
        Workload::new(4096, 32, false, true, 30_000),
    ),
    (
        "4 KiB random write, 32",
        Workload::new(4096, 32, true, true, 30_000),
    ),
    (
        "128 KiB seq. read, 8",
        Workload::new(128 << 10, 8, false, false, 3000),
    ),
    (
        "128 KiB seq. write, 8",
        Workload::new(128 << 10, 8, true, false, 3000),
    ),
];

/// Who serves the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Mayfly {
        transport: &'static str,
        aio: &'static str,
    },
    Qemu,
    /// Its iothread sleeps at once, as Mayfly's thread does.
    QemuWithoutPolling,
    NativeCalls,
    NativeRing,
}

const CONTENDERS: [Contender; 7] = [
    Contender::NativeCalls,
    Contender::NativeRing,
    Contender::Qemu,
    Contender::QemuWithoutPolling,
    Contender::Mayfly {
        transport: "mmio",
        aio: "io_uring",
    },
    Contender::Mayfly {
        transport: "pci",
        aio: "io_uring",
    },
    Contender::Mayfly {
        transport: "mmio",
        aio: "threads",
    },
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut rounds = ROUNDS;
    let mut direct = false;
    let mut part = String::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "none" => direct = true,
            "--bench" => {}
            text => match text.parse() {
                Ok(number) => rounds = number,
                Err(_) => text.clone_into(&mut part),
            },
        }
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let image = folder.path().join("disk.raw");
    write_image(&image)?;
    compare(&image, rounds.max(1), direct, &part)?;
    judge(&image)
}

/// A file without holes, all of it in the page cache.
fn write_image(path: &Path) -> std::io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    let block: Vec<u8> = (0..1 << 20).map(|place: u32| (place % 251) as u8).collect();
    for _ in 0..SIZE >> 20 {
        file.write_all(&block)?;
    }
    file.sync_all()
}

/// Runs all contenders on all workloads, in turn, and prints what they reached.
fn compare(image: &Path, rounds: usize, direct: bool, part: &str) -> Result<(), Box<dyn Error>> {
    let qemu = microvm::is_there();
    let cache = if direct { "none" } else { "writeback" };
    println!("requests a second, best and median of {rounds} rounds, cache={cache};");
    println!("ratio to QEMU (best, median) and fraction of the native ceiling (best)");
    for (name, workload) in WORKLOADS {
        if !name.contains(part) {
            continue;
        }
        let contenders: Vec<Contender> = CONTENDERS
            .into_iter()
            .filter(|contender| match contender {
                Contender::Qemu => qemu,
                Contender::QemuWithoutPolling => qemu && workload.depth == 1,
                Contender::NativeCalls => workload.depth == 1,
                Contender::NativeRing | Contender::Mayfly { .. } => true,
            })
            .collect();
        let mut rates = vec![Vec::new(); contenders.len()];
        for _ in 0..rounds {
            for (contender, rates) in contenders.iter().zip(&mut rates) {
                rates.push(rate(*contender, image, workload, direct)?);
            }
        }
        println!("{name}");
        print_rates(&contenders, &mut rates);
    }
    Ok(())
}

fn print_rates(contenders: &[Contender], rates: &mut [Vec<f64>]) {
    let figures: Vec<(f64, f64)> = rates
        .iter_mut()
        .map(|rates| best_and_median(rates))
        .collect();
    let of = |wanted: fn(&Contender) -> bool| {
        let pairs = contenders.iter().zip(&figures);
        pairs
            .filter(move |(contender, _)| wanted(contender))
            .map(|(_, figures)| *figures)
            .fold((0.0_f64, 0.0_f64), |a, b| (a.0.max(b.0), a.1.max(b.1)))
    };
    let qemu = of(|contender| *contender == Contender::Qemu);
    let ceiling =
        of(|contender| matches!(contender, Contender::NativeCalls | Contender::NativeRing));
    for (contender, (best, median)) in contenders.iter().zip(&figures) {
        let ratio = if qemu.0 > 0.0 {
            format!("{:8.2}{:8.2}", best / qemu.0, median / qemu.1)
        } else {
            " ".repeat(16)
        };
        println!(
            "  {:22}{best:10.0}{median:10.0}{ratio}{:8.3}",
            contender.to_string(),
            best / ceiling.0
        );
    }
}

fn best_and_median(rates: &mut [f64]) -> (f64, f64) {
    rates.sort_unstable_by(|a, b| b.total_cmp(a));
    (rates[0], rates[rates.len() / 2])
}

impl std::fmt::Display for Contender {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mayfly { transport, aio } => write!(out, "mayfly {transport} {aio}"),
            Self::Qemu => write!(out, "QEMU microvm"),
            Self::QemuWithoutPolling => write!(out, "QEMU without polling"),
            Self::NativeCalls => write!(out, "native preadv2"),
            Self::NativeRing => write!(out, "native io_uring"),
        }
    }
}

/// Requests a second of one run.
fn rate(
    contender: Contender,
    image: &Path,
    workload: Workload,
    direct: bool,
) -> Result<f64, Box<dyn Error>> {
    let words = workload.words();
    let machine = Machine {
        guest: "blk_bench",
        image,
        direct,
        words: &words,
    };
    Ok(match contender {
        Contender::NativeCalls => native::turn_to_boot(image, workload, direct)?,
        Contender::NativeRing => native::by_io_uring(image, workload, direct)?,
        Contender::Qemu => guest_rate(&output(machine.qemu(microvm::processor(), ""))?)?,
        Contender::QemuWithoutPolling => guest_rate(&output(
            machine.qemu(microvm::processor(), ",poll-max-ns=0"),
        )?)?,
        Contender::Mayfly { transport, aio } => {
            guest_rate(&output(machine.mayfly(aio, transport))?)?
        }
    })
}

fn output(mut command: Command) -> Result<String, Box<dyn Error>> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{text}{error}", output.status).into());
    }
    Ok(text)
}

/// From the line `requests=N ticks=N ns=N kicks=N`.
fn guest_rate(text: &str) -> Result<f64, Box<dyn Error>> {
    let number = |name: &str| {
        text.split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.parse::<f64>().ok())
            .ok_or_else(|| format!("no '{name}' in {text}"))
    };
    Ok(number("requests=")? / (number("ns=")? / 1e9))
}

/// Compares what repeats with its bounds.
fn judge(image: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let mut kept = true;
    for transport in ["mmio", "pci"] {
        for (depth, max_calls) in MAX_CALLS {
            let few = Costs::of(image, transport, depth, 1000)?;
            let many = Costs::of(image, transport, depth, 5000)?;
            let requests = many.requests - few.requests;
            let calls = (many.calls as f64 - few.calls as f64) / requests as f64;
            let exits = many.exits.saturating_sub(few.exits);
            println!(
                "{transport:4} depth {depth:2}: {calls:.3} system calls a request (at most {max_calls}), \
                 {exits} more exits for {requests} more requests (at most {MAX_EXITS})"
            );
            // A stray wake-up now and then is no call a request.
            kept &= calls <= max_calls + 0.01 && exits <= MAX_EXITS;
        }
        let allocations = allocations::per_request(image, transport)?;
        println!("{transport:4} {allocations:.4} allocations a request (none are allowed)");
        kept &= allocations < 0.005;
    }
    if kept {
        return Ok(ExitCode::SUCCESS);
    }
    println!("a bound is broken");
    Ok(ExitCode::FAILURE)
}

/// What a run cost, by its `--json`.
struct Costs {
    requests: u64,
    calls: u64,
    exits: u64,
}

impl Costs {
    fn of(image: &Path, transport: &str, depth: u64, count: u64) -> Result<Self, Box<dyn Error>> {
        let workload = Workload {
            depth,
            count,
            ..WORKLOADS[0].1
        };
        let machine = Machine {
            guest: "blk_bench",
            image,
            direct: false,
            words: &workload.words(),
        };
        let text = output(machine.mayfly("io_uring", transport))?;
        let line = text.lines().last().unwrap_or_default();
        let report: Value = serde_json::from_str(line)?;
        let exits = report["exits"].as_object().ok_or("no exits")?;
        let disk = |name: &str| {
            report["disks"][0][name]
                .as_u64()
                .ok_or_else(|| format!("no '{name}' of a disk in {line}"))
        };
        Ok(Self {
            requests: disk("requests")?,
            calls: disk("system_calls")?,
            exits: exits.values().filter_map(Value::as_u64).sum(),
        })
    }
}
