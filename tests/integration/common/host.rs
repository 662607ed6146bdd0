//! Which kind of KVM this host has, by what the binary itself says.

use std::sync::OnceLock;

use serde_json::Value;

use super::Mayfly;

/// How guest kernel code runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// VT-x or SVM, emulated SVM included.
    Hardware,
    /// kvm-pvm: interpreted, with Mayfly's help.
    Pvm,
}

/// The kind of this host, asked once. Fails where no VM can run at all.
pub fn host_kind() -> HostKind {
    static KIND: OnceLock<HostKind> = OnceLock::new();
    *KIND.get_or_init(|| {
        let outcome = Mayfly::new(["doctor", "--json"]).outcome();
        assert_eq!(
            outcome.code, 0,
            "these tests need a usable /dev/kvm, and mayfly doctor says no: {outcome}"
        );
        kind_of(&outcome.json())
    })
}

/// Whether this is the [emulated host](crate::emulated_host), where all that is looked for is
/// there and everything takes long: what this machine's own KVM, whatever its kind, does at
/// its full size is done at a smaller one there.
pub fn is_emulated() -> bool {
    std::env::var_os("MAYFLY_EMULATED_HOST").is_some()
}

/// Whether this host's kernel keeps time by its TSC, and so thinks it in step and its
/// frequency right. The emulated host's does not always: QEMU on a busy machine may leave it
/// to measure any frequency.
pub fn tsc_is_trusted() -> bool {
    let chosen = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(chosen).is_ok_and(|name| name.trim() == "tsc")
}

/// The kind that `doctor --json` tells of.
pub fn kind_of(report: &Value) -> HostKind {
    match report["backend"].as_str() {
        Some("kvm-pvm" | "unknown") => HostKind::Pvm,
        Some("vmx" | "svm") => HostKind::Hardware,
        _ => panic!("no known backend in {report}"),
    }
}
