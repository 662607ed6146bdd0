//! Raw mode on a pseudo-terminal, and every way out of a process that has one in it.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::*;
use crate::terminal::signal_stack;

/// The environment variable that makes a child of [`every_way_out_restores`] take one.
const WAY_OUT: &str = "MAYFLY_TEST_WAY_OUT";

fn pty() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (master, slave)
}

fn is_raw(terminal: impl AsFd) -> bool {
    !tcgetattr(terminal)
        .unwrap()
        .local_modes
        .contains(LocalModes::ICANON)
}

#[test]
fn what_is_no_terminal_is_left_alone() {
    let null = File::open("/dev/null").unwrap();
    assert!(RawMode::enter(&null).unwrap().is_none());
}

#[test]
fn raw_mode_changes_input_only() {
    let (_master, slave) = pty();
    let cooked = tcgetattr(&slave).unwrap();
    let raw = raw(&cooked);
    assert_eq!(raw.output_modes, cooked.output_modes);
    assert_eq!(raw.control_modes, cooked.control_modes);
    assert!(
        !raw.local_modes
            .intersects(LocalModes::ISIG | LocalModes::ECHO)
    );
    assert!(!raw.input_modes.contains(InputModes::ICRNL));
}

/// Each way out, the child's exit code or signal. The processes are this very
/// test, run again with [`WAY_OUT`] set.
#[test]
fn every_way_out_restores() {
    if let Ok(way) = std::env::var(WAY_OUT) {
        leave(&way);
    }
    for (way, code, signal) in [
        ("drop", Some(3), None),
        ("resume", Some(3), None),
        ("panic", Some(4), None),
        ("exit", Some(5), None),
        ("abort", None, Some(libc::SIGABRT)),
        ("fault", None, Some(libc::SIGSEGV)),
        ("sent-fault", None, Some(libc::SIGSEGV)),
        ("overflow", None, Some(libc::SIGABRT)),
        ("overflow-on-ours", None, Some(libc::SIGABRT)),
        ("term", None, Some(libc::SIGTERM)),
        ("usr1", None, Some(libc::SIGUSR1)),
    ] {
        let (_master, slave) = pty();
        let before = tcgetattr(&slave).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "terminal::raw::tests::every_way_out_restores"])
            .args(["--nocapture", "--test-threads=1"])
            .env(WAY_OUT, way)
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let status = child.wait().unwrap();
        assert!(said.contains("terminal is raw"), "{way}: {said}");
        assert_eq!((status.code(), status.signal()), (code, signal), "{way}");
        let after = tcgetattr(&slave).unwrap();
        assert_eq!(after.local_modes, before.local_modes, "{way}");
        assert_eq!(after.input_modes, before.input_modes, "{way}");
    }
}

/// The child: enters raw mode and goes.
fn leave(way: &str) -> ! {
    let stdin = std::io::stdin();
    let mut guard = RawMode::enter(&stdin).unwrap().unwrap();
    assert!(is_raw(&stdin));
    println!("terminal is raw");
    match way {
        "drop" => drop(guard),
        "resume" => {
            last_resort::restore();
            assert!(!is_raw(&stdin));
            guard.resume().unwrap();
            assert!(is_raw(&stdin));
            drop(guard);
        }
        "panic" => {
            std::mem::forget(guard);
            let _ = std::panic::catch_unwind(|| panic!("on purpose"));
            assert!(!is_raw(&stdin));
            std::process::exit(4);
        }
        "exit" => {
            std::mem::forget(guard);
            std::process::exit(5);
        }
        "abort" => std::process::abort(),
        "fault" => {
            // SAFETY: none; the fault is what this is about.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
        }
        "overflow" => {
            println!("{}", overflow(&[1; 1000]));
        }
        "overflow-on-ours" => {
            signal_stack::remove();
            let _stack = last_resort::guard_thread().unwrap();
            println!("{}", overflow(&[1; 1000]));
        }
        other => {
            let signal = match other {
                "sent-fault" => libc::SIGSEGV,
                "term" => libc::SIGTERM,
                _ => libc::SIGUSR1,
            };
            // SAFETY: raise takes any signal number.
            unsafe { libc::raise(signal) };
        }
    }
    // `exit` would restore the terminal once more.
    // SAFETY: nothing is left to be flushed or dropped.
    unsafe { libc::_exit(3) }
}

/// Eats the stack until Rust's guard page ends the process.
#[allow(unconditional_recursion)]
fn overflow(eaten: &[u8; 1000]) -> u64 {
    let mut more = *eaten;
    more[999] = std::hint::black_box(1);
    overflow(std::hint::black_box(&more)) + u64::from(more[0])
}
