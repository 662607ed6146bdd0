//! Folding and the table, by hand-made samples.

use super::super::samples::Place;
use super::*;

const RSP: u64 = 0xffff_c900_0000_3000;

fn samples(of: &[(u64, Activity, u64, bool)]) -> Samples {
    let mut samples = Samples::new();
    for (weight, activity, rip, user) in of {
        let place = Place {
            rip: *rip,
            rsp: RSP,
            rbp: 0,
            user: *user,
        };
        samples.push(*weight, *activity, place, &[]);
    }
    samples
}

fn resolver() -> Resolver {
    Resolver {
        table: SymbolTable::of(&[
            (0xffff_ffff_8100_0000, "start;up"),
            (0xffff_ffff_8100_1000, "idle"),
        ]),
        unwinder: None,
        is_moved: false,
    }
}

fn folded() -> Folded {
    let port = Activity::Port {
        port: 0x3f8,
        is_out: true,
    };
    let idle = 0xffff_ffff_8100_1004;
    let mut folded = Folded::default();
    let vcpus = [
        samples(&[
            (10, Activity::Guest, 0xffff_ffff_8100_0010, false),
            (3, Activity::Guest, 0x40_1000, true),
            (5, Activity::Halted, idle, false),
            (2, port, idle, false),
            (1, Activity::Guest, 0x100_0010, false),
            (1, Activity::Guest, 0xffff_ffff_c012_3456, false),
        ]),
        samples(&[(30, Activity::NotStarted, 0xfff0, false)]),
    ];
    folded.resolve(&vcpus, &mut resolver());
    folded
}

fn text(folded: &Folded) -> String {
    let mut text = Vec::new();
    folded.write(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn each_stack_is_a_line_with_its_count() {
    let expected = "vcpu0;[kernel];[module] 1\n\
                    vcpu0;[kernel];idle;[halted] 5\n\
                    vcpu0;[kernel];idle;[out 0x3f8] 2\n\
                    vcpu0;[kernel];start?up 11\n\
                    vcpu0;[user] 3\n\
                    vcpu1;[not started] 30\n";
    assert_eq!(text(&folded()), expected);
}

#[test]
fn the_table_counts_functions_themselves_and_with_what_they_call() {
    let expected = "\
mayfly: 52 samples of 2 vCPUs at 26 Hz: kernel 23.1 % user 5.8 % halted 67.3 % exits to Mayfly 3.8 %
   own %  total %  seconds  where
    57.7     57.7     1.15  [not started]
    21.2     21.2     0.42  start?up
     9.6      9.6     0.19  [halted]
     5.8      5.8     0.12  [user]
     3.8      3.8     0.08  [out 0x3f8]
     1.9      1.9     0.04  [module]
";
    assert_eq!(folded().table(26), expected);
    let folded = folded();
    let rows = folded.rows();
    assert_eq!(rows["idle"].total, 7);
    assert_eq!(rows["[kernel]"].total, 19);
}

#[test]
fn early_code_has_no_name_in_a_kernel_that_was_moved() {
    let mut moved = resolver();
    moved.is_moved = true;
    assert_eq!(moved.name(0x100_0010), "[unknown]");
    assert_eq!(resolver().name(0x100_0010), "start?up");
    assert_eq!(resolver().name(0x40), "[unknown]");
}

#[test]
fn a_second_start_of_the_guest_adds_up() {
    let mut folded = folded();
    let again = [samples(&[(8, Activity::Guest, 0x40_1000, true)])];
    folded.add(&again, None);
    assert!(text(&folded).contains("vcpu0;[user] 11\n"));
    assert_eq!(folded.total(), 60);
}

#[test]
fn callers_that_were_not_looked_for_are_said_to_be_missing() {
    let mut folded = Folded::default();
    let mut resolver = resolver();
    resolver.unwinder = Some(Unwinder::without_code());
    let vcpus = [samples(&[
        (5, Activity::Halted, 0xffff_ffff_8100_1004, false),
        (1, Activity::Guest, 0x40_1000, true),
    ])];
    folded.resolve(&vcpus, &mut resolver);
    folded.work = Budget::of(0);
    folded.resolve(&vcpus, &mut resolver);
    let expected = "vcpu0;[kernel];[other];idle;[halted] 5\n\
                    vcpu0;[kernel];idle;[halted] 5\n\
                    vcpu0;[user] 2\n";
    assert_eq!(text(&folded), expected);
}
