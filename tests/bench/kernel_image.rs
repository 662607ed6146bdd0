//! How long a kernel takes to its first instruction, by what it is packed in.
//!
//! The same kernel is started in turn as a vmlinux, as a compressed image whose
//! payload Mayfly has unpacked before, where it was linked for and at a random address
//! (if it has relocation data), and as an image that Mayfly has never seen.
//! `cargo bench --bench kernel_image` does so with the tiny guest, with Debian's generic
//! kernel if it is run by root, who alone can install it, and with each
//! vmlinuz named behind `--`; a number there is the number of rounds:
//! `cargo bench --bench kernel_image -- 50 /boot/vmlinuz`. docs/decisions.md has
//! the results. It fails if a random address costs more than it may.

#[path = "../integration/common/built.rs"]
mod built;
#[path = "../integration/common/tiny.rs"]
#[allow(dead_code, reason = "shared with the integration tests")]
mod tiny;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mayfly::boot::{BootOptions, Kaslr, Kernel, PayloadCache, load};
use mayfly::memory::GuestRam;
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

/// Rounds of all variants, unless the command line gives another number.
const ROUNDS: usize = 30;
/// What a random address may add to the loading of any kernel, in milliseconds of
/// processor time.
const KASLR_LIMIT: f64 = 5.0;
/// The guest is stopped this long after its start: nobody waits for its end.
const GUEST: Duration = Duration::from_millis(10);
/// Pause before each start, in which the host finishes what the last machine
/// left behind. Longer than it takes until the cache trusts a file's times.
const SETTLE: Duration = Duration::from_millis(150);

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo passes `--bench`, which says nothing new.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let rounds = arguments
        .iter()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(ROUNDS)
        .max(1);
    println!("{rounds} rounds; ms: min / median / max");
    println!(
        "{:30}{:>28}{:>28}",
        "", "to the first instruction", "of the process"
    );
    compare(&tiny::tiny("bzImage"), Some(&tiny::tiny("vmlinux")), rounds)?;
    // The kernel with the most relocations: it has drivers for every machine.
    if rustix::process::geteuid().is_root() {
        let kernels = built::built_by("debian/root.sh --all-kernels");
        compare(&kernels.join("generic/vmlinuz"), None, rounds)?;
    } else {
        println!("without Debian's generic kernel, which only root can install");
    }
    for path in arguments
        .iter()
        .filter(|path| path.parse::<usize>().is_err())
    {
        compare(Path::new(path), None, rounds)?;
    }
    Ok(())
}

/// Measures one kernel and prints its lines. Without a `vmlinux` the one that
/// Mayfly unpacks from `packed` is taken.
fn compare(packed: &Path, vmlinux: Option<&Path>, rounds: usize) -> Result<(), Box<dyn Error>> {
    let files = Files::lay_out(packed, vmlinux)?;
    let mut variants = [
        ("vmlinux", Times::default()),
        ("packed, unpacked earlier", Times::default()),
        ("the same, KASLR", Times::default()),
        ("packed, unpacked now", Times::default()),
    ];
    for _ in 0..rounds {
        let cold = tempfile::tempdir_in(files.dir.path())?;
        let runs = [
            (&files.vmlinux, files.warm_cache(), "off"),
            (&files.packed, files.warm_cache(), "off"),
            (&files.packed, files.warm_cache(), "auto"),
            (&files.packed, cold.path().to_owned(), "off"),
        ];
        for ((kernel, cache, kaslr), (_, times)) in runs.into_iter().zip(&mut variants) {
            thread::sleep(SETTLE);
            start(kernel, &cache, kaslr, times)?;
        }
    }
    println!("{}", packed.display());
    let medians = variants.map(|(name, times)| times.print(name));
    println!(
        "  earlier / vmlinux: {:.3} to the first instruction, {:.3} of the process",
        medians[1].0 / medians[0].0,
        medians[1].1 / medians[0].1
    );
    let least = loading(
        &files.packed,
        &PayloadCache::at(&files.warm_cache()),
        rounds,
    )?;
    println!(
        "  loading it: {:.2} ms of processor time at least, {:.2} with KASLR",
        least[0], least[1]
    );
    let cost = least[1] - least[0];
    if cost > KASLR_LIMIT {
        let file = packed.display();
        let told = format!("KASLR costs {cost:.2} ms for {file}, more than {KASLR_LIMIT}");
        return Err(told.into());
    }
    Ok(())
}

