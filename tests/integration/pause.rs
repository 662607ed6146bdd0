//! Pausing and resuming a running guest. There is no command for it yet, so
//! this one drives the library.

use std::thread;
use std::time::{Duration, Instant};

use mayfly::config::{CmdlineConfig, CmdlineMode, SerialConfig, VmConfig};
use mayfly::vm::builder::{self, Inputs};
use mayfly::vm::exit::ExitReason;
use mayfly::vm::running::RunningVm;

use crate::common;

/// Lines the guest prints; far more than it can print during the pauses.
const LINES: usize = 12_000;
const PAUSES: usize = 1000;

#[test]
fn a_thousand_pauses_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("serial.log");
    let mut config = VmConfig::new(common::bare("pause_load"));
    config.serial = SerialConfig::File(log.clone());
    config.cmdline = CmdlineConfig {
        mode: CmdlineMode::Replace,
        text: format!("bare.lines={LINES}"),
    };
    let inputs = Inputs::open(&config).expect("this test needs /dev/kvm");
    let built = builder::build(&config, inputs, Instant::now()).unwrap();
    let lifecycle = built.machine.lifecycle.clone();
    let vm = RunningVm::start(built).unwrap();
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
    assert_eq!(lifecycle.reason(), None, "the guest outlasts the pauses");
    let deadline = Instant::now() + Duration::from_secs(120);
    while lifecycle.reason().is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let ended = vm.finish();
    assert_eq!(ended.reason, ExitReason::Reset);
    assert_eq!(stood_still, 10, "a paused guest prints nothing");
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("line ")).collect();
    let expected: Vec<String> = (0..LINES).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected);
}
