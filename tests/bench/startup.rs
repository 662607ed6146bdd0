//! What a start takes, from process start to process end: Mayfly, the floor (a
//! program that makes the same KVM calls and nothing else) and, where it is
//! installed, QEMU's microvm, in turn.
//!
//! The guest prints two lines and resets; 128 MiB, one vCPU. `cargo bench --bench
//! startup`, or with a number of rounds: `cargo bench --bench startup -- 300`.
//! Fails if a bound on system calls, memory or size is broken. Times are printed
//! and not judged: on a busy machine they say little. docs/decisions.md has results.

#[path = "../integration/common/floor.rs"]
mod floor;
#[path = "../integration/common/guests.rs"]
#[allow(dead_code, reason = "shared with the integration tests")]
mod guests;
#[path = "../integration/common/startup.rs"]
mod startup;
#[path = "../integration/common/trace.rs"]
#[allow(dead_code, reason = "shared with the integration tests")]
mod trace;

use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mayfly::host::Backend;
use startup::{
    EXTRA_CALLS, PROGRAM_SIZE, best_trace, floor_program, mayfly, peak_bound, program_size,
};

/// Rounds of all programs, unless the command line gives another number.
const ROUNDS: usize = 100;
/// What the time may be, in floors.
const RATIO: f64 = 2.5;
/// Pause before each start, in which the host finishes what the last machine
/// left behind.
const SETTLE: Duration = Duration::from_millis(50);

/// A program and how long its runs took, in milliseconds.
struct Contender {
    name: &'static str,
    command: fn() -> Command,
    times: Vec<f64>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // Cargo passes `--bench`, which says nothing new.
    let rounds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(ROUNDS)
        .max(1);
    let mut contenders = vec![
        contender("floor", floor_program),
        contender("mayfly", mayfly),
    ];
    if Command::new("qemu-system-x86_64")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        contenders.push(contender("QEMU microvm", qemu));
    }
    // One round that is not counted warms the caches.
    for round in 0..=rounds {
        for contender in &mut contenders {
            thread::sleep(SETTLE);
            let time = run((contender.command)())?;
            if round > 0 {
                contender.times.push(time);
            }
        }
    }
    print_times(&mut contenders, rounds);
    judge()
}

fn contender(name: &'static str, command: fn() -> Command) -> Contender {
    Contender {
        name,
        command,
        times: Vec::new(),
    }
}

/// The same guest in QEMU's smallest machine, which wants firmware and an i8042 to
/// reset it.
fn qemu() -> Command {
    // The MSR cannot be set on kvm-pvm hosts, though KVM lists it.
    let cpu = match Backend::detect() {
        Backend::Pvm | Backend::Unknown => "host,-arch-capabilities",
        Backend::Vmx | Backend::Svm => "host",
    };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "kvm", "-cpu", cpu, "-m", "128"])
        .args(["-M", "microvm,acpi=off,rtc=off,pit=off,pic=off"])
        .args(["-device", "i8042", "-no-reboot", "-nodefaults"])
        .args(["-no-user-config", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(guests::bare("hello"));
    command
}

/// Milliseconds from process start to process end.
fn run(mut command: Command) -> Result<f64, Box<dyn Error>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn()?;
    // What it prints fits the pipe.
    let status = child.wait()?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(time)
}

fn print_times(contenders: &mut [Contender], rounds: usize) {
    println!("{rounds} rounds, ms from process start to process end, and floors");
    println!("{:14}{:>8}{:>8}{:>10}{:>8}", "", "min", "", "median", "");
    let floor = statistics(&mut contenders[0].times);
    for contender in contenders {
        let (min, median) = statistics(&mut contender.times);
        println!(
            "{:14}{min:8.2}{:8.2}{median:10.2}{:8.2}",
            contender.name,
            min / floor.0,
            median / floor.1,
        );
    }
    println!("(at most {RATIO} floors are promised, on a machine that does nothing else)");
}

fn statistics(times: &mut [f64]) -> (f64, f64) {
    times.sort_unstable_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

/// Compares what repeats with its bounds.
fn judge() -> Result<ExitCode, Box<dyn Error>> {
    let floor = best_trace(floor_program)?;
    let mayfly = best_trace(mayfly)?;
    let size = program_size();
    println!(
        "system calls   {:6} (floor {}, at most {EXTRA_CALLS} more)",
        mayfly.calls, floor.calls
    );
    println!(
        "peak memory    {:6} KiB (floor {}, at most {})",
        mayfly.peak_kib,
        floor.peak_kib,
        peak_bound()
    );
    println!("program size  {size:7} bytes (at most {PROGRAM_SIZE})");
    let kept = mayfly.calls <= floor.calls + EXTRA_CALLS
        && mayfly.peak_kib <= peak_bound()
        && size <= PROGRAM_SIZE;
    if kept {
        return Ok(ExitCode::SUCCESS);
    }
    println!("a bound is broken");
    Ok(ExitCode::FAILURE)
}
