//! `--profile`: what the vCPUs did, as folded stacks.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{Mayfly, Outcome, bare};

/// A file for the profile, in a folder of its own.
struct Profile {
    folder: TempDir,
}

impl Profile {
    fn new() -> Self {
        Self {
            folder: TempDir::with_prefix("mayfly-profile-").expect("a temporary directory"),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("out.folded")
    }

    /// Stacks with their counts.
    fn stacks(&self) -> Vec<(String, u64)> {
        let text = fs::read_to_string(self.path()).expect("the profile");
        let line = |line: &str| {
            let (stack, count) = line.rsplit_once(' ').expect("a stack and a count");
            (stack.to_string(), count.parse().expect("a number"))
        };
        text.lines().map(line).collect()
    }

    /// Samples on one vCPU, and those of them whose stack ends so.
    fn on(&self, vcpu: &str, leaf: &str) -> (u64, u64) {
        let stacks = self.stacks();
        let is_of = |stack: &str| stack.split(';').next() == Some(vcpu);
        let here = stacks.iter().filter(|(stack, _)| is_of(stack));
        let hits = here.clone().filter(|(stack, _)| stack.ends_with(leaf));
        let sum = |(_, count): &(String, u64)| *count;
        (here.map(sum).sum(), hits.map(sum).sum())
    }
}

/// The bare guest for a second, which ends at its timeout.
fn run(guest: &str, profile: &Profile, more: &[&str]) -> Outcome {
    let outcome = Mayfly::bare(guest)
        .args(["--timeout", "700ms", "--profile"])
        .arg(profile.path())
        .args(more)
        .outcome();
    outcome.ended(242, "timeout");
    outcome
}

#[track_caller]
fn nearly_all(counts: (u64, u64), outcome: &Outcome) {
    let (all, hits) = counts;
    // 69 in 0.7 s, less what a busy host takes for the start.
    let most = (outcome.elapsed.as_secs_f64() * 99.0) as u64 + 1;
    assert!((20..=most).contains(&all), "{all} samples: {outcome}");
    assert!(hits * 10 >= all * 9, "{hits} of {all} samples: {outcome}");
}

#[test]
fn a_loop_is_found_by_its_name_and_a_vcpu_that_waits_is_said_to() {
    let profile = Profile::new();
    let outcome = run("spin", &profile, &["--cpus", "2"]);
    outcome.printed("spinning");
    nearly_all(profile.on("vcpu0", ";[kernel];main"), &outcome);
    nearly_all(profile.on("vcpu1", ";[not started]"), &outcome);
    // Beside --json the table does not get into stdout.
    let mut lines = outcome.stderr.lines();
    let head = lines.next().unwrap_or_default();
    assert!(head.contains("samples of 2 vCPUs at 99 Hz"), "{outcome}");
    assert!(lines.any(|line| line.ends_with("  main")), "{outcome}");
    assert!(!outcome.stdout.contains("seconds"), "{outcome}");
}

#[test]
fn user_code_and_halts_are_told_apart() {
    let profile = Profile::new();
    let outcome = run("spin_user", &profile, &[]);
    nearly_all(profile.on("vcpu0", "vcpu0;[user]"), &outcome);
    // It waits for what is typed, which is nothing.
    let outcome = run("serial_irq", &profile, &[]);
    nearly_all(profile.on("vcpu0", ";[halted]"), &outcome);
}

#[test]
fn a_linux_shows_who_called_whom() {
    let _turn = turn_to_boot();
    let profile = Profile::new();
    let outcome = Mayfly::run(&tiny("vmlinux"))
        .args(["--timeout", "2s", "--profile"])
        .arg(format!("{},hz=499", profile.path().display()))
        .outcome();
    let stacks = profile.stacks();
    let calls = stacks
        .iter()
        .filter(|(stack, _)| stack.contains(";start_kernel;"));
    let calls: u64 = calls.map(|(_, count)| count).sum();
    assert!(calls > 10, "{stacks:?}: {outcome}");
    assert!(outcome.stderr.contains("at 499 Hz"), "{outcome}");
}

#[test]
fn a_signal_ends_it_with_its_profile() {
    let profile = Profile::new();
    let mut running = Mayfly::bare("spin")
        .arg("--profile")
        .arg(profile.path())
        .start();
    running.wait_for("spinning");
    let id = rustix::process::Pid::from_raw(running.id().cast_signed()).expect("a process");
    // Long enough for a sample.
    std::thread::sleep(std::time::Duration::from_millis(100));
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("a signal");
    let outcome = running.outcome();
    assert!(profile.on("vcpu0", ";main").1 > 0, "{outcome}");
}

/// What `mayfly run --profile` says that cannot start.
#[track_caller]
fn refused(profile: &Path, part: &str) {
    let outcome = Mayfly::bare("hello")
        .arg("--profile")
        .arg(profile)
        .outcome();
    assert_eq!(outcome.code, 245, "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    assert!(outcome.stderr.contains(part), "no '{part}': {outcome}");
}

#[test]
fn a_file_that_cannot_be_written_ends_it_at_once() {
    let folder = TempDir::with_prefix("mayfly-profile-").expect("a temporary directory");
    refused(&folder.path().join("none/out"), "cannot open profile");
    refused(folder.path(), "cannot open profile");
    let kernel = bare("hello");
    let before = fs::read(&kernel).expect("the guest");
    refused(&kernel, "it is the kernel");
    assert!(fs::read(&kernel).expect("the guest") == before);
    // Nothing is left where the VM did not start for another reason.
    let profile = Profile::new();
    let outcome = Mayfly::new(["run", "--kernel", "/dev/null", "--profile"])
        .arg(profile.path())
        .outcome();
    assert_eq!(outcome.code, 245, "{outcome}");
    assert!(!profile.path().exists(), "{outcome}");
}
