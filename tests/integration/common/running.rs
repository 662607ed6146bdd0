//! A `mayfly` that runs while the test goes on.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Outcome;
use super::run::{LIMIT, wait_limited};

/// How often it is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// A started `mayfly`, killed when it is dropped.
pub struct Running {
    child: Child,
    started: Instant,
    stdout: Pipe,
    stderr: Pipe,
}

/// What has come out of a pipe so far.
struct Pipe {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts `command`.
    pub fn start(mut command: Command) -> Self {
        let started = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start mayfly");
        Self {
            stdout: Pipe::new(child.stdout.take().expect("a pipe")),
            stderr: Pipe::new(child.stderr.take().expect("a pipe")),
            child,
            started,
        }
    }

    /// Waits until `text` stands on its standard output.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |running| &running.stdout);
    }

    /// Waits until `text` stands on its standard error.
    #[track_caller]
    pub fn wait_for_error(&mut self, text: &str) {
        self.wait_until(text, |running| &running.stderr);
    }

    #[track_caller]
    fn wait_until(&mut self, text: &str, pipe: fn(&Self) -> &Pipe) {
        let end = Instant::now() + LIMIT;
        loop {
            // What it prints last is read after its end at the latest.
            let ended = self.child.try_wait().expect("wait for mayfly").is_some();
            if ended {
                self.join();
            }
            if pipe(self).text().contains(text) {
                return;
            }
            let late = Instant::now() >= end;
            assert!(!ended && !late, "no '{text}': {}", self.so_far());
            thread::sleep(GLANCE);
        }
    }

    /// Writes to its standard input, which must be a pipe.
    pub fn type_in(&mut self, bytes: &[u8]) {
        let pipe = self.child.stdin.as_mut().expect("its input is a pipe");
        pipe.write_all(bytes).expect("mayfly reads its input");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal mayfly");
    }

    /// What stands on its standard output so far.
    pub fn printed(&self) -> String {
        self.stdout.text()
    }

    /// Waits until `text` stands there `times` times.
    #[track_caller]
    pub fn wait_for_times(&mut self, text: &str, times: usize) {
        let end = Instant::now() + LIMIT;
        while self.printed().matches(text).count() < times {
            let ended = self.child.try_wait().expect("wait for mayfly").is_some();
            let late = Instant::now() >= end;
            assert!(!ended && !late, "not {times} '{text}': {}", self.so_far());
            thread::sleep(GLANCE);
        }
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed, for failures.
    fn so_far(&self) -> String {
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        format!("--- stdout so far\n{stdout}\n--- stderr so far\n{stderr}")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn outcome(mut self) -> Outcome {
        let status = wait_limited(&mut self.child, LIMIT);
        self.join();
        let outcome = Outcome {
            code: status.and_then(|status| status.code()).unwrap_or(-1),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            elapsed: self.started.elapsed(),
        };
        assert!(
            status.is_some(),
            "mayfly did not end in {LIMIT:?}: {outcome}"
        );
        outcome
    }

    fn join(&mut self) {
        for pipe in [&mut self.stdout, &mut self.stderr] {
            if let Some(reader) = pipe.reader.take() {
                reader.join().expect("the reading thread");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pipe {
    fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let so_far = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                let mut text = so_far.lock().expect("nobody panics with it");
                text.extend(&buffer[..length]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        let text = self.text.lock().expect("nobody panics with it");
        String::from_utf8_lossy(&text).into_owned()
    }
}
