//! QEMU's smallest machine, with which Mayfly is compared: the bare guests run on it too.

use std::path::Path;
use std::process::{Command, Stdio};

use mayfly::host::Backend;

/// The first virtio-mmio window, and the distance between them.
const WINDOW: u64 = 0xfeb0_0000;
const STRIDE: u64 = 0x200;

/// QEMU with a processor of model `cpu` and the bare guest `kernel`, which is told
/// `words`; devices are still to be added.
pub fn command(cpu: &str, kernel: &Path, words: &str) -> Command {
    let line = format!("bare.mmio={WINDOW} bare.stride={STRIDE} {words}");
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "kvm", "-cpu", cpu, "-m", "64"])
        .args(["-M", "microvm,acpi=off,rtc=off,pit=off,pic=off,ioapic2=off"])
        .args(["-device", "i8042", "-no-reboot", "-nodefaults"])
        .args(["-device", "isa-debug-exit,iobase=0xf4"])
        .args(["-no-user-config", "-display", "none", "-serial", "stdio"])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", &line]);
    command
}

/// QEMU's name for this host's processor.
pub fn processor() -> &'static str {
    match Backend::detect() {
        // The MSR cannot be set on kvm-pvm hosts, though KVM lists it.
        Backend::Pvm | Backend::Unknown => "host,-arch-capabilities",
        Backend::Vmx | Backend::Svm => "host",
    }
}

/// Whether it can be compared with at all.
pub fn is_there() -> bool {
    let version = Command::new("qemu-system-x86_64")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let there = version.is_ok_and(|status| status.success());
    if !there {
        println!("(there is no qemu-system-x86_64 to compare with)");
    }
    there
}
