//! All that is known about this host, as a list of findings.

use std::path::Path;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use serde::Serialize;

use super::backend::Backend;
use super::facilities;
use super::kvm::{self, Capability, HostError};
use super::networking;
use crate::one_line::one_line;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Good,
    /// VMs run without it, slower or with less.
    Lacking,
    /// Without it no VM runs.
    Fatal,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// How it is to be taken.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    pub(super) fn good(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: Status::Good,
            detail: detail.into(),
            advice: None,
        }
    }

    pub(super) fn lacking(
        name: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Lacking,
            advice: Some(advice.into()),
            ..Self::good(name, detail)
        }
    }

    fn fatal(
        name: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Fatal,
            ..Self::lacking(name, detail, advice)
        }
    }
}

/// What `mayfly doctor` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checkup {
    /// Whether VMs can run here.
    pub can_run: bool,
    /// What KVM is made of, if there is one.
    pub backend: Option<Backend>,
    /// Everything that was looked at, in an order to be read in.
    pub findings: Vec<Finding>,
}

/// Looks at everything.
pub fn checkup() -> Checkup {
    let mut findings = Vec::new();
    let mut backend = None;
    match kvm::open_device(Path::new(kvm::DEVICE)) {
        Ok(kvm) => {
            let kind = Backend::detect();
            backend = Some(kind);
            look_at_kvm(&kvm, kind, &mut findings);
        }
        Err(error) => findings.push(kvm_missing(&error)),
    }
    findings.extend(networking::findings());
    findings.extend(facilities::huge_pages());
    findings.push(facilities::transparent_huge_pages());
    findings.push(facilities::cpu_shares());
    findings.push(facilities::io_uring());
    findings.push(facilities::userfaultfd());
    Checkup {
        can_run: findings
            .iter()
            .all(|finding| finding.status != Status::Fatal),
        backend,
        findings,
    }
}

/// The error's own sentence: what is wrong, then what to do.
fn kvm_missing(error: &HostError) -> Finding {
    let line = one_line(error);
    match line.split_once("; ") {
        Some((what, advice)) => Finding::fatal(kvm::DEVICE, what, advice),
        None => Finding::fatal(kvm::DEVICE, line, "see the kernel log"),
    }
}

fn look_at_kvm(kvm: &Kvm, backend: Backend, findings: &mut Vec<Finding>) {
    findings.push(Finding::good(kvm::DEVICE, "present and permitted"));
    findings.push(Finding::good(
        "KVM API version",
        kvm.get_api_version().to_string(),
    ));
    findings.push(Finding::good("backend", backend.describe()));
    findings.push(creation(kvm.create_vm().err().map(|error| error.errno())));
    findings.push(Finding::good(
        "vCPUs a VM",
        format!(
            "at most {}, {} recommended",
            kvm.get_max_vcpus(),
            kvm.get_nr_vcpus()
        ),
    ));
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    findings.extend(cpuid.ok().map(|cpuid| {
        let bits = kvm::physical_address_bits(&cpuid);
        Finding::good("physical address bits", bits.to_string())
    }));
    findings.extend(kvm::NEEDED.iter().map(|needed| {
        capability(kvm, needed)
            .unwrap_or_else(|| Finding::fatal(needed.name, lack(needed), "use Linux 5.10 or newer"))
    }));
    findings.extend(kvm::OPTIONAL.iter().map(|optional| {
        capability(kvm, optional).unwrap_or_else(|| {
            Finding::lacking(
                optional.name,
                lack(optional),
                "a newer Linux, or another kind of KVM, may have it",
            )
        })
    }));
}

/// A VM was made and thrown away again, or could not be made.
fn creation(errno: Option<i32>) -> Finding {
    let name = "making a VM";
    match errno {
        None => Finding::good(name, "works"),
        Some(libc::EBUSY) => Finding::fatal(
            name,
            "the processor's virtualization is in use",
            "end the other hypervisor that holds it",
        ),
        Some(libc::ENOMEM) => Finding::fatal(name, "no memory", "free some memory"),
        Some(other) => Finding::fatal(
            name,
            std::io::Error::from_raw_os_error(other).to_string(),
            "see the kernel log",
        ),
    }
}

fn capability(kvm: &Kvm, capability: &Capability) -> Option<Finding> {
    capability
        .is_offered(kvm)
        .then(|| Finding::good(capability.name, capability.purpose))
}

fn lack(capability: &Capability) -> String {
    format!("not offered: {}", capability.purpose)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_kvm_is_fatal_and_says_what_to_do() {
        let finding = kvm_missing(&HostError::Absent);
        assert_eq!(finding.status, Status::Fatal);
        assert_eq!(finding.detail, "/dev/kvm does not exist");
        assert!(finding.advice.unwrap().starts_with("load KVM"));
        let other = std::io::Error::from_raw_os_error(libc::EIO);
        let finding = kvm_missing(&HostError::Open(other));
        assert!(finding.detail.contains("Input/output error"));
    }

    #[test]
    fn a_vm_that_cannot_be_made_is_fatal() {
        assert_eq!(creation(None).status, Status::Good);
        for errno in [libc::EBUSY, libc::ENOMEM, libc::EINVAL] {
            assert_eq!(creation(Some(errno)).status, Status::Fatal);
        }
    }

    #[test]
    fn the_verdict_follows_from_the_findings() {
        let checkup = checkup();
        let fatal = checkup
            .findings
            .iter()
            .any(|finding| finding.status == Status::Fatal);
        assert_eq!(checkup.can_run, !fatal);
        assert!(checkup.backend.is_none() || Path::new(kvm::DEVICE).exists());
        for finding in checkup.findings {
            assert_eq!(finding.status == Status::Good, finding.advice.is_none());
        }
    }
}
