//! `--reboot`: the guest resets itself and finds the machine as it was when it was
//! switched on, with its disks and networks.

use std::collections::HashSet;
use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::netns::{Queues, in_namespace, tap};
use crate::common::peer::Peer;
use crate::common::process::Holdings;
use crate::common::running::Running;
use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{HostKind, Mayfly, host_kind, is_emulated};

/// From this boot on nothing may grow any more.
const SETTLED: u32 = 10;
/// What the heap may still do after that, in KiB.
const HEAP_KIB: u64 = 256;
/// Mappings that it may still make.
const MAPPINGS: usize = 4;

/// A disk full of zeros, on which guests count their boots.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("create a temporary directory");
        fs::write(folder.path().join("disk"), vec![0; 1 << 20]).expect("write the image");
        Self { folder }
    }

    /// `--disk` with these options.
    fn argument(&self, options: &str) -> String {
        let path = self.folder.path().join("disk");
        format!("path={},format=raw{options}", path.display())
    }

    /// The count on it.
    fn boots(&self) -> u64 {
        let bytes = fs::read(self.folder.path().join("disk")).expect("read the image");
        u64::from_le_bytes(*bytes.first_chunk().expect("a word"))
    }
}

/// The guest that counts `boots` boots, and waits for a byte in the boots `first` and
/// `boots`.
fn counting(first: u32, boots: u32, disk: &str) -> Running {
    Mayfly::bare("reboots")
        .args(["--reboot", "--memory", "64M", "--disk", disk])
        .args([
            "--cmdline",
            &format!("bare.first={first} bare.boots={boots}"),
        ])
        .stdin(Stdio::piped())
        .start()
}

#[test]
fn two_hundred_reboots_leave_nothing_behind() {
    let boots = if is_emulated() { 51 } else { 201 };
    let disk = Disk::new();
    let mut running = counting(SETTLED, boots, &disk.argument(""));
    running.wait_for("waiting\n");
    let settled = Holdings::of(running.id());
    running.type_in(b"x");
    running.wait_for_times("waiting\n", 2);
    let last = Holdings::of(running.id());
    running.type_in(b"x");
    let outcome = running.outcome();
    outcome.ended(0, "power-off").printed("done");
    println!("{settled:?}, then {last:?}, in {:?}", outcome.elapsed);

    assert_eq!(disk.boots(), u64::from(boots));
    let json = outcome.json();
    assert_eq!(json["reboots"], boots - 1, "{outcome}");
    // Two requests a boot, over all of them.
    assert_eq!(json["disks"][0]["requests"], 2 * boots, "{outcome}");
    assert_eq!(json["disks"][0]["errors"], 0, "{outcome}");
    // Each boot found what the first one did.
    let guest = outcome.guest();
    let found: Vec<&str> = guest
        .lines()
        .filter(|line| line.starts_with("found "))
        .collect();
    assert_eq!(found.len(), boots as usize, "{outcome}");
    let other = found.iter().find(|line| **line != found[0]);
    assert_eq!(other, None, "unlike {}", found[0]);
    assert!(
        found[0].starts_with("found pm1=0 ier=0 scratch=0 modem=8 reset=0 "),
        "{outcome}"
    );
    assert!(!found[0].contains("generation=0"), "{outcome}");
    // The clock's registers as firmware sets them, and 640 KiB of base memory.
    assert!(found[0].contains(" rtc_a=26 rtc_b=2 base=80"), "{outcome}");

    let held = |holdings: &Holdings| (holdings.descriptors, holdings.threads, holdings.children);
    assert_eq!(held(&settled), held(&last));
    assert!(
        last.mappings <= settled.mappings + MAPPINGS,
        "{settled:?}, then {last:?}"
    );
    assert!(
        last.resident_kib <= settled.resident_kib + HEAP_KIB,
        "{settled:?}, then {last:?}"
    );
    // Not each reset is told of: how many there are is up to the guest.
    let told = outcome.stderr.matches("starting it again").count();
    let most = 11 + usize::try_from(outcome.elapsed.as_secs()).expect("a while");
    assert!((10..=most).contains(&told), "{outcome}");
    assert!(told < boots as usize, "{outcome}");
    let first = "mayfly: the guest resets: starting it again (1)\n";
    assert!(outcome.stderr.starts_with(first), "{outcome}");
}

#[test]
fn disk_that_changes_nothing_for_good_keeps_what_was_written() {
    for options in [",ephemeral", ",cache=unsafe,aio=threads"] {
        let disk = Disk::new();
        let mut running = counting(0, 3, &disk.argument(options));
        running.wait_for("waiting\n");
        running.type_in(b"x");
        let outcome = running.outcome();
        outcome.ended(0, "power-off").printed("boot 3\n");
        let expected = if options == ",ephemeral" { 0 } else { 3 };
        assert_eq!(disk.boots(), expected, "{options}");
    }
}

