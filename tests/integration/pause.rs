//! Pausing and resuming a running guest. There is no command for it yet, so
//! this one drives the library.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mayfly::config::{CmdlineConfig, CmdlineMode, CpusConfig, SerialConfig, VmConfig};
use mayfly::console::Console;
use mayfly::vm::builder::{self, Inputs};
use mayfly::vm::exit::ExitReason;
use mayfly::vm::hardware::Hardware;
use mayfly::vm::lifecycle::Lifecycle;
use mayfly::vm::running::RunningVm;

use crate::common::{self, HostKind, is_emulated};

/// Lines the guest prints; far more than it can print during the pauses, which is about a
/// hundred on the emulated host.
fn lines_to_print() -> usize {
    match is_emulated() {
        true => 1_500,
        false => 12_000,
    }
}

const PAUSES: usize = 1000;

/// Starts the bare guest `name` on `cpus` processors, with `log` for its serial output.
pub fn start(
    name: &str,
    cpus: u32,
    cmdline: String,
    log: &Path,
) -> (RunningVm, Arc<Lifecycle>, Hardware) {
    let mut config = VmConfig::new(common::bare(name));
    config.cpus = CpusConfig::new(cpus);
    config.serial = SerialConfig::File(log.to_owned());
    config.cmdline = CmdlineConfig {
        mode: CmdlineMode::Replace,
        text: cmdline,
    };
    let mut inputs = Inputs::open(&config).expect("this test needs /dev/kvm");
    let console = Console::open(&config.serial).unwrap();
    let hardware = Hardware::new(&config, &mut inputs, console, Instant::now()).unwrap();
    let built = builder::build(&config, &inputs, &hardware).unwrap();
    let lifecycle = built.machine.lifecycle.clone();
    let vm = RunningVm::start(built).unwrap();
    hardware.start_writer().unwrap();
    (vm, lifecycle, hardware)
}

/// Waits, for two minutes at most, until the VM has ended.
pub fn wait_for_end(lifecycle: &Lifecycle) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while lifecycle.reason().is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
}

/// On a kvm-pvm host a SYSCALL is completed by Mayfly, in two steps between
/// which a pause may come; so may one between a page fault and its delivery.
#[test]
fn pauses_do_not_disturb_system_calls() {
    let rounds = match common::host_kind() {
        HostKind::Pvm => 60_000,
        HostKind::Hardware => 2_000_000,
    };
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("serial.log");
    let words = format!("bare.rounds={rounds}");
    let (vm, lifecycle, hardware) = start("syscall_forgery", 1, words, &log);
    let mut pauses = 0;
    while pauses < PAUSES && lifecycle.reason().is_none() {
        vm.pause();
        vm.resume();
        pauses += 1;
        thread::sleep(Duration::from_micros(200));
    }
    wait_for_end(&lifecycle);
    let ended = vm.finish();
    hardware.finish();
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        ended.reason,
        ExitReason::Reset,
        "after {pauses} pauses:\n{text}"
    );
    assert!(
        pauses >= PAUSES / 10,
        "only {pauses} pauses met a running guest"
    );
}

#[test]
fn a_thousand_pauses_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("serial.log");
    let all = lines_to_print();
    let (vm, lifecycle, hardware) = start("pause_load", 1, format!("bare.lines={all}"), &log);
    let mut stood_still = 0;
    for pause in 0..PAUSES {
        vm.pause();
        if pause % 100 == 0 {
            // What the writer thread still had is out by now; the guest adds nothing.
            thread::sleep(Duration::from_millis(20));
            let before = std::fs::metadata(&log).unwrap().len();
            thread::sleep(Duration::from_millis(20));
            stood_still += u32::from(std::fs::metadata(&log).unwrap().len() == before);
        }
        vm.resume();
        thread::sleep(Duration::from_micros(100));
    }
    let printed = std::fs::read_to_string(&log).unwrap().lines().count();
    println!("{printed} lines during the pauses");
    assert_eq!(lifecycle.reason(), None, "the guest outlasts the pauses");
    wait_for_end(&lifecycle);
    let ended = vm.finish();
    hardware.finish();
    assert_eq!(ended.reason, ExitReason::Reset);
    assert_eq!(stood_still, 10, "a paused guest prints nothing");
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("line ")).collect();
    let expected: Vec<String> = (0..all).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected);
}
