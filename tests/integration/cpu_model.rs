//! `--cpu`: the guest sees a level of the x86-64 psABI, and the processor holds it to that.

use std::fs;

use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{HostKind, Mayfly, Outcome, host_kind, tsc_is_trusted};

const GENERAL_PROTECTION: u64 = 13;
const NO_EXCEPTION: u64 = 0xff;

/// The bits of a level: of leaf 1 ECX, leaf 7 EBX and leaf 0x80000001 ECX. OSXSAVE is bit
/// 27 of the first, which follows the guest's own CR4; its XSAVE is bit 26.
struct Level {
    leaf1: &'static [u32],
    leaf7: &'static [u32],
    extended: &'static [u32],
}

const V2: Level = Level {
    leaf1: &[0, 9, 13, 19, 20, 23],
    leaf7: &[],
    extended: &[0],
};
const V3: Level = Level {
    leaf1: &[12, 22, 26, 28, 29],
    leaf7: &[3, 5, 8],
    extended: &[5],
};
const V4: Level = Level {
    leaf1: &[],
    leaf7: &[16, 17, 28, 30, 31],
    extended: &[],
};

/// The guest has all of `level`, or nothing of it.
#[track_caller]
fn shows(outcome: &Outcome, level: &Level, shown: bool) {
    let registers = [
        ("leaf1", level.leaf1),
        ("leaf7", level.leaf7),
        ("extended", level.extended),
    ];
    for (name, bits) in registers {
        for bit in bits {
            let found = outcome.fact(name) & 1 << bit != 0;
            assert_eq!(found, shown, "bit {bit} of {name}: {outcome}");
        }
    }
}

fn guest(model: &str) -> Outcome {
    let outcome = Mayfly::bare("cpu_model").args(["--cpu", model]);
    outcome.outcome()
}

/// The flags of this machine's first processor.
fn own_flags() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").expect("read /proc/cpuinfo");
    let line = text.lines().find(|line| line.starts_with("flags"));
    let words = line.expect("a line of flags").split_ascii_whitespace();
    words.map(String::from).collect()
}

#[test]
fn a_guest_sees_its_level_and_no_more() {
    let models = [("x86-64-v2", 1), ("x86-64-v3", 2), ("x86-64-v4", 3)];
    let has = |flag: &str| own_flags().iter().any(|own| own == flag);
    for (model, levels) in models {
        let outcome = guest(model);
        if model == "x86-64-v4" && !has("avx512f") {
            assert_eq!(outcome.code, 245, "{outcome}");
            let line = "an x86-64-v4 processor: this host lacks AVX512F";
            assert!(outcome.stderr.contains(line), "{outcome}");
            let instead = "use --cpu x86-64-v3 or host";
            assert!(outcome.stderr.contains(instead), "{outcome}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
            continue;
        }
        outcome.all_held();
        if host_kind() == HostKind::Pvm {
            let warning = format!("shows guests features that --cpu {model} masks");
            assert!(outcome.stderr.contains(&warning), "{outcome}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
            continue;
        }
        assert_eq!(outcome.stderr, "", "{outcome}");
        for (number, level) in [V2, V3, V4].iter().enumerate() {
            shows(&outcome, level, number < levels);
        }
        // AES, RDRAND and, in leaf 7, SHA: in no level.
        assert_eq!(outcome.fact("leaf1") & (1 << 25 | 1 << 30), 0, "{outcome}");
        assert_eq!(outcome.fact("leaf7") & 1 << 29, 0, "{outcome}");
        let (xcr0, size) = (outcome.fact("xcr0"), outcome.fact("xsize"));
        match levels {
            1 => {
                assert_eq!((xcr0, size), (0, 0), "{outcome}");
                assert_eq!(outcome.fact("xsave"), GENERAL_PROTECTION, "{outcome}");
            }
            2 => assert_eq!((xcr0, size), (7, 832), "{outcome}"),
            _ => {
                assert_eq!(xcr0, 0xe7, "{outcome}");
                // Where the last state of AVX-512 ends, by the format of the host.
                assert!((2432..=2688).contains(&size), "{outcome}");
            }
        }
        if levels > 1 {
            assert_eq!(outcome.fact("xsave"), NO_EXCEPTION, "{outcome}");
            assert_eq!(outcome.fact("more"), GENERAL_PROTECTION, "{outcome}");
        }
    }
}

#[test]
fn the_host_model_is_not_warned_of() {
    let outcome = guest("host");
    outcome.all_held();
    assert_eq!(outcome.stderr, "", "{outcome}");
    let all = Mayfly::bare("cpu_model").outcome();
    for name in ["leaf1", "leaf7", "extended", "xcr0", "xsize"] {
        assert_eq!(all.fact(name), outcome.fact(name), "host is the default");
    }
}

/// Kernel and programs do without what their level lacks, XSAVE at the first. On a
/// kvm-pvm host they would see the host's features all the same.
#[test]
fn linux_boots_at_a_level_and_measures_no_clock() {
    if host_kind() == HostKind::Pvm {
        return;
    }
    let _turn = turn_to_boot();
    for model in ["x86-64-v2", "x86-64-v3"] {
        let outcome = Mayfly::run(&tiny("vmlinux"))
            .arg("--initrd")
            .arg(tiny("init.cpio"))
            .args(["--cpu", model, "--cpus", "2"])
            .args(["--cmdline", "ignore_loglevel mayfly.date"])
            .outcome();
        outcome.ended(0, "power-off");
        let guest = outcome.guest();
        let has = |text: &str| guest.lines().any(|line| line.contains(text));
        assert_eq!(
            has("x86/fpu: xstate_offset[2]"),
            model == "x86-64-v3",
            "{outcome}"
        );
        assert!(has("mayfly-guest: kernel="), "{outcome}");
        // The kernel is told the frequency, and takes the processors' TSCs for one.
        assert!(has("tsc: Detected "), "{outcome}");
        for measured in [
            "TSC calibration",
            "calibrate against",
            "Refined TSC",
            "calibrating APIC timer",
        ] {
            assert!(!has(measured), "{measured}: {outcome}");
        }
        let in_step = !has("TSC warp") && !has("Marking TSC unstable");
        assert!(in_step || !tsc_is_trusted(), "{outcome}");
    }
}
