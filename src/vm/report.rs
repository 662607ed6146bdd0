//! What is told about a VM that has ended: the `--json` line and the summary.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::exit::ExitReason;
use super::tally::Tally;
use crate::devices::virtio::block::BlockTotals;
use crate::devices::virtio::net::NetTotals;

/// When things happened, in milliseconds since the process started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Milestones {
    /// The first `KVM_RUN` of the boot vCPU.
    #[serde(serialize_with = "micros_of_optional")]
    pub first_instruction: Option<f64>,
    /// The first byte out of the serial port.
    #[serde(serialize_with = "micros_of_optional")]
    pub first_serial_byte: Option<f64>,
    /// Userspace said that it runs, through the boot-timer port.
    #[serde(serialize_with = "micros_of_optional")]
    pub userspace: Option<f64>,
    /// The VM had ended and everything was put away.
    #[serde(serialize_with = "micros_of")]
    pub end: f64,
}

/// What a disk has served, over all its queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskReport {
    /// Its name in the guest, if Linux runs there.
    pub name: String,
    /// Requests, bytes and errors.
    #[serde(flatten)]
    pub totals: BlockTotals,
}

/// What a network interface has carried, over all its queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetReport {
    /// Its name in the guest, if Linux runs there.
    pub name: String,
    /// The host's interface, where it is a tap.
    pub tap: Option<String>,
    /// Frames, bytes and what was dropped.
    #[serde(flatten)]
    pub totals: NetTotals,
}

/// All that is told about a VM that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Why it ended.
    pub reason: ExitReason,
    /// When things happened.
    pub ms: Milestones,
    /// How often the guest has reset itself and was started again.
    pub reboots: u64,
    /// What was counted, over all vCPUs and all starts.
    pub tally: Tally,
    /// Serial output that nobody took, in bytes.
    pub serial_lost: u64,
    /// What each disk has served.
    pub disks: Vec<DiskReport>,
    /// What each network interface has carried.
    pub nets: Vec<NetReport>,
    /// The table of the busiest functions, where a profile was asked for.
    pub profile: Option<String>,
    /// Whether the guest's output on stdout stopped in the middle of a line.
    pub line_open: bool,
}

/// The JSON object; a structure of its own so that `exit_code` and the message are in it.
#[derive(Serialize)]
struct Line<'a> {
    reason: &'static str,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    ms: &'a Milestones,
    reboots: u64,
    exits: &'a BTreeMap<String, u64>,
    emulated: &'a BTreeMap<String, u64>,
    hooks_planted: u64,
    ticks_held_back: u64,
    undefined_in_user_mode: u64,
    serial_lost: u64,
    disks: &'a [DiskReport],
    nets: &'a [NetReport],
}

impl Report {
    /// The report of a VM that never ran a guest, or failed before anything could be counted.
    pub fn of_failure(reason: ExitReason, started: Instant) -> Self {
        Self {
            reason,
            ms: Milestones {
                end: millis(started.elapsed()),
                ..Milestones::default()
            },
            reboots: 0,
            tally: Tally::default(),
            serial_lost: 0,
            disks: Vec::new(),
            nets: Vec::new(),
            profile: None,
            line_open: false,
        }
    }

    /// The `--json` line: one object, one newline at its end, and one before it
    /// where the guest left a line unfinished.
    pub fn json_line(&self) -> String {
        let line = Line {
            reason: self.reason.name(),
            exit_code: self.reason.code(),
            message: self.message(),
            ms: &self.ms,
            reboots: self.reboots,
            exits: &self.tally.exits,
            emulated: &self.tally.emulated,
            hooks_planted: self.tally.hooks_planted,
            ticks_held_back: self.tally.ticks_held_back,
            undefined_in_user_mode: self.tally.undefined_in_user_mode,
            serial_lost: self.serial_lost,
            disks: &self.disks,
            nets: &self.nets,
        };
        // Only maps with keys that are not strings can fail, and there are none.
        let object = serde_json::to_string(&line).unwrap_or_default();
        format!("{}{object}\n", self.line_break())
    }

