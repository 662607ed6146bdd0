//! What a limit and weights come to, by the kernel's own account of processor time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{cgroups, last_cpu, processor_time};
use crate::common::Mayfly;
use crate::common::running::Running;

/// How long is measured: some seconds here; `MAYFLY_SHARES_SECONDS=30` for a figure to be told.
fn measured() -> Duration {
    let seconds = std::env::var("MAYFLY_SHARES_SECONDS");
    let seconds = seconds.ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
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

/// The processor time of each VM from now on, and the time that has passed.
fn spent(vms: &[&Running], span: Duration) -> (Vec<f64>, f64) {
    let now = || vms.iter().map(|vm| processor_time(vm.id()));
    let (start, before) = (Instant::now(), now().collect::<Vec<_>>());
    sleep(span);
    let spent = now().zip(before).map(|(now, before)| now - before);
    (spent.collect(), start.elapsed().as_secs_f64())
}

#[test]
fn a_limit_of_a_quarter_is_kept() {
    if cgroups().is_none() {
        return;
    }
    let vm = spinning(&["--cpu-limit", "25%"]);
    let (spent, elapsed) = spent(&[&vm], Duration::from_secs(2));
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
    let (spent, elapsed) = spent(&[&light, &heavy], measured());
    let all = spent[0] + spent[1];
    let part = spent[0] / all;
    println!(
        "{:.1} % and {:.1} % of {all:.2} s in {elapsed:.2} s",
        part * 100.0,
        spent[1] / all * 100.0
    );
    // A third within a tenth, so that two thirds are too.
    assert!((0.3..0.3667).contains(&part), "{spent:?} s");
}
