//! KASLR by Mayfly: where `-v` says that the kernel is, and where the kernel itself
//! says it is.

use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{HostKind, Mayfly, Outcome, host_kind};

/// Where Linux is linked for, and where its mappings begin if nothing is random.
const LINKED_TEXT: u64 = 0xffff_ffff_8100_0000;
const LINKED_CODE: u64 = 0x100_0000;
const FIRST_MAPPING: u64 = 0xffff_c900_0000_0000;
/// Linux's own image has this much of virtual memory.
const IMAGE_END: u64 = 0xffff_ffff_c000_0000;
const STEP: u64 = 2 << 20;

/// As much as a kernel may be anywhere in, where memory costs nothing.
fn memory() -> &'static str {
    match host_kind() {
        HostKind::Hardware => "3G",
        // Each GiB costs a kernel that is interpreted seconds of a processor.
        HostKind::Pvm => "256M",
    }
}

/// A start of the tiny guest's bzImage or vmlinux with `-v` and these words.
fn tiny_guest(kernel: &str, words: &str) -> Mayfly {
    Mayfly::run(&tiny(kernel))
        .arg("-v")
        .args(["--memory", memory()])
        .arg("--initrd")
        .arg(tiny("init.cpio"))
        .args(["--cmdline", words])
}

/// A start that ends when the kernel has hardly begun.
fn glimpse(words: &str, arguments: &[&str]) -> Outcome {
    let start = tiny_guest("bzImage", words).args(["--timeout", "20ms"]);
    let outcome = start.args(arguments).outcome();
    outcome.ended(242, "timeout");
    outcome
}

/// Where a kernel is: of its code, the physical address and the virtual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    code: u64,
    text: u64,
}

/// What `-v` says: `KASLR: kernel at 0x… (…), moved by 0x… in virtual memory (…)`.
#[track_caller]
fn told(outcome: &Outcome) -> Place {
    let number = |before: &str| {
        let rest = outcome.stderr.split_once(before).map(|(_, rest)| rest);
        let digits = rest.and_then(|rest| rest.split(' ').next());
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.unwrap_or_else(|| panic!("nothing behind '{before}': {outcome}"))
    };
    Place {
        code: number("KASLR: kernel at 0x"),
        text: LINKED_TEXT + number("moved by 0x"),
    }
}

/// Different draws, each where a kernel can be.
#[track_caller]
fn are_random(places: &[Place]) {
    for place in places {
        assert_eq!((place.code % STEP, place.text % STEP), (0, 0), "{place:x?}");
        assert!((LINKED_CODE..3 << 30).contains(&place.code), "{place:x?}");
        assert!((LINKED_TEXT..IMAGE_END).contains(&place.text), "{place:x?}");
    }
    // Some 100 places by 500.
    assert!(
        places.windows(2).all(|pair| pair[0] != pair[1]),
        "{places:x?}"
    );
}

#[test]
fn a_kernel_is_where_it_was_put_and_elsewhere_each_time() {
    let _turn = turn_to_boot();
    let boots = match host_kind() {
        HostKind::Hardware => 2,
        // A boot costs 12 s of a processor, and a glimpse says as much of the next.
        HostKind::Pvm => 1,
    };
    let mut places = Vec::new();
    for _ in 0..boots {
        // A status of its own as well, for where there is no boot but this to tell it.
        let outcome = tiny_guest("bzImage", "quiet mayfly.kernel-address mayfly.exit=37")
            .arg("--kaslr=on")
            .outcome();
        outcome.ended(37, "guest-status");
        let place = told(&outcome);
        let seen = Place {
            code: outcome.fact("code"),
            text: outcome.fact("text"),
        };
        assert_eq!(seen, place, "{outcome}");
        // The kernel has been told, and has moved its memory regions as well.
        assert_ne!(outcome.fact("vmalloc"), FIRST_MAPPING, "{outcome}");
        places.push(place);
    }
    for _ in 0..2 {
        places.push(told(&glimpse("quiet", &[])));
    }
    println!("{places:x?}");
    are_random(&places);
}

#[test]
fn nokaslr_is_respected_wherever_the_kernel_would() {
    for (words, arguments) in [
        ("quiet nokaslr", [].as_slice()),
        // Linux's decompressor does not know what is for init.
        ("quiet -- nokaslr", &[]),
        ("nokaslr", &["--kaslr=auto"]),
        ("quiet", &["--kaslr=off"]),
    ] {
        let outcome = glimpse(words, arguments);
        assert!(!outcome.stderr.contains("KASLR: kernel at"), "{outcome}");
    }
    let outcome = glimpse("nokaslr", &[]);
    assert!(
        outcome
            .stderr
            .contains("no KASLR: the kernel command line says nokaslr")
    );
    // What only looks like it, it passes by.
    told(&glimpse("quiet nokaslr=1", &[]));
    // Nor is it Mayfly that says so.
    assert!(!glimpse("quiet", &[]).stderr.contains("nokaslr"));
}

#[test]
fn what_cannot_be_had_is_one_line() {
    for (kernel, words, arguments, reason) in [
        (
            "vmlinux",
            "",
            [].as_slice(),
            "the file has no relocation data; give the bzImage",
        ),
        (
            "bzImage",
            "nokaslr",
            &[],
            "the kernel command line says nokaslr",
        ),
        (
            "bzImage",
            "",
            &["--boot-protocol", "pvh"],
            "PVH enters a kernel",
        ),
    ] {
        let start = tiny_guest(kernel, words).arg("--kaslr=on");
        let outcome = start.args(arguments).outcome();
        outcome.ended(245, "usage");
        let error = outcome.stderr.lines().last().unwrap_or_default();
        assert!(
            error.starts_with("mayfly: cannot put kernel '"),
            "{outcome}"
        );
        assert!(error.contains(reason), "{outcome}");
        // Without `on` it is no matter.
        let start = tiny_guest(kernel, words).args(["--timeout", "20ms"]);
        start.args(arguments).outcome().ended(242, "timeout");
    }
}
