//! What a user types: configurations, sizes, durations, serial targets, kernel
//! command lines.
//!
//! Input: what it is to be (8 bits), then its text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use mayfly::boot::{DEFAULT_CMDLINE, UserCmdline, build_cmdline, check_cmdline};
use mayfly::config::{SerialConfig, VmConfig, check_cpus, check_memory, duration, size};
use mayfly::one_line::one_line;

use super::script::Script;

/// Reads the text as what the first byte says.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let kind = script.u8();
    let (extra, rest) = (script.u8(), script.rest());
    if kind.is_multiple_of(6) {
        check_serial(OsStr::from_bytes(rest));
    }
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    match kind % 6 {
        1 => check_config(text),
        2 => check_size(text, extra),
        3 => check_duration(text),
        4 | 5 => check_command_line(text, usize::from(extra) * 16),
        _ => {}
    }
}

/// An error is one line with something in it, and not an endless one.
fn check_line(error: &dyn std::error::Error, given: usize) {
    let line = one_line(error);
    assert!(!line.is_empty() && !line.contains('\n'));
    assert!(line.len() <= 500 + 4 * given, "{} bytes", line.len());
}

fn check_config(text: &str) {
    let Ok(config) = serde_json::from_str::<VmConfig>(text) else {
        return;
    };
    match config.validated() {
        Ok(config) => {
            let cpus = config.cpus;
            assert!(cpus.count() > 0 && config.memory.size() >= 1 << 20);
            let parts = [cpus.sockets(), cpus.cores(), cpus.threads()];
            assert_eq!(parts.iter().product::<u32>(), cpus.count());
            let memory = config.memory.options();
            assert!(!memory.mergeable || !memory.shared && memory.hugepages.pool_page().is_none());
            let page = memory.hugepages.pool_page().unwrap_or(4096);
            assert!(config.memory.size().is_multiple_of(page));
            let written = serde_json::to_string(&config).expect("it came from JSON");
            let back: VmConfig = serde_json::from_str(&written).expect("it was written by us");
            assert_eq!(back, config);
        }
        Err(error) => check_line(&error, text.len()),
    }
}

fn check_size(text: &str, bits: u8) {
    match size::parse(text) {
        Ok(bytes) => {
            assert_eq!(size::parse(&bytes.to_string()), Ok(bytes));
            if check_memory(bytes, bits).is_ok() {
                assert!(bits >= 64 || bytes <= 1 << bits);
            }
            let cpus = (bytes & 0xffff_ffff) as u32;
            let allowed = check_cpus(cpus, bits.into()).is_ok();
            assert_eq!(allowed, (1..=u32::from(bits)).contains(&cpus));
        }
        Err(error) => check_line(&error, text.len()),
    }
}

fn check_duration(text: &str) {
    match duration::parse(text) {
        Ok(parsed) => assert_eq!(duration::parse(&duration::format(parsed)), Ok(parsed)),
        Err(error) => check_line(&error, text.len()),
    }
}

fn check_serial(text: &OsStr) {
    match SerialConfig::parse(text) {
        Ok(SerialConfig::File(path)) => {
            assert!(text.as_bytes().ends_with(path.as_os_str().as_bytes()));
            assert!(!path.as_os_str().is_empty());
        }
        Ok(_) => assert!(text.len() <= 5),
        Err(error) => check_line(&error, text.len()),
    }
}

fn check_command_line(text: &str, max: usize) {
    assert_eq!(
        build_cmdline(UserCmdline::Replace(text), &["advice"], &[]),
        text
    );
    let line = build_cmdline(UserCmdline::Extend(text), &["advice", "advised=1"], &[]);
    assert!(line.ends_with(text.trim()));
    let ours = line.len() - text.trim().len();
    assert!(ours <= DEFAULT_CMDLINE.join(" ").len() + " advice advised=1 ".len());
    match check_cmdline(&line, max) {
        Ok(()) => assert!(line.len() <= max && !line.contains(['\0', '\n', '\r'])),
        Err(error) => check_line(&error, 0),
    }
}
