//! The bare guests: each tests one part of the machine from inside.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::{HostKind, Mayfly, host_kind};

#[test]
fn hello_prints_and_resets() {
    let outcome = Mayfly::bare("hello").outcome();
    outcome.all_held().printed("hello from a bare guest\n");
}

#[test]
fn status_is_passed_on_unchanged() {
    for status in [0, 1, 42, 239] {
        let line = format!("bare.status={status}");
        let outcome = Mayfly::bare("status").args(["--cmdline", &line]).outcome();
        outcome.ended(status, "guest-status");
    }
}

#[test]
fn status_beyond_239_becomes_239_with_a_warning() {
    for status in ["240", "255", "256", "4294967295"] {
        let line = format!("bare.status={status}");
        let outcome = Mayfly::bare("status").args(["--cmdline", &line]).outcome();
        outcome.ended(239, "guest-status");
        assert!(outcome.stderr.contains("239"), "no warning: {outcome}");
    }
}

#[test]
fn poweroff_by_acpi_is_a_clean_end() {
    let outcome = Mayfly::bare("poweroff").outcome();
    outcome.printed("powering off").ended(0, "power-off");
    assert!(!outcome.stdout.contains("FAIL"), "{outcome}");
}

#[test]
fn acpi_reset_register_resets() {
    Mayfly::bare("reset_cf9").outcome().all_held();
}

#[test]
fn triple_fault_is_reported() {
    let outcome = Mayfly::bare("triple_fault").outcome();
    outcome.printed("about to fault").ended(241, "triple-fault");
}

#[test]
fn panic_on_the_console_makes_the_reset_a_panic() {
    let outcome = Mayfly::bare("panic_text").outcome();
    outcome
        .printed("Kernel panic - not syncing")
        .ended(240, "kernel-panic");
}

#[test]
fn panic_is_seen_with_the_serial_port_leading_nowhere() {
    let outcome = Mayfly::bare("panic_text").args(["--serial", "null"]);
    outcome.outcome().ended(240, "kernel-panic");
}

#[test]
fn pvpanic_is_a_panic() {
    let outcome = Mayfly::bare("pvpanic").outcome();
    outcome.printed("panicking").ended(240, "kernel-panic");
    assert!(!outcome.stdout.contains("FAIL"), "{outcome}");
}

#[test]
fn timeout_ends_a_loop_in_kernel_mode() {
    let outcome = Mayfly::bare("spin").args(["--timeout", "1s"]).outcome();
    outcome.ended(242, "timeout").printed("spinning");
}

#[test]
fn timeout_ends_a_loop_in_user_mode() {
    let outcome = Mayfly::bare("spin_user").args(["--timeout", "1s"]);
    outcome.outcome().ended(242, "timeout").printed("spinning");
}

#[test]
fn absent_ports_read_as_ones() {
    let outcome = Mayfly::bare("ports").outcome();
    outcome
        .all_held()
        .printed("written by a string instruction\n");
}

#[test]
fn absent_addresses_read_as_ones() {
    let outcome = Mayfly::bare("mmio").args(["--memory", "128M"]).outcome();
    outcome.all_held();
    assert_eq!(outcome.fact("ioapic_version") >> 16, 23, "{outcome}");
}

#[test]
fn serial_port_interrupts_in_both_directions() {
    let outcome = Mayfly::bare("serial_irq").input("one\nand two\nquit\n");
    let outcome = outcome.outcome();
    outcome.all_held();
    let expected = "ready\necho: one\necho: and two\necho: quit\n";
    assert!(outcome.guest().starts_with(expected), "{outcome}");
}

#[test]
fn local_apic_timer_interrupts() {
    let outcome = Mayfly::bare("timer").outcome();
    outcome
        .all_held()
        .printed("periodic\n")
        .printed("one shot\n");
}

#[test]
fn processors_start_by_init_and_sipi() {
    for cpus in ["1", "2", "4"] {
        let line = format!("bare.cpus={cpus}");
        let outcome = Mayfly::bare("smp").args(["--cpus", cpus, "--cmdline", &line]);
        let outcome = outcome.outcome();
        outcome.all_held().printed(&format!("cpus={cpus}\n"));
    }
}

#[test]
fn processors_are_where_their_apic_ids_say() {
    // (--cpus, threads of a core, processors of a socket)
    for (cpus, threads, socket) in [("4,sockets=2,threads=2", 2, 2), ("4,threads=2", 2, 4)] {
        let line = format!("bare.cpus=4 bare.threads={threads} bare.socket={socket}");
        let outcome = Mayfly::bare("smp").args(["--cpus", cpus, "--cmdline", &line]);
        let outcome = outcome.outcome();
        outcome.all_held().printed("cpus=4\n");
    }
}