/// Everything that is read, in one directory, and so on one file system.
struct Files {
    dir: TempDir,
    packed: PathBuf,
    vmlinux: PathBuf,
}

impl Files {
    fn lay_out(packed: &Path, vmlinux: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let files = Self {
            packed: dir.path().join("vmlinuz"),
            vmlinux: dir.path().join("vmlinux"),
            dir,
        };
        fs::copy(packed, &files.packed)?;
        // One run unpacks; after the next the cache knows the file by its times.
        for _ in 0..2 {
            thread::sleep(SETTLE);
            start(
                &files.packed,
                &files.warm_cache(),
                "off",
                &mut Times::default(),
            )?;
        }
        let unpacked = files.unpacked()?;
        fs::copy(vmlinux.unwrap_or(&unpacked), &files.vmlinux)?;
        start(
            &files.vmlinux,
            &files.warm_cache(),
            "off",
            &mut Times::default(),
        )?;
        Ok(files)
    }

    fn warm_cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// The kernel in the warm cache.
    fn unpacked(&self) -> io::Result<PathBuf> {
        let payloads = self.warm_cache().join("payloads");
        for entry in fs::read_dir(payloads)? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "kernel") {
                return Ok(path);
            }
        }
        Err(io::Error::other(
            "the kernel is not one that Mayfly unpacks",
        ))
    }
}

/// What each start of a variant took, in milliseconds.
#[derive(Default)]
struct Times {
    /// From the program's start to the guest's, by its own clock.
    first_instruction: Vec<f64>,
    /// From before the process to after it, less the guest's time.
    process: Vec<f64>,
}

impl Times {
    /// Prints a variant's line and returns its medians.
    fn print(self, name: &str) -> (f64, f64) {
        print!("  {name:28}");
        let medians = [self.first_instruction, self.process].map(|mut times| {
            times.sort_unstable_by(f64::total_cmp);
            let (min, median, max) = (times[0], times[times.len() / 2], times[times.len() - 1]);
            print!("{min:12.2} /{median:6.2} /{max:6.2}");
            median
        });
        println!();
        (medians[0], medians[1])
    }
}

/// The least processor time, in milliseconds, in which a kernel gets into guest memory:
/// to where it was linked for, and to a random address. What else a host does cannot
/// disturb that as it does the clock.
fn loading(kernel: &Path, cache: &PayloadCache, rounds: usize) -> Result<[f64; 2], Box<dyn Error>> {
    let kernel = Kernel::open(kernel, cache)?;
    let mut least = [f64::INFINITY; 2];
    for _ in 0..rounds {
        for (kaslr, least) in [Kaslr::Off, Kaslr::Auto].into_iter().zip(&mut least) {
            let ram = GuestRam::new(256 << 20)?;
            let options = BootOptions {
                kaslr,
                ..BootOptions::default()
            };
            let begin = processor_time();
            load(&kernel, None, "quiet", &ram, options)?;
            *least = least.min(processor_time() - begin);
        }
    }
    Ok(least)
}

/// What this thread has used, in milliseconds.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// Starts `kernel` once and notes what it took.
fn start(
    kernel: &Path,
    cache: &Path,
    kaslr: &str,
    times: &mut Times,
) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_mayfly"))
        .env("MAYFLY_CACHE", cache)
        .args(["run", "--json", "--serial", "null", "--timeout"])
        .arg(format!("{}ms", GUEST.as_millis()))
        .arg(format!("--kaslr={kaslr}"))
        .arg("--kernel")
        .arg(kernel)
        .stdin(Stdio::null())
        .output()?;
    let process = begin.elapsed().saturating_sub(GUEST);
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(line)?;
    let first = report["ms"]["first_instruction"]
        .as_f64()
        .ok_or_else(|| format!("the guest did not start: {line}"))?;
    times.first_instruction.push(first);
    times.process.push(process.as_secs_f64() * 1e3);
    Ok(())
}
