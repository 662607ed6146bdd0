//! A real Linux: the tiny guest, to its userspace and back.
//!
//! A boot costs seconds of processor time on a kvm-pvm host, so each test asks
//! for several things at once, and one boots at a time.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::run::{LIMIT, wait_limited};
use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{HostKind, Mayfly, Outcome, host_kind};

/// The tiny guest by files, with its usual initramfs.
fn boot(kernel: &str, commands: &str) -> Mayfly {
    Mayfly::run(&tiny(kernel))
        .arg("--initrd")
        .arg(tiny("init.cpio"))
        .args(["--cmdline", commands])
}

/// What must hold for the fallback emulator on this kind of host.
#[track_caller]
fn emulator_did_what_the_host_needs(outcome: &Outcome) {
    let json = outcome.json();
    let emulated = json["emulated"].as_object().expect("a map").len();
    let planted = json["hooks_planted"].as_u64().expect("a number");
    match host_kind() {
        HostKind::Hardware => assert_eq!((emulated, planted), (0, 0), "{outcome}"),
        HostKind::Pvm => assert!(emulated > 0 && planted > 0, "{outcome}"),
    }
}

/// Linux prefers the TSC itself where it is told that it can be relied on.
#[track_caller]
fn keeps_time_without_exits(outcome: &Outcome) {
    let clock = fact(outcome, "clocksource");
    assert!(["kvm-clock", "tsc"].contains(&clock.as_str()), "{outcome}");
}

/// What each boot shows, whatever else it is for.
#[track_caller]
fn is_like_any_other(outcome: &Outcome, cpus: &str) {
    assert_eq!(fact(outcome, "cpus"), cpus, "{outcome}");
    keeps_time_without_exits(outcome);
    emulator_did_what_the_host_needs(outcome);
}

/// The words `name=VALUE` of the guest's line of facts.
#[track_caller]
fn fact(outcome: &Outcome, name: &str) -> String {
    let guest = outcome.guest();
    let start = format!("{name}=");
    let word = guest
        .lines()
        .filter(|line| line.starts_with("mayfly-guest: "))
        .flat_map(str::split_whitespace)
        .find_map(|word| word.strip_prefix(&start));
    word.unwrap_or_else(|| panic!("no fact '{name}': {outcome}"))
        .to_string()
}

/// Reads what is there only if a driver has found its device in the ACPI tables.
const BOUND: &str = "mayfly.show=/sys/bus/platform/drivers/pvpanic-mmio/QEMU0001:00/capability \
                     mayfly.show=/sys/bus/platform/drivers/vmgenid/MAYF0001:00/modalias";

#[test]
fn default_guest_uses_two_processors_and_heeds_its_power_button() {
    let _turn = turn_to_boot();
    tiny("vmlinux");
    let before = seconds_now();
    let mut running = Mayfly::new(["run", "--json", "--cpus", "2", "--cmdline"])
        .arg(format!(
            "mayfly.date mayfly.spin=2 {BOUND} mayfly.wait-power-button"
        ))
        .start();
    running.wait_for("mayfly-guest: waiting for the power button");
    let after = seconds_now();
    running.signal(Signal::TERM);
    let outcome = running.outcome();
    outcome
        .ended(0, "power-off")
        .printed("mayfly-guest: power button");
    is_like_any_other(&outcome, "2");
    assert!(!fact(&outcome, "kernel").is_empty(), "{outcome}");

    let epoch: f64 = fact(&outcome, "epoch").parse().expect("a number");
    let now = before - 2.0..=after + 2.0;
    assert!(now.contains(&epoch), "{epoch} is not in {now:?}: {outcome}");

    each_processor_counted(&outcome, 2);
    for line in [
        "QEMU0001:00/capability: 3",
        "modalias: acpi:MAYF0001:VMGENCTR:",
    ] {
        assert!(outcome.guest().contains(line), "no driver: {outcome}");
    }

    let userspace = outcome.json()["ms"]["userspace"].as_f64();
    println!("userspace after {userspace:?} ms");
    assert!(userspace.is_some(), "{outcome}");
}

/// `mayfly.spin` ran a thread on each processor, and none stood still meanwhile.
#[track_caller]
fn each_processor_counted(outcome: &Outcome, cpus: u32) {
    let counts: Vec<u64> = (0..cpus)
        .map(|cpu| {
            let line = outcome.line(&format!("mayfly-guest: cpu {cpu} counted "));
            line.parse().expect("a number")
        })
        .collect();
    let (low, high) = (counts.iter().min(), counts.iter().max());
    // All do the same for the same time; a busy host may starve one of them.
    assert!(
        low.zip(high).is_some_and(|(low, high)| low * 20 > *high),
        "{outcome}"
    );
}

