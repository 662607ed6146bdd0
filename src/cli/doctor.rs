//! `mayfly doctor`: whether this host can run VMs.

use std::fmt::Write;

use clap::Args;

use super::{SUCCESS, say};
use crate::host::{self, Checkup, Finding, Status};
use crate::vm::exit::ExitReason;

/// What capabilities of KVM are called; in the table they are counted, not listed.
const CAPABILITY: &str = "KVM_CAP_";

/// The flags of `mayfly doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Looks at the host and tells. The exit code is 0 if VMs can run, else that of
/// a host error.
pub(super) fn run(args: &DoctorArgs) -> u8 {
    let checkup = host::checkup();
    say::on_stdout(&if args.json {
        json(&checkup)
    } else {
        table(&checkup)
    });
    if checkup.can_run {
        return SUCCESS;
    }
    let reason = ExitReason::HostError {
        message: String::new(),
    };
    reason.code()
}

fn json(checkup: &Checkup) -> String {
    // Only maps with keys that are not strings can fail, and there are none.
    let object = serde_json::to_string(checkup).unwrap_or_default();
    format!("{object}\n")
}

fn table(checkup: &Checkup) -> String {
    let is_good_capability =
        |finding: &&Finding| finding.name.starts_with(CAPABILITY) && finding.status == Status::Good;
    let mut text = String::new();
    let good = checkup.findings.iter().filter(is_good_capability).count();
    let mut counted = false;
    for finding in &checkup.findings {
        if finding.name.starts_with(CAPABILITY) && !counted {
            counted = true;
            let all = checkup
                .findings
                .iter()
                .filter(|f| f.name.starts_with(CAPABILITY));
            let detail = format!("{good} of {} offered", all.count());
            row(&mut text, "ok", "KVM capabilities", &detail);
        }
        if is_good_capability(&finding) {
            continue;
        }
        let mark = match finding.status {
            Status::Good => "ok",
            Status::Lacking => "-",
            Status::Fatal => "FAIL",
        };
        row(&mut text, mark, &finding.name, &finding.detail);
        if let Some(advice) = &finding.advice {
            row(&mut text, "", "", &format!("-> {advice}"));
        }
    }
    text.push_str(if checkup.can_run {
        "VMs can run on this host.\n"
    } else {
        "VMs cannot run on this host: see FAIL above.\n"
    });
    text
}

fn row(text: &mut String, mark: &str, name: &str, detail: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{mark:<5} {name:<24} {detail}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Backend;

    fn finding(name: &str, status: Status) -> Finding {
        Finding {
            name: name.to_owned(),
            status,
            detail: format!("detail of {name}"),
            advice: (status != Status::Good).then(|| format!("mend {name}")),
        }
    }

    fn checkup(can_run: bool) -> Checkup {
        Checkup {
            can_run,
            backend: Some(Backend::Pvm),
            findings: vec![
                finding("/dev/kvm", Status::Good),
                finding("KVM_CAP_A", Status::Good),
                finding("KVM_CAP_B", Status::Lacking),
                finding(
                    "io_uring",
                    if can_run {
                        Status::Lacking
                    } else {
                        Status::Fatal
                    },
                ),
            ],
        }
    }

    #[test]
    fn the_table_names_what_lacks_and_what_to_do() {
        let text = table(&checkup(true));
        assert!(text.contains("1 of 2 offered"));
        assert!(!text.contains("KVM_CAP_A"));
        assert!(text.contains("-> mend KVM_CAP_B"));
        assert!(text.ends_with("VMs can run on this host.\n"));
        let text = table(&checkup(false));
        assert!(text.contains("FAIL  io_uring"));
        assert!(text.ends_with("see FAIL above.\n"));
    }

    #[test]
    fn json_is_one_line_with_everything() {
        let line = json(&checkup(true));
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["can_run"], true);
        assert_eq!(value["backend"], "kvm-pvm");
        assert_eq!(value["findings"][1]["name"], "KVM_CAP_A");
        assert_eq!(value["findings"][1]["status"], "good");
    }
}
