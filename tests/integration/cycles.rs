//! Machines that start and end one after the other in one process: nothing of them may
//! stay, and whoever ends them, and when, nobody may wait for ever.
//!
//! What a process holds can only be counted in one that does nothing else, so the test
//! starts this program again for it.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mayfly::config::{CmdlineConfig, CmdlineMode, SerialConfig, VmConfig};
use mayfly::console::Console;
use mayfly::vm::builder::{self, Inputs};
use mayfly::vm::exit::ExitReason;
use mayfly::vm::hardware::Hardware;
use mayfly::vm::running::RunningVm;

use crate::common::process::Holdings;
use crate::common::run::{LIMIT, wait_limited};
use crate::common::{self, HostKind, host_kind};

/// Tells this program that it is the one that does nothing else, and how often.
const CYCLES: &str = "MAYFLY_TEST_CYCLES";
const VCPUS: usize = 4;
/// From this cycle on nothing may grow any more.
const SETTLED: usize = 50;
/// What the heap may still do after that, in KiB.
const HEAP_KIB: u64 = 384;

#[test]
fn starts_and_ends_leave_nothing_behind() {
    if let Ok(cycles) = std::env::var(CYCLES) {
        return run_cycles(cycles.parse().expect("a number of cycles"));
    }
    // What a vCPU costs where it is interpreted leaves room for a part of them only.
    let cycles = match host_kind() {
        HostKind::Hardware => "500",
        HostKind::Pvm => "100",
    };
    let program = std::env::current_exe().expect("this program's path");
    let mut child = Command::new(program)
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("cycles::starts_and_ends_leave_nothing_behind")
        .env(CYCLES, cycles)
        .stdin(Stdio::null())
        .spawn()
        .expect("start this program");
    let status = wait_limited(&mut child, LIMIT).expect("no cycle hangs");
    assert!(status.success(), "{status}");
}

fn run_cycles(cycles: usize) {
    // The guests are there, and the host is known, before anything is counted.
    let config = config();
    let started = Instant::now();
    let mut settled = None;
    for cycle in 0..cycles {
        cycle_once(&config, cycle);
        if cycle == SETTLED {
            settled = Some(Holdings::of(std::process::id()));
        }
    }
    let settled = settled.expect("more cycles than it takes to settle");
    let last = Holdings::of(std::process::id());
    println!(
        "{cycles} cycles in {:?}: {settled:?}, then {last:?}",
        started.elapsed()
    );
    let held = |holdings: &Holdings| (holdings.descriptors, holdings.threads, holdings.children);
    assert_eq!(held(&settled), held(&last));
    assert!(
        last.resident_kib <= settled.resident_kib + HEAP_KIB,
        "{settled:?}, then {last:?}"
    );
}

fn config() -> VmConfig {
    let mut config = VmConfig::new(common::bare("smp"));
    config.serial = SerialConfig::Null;
    config.cpus = VCPUS.to_string().parse().expect("a number of vCPUs");
    config.cmdline = CmdlineConfig {
        mode: CmdlineMode::Replace,
        text: format!("bare.cpus={VCPUS}"),
    };
    config
}

/// One machine, which is ended in one of the ways there are.
fn cycle_once(config: &VmConfig, cycle: usize) {
    let mut inputs = Inputs::open(config).expect("this test needs /dev/kvm");
    let console = Console::open(&config.serial).expect("no console");
    let hardware = Hardware::new(config, &mut inputs, console, Instant::now()).expect("hardware");
    let built = builder::build(config, &inputs, &hardware).expect("a machine");
    let lifecycle = built.panel.lifecycle.clone();
    let vm = RunningVm::start(built).expect("threads");
    // A moment of another length each time.
    thread::sleep(Duration::from_micros(cycle as u64 * 37 % 1000));
    let quit = || lifecycle.end(ExitReason::UserQuit);
    let own_end = match cycle % 10 {
        // By the guest itself, on whichever vCPU that is.
        0 => true,
        // In a pause.
        1..=3 => {
            if vm.pause() {
                assert_eq!(vcpu_threads(), expected_threads());
                quit();
                vm.resume();
            }
            false
        }
        // While it is being paused, or is about to go on.
        4..=6 => {
            thread::scope(|scope| {
                let ending = scope.spawn(quit);
                while vm.pause() {
                    vm.resume();
                }
                ending.join().expect("the thread that ends it")
            });
            false
        }
        // At once.
        _ => {
            quit();
            false
        }
    };
    let deadline = Instant::now() + LIMIT;
    while lifecycle.reason().is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_micros(200));
    }
    let reason = vm.finish().reason;
    hardware.finish();
    // A guest may be faster than whoever wants to end it.
    let expected = reason == ExitReason::Reset || (!own_end && reason == ExitReason::UserQuit);
    assert!(expected, "cycle {cycle}: {reason:?}");
}

/// The names of this process's vCPU threads.
fn vcpu_threads() -> BTreeSet<String> {
    let threads = fs::read_dir("/proc/self/task").expect("the threads");
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .filter(|name| name.starts_with("vcpu"))
        .collect()
}

fn expected_threads() -> BTreeSet<String> {
    (0..VCPUS).map(|id| format!("vcpu{id}")).collect()
}