    /// A line for the user, where the exit code alone would leave questions.
    pub fn summary(&self) -> Option<String> {
        let end = self.ms.end / 1000.0;
        let text = match &self.reason {
            ExitReason::PowerOff
            | ExitReason::Reset
            | ExitReason::GuestStatus { .. }
            | ExitReason::UserQuit => None,
            ExitReason::KernelPanic => Some(format!("the guest kernel panicked after {end:.1} s")),
            ExitReason::TripleFault => {
                Some(format!("the guest met a triple fault after {end:.1} s"))
            }
            ExitReason::Timeout => Some(format!("the timeout ended the VM after {end:.1} s")),
            ExitReason::HostError { message } | ExitReason::Usage { message } => {
                Some(message.clone())
            }
        };
        let lost = (self.serial_lost > 0).then(|| {
            format!(
                "{} bytes of serial output were lost because nobody read them in time",
                self.serial_lost
            )
        });
        let lines: Vec<String> = [lost, text].into_iter().flatten().collect();
        (!lines.is_empty()).then(|| {
            let lines = lines.iter().map(|line| format!("mayfly: {line}\n"));
            lines.collect::<String>()
        })
    }

    /// A newline if the guest's last line on stdout is unfinished, else nothing.
    pub fn line_break(&self) -> &'static str {
        if self.line_open { "\n" } else { "" }
    }

    fn message(&self) -> Option<&str> {
        match &self.reason {
            ExitReason::HostError { message } | ExitReason::Usage { message } => Some(message),
            _ => None,
        }
    }
}

/// A duration as the report counts it.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Milliseconds to the microsecond: more digits would only be noise.
fn micros_of<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((value * 1000.0).round() / 1000.0)
}

fn micros_of_optional<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => micros_of(value, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn report(reason: ExitReason) -> Report {
        Report {
            ms: Milestones {
                first_instruction: Some(1.234_567_8),
                first_serial_byte: Some(2.5),
                userspace: None,
                end: 1500.0,
            },
            reboots: 2,
            tally: Tally {
                exits: BTreeMap::from([("io-out".to_owned(), 7)]),
                ..Tally::default()
            },
            disks: vec![DiskReport {
                name: "vda".to_owned(),
                totals: BlockTotals {
                    requests: 3,
                    ..BlockTotals::default()
                },
            }],
            nets: vec![NetReport {
                totals: NetTotals {
                    frames_sent: 5,
                    ..NetTotals::default()
                },
                ..NetReport::default()
            }],
            ..Report::of_failure(reason, Instant::now())
        }
    }

    #[test]
    fn the_line_holds_every_field() {
        let line = report(ExitReason::GuestStatus { status: 42 }).json_line();
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["reason"], "guest-status");
        assert_eq!(value["exit_code"], 42);
        assert_eq!(value["ms"]["first_instruction"], 1.235);
        assert_eq!(value["ms"]["userspace"], Value::Null);
        assert_eq!(value["reboots"], 2);
        assert_eq!(value["exits"]["io-out"], 7);
        assert_eq!(value["emulated"], serde_json::json!({}));
        assert_eq!(value["hooks_planted"], 0);
        assert_eq!(value["ticks_held_back"], 0);
        assert_eq!(value["undefined_in_user_mode"], 0);
        assert_eq!(value["serial_lost"], 0);
        assert_eq!(value["disks"][0]["name"], "vda");
        assert_eq!(value["disks"][0]["requests"], 3);
        assert_eq!(value["nets"][0]["frames_sent"], 5);
        assert!(value.get("message").is_none());
    }

    #[test]
    fn an_unfinished_line_is_ended_first() {
        let mut report = report(ExitReason::PowerOff);
        report.line_open = true;
        assert!(report.json_line().starts_with("\n{"));
        assert!(report.json_line().ends_with("}\n"));
    }

    #[test]
    fn errors_carry_their_message_on_one_line() {
        let message = "cannot open 'a\nb'".to_owned();
        let report = report(ExitReason::HostError { message });
        let line = report.json_line();
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "cannot open 'a\nb'");
        assert_eq!(value["exit_code"], 244);
    }

    #[test]
    fn a_clean_end_needs_no_words() {
        assert_eq!(report(ExitReason::PowerOff).summary(), None);
        assert_eq!(
            report(ExitReason::Timeout).summary().unwrap(),
            "mayfly: the timeout ended the VM after 1.5 s\n"
        );
        let lossy = Report {
            serial_lost: 9,
            ..report(ExitReason::Reset)
        };
        assert!(lossy.summary().unwrap().contains("9 bytes"));
    }
}
