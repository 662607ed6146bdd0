//! Machines that start and end one after the other in one process: nothing of them may
//! stay, and whoever ends them, and when, nobody may wait for ever.
//!
//! What a process holds can only be counted in one that does nothing else, so the test
//! starts this program again for it.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
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
use crate::common::{self, is_emulated};

/// Tells this program that it is the one that does nothing else, and how often.
const CYCLES: &str = "MAYFLY_TEST_CYCLES";
const VCPUS: usize = 4;
/// From this cycle on nothing may grow any more.
const SETTLED: usize = 50;
/// What the heap may still do after that, in KiB: less than a page a cycle. It has been seen to
/// do 16.
const HEAP_KIB: u64 = 128;
/// Mappings that the heap may still make: parts of the arenas of its threads.
const MAPPINGS: usize = 4;

#[test]
fn starts_and_ends_leave_nothing_behind() {
    if let Ok(cycles) = std::env::var(CYCLES) {
        return run_cycles(cycles.parse().expect("a number of cycles"));
    }
    let cycles = if is_emulated() { "100" } else { "500" };
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
    let mut met = [Met::default(); WAYS.len()];
    for cycle in 0..cycles {
        let index = cycle % WAYS.len();
        met[index].add(cycle_once(&config, cycle, WAYS[index]));
        if cycle == SETTLED {
            settled = Some(Holdings::of(std::process::id()));
        }
    }
    let settled = settled.expect("more cycles than it takes to settle");
    let last = Holdings::of(std::process::id());
    println!(
        "{cycles} cycles in {:?}: {settled:?}, then {last:?}; {met:?}",
        started.elapsed()
    );
    for (way, met) in WAYS.into_iter().zip(met) {
        let paused = matches!(way, Way::InPause | Way::Racing);
        let quit = way != Way::Itself;
        // A guest may be the faster one, but not always.
        assert!(!paused || met.paused * 4 >= met.cycles, "{way:?}: {met:?}");
        assert!(!quit || met.quit * 4 >= met.cycles, "{way:?}: {met:?}");
    }
    let held = |holdings: &Holdings| (holdings.descriptors, holdings.threads, holdings.children);
    assert_eq!(held(&settled), held(&last));
    assert!(
        last.mappings <= settled.mappings + MAPPINGS,
        "{settled:?}, then {last:?}"
    );
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

/// Who ends a machine, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The guest itself, on whichever vCPU that is.
    Itself,
    InPause,
    /// While it is being paused, or is about to go on.
    Racing,
    AtOnce,
}

/// The ways that the cycles take in turn.
const WAYS: [Way; 10] = [
    Way::Itself,
    Way::InPause,
    Way::InPause,
    Way::InPause,
    Way::Racing,
    Way::Racing,
    Way::Racing,
    Way::AtOnce,
    Way::AtOnce,
    Way::AtOnce,
];

/// How many cycles of a way met what they are for, and not a guest that had ended.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    cycles: usize,
    /// A pause of a running guest.
    paused: usize,
    /// An end that was not the guest's own.
    quit: usize,
}

impl Met {
    fn add(&mut self, other: Self) {
        self.cycles += other.cycles;
        self.paused += other.paused;
        self.quit += other.quit;
    }
}

/// One machine, which is ended this way.
fn cycle_once(config: &VmConfig, cycle: usize, way: Way) -> Met {
    let mut inputs = Inputs::open(config).expect("this test needs /dev/kvm");
    let console = Console::open(&config.serial).expect("no console");
    let hardware = Hardware::new(config, &mut inputs, console, Instant::now()).expect("hardware");
    let built = builder::build(config, &inputs, &hardware).expect("a machine");
    let lifecycle = built.panel.lifecycle.clone();
    let vm = RunningVm::start(built).expect("threads");
    // A moment of another length each time.
    thread::sleep(Duration::from_micros(cycle as u64 * 37 % 1000));
    let quit = || lifecycle.end(ExitReason::UserQuit);
    let mut paused = false;
    let racing = AtomicBool::new(false);
    match way {
        Way::Itself => {}
        Way::InPause => {
            if vm.pause() {
                paused = true;
                assert_eq!(vcpu_threads(), expected_threads());
                quit();
                vm.resume();
            }
        }
        Way::Racing => thread::scope(|scope| {
            let ending = scope.spawn(|| {
                // Who ended it before the first pause would have raced with none.
                while !racing.load(Ordering::Relaxed) && lifecycle.reason().is_none() {
                    thread::yield_now();
                }
                // At another moment of it each time.
                let moment = Instant::now() + Duration::from_micros(cycle as u64 * 37 % 300);
                while Instant::now() < moment {
                    std::hint::spin_loop();
                }
                quit()
            });
            while vm.pause() {
                racing.store(true, Ordering::Relaxed);
                paused = true;
                vm.resume();
            }
            ending.join().expect("the thread that ends it");
        }),
        Way::AtOnce => {
            quit();
        }
    }
    let deadline = Instant::now() + LIMIT;
    while lifecycle.reason().is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_micros(200));
    }
    let reason = vm.finish().reason;
    hardware.finish();
    // A guest may be faster than whoever wants to end it.
    let quit = way != Way::Itself && reason == ExitReason::UserQuit;
    assert!(
        quit || reason == ExitReason::Reset,
        "cycle {cycle}: {reason:?}"
    );
    Met {
        cycles: 1,
        paused: paused.into(),
        quit: quit.into(),
    }
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
