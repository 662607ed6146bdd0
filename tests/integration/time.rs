//! Time: the guest's clocks run as fast as the host's, and stand still with the VM.
//!
//! No bound here is one that a busy host could break: what is asserted follows from what
//! the host's clock told before and after.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::run::{LIMIT, wait_limited};
use crate::common::{HostKind, Mayfly, host_kind, tsc_is_trusted};
use crate::pause;

/// The word after `name=` in `text`, a hexadecimal number.
#[track_caller]
fn fact(text: &str, name: &str) -> u64 {
    let start = format!("{name}=");
    let mut words = text.split_whitespace();
    let word = words.find_map(|word| word.strip_prefix(&start));
    let word = word.unwrap_or_else(|| panic!("no '{name}' in: {text}"));
    u64::from_str_radix(word, 16).expect("a hexadecimal number")
}

/// Nanoseconds that `cycles` of a TSC of `khz` take.
fn nanoseconds(cycles: u64, khz: u64) -> i64 {
    let ns = u128::from(cycles) * 1_000_000 / u128::from(khz);
    // A TSC that nobody trusts may have gone back by any amount.
    i64::try_from(ns).unwrap_or(i64::MAX)
}

/// What a clock of the guest tells less what the host's does: not less and not more.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    least: i64,
    most: i64,
}

impl Ahead {
    const UNKNOWN: Self = Self {
        least: i64::MIN,
        most: i64::MAX,
    };

    /// It told `guest` at some time between `asked` and `answered`.
    fn learn(&mut self, guest: i64, asked: i64, answered: i64) {
        self.least = self.least.max(guest - answered);
        self.most = self.most.min(guest - asked);
    }

    fn width(&self) -> i64 {
        self.most.saturating_sub(self.least)
    }
}

/// A guest that tells the time.
struct Teller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    khz: u64,
    origin: Instant,
}

/// kvmclock and the TSC.
type Clocks = [Ahead; 2];

impl Teller {
    fn start() -> Self {
        // Reading its answers has no other limit.
        let mayfly = Mayfly::bare("clock_answer").args(["--timeout", "60s"]);
        let mut child = mayfly
            .into_command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start mayfly");
        let input = child.stdin.take().expect("a pipe");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("read the output");
        assert!(line.contains("ready"), "{line}");
        Self {
            child,
            input,
            output,
            khz: fact(&line, "khz"),
            origin: Instant::now(),
        }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_nanos()).expect("a short test")
    }

    /// Asks until both clocks are known to within `width` nanoseconds, or it is `end`.
    fn ask(&mut self, width: i64, end: Instant) -> Clocks {
        let mut clocks = [Ahead::UNKNOWN; 2];
        loop {
            let asked = self.now();
            self.input.write_all(b"t").expect("ask");
            let mut first = [0];
            self.output.read_exact(&mut first).expect("an answer");
            let answered = self.now();
            let mut line = String::from(char::from(first[0]));
            self.output.read_line(&mut line).expect("an answer");
            let tsc = nanoseconds(fact(&line, "tsc"), self.khz);
            let clock = i64::try_from(fact(&line, "clock")).expect("a time");
            for (ahead, guest) in clocks.iter_mut().zip([clock, tsc]) {
                ahead.learn(guest, asked, answered);
            }
            if clocks.iter().all(|ahead| ahead.width() <= width) || Instant::now() >= end {
                return clocks;
            }
        }
    }

    fn finish(mut self) {
        self.input.write_all(b"q").expect("end it");
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("the end");
        assert!(rest.contains("done"), "{rest}");
        wait_limited(&mut self.child, LIMIT).expect("an end");
    }
}

/// Threads that want all processors, twice over, while it lives.
struct Load(Arc<AtomicBool>);

impl Load {
    fn new() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..2 * thread::available_parallelism().map_or(1, usize::from) {
            let over = over.clone();
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(over)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Seconds from the first reading to the next ones. What a reading may be wrong by is the
/// same after each, and less of a longer one: the first that tells is enough.
const SPANS: [u64; 3] = [2, 8, 30];

#[test]
fn clocks_drift_less_than_a_millisecond_a_second_on_a_loaded_host() {
    let mut teller = Teller::start();
    let soon = || Instant::now() + Duration::from_millis(700);
    let before = teller.ask(100_000, soon());
    let origin = Instant::now();
    let mut told = String::new();
    for seconds in SPANS {
        // Not during the readings, so that these are as exact as they can be.
        let load = Load::new();
        thread::sleep(Duration::from_secs(seconds).saturating_sub(origin.elapsed()));
        drop(load);
        let after = teller.ask(100_000, soon());
        // A clock has gained something from `least` to `most`. All of that has to be
        // allowed: a reading that says little proves nothing.
        let allowed = i64::try_from(seconds).expect("a few") * 1_000_000;
        let mut kept = true;
        for (name, (before, after)) in ["kvmclock", "TSC"].iter().zip(before.iter().zip(after)) {
            let least = after.least.saturating_sub(before.most);
            let most = after.most.saturating_sub(before.least);
            told += &format!("{name} has gained {least} to {most} ns on the host in {seconds} s\n");
            if name == &"TSC" && !tsc_is_trusted() {
                told += "of which this host's kernel does not know the frequency\n";
                continue;
            }
            // Both of both: of a clock that runs wild they may contradict each other.
            let bound = -allowed..=allowed;
            kept &= bound.contains(&least) && bound.contains(&most);
        }
        if kept {
            print!("{told}");
            return teller.finish();
        }
    }
    panic!("a clock drifts by a millisecond a second, or its drift is not to be told:\n{told}");
}

#[test]
fn clocks_stand_still_while_the_vm_is_paused() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("serial.log");
    let started = Instant::now();
    let (vm, lifecycle, hardware) = pause::start("clock_watch", 2, "bare.ms=900".to_owned(), &log);
    let read = || std::fs::read_to_string(&log).unwrap();
    while !read().contains("watching") && lifecycle.reason().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    let mut paused = Duration::ZERO;
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(30));
        if !vm.pause() {
            // A host that busy has let the guest come to its end.
            break;
        }
        let held = Instant::now();
        thread::sleep(Duration::from_millis(200));
        paused += held.elapsed();
        vm.resume();
    }
    pause::wait_for_end(&lifecycle);
    // The guest has not run for longer than this.
    let most = i64::try_from((started.elapsed() - paused).as_nanos()).unwrap();
    vm.finish();
    hardware.finish();
    let text = read();
    println!("{text} of {most} ns, and {paused:?} in pauses");
    let trusted = tsc_is_trusted();
    assert!(!trusted || !text.contains("FAIL"), "{text}");
    assert_eq!(fact(&text, "fired"), 1, "{text}");
    assert!(fact(&text, "readings") > 100, "{text}");

    let clock = i64::try_from(fact(&text, "clock")).unwrap();
    assert!(clock <= most, "{clock} ns in {most}: {text}");
    let tsc = nanoseconds(fact(&text, "tsc"), fact(&text, "khz"));
    match host_kind() {
        _ if !trusted => println!("whose TSC this host's kernel does not trust"),
        // KVM knows the frequency to a thousandth at worst.
        HostKind::Hardware => assert!(tsc - tsc / 500 <= most, "{tsc} ns in {most}: {text}"),
        // It goes on there, as it does for the guest's programs, which read the host's.
        HostKind::Pvm => println!("{tsc} ns by the TSC"),
    }
}