/// Has a guest whose checks end with a reset do so three times.
#[track_caller]
fn three_rounds(guest: Mayfly) -> Value {
    let mut running = guest.arg("--reboot").start();
    running.wait_for_times("done\n", 3);
    running.signal(Signal::INT);
    let outcome = running.outcome();
    outcome.ended(243, "user-quit");
    assert!(!outcome.stdout.contains("FAIL"), "{outcome}");
    assert!(outcome.json()["reboots"].as_u64() >= Some(2), "{outcome}");
    outcome.json()
}

#[test]
fn disks_and_entropy_work_in_each_boot() {
    let window = mayfly::memory::layout::VIRTIO_MMIO_START;
    for transport in ["pci", "mmio"] {
        for name in ["blk_rw", "rng"] {
            let disk = Disk::new();
            let words = match transport {
                "mmio" => format!("bare.mmio={window}"),
                _ => String::new(),
            };
            let guest = Mayfly::bare(name)
                .args(["--memory", "64M", "--transport", transport])
                .args(["--disk", &disk.argument(""), "--rng", "--cmdline", &words]);
            three_rounds(guest);
        }
    }
}

#[test]
fn network_works_in_each_boot() {
    in_namespace(|| {
        tap("tap0", Queues::One);
        let peer = Peer::start("tap0");
        let guest = Mayfly::bare("net_echo").args(["--memory", "64M", "--net", "tap=tap0"]);
        let json = three_rounds(guest);
        // 14 pings a round, there and back.
        assert!(
            json["nets"][0]["frames_sent"].as_u64() >= Some(3 * 14),
            "{json}"
        );
        assert!(peer.pings() >= 3 * 14, "{} pings", peer.pings());
    });
}

#[test]
fn several_processors_start_in_each_boot() {
    let guest = Mayfly::bare("smp").args(["--cpus", "2", "--cmdline", "bare.cpus=2"]);
    three_rounds(guest);
}

#[test]
fn what_is_no_reset_ends_the_vm_as_ever() {
    let ends = [
        ("panic_text", 240, "kernel-panic"),
        ("triple_fault", 241, "triple-fault"),
        ("poweroff", 0, "power-off"),
        ("status", 42, "guest-status"),
    ];
    for (guest, code, reason) in ends {
        let outcome = Mayfly::bare(guest).arg("--reboot").outcome();
        outcome.ended(code, reason);
        assert_eq!(outcome.json()["reboots"], 0, "{outcome}");
    }
}

#[test]
fn guest_that_does_nothing_but_reset_can_be_ended() {
    let looping = || Mayfly::bare("reset_cf9").arg("--reboot");
    for (signal, code) in [(Signal::INT, 243), (Signal::TERM, 243), (Signal::HUP, 243)] {
        let mut running = looping().start();
        running.wait_for_error("(3)");
        running.signal(signal);
        running.outcome().ended(code, "user-quit");
    }
    let outcome = looping().args(["--timeout", "100ms"]).outcome();
    outcome.ended(242, "timeout");
    assert!(outcome.json()["reboots"].as_u64() >= Some(1), "{outcome}");
}

#[test]
fn linux_reboots_three_times_to_other_addresses_and_powers_off() {
    if host_kind() == HostKind::Pvm {
        println!("four boots take a minute here; this runs on the emulated host");
        return;
    }
    let _turn = turn_to_boot();
    let disk = Disk::new();
    let words = "quiet mayfly.kernel-address mayfly.reboots=/dev/vda,3";
    let outcome = Mayfly::run(&tiny("bzImage"))
        .arg("--initrd")
        .arg(tiny("init.cpio"))
        .args(["--reboot", "--memory", "64M", "--cpus", "2", "--kaslr=on"])
        .args(["--disk", &disk.argument("")])
        .args(["--cmdline", words])
        .outcome();
    outcome.ended(0, "power-off");
    for boot in 0..=3 {
        outcome.printed(&format!("mayfly-guest: /dev/vda: restarts={boot} of 3\n"));
    }
    let starts = outcome.guest().matches("mayfly-guest: kernel=").count();
    assert_eq!(starts, 4, "{outcome}");
    // Each start draws one of some 500 addresses: four times the same is one in 10^8.
    let guest = outcome.guest();
    let texts = guest
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("text="));
    assert_eq!(texts.clone().count(), 4, "{outcome}");
    assert!(texts.collect::<HashSet<_>>().len() > 1, "{outcome}");
    assert_eq!(outcome.json()["reboots"], 3, "{outcome}");
}
