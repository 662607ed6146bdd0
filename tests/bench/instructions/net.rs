//! Instructions a packet, of all that runs on the emulated host for one: guest, VMM and
//! host kernel, under Mayfly and under QEMU.
//!
//! A bare guest, halted between interrupts, sends frames to a packet socket on its tap,
//! receives them or has one at a time returned, by virtio-mmio. What the socket's own
//! process does is not counted. A run of N frames is taken from a run of 2N, so that
//! start and end do not count.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::common::netns::{Queues, in_namespace, tap};
use super::common::peer::Peer;
use super::net_machines::{Machine, Mode, Workload};
use super::{FIRMWARE, NO_POLLING, counts_of_each, emulated_host, shell_words};

/// Runs of each, of which the least counts.
const RUNS: usize = 3;
const TAP: &str = "tap0";
/// QEMU's processor, without what SVM emulated by QEMU cannot give.
const PROCESSOR: &str = "host";
/// The word that makes this program a peer with a command to run beside it.
pub const PEER: &str = "peer";

const CONTENDERS: [&str; 2] = ["mayfly", "QEMU"];

/// With N frames each.
const WORKLOADS: [(&str, Workload); 6] = [
    ("64 bytes to the host", Workload::new(Mode::Send, 64, 2000)),
    (
        "64 bytes to the guest",
        Workload::new(Mode::Receive, 64, 2000),
    ),
    (
        "1500 bytes to the host",
        Workload::new(Mode::Send, 1514, 2000),
    ),
    (
        "1500 bytes to the guest",
        Workload::new(Mode::Receive, 1514, 2000),
    ),
    ("64 KiB to the host", Workload::big(Mode::Send, 500)),
    ("round trip", Workload::new(Mode::Return, 64, 500)),
];

/// Prints what was counted; true if Mayfly takes no more than QEMU.
///
/// # Errors
/// If something could not be run, or not be counted.
pub fn judge() -> Result<bool, Box<dyn Error>> {
    let counts = count()?;
    let mut kept = true;
    println!("instructions a frame by interrupts, virtio-mmio, the whole stack");
    for (what, workload) in WORKLOADS {
        let of = |contender: &str| {
            let least = |doubled| {
                let name = name(contender, what, doubled);
                let counts = counts.get(&name).filter(|counts| counts.len() == RUNS);
                let least = counts.and_then(|counts| counts.iter().min().copied());
                least.ok_or_else(|| format!("not all runs of '{name}' were counted"))
            };
            let more = least(true)?.saturating_sub(least(false)?);
            let frames = workload.count + workload.warm();
            Ok::<_, String>(more as f64 / frames as f64)
        };
        let (mayfly, qemu) = (of("mayfly")?, of("QEMU")?);
        let ratio = mayfly / qemu;
        println!("{what:24}: mayfly {mayfly:8.0}   QEMU {qemu:8.0}   ratio {ratio:.3}");
        kept &= mayfly <= qemu;
    }
    if !kept {
        println!("more instructions a frame than QEMU");
    }
    Ok(kept)
}

/// Runs the command that follows the word, beside a peer at a tap.
///
/// # Errors
/// If it cannot be run.
pub fn beside_peer(command: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let (program, arguments) = command.split_first().ok_or("no command for the peer")?;
    let status = in_namespace(|| {
        tap(TAP, Queues::One);
        let _peer = Peer::start(TAP);
        Command::new(program).args(arguments).status()
    })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn name(contender: &str, what: &str, doubled: bool) -> String {
    let factor = if doubled { 2 } else { 1 };
    format!("{contender}, {what}, {factor}N")
}

/// Runs all on one emulated host.
fn count() -> Result<BTreeMap<String, Vec<u64>>, Box<dyn Error>> {
    let count = emulated_host::compile("count.c");
    let this = std::env::current_exe()?;
    let mut root = emulated_host::mayfly_root();
    root.add_program(&count);
    root.add_program(&this);
    for program in ["ip", "qemu-system-x86_64"] {
        root.add_program(&found(program)?);
    }
    for file in FIRMWARE
        .into_iter()
        .chain(["/usr/share/qemu/efi-virtio.rom"])
    {
        if Path::new(file).exists() {
            root.add(Path::new(file));
        }
    }
    let mut host = emulated_host::machine::EmulatedHost::new(emulated_host::host_files());
    host.icount = true;
    host.timeout = Duration::from_secs(900);
    host.environment = emulated_host::environment();
    let mut script = NO_POLLING.to_owned();
    for contender in CONTENDERS {
        for (what, workload) in WORKLOADS {
            for doubled in [false, true] {
                let name = name(contender, what, doubled);
                // The warm-up becomes more, too.
                let count_of_frames = workload.count * if doubled { 2 } else { 1 };
                let workload = Workload {
                    count: count_of_frames,
                    ..workload
                };
                let words = format!("bare.irq=5 {}", workload.words());
                let machine = Machine {
                    guest: "net_irq",
                    tap: TAP,
                    words: &words,
                };
                let command = match contender {
                    "mayfly" => machine.mayfly("mmio"),
                    _ => machine.qemu(PROCESSOR),
                };
                let run = format!("{} {}", count.display(), shell_words(&command));
                script.push_str(&format!(
                    "echo 'start: {name}'; for run in $(seq {RUNS}); do {run} || exit; done\n"
                ));
            }
        }
    }
    let this = this.to_str().ok_or("this program's path is not UTF-8")?;
    let outcome = host.run(root, &[this, PEER, "sh", "-c", &script])?;
    if outcome.status != 0 {
        return Err(format!("status {} there:\n{}", outcome.status, outcome.output).into());
    }
    let counts = counts_of_each(&outcome.output);
    Ok(counts
        .into_iter()
        .map(|(name, counts)| (name.to_owned(), counts))
        .collect())
}

fn found(program: &str) -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new("sh")
        .args([
            "-c",
            "PATH=$PATH:/usr/sbin:/sbin command -v \"$0\"",
            program,
        ])
        .stdin(Stdio::null())
        .output()?;
    let path = String::from_utf8(output.stdout)?;
    if path.trim().is_empty() {
        return Err(format!("there is no {program}").into());
    }
    Ok(path.trim().into())
}
