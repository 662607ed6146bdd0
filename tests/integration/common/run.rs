//! Runs the binary as a user would, with a limit on how long it may take.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::running::Running;

/// The binary under test.
pub const MAYFLY: &str = env!("CARGO_BIN_EXE_mayfly");

/// How long any run may take before the test fails: generous, as tests share
/// few processors with each other, and a Linux on a kvm-pvm host needs some.
pub const LIMIT: Duration = Duration::from_secs(240);

/// One command line of `mayfly`.
pub struct Mayfly {
    command: Command,
    input: Option<Vec<u8>>,
}

/// How a run ended.
pub struct Outcome {
    /// The exit code.
    pub code: i32,
    /// Standard output, the JSON line included.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Mayfly {
    /// `mayfly` with these arguments, nothing on its input.
    pub fn new<I, S>(arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(MAYFLY);
        command.args(arguments).stdin(Stdio::null());
        Self {
            command,
            input: None,
        }
    }

    /// `mayfly run --json --kernel KERNEL`.
    pub fn run(kernel: &Path) -> Self {
        Self::new(["run", "--json", "--kernel"]).arg(kernel)
    }

    /// `mayfly run` as above with the bare guest `name`.
    pub fn bare(name: &str) -> Self {
        Self::run(&super::bare(name))
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// More arguments.
    pub fn args<I, S>(mut self, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command.args(arguments);
        self
    }

    /// The same command line, run by another program that takes it as its last
    /// arguments (`sh -c SCRIPT sh`, `unshare`).
    pub fn under<I, S>(self, program: &str, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(program);
        command.args(arguments).arg(self.command.get_program());
        command.args(self.command.get_args()).stdin(Stdio::null());
        Self {
            command,
            input: None,
        }
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Standard input from `input`, a file for example.
    pub fn stdin(mut self, input: impl Into<Stdio>) -> Self {
        self.command.stdin(input);
        self
    }

    /// Standard input is a pipe that carries `input` and then ends.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(input.into());
        self
    }

    /// The command itself, for tests that hold its ends.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Starts it, while the test goes on.
    pub fn start(self) -> Running {
        Running::start(self.command)
    }

    /// Runs to the end.
    pub fn outcome(mut self) -> Outcome {
        let start = Instant::now();
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start mayfly");
        let stdout = collect(child.stdout.take().expect("a pipe"));
        let stderr = collect(child.stderr.take().expect("a pipe"));
        let writer = self.input.take().map(|input| {
            let mut pipe = child.stdin.take().expect("a pipe");
            // A guest that has ended reads no more: a broken pipe is no failure.
            thread::spawn(move || drop(pipe.write_all(&input)))
        });
        let status = wait_limited(&mut child, LIMIT);
        let elapsed = start.elapsed();
        let (stdout, stderr) = (stdout.join(), stderr.join());
        if let Some(writer) = writer {
            writer.join().expect("the writing thread");
        }
        let outcome = Outcome {
            code: status.and_then(|status| status.code()).unwrap_or(-1),
            stdout: text(stdout.expect("the reading thread")),
            stderr: text(stderr.expect("the reading thread")),
            elapsed,
        };
        assert!(
            status.is_some(),
            "mayfly did not end in {LIMIT:?}: {outcome}"
        );
        outcome
    }
}

/// Reads a pipe to its end in a thread.
fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read the output");
        bytes
    })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for the end of `child`, which is killed after `limit` (then `None`).
pub fn wait_limited(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("wait for mayfly") {
            return Some(status);
        }
        if Instant::now() >= end {
            child.kill().expect("kill mayfly");
            child.wait().expect("wait for mayfly");
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

impl Outcome {
    /// The last line of standard output, which is one JSON object.
    pub fn json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("the last line is not JSON ({error}): {self}"));
        assert!(value.is_object(), "not an object: {self}");
        value
    }

    /// What the guest printed: standard output without the JSON line and
    /// without carriage returns.
    pub fn guest(&self) -> String {
        let text = self.stdout.replace('\r', "");
        match text.trim_end().rsplit_once('\n') {
            Some((guest, last)) if last.starts_with("{\"") => guest.to_string(),
            None if text.starts_with("{\"") => String::new(),
            _ => text,
        }
    }

    /// The run ended with this exit code and, by its JSON, for this reason.
    #[track_caller]
    pub fn ended(&self, code: i32, reason: &str) -> &Self {
        assert_eq!(self.code, code, "exit code: {self}");
        let json = self.json();
        assert_eq!(json["reason"], reason, "reason: {self}");
        assert_eq!(json["exit_code"], code, "exit code in JSON: {self}");
        self
    }

    /// The guest printed `text`.
    #[track_caller]
    pub fn printed(&self, text: &str) -> &Self {
        assert!(self.guest().contains(text), "no '{text}' in: {self}");
        self
    }

    /// All checks of a bare guest held, and it reset itself.
    #[track_caller]
    pub fn all_held(&self) -> &Self {
        assert!(!self.stdout.contains("FAIL"), "a check failed: {self}");
        self.ended(0, "reset").printed("done")
    }

    /// The words after `name` on the line of guest output that starts with it.
    #[track_caller]
    pub fn line(&self, name: &str) -> String {
        let guest = self.guest();
        let line = guest.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no line '{name}' in: {self}"))
            .trim()
            .to_string()
    }

    /// The value of `name=VALUE`, hexadecimal, in the guest's output.
    #[track_caller]
    pub fn fact(&self, name: &str) -> u64 {
        let guest = self.guest();
        let start = format!("{name}=");
        let word = guest
            .split_whitespace()
            .find_map(|word| word.strip_prefix(&start));
        let word = word.unwrap_or_else(|| panic!("no fact '{name}' in: {self}"));
        u64::from_str_radix(word, 16).unwrap_or_else(|_| panic!("{name}={word}: not a number"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "exit code {} after {:?}", self.code, self.elapsed)?;
        writeln!(out, "--- stdout\n{}", self.stdout)?;
        writeln!(out, "--- stderr\n{}", self.stderr)
    }
}
