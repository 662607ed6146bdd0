//! Instructions a disk request, of all that runs on the emulated host: guest, VMM
//! and host kernel, under Mayfly and under QEMU.
//!
//! A bare guest reads 4 KiB blocks at random, halted between interrupts, by
//! virtio-mmio from a file in the host's page cache; QEMU's disk has an iothread and
//! io_uring. A run of N requests is taken from a run of 2N, so that start and end
//! do not count.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::machines::{Machine, Workload};
use super::{FIRMWARE, NO_POLLING, counts_of_each, emulated_host, shell_words};

/// N.
const REQUESTS: u64 = 1000;
/// Runs of each, of which the least counts.
const RUNS: usize = 3;
/// The disk, on the emulated host's ext4.
const IMAGE: &str = "/root/disk.raw";
/// QEMU's processor, without what SVM emulated by QEMU cannot give.
const PROCESSOR: &str = "host";

/// Who serves the requests.
const CONTENDERS: [&str; 3] = ["mayfly", "QEMU", "QEMU, poll-max-ns=0"];
const DEPTHS: [u64; 2] = [1, 32];

/// Prints what was counted; true if Mayfly takes no more than QEMU.
///
/// # Errors
/// If something could not be run, or not be counted.
pub fn judge() -> Result<bool, Box<dyn Error>> {
    let counts = count()?;
    let mut kept = true;
    println!("instructions a 4 KiB read by interrupts, virtio-mmio, the whole stack");
    for write in [false, true] {
        for depth in DEPTHS {
            let what = if write { "write" } else { "read" };
            let of = |contender: &str| {
                let least = |doubled| {
                    let name = name(contender, depth, write, doubled);
                    let counts = counts.get(&name).filter(|counts| counts.len() == RUNS);
                    let least = counts.and_then(|counts| counts.iter().min().copied());
                    least.ok_or_else(|| format!("not all runs of '{name}' were counted"))
                };
                let more = least(true)?.saturating_sub(least(false)?);
                // The warm-up is a tenth more.
                Ok::<_, String>(more as f64 / (REQUESTS as f64 * 1.1))
            };
            let mayfly = of("mayfly")?;
            let qemu = of("QEMU")?;
            let quiet = of("QEMU, poll-max-ns=0")?;
            println!(
                "{what:5} depth {depth:2}: mayfly {mayfly:8.0}   QEMU {qemu:8.0}   \
                 without its polling {quiet:8.0}   ratio {:.3}",
                mayfly / qemu.min(quiet)
            );
            kept &= mayfly <= qemu.min(quiet);
        }
    }
    if !kept {
        println!("more instructions a request than QEMU");
    }
    Ok(kept)
}

fn name(contender: &str, depth: u64, write: bool, doubled: bool) -> String {
    let factor = if doubled { 2 } else { 1 };
    let what = if write { "write" } else { "read" };
    format!("{contender} {what} {depth} {factor}N")
}

/// Runs all on one emulated host.
fn count() -> Result<BTreeMap<String, Vec<u64>>, Box<dyn Error>> {
    let count = emulated_host::compile("count.c");
    let mut root = emulated_host::mayfly_root();
    root.add_program(&count);
    root.add_program(&qemu_program()?);
    for file in FIRMWARE {
        root.add(Path::new(file));
    }
    let mut host = emulated_host::machine::EmulatedHost::new(emulated_host::host_files());
    host.icount = true;
    host.timeout = Duration::from_secs(600);
    host.environment = emulated_host::environment();
    let mut script = NO_POLLING.to_owned();
    script.push_str(&format!(
        "dd if=/dev/zero of={IMAGE} bs=1M count=16 2>/dev/null || exit\n"
    ));
    for contender in CONTENDERS {
        for (depth, write, doubled) in runs() {
            let name = name(contender, depth, write, doubled);
            let mut workload = Workload::new(4096, depth, write, true, REQUESTS);
            if doubled {
                workload.count *= 2;
            }
            let words = format!("bare.irq=5 {}", workload.words());
            let run = format!(
                "{} {}",
                count.display(),
                shell_words(&command(contender, &words))
            );
            script.push_str(&format!(
                "echo 'start: {name}'; for run in $(seq {RUNS}); do {run} || exit; done\n"
            ));
        }
    }
    let outcome = host.run(root, &["sh", "-c", &script])?;
    if outcome.status != 0 {
        return Err(format!("status {} there:\n{}", outcome.status, outcome.output).into());
    }
    let counts = counts_of_each(&outcome.output);
    Ok(counts
        .into_iter()
        .map(|(name, counts)| (name.to_owned(), counts))
        .collect())
}

/// Depth, whether it writes, whether twice as often.
fn runs() -> impl Iterator<Item = (u64, bool, bool)> {
    DEPTHS.into_iter().flat_map(|depth| {
        [false, true]
            .into_iter()
            .flat_map(move |write| [false, true].map(|doubled| (depth, write, doubled)))
    })
}

fn command(contender: &str, words: &str) -> Command {
    let machine = Machine {
        guest: "blk_irq",
        image: Path::new(IMAGE),
        direct: false,
        words,
    };
    match contender {
        "mayfly" => machine.mayfly("io_uring", "mmio"),
        "QEMU" => machine.qemu(PROCESSOR, ""),
        _ => machine.qemu(PROCESSOR, ",poll-max-ns=0"),
    }
}

fn qemu_program() -> Result<std::path::PathBuf, Box<dyn Error>> {
    let output = Command::new("sh")
        .args(["-c", "command -v qemu-system-x86_64"])
        .stdin(Stdio::null())
        .output()?;
    let path = String::from_utf8(output.stdout)?;
    Ok(path.trim().into())
}