#[test]
fn four_processors_run_a_thread_each_and_power_off() {
    if host_kind() == HostKind::Pvm {
        println!("kernel code of four processors is interpreted for too long here; two have run");
        return;
    }
    let _turn = turn_to_boot();
    let outcome = boot("vmlinux", "mayfly.spin=2")
        .args(["--cpus", "4"])
        .outcome();
    outcome.ended(0, "power-off");
    is_like_any_other(&outcome, "4");
    each_processor_counted(&outcome, 4);
}

#[test]
fn pvh_boots_and_passes_the_exit_status_on() {
    let _turn = turn_to_boot();
    let pvh = |words: &str| boot("vmlinux", words).args(["--boot-protocol", "pvh"]);
    if host_kind() == HostKind::Pvm {
        // What the kernel is given differs, and that it says in its first second; the rest
        // of a boot is that of the others here, and interpreted.
        let outcome = pvh("earlyprintk=ttyS0 given=1")
            .args(["--timeout", "3s"])
            .outcome();
        outcome.ended(242, "timeout");
        for given in [
            "Linux version ",
            " given=1\n",
            "RAMDISK: [mem 0x",
            "ACPI: RSDP 0x",
        ] {
            let said = outcome.guest().contains(given);
            assert!(said, "no '{given}': {outcome}");
        }
        return;
    }
    let outcome = pvh("mayfly.syscalls=100 mayfly.exit=37")
        .args(["--memory", "6G"])
        .outcome();
    outcome.ended(37, "guest-status");
    is_like_any_other(&outcome, "1");
}

#[test]
fn bzimage_starts_cold_and_from_the_cache_until_its_time_is_over() {
    let _turn = turn_to_boot();
    let cache = TempDir::with_prefix("mayfly-cache-").expect("create a temporary directory");
    // As far as the first instruction: what comes after it is the same kernel.
    let hanging = match host_kind() {
        HostKind::Hardware => "5s",
        // The kernel is still starting then: it does not matter which of them ends.
        HostKind::Pvm => "2s",
    };
    for (state, timeout) in [("cold", "1s"), ("cached", hanging)] {
        let outcome = boot("bzImage", "mayfly.hang")
            .args(["--timeout", timeout])
            .env("MAYFLY_CACHE", cache.path())
            .outcome();
        outcome.ended(242, "timeout");
        let first = outcome.json()["ms"]["first_instruction"].as_f64();
        println!("{state}: first instruction after {first:?} ms");
        assert!(first.is_some(), "{outcome}");
    }
}

#[test]
fn echo_passes_through_the_tty_driver_and_a_panic_is_no_clean_reboot() {
    let _turn = turn_to_boot();
    let mut child = boot("bzImage", "mayfly.echo mayfly.write=20000 mayfly.panic")
        .into_command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start mayfly");
    let mut input = child.stdin.take().expect("a pipe");
    input
        .write_all(b"first line\nsecond\nquit\n")
        .expect("type");
    let mut stdout = Vec::new();
    let mut pipe = child.stdout.take().expect("a pipe");
    pipe.read_to_end(&mut stdout).expect("read the output");
    let status = wait_limited(&mut child, LIMIT).expect("mayfly ends");
    let outcome = Outcome {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::new(),
        elapsed: Default::default(),
    };
    outcome
        .ended(240, "kernel-panic")
        .printed("echo: first line")
        .printed("echo: second")
        .printed("Kernel panic - not syncing");
    assert!(
        outcome.stdout.len() > 20_000,
        "what was written is not complete: {outcome}"
    );
    is_like_any_other(&outcome, "1");
}

#[test]
fn boots_in_a_row_are_all_the_same() {
    if host_kind() == HostKind::Pvm {
        println!("a boot costs 12 s of a processor here; the tests beside this one are a row");
        return;
    }
    let _turn = turn_to_boot();
    for round in 0..3 {
        let outcome = boot("vmlinux", "").outcome();
        outcome.ended(0, "power-off");
        println!("boot {round}: {:?}", outcome.elapsed);
        is_like_any_other(&outcome, "1");
    }
}

fn seconds_now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("the time is after 1970").as_secs_f64()
}
