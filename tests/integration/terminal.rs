//! On a terminal: raw mode, the escape key, and everything as it was at the end.

use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::LocalModes;

use crate::common::Mayfly;
use crate::common::run::{LIMIT, wait_limited};
use crate::common::terminal::Terminal;

/// `mayfly run` of a bare guest in a terminal.
struct Session {
    terminal: Terminal,
    settings: String,
    child: Child,
}

impl Session {
    fn start(guest: &str) -> Self {
        let terminal = Terminal::new();
        let settings = terminal.settings();
        let command = Mayfly::new(["run", "--kernel"]).arg(crate::common::bare(guest));
        let child = terminal.start(command.into_command());
        Self {
            terminal,
            settings,
            child,
        }
    }

    fn is_raw(&self) -> bool {
        let modes = self.terminal.termios().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    #[track_caller]
    fn end(&mut self) -> ExitStatus {
        let status = wait_limited(&mut self.child, LIMIT);
        let screen = self.terminal.screen();
        let status = status.unwrap_or_else(|| panic!("mayfly does not end:\n{screen}"));
        let settings = self.terminal.settings();
        assert_eq!(
            settings, self.settings,
            "the terminal is changed:\n{screen}"
        );
        status
    }
}

#[test]
fn settings_come_back_when_the_guest_ends() {
    let mut session = Session::start("hello");
    assert_eq!(session.end().code(), Some(0));
    session.terminal.wait_for("hello from a bare guest\r\n");
}

#[test]
fn guest_owns_the_keyboard() {
    let mut session = Session::start("serial_irq");
    session.terminal.wait_for("ready");
    assert!(session.is_raw());
    // Ctrl-c is the guest's, too.
    session.terminal.type_keys(b"ab\x03cd\r");
    session.terminal.wait_for("echo: ab\u{3}cd");
    session.terminal.type_keys(b"quit\r");
    assert_eq!(session.end().code(), Some(0));
}

#[test]
fn escape_key_quits() {
    let mut session = Session::start("spin");
    session.terminal.wait_for("spinning");
    session.terminal.type_keys(b"\x01x");
    assert_eq!(session.end().code(), Some(243));
}

#[test]
fn escape_key_helps_and_the_guest_goes_on() {
    let mut session = Session::start("serial_irq");
    session.terminal.wait_for("ready");
    session.terminal.type_keys(b"\x01h");
    session.terminal.wait_for("Ctrl-a x");
    session.terminal.type_keys(b"after\rquit\r");
    session.terminal.wait_for("echo: after");
    assert_eq!(session.end().code(), Some(0));
}

#[test]
fn escape_key_twice_reaches_the_guest() {
    let mut session = Session::start("serial_irq");
    session.terminal.wait_for("ready");
    session.terminal.type_keys(b"\x01\x01\rquit\r");
    session.terminal.wait_for("echo: \u{1}");
    assert_eq!(session.end().code(), Some(0));
}

#[test]
fn settings_come_back_after_signals() {
    let quits = [Signal::TERM, Signal::INT, Signal::HUP];
    let crashes = [Signal::QUIT, Signal::SEGV, Signal::ABORT];
    for signal in quits.into_iter().chain(crashes) {
        let mut session = Session::start("spin");
        session.terminal.wait_for("spinning");
        assert!(session.is_raw());
        kill_process(Pid::from_child(&session.child), signal).expect("kill");
        let status = session.end();
        if quits.contains(&signal) {
            assert_eq!(status.code(), Some(243), "{signal:?}");
        } else {
            assert_ne!(status.code(), Some(0), "{signal:?}");
        }
    }
}

#[test]
fn signals_quit_without_a_terminal() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut child = Mayfly::bare("spin")
            .into_command()
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("start mayfly");
        let mut first = [0];
        let stdout = child.stdout.as_mut().expect("a pipe");
        std::io::Read::read_exact(stdout, &mut first).expect("the guest prints");
        kill_process(Pid::from_child(&child), signal).expect("kill");
        let status = wait_limited(&mut child, LIMIT).expect("mayfly ends");
        assert_eq!(status.code(), Some(243), "{signal:?}");
    }
}
