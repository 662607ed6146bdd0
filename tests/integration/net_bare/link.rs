//! Links that go down, come up and are taken away while the guest runs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::{TAP, guest, transports, with_peer};
use crate::common::netns::ip;
use crate::common::run::{LIMIT, wait_limited};

/// A VM that runs meanwhile.
struct Running {
    child: Child,
    lines: Receiver<String>,
    /// What was printed so far.
    seen: Vec<String>,
}

impl Running {
    fn start(transport: &str, words: &str) -> Self {
        let mut command = guest("net_link", transport, "", words).into_command();
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start mayfly");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            // Ends with the output, or with the receiver.
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits until the guest prints the line `wanted`.
    #[track_caller]
    fn prints(&mut self, wanted: &str) {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            let line = line.trim_end().to_string();
            self.seen.push(line.clone());
            if line == wanted {
                return;
            }
        }
        panic!("no line '{wanted}' in {:#?}", self.seen);
    }

    /// The guest ends well, its checks held.
    #[track_caller]
    fn ends(mut self) {
        self.prints("done");
        let status = wait_limited(&mut self.child, LIMIT);
        let seen = &self.seen;
        assert!(
            status.is_some_and(|status| status.success()),
            "{status:?} {seen:#?}"
        );
        let failed = seen.iter().any(|line| line.contains("FAIL"));
        assert!(!failed, "{seen:#?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_tap_that_goes_down_and_up_is_a_link_that_does() {
    for transport in transports() {
        with_peer(|_| {
            let mut vm = Running::start(transport, "bare.changes=4 bare.ctrl=1");
            vm.prints("link=1");
            vm.prints("alive");
            for _ in 0..2 {
                ip(&["link", "set", TAP, "down"]);
                vm.prints("link=0");
                ip(&["link", "set", TAP, "up"]);
                vm.prints("link=1");
                vm.prints("announced");
                vm.prints("alive");
            }
            vm.ends();
        });
    }
}

#[test]
fn a_tap_that_is_removed_is_a_link_that_is_down() {
    for transport in transports() {
        with_peer(|_| {
            let mut vm = Running::start(transport, "bare.changes=1");
            vm.prints("alive");
            ip(&["link", "delete", TAP]);
            vm.prints("link=0");
            vm.ends();
        });
    }
}
