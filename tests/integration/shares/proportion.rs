//! What a limit and weights come to, by the kernel's own account of processor time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{cgroups, last_cpu, processor_time};
use crate::common::Mayfly;
use crate::common::running::Running;

/// How long weights are measured, in seconds: 30 at most, and less if that is enough, as one
/// stall of a busy host weighs less in the longer time. With `MAYFLY_SHARES_SECONDS=30` it is
/// 30 without a look before.
fn spans() -> Vec<u64> {
    match std::env::var("MAYFLY_SHARES_SECONDS") {
        Ok(seconds) => vec![seconds.parse().expect("a number of seconds")],
        Err(_) => vec![4, 10, 30],
    }
}

/// A VM that always wants a processor, all of them the same one.
fn spinning(options: &[&str]) -> Running {
    let mut vm = Mayfly::bare("spin")
        .arg("--cpu-pin")
        .arg(format!("0:{}", last_cpu()))
        .args(options)
        .start();
    vm.wait_for("spinning");
    vm
}

/// The processor time of VMs from a moment on.
struct Account<'a> {
    vms: &'a [&'a Running],
    start: Instant,
    before: Vec<f64>,
}

impl<'a> Account<'a> {
    fn open(vms: &'a [&'a Running]) -> Self {
        let before = vms.iter().map(|vm| processor_time(vm.id())).collect();
        Self {
            vms,
            start: Instant::now(),
            before,
        }
    }

    /// What each has had when this time has passed, and what time has passed; in seconds.
    fn after(&self, seconds: u64) -> (Vec<f64>, f64) {
        let span = Duration::from_secs(seconds);
        sleep(span.saturating_sub(self.start.elapsed()));
        let now = self.vms.iter().map(|vm| processor_time(vm.id()));
        let spent = now.zip(&self.before).map(|(now, before)| now - before);
        (spent.collect(), self.start.elapsed().as_secs_f64())
    }
}

#[test]
fn a_limit_of_a_quarter_is_kept() {
    if cgroups().is_none() {
        return;
    }
    let vm = spinning(&["--cpu-limit", "25%"]);
    let (spent, elapsed) = Account::open(&[&vm]).after(2);
    let part = spent[0] / elapsed;
    println!("{:.1} % of a processor", part * 100.0);
    // Others may want the same processor.
    assert!((0.1..0.3).contains(&part), "{spent:?} s of {elapsed} s");
}

#[test]
fn two_vms_of_weights_1_and_2_get_a_third_and_two_thirds() {
    if cgroups().is_none() {
        return;
    }
    let (light, heavy) = (
        spinning(&["--cpu-weight", "100"]),
        spinning(&["--cpu-weight", "200"]),
    );
    let vms = [&light, &heavy];
    let account = Account::open(&vms);
    let mut part = 0.0;
    for seconds in spans() {
        let (spent, elapsed) = account.after(seconds);
        let all = spent[0] + spent[1];
        part = spent[0] / all;
        println!(
            "{:.1} % and {:.1} % of {all:.2} s in {elapsed:.2} s",
            part * 100.0,
            100.0 - part * 100.0
        );
        // A third within a tenth, so that two thirds are too.
        if (0.3..0.3667).contains(&part) {
            return;
        }
    }
    panic!("{part} for the one with half of the other's weight");
}