#[test]
fn clocks_tell_the_time() {
    let before = seconds_now();
    let outcome = Mayfly::bare("time").outcome();
    let after = seconds_now();
    outcome.all_held();
    let rtc = seconds_of(&outcome.line("rtc="));
    assert!(
        (before - 2..=after + 2).contains(&rtc),
        "RTC {rtc}, but it was {before} to {after}: {outcome}"
    );
    let nanoseconds = outcome.fact("wall_ns") + outcome.fact("system");
    let kvmclock = (outcome.fact("wall") + nanoseconds / 1_000_000_000) as i64;
    assert!(
        (before - 2..=after + 2).contains(&kvmclock),
        "kvmclock {kvmclock}, but it was {before} to {after}: {outcome}"
    );
}

fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("the time is after 1970").as_secs() as i64
}

/// Seconds since 1970 of a time written YYYYMMDDhhmmss, in UTC.
fn seconds_of(digits: &str) -> i64 {
    assert_eq!(digits.len(), 14, "not a time: {digits}");
    let part = |from: usize, to: usize| digits[from..to].parse::<i64>().expect("digits");
    // Days from civil: years begin in March, so that leap days come last.
    let (year, month) = match (part(0, 4), part(4, 6)) {
        (year, month @ 1..=2) => (year - 1, month + 9),
        (year, month) => (year, month - 3),
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + part(6, 8) - 1 - 719_468;
    ((days * 24 + part(8, 10)) * 60 + part(10, 12)) * 60 + part(12, 14)
}

#[test]
fn output_under_load_is_complete() {
    let outcome = Mayfly::bare("pause_load")
        .args(["--cmdline", "bare.lines=2000"])
        .outcome();
    outcome.all_held();
    let guest = outcome.guest();
    let lines: Vec<&str> = guest.lines().take(2000).collect();
    let expected: Vec<String> = (0..2000).map(|line| format!("line {line}")).collect();
    assert!(lines == expected, "lines are missing: {outcome}");
}

#[test]
fn instructions_do_what_the_processor_does() {
    let outcome = Mayfly::bare("instr").outcome();
    outcome.all_held();
    let emulated = outcome.json()["emulated"].clone();
    let count = emulated.as_object().expect("a map").len();
    match host_kind() {
        HostKind::Hardware => assert_eq!(count, 0, "{outcome}"),
        HostKind::Pvm => assert_ne!(count, 0, "{outcome}"),
    }
}

#[test]
fn forged_system_calls_get_a_page_fault() {
    let outcome = Mayfly::bare("syscall_forgery").outcome();
    outcome
        .all_held()
        .printed("genuine\n")
        .printed("forgeries refused\n");
    let planted = outcome.json()["hooks_planted"].as_u64();
    match host_kind() {
        HostKind::Hardware => assert_eq!(planted, Some(0), "{outcome}"),
        HostKind::Pvm => assert_ne!(planted, Some(0), "{outcome}"),
    }
}

#[test]
fn hostile_pokes_do_no_harm() {
    let outcome = Mayfly::bare("hostile").outcome();
    outcome.all_held().printed(&"x".repeat(3000));
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
}

#[test]
fn an_uncovered_instruction_is_named_with_its_function() {
    let outcome = Mayfly::bare("uncovered").outcome();
    outcome.printed("computing");
    if let HostKind::Hardware = host_kind() {
        outcome.all_held();
        return;
    }
    outcome.ended(244, "host-error");
    for part in ["'fld1'", "d9 e8", "RIP 0x10", "(sine_of_one+0x1)"] {
        assert!(outcome.stderr.contains(part), "no {part}: {outcome}");
    }
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
}

#[test]
fn jump_to_nowhere_ends_the_vm_with_a_report() {
    let outcome = Mayfly::bare("wild_jump")
        .args(["--timeout", "60s"])
        .outcome();
    outcome.printed("jumping");
    // KVM has nothing to run there: it stops with an internal error, or the
    // ones that it reads are an invalid opcode without a handler.
    let json = outcome.json();
    match json["reason"].as_str() {
        Some("host-error") => {
            assert_eq!(outcome.code, 244, "{outcome}");
            assert!(outcome.stderr.contains("0xd0000000"), "no RIP: {outcome}");
        }
        Some("triple-fault") => assert_eq!(outcome.code, 241, "{outcome}"),
        _ => panic!("neither an error nor a triple fault: {outcome}"),
    }
}
