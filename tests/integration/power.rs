//! Signals: the power button, an end at once, and the shell's job control.

use std::fs;
use std::os::unix::process::CommandExt;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::Mayfly;
use crate::common::running::Running;

/// A guest that has enabled the power button and waits for it.
fn at_the_button(arguments: &[&str]) -> Running {
    let mut running = Mayfly::bare("power_button").args(arguments).start();
    running.wait_for("ready");
    running
}

#[test]
fn sigterm_presses_the_power_button() {
    for irqchip in ["split", "kernel"] {
        let running = at_the_button(&["--irqchip", irqchip]);
        running.signal(Signal::TERM);
        let outcome = running.outcome();
        outcome.ended(0, "power-off").printed("pressed");
        assert_eq!(outcome.stderr, "", "{outcome}");
    }
}

#[test]
fn second_sigterm_ends_a_guest_that_does_as_it_likes() {
    let mut running = at_the_button(&["--cmdline", "bare.then=1"]);
    running.signal(Signal::TERM);
    running.wait_for("pressed");
    running.signal(Signal::TERM);
    let outcome = running.outcome();
    outcome.ended(243, "user-quit");
    assert_eq!(outcome.guest().matches("pressed").count(), 1, "{outcome}");
}

#[test]
fn sigterm_ends_a_guest_without_a_power_button_and_says_so() {
    let mut running = Mayfly::bare("spin").start();
    running.wait_for("spinning");
    running.signal(Signal::TERM);
    let outcome = running.outcome();
    outcome.ended(243, "user-quit");
    let line = "mayfly: the guest does not listen to its power button: ending it\n";
    assert_eq!(outcome.stderr, line, "{outcome}");
}

#[test]
fn other_signals_press_no_button() {
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT] {
        let running = at_the_button(&[]);
        running.signal(signal);
        let outcome = running.outcome();
        outcome.ended(243, "user-quit");
        assert!(!outcome.guest().contains("pressed"), "{outcome}");
    }
}

#[test]
fn guest_that_resets_when_it_is_to_power_off_is_not_started_again() {
    let running = at_the_button(&["--reboot", "--cmdline", "bare.then=2"]);
    running.signal(Signal::TERM);
    let outcome = running.outcome();
    outcome.ended(0, "reset").printed("pressed");
    assert_eq!(outcome.json()["reboots"], 0, "{outcome}");
}

/// The state of a process, a letter (proc(5)).
fn state(running: &Running) -> String {
    let stat = fs::read_to_string(format!("/proc/{}/stat", running.id())).expect("its state");
    let (_, after_name) = stat.rsplit_once(')').expect("a name");
    after_name
        .split_whitespace()
        .next()
        .expect("a state")
        .to_owned()
}

#[track_caller]
fn wait_for_state(running: &Running, wanted: fn(&str) -> bool) {
    for _ in 0..2000 {
        if wanted(&state(running)) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("it is in state {}", state(running));
}

#[test]
fn job_control_stops_the_vm_and_lets_it_go_on() {
    let words = "bare.lines=4000";
    let mut running = Mayfly::bare("pause_load")
        .args(["--cmdline", words])
        .start();
    running.wait_for("line 10\n");
    for _ in 0..3 {
        running.signal(Signal::TSTP);
        wait_for_state(&running, |state| state == "T");
        running.signal(Signal::CONT);
        wait_for_state(&running, |state| state != "T");
    }
    let outcome = running.outcome();
    outcome.all_held();
    let lines = outcome
        .guest()
        .lines()
        .filter(|line| line.starts_with("line "))
        .count();
    assert_eq!(lines, 4000, "{outcome}");
}

/// A stopped process ends when it is told to and continued, as any other.
#[test]
fn signals_that_come_while_it_is_stopped_are_not_lost() {
    let mut running = Mayfly::bare("spin").start();
    running.wait_for("spinning");
    running.signal(Signal::TSTP);
    wait_for_state(&running, |state| state == "T");
    running.signal(Signal::INT);
    running.signal(Signal::CONT);
    running.outcome().ended(243, "user-quit");
}

/// Signal masks are inherited through exec; a vCPU must be stopped all the same.
#[test]
fn parent_that_has_blocked_all_signals_keeps_no_vcpu_running() {
    let mut command = Mayfly::bare("spin")
        .args(["--timeout", "200ms"])
        .into_command();
    // SAFETY: both calls are async-signal-safe, and get a set of their own.
    unsafe {
        command.pre_exec(|| {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            Ok(())
        });
    }
    Running::start(command).outcome().ended(242, "timeout");
}

/// How many signals wait is counted over all of a user's processes, and limited.
#[test]
fn user_whose_signals_are_used_up_keeps_no_vcpu_running() {
    let outcome = Mayfly::bare("spin")
        .args(["--timeout", "200ms"])
        .under("bash", ["-c", "ulimit -i 0 && exec \"$@\"", "bash"])
        .outcome();
    outcome.ended(242, "timeout");
}
