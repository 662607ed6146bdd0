//! A terminal to run the binary in, as a terminal emulator would.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, tcgetattr};

/// A pseudo-terminal with a reader on the user's side.
pub struct Terminal {
    user: File,
    program: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// A fresh terminal in the mode a shell would leave it.
    pub fn new() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("open a pseudo-terminal");
        grantpt(&user).expect("grantpt");
        unlockpt(&user).expect("unlockpt");
        let name = ptsname(&user, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let program = rustix::fs::open(&name, flags, Mode::empty()).expect("open the terminal");
        let user = File::from(user);
        let screen = Arc::default();
        read_along(user.try_clone().expect("dup"), Arc::clone(&screen));
        Self {
            user,
            program,
            screen,
        }
    }

    /// Starts `command` as the leader of a session with this terminal.
    pub fn start(&self, mut command: Command) -> Child {
        let end = || Stdio::from(self.program.try_clone().expect("dup"));
        command.stdin(end()).stdout(end()).stderr(end());
        let become_leader = || {
            rustix::process::setsid()?;
            let input = rustix::stdio::stdin();
            rustix::process::ioctl_tiocsctty(input)?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only; it
        // allocates nothing and takes no lock.
        unsafe { command.pre_exec(become_leader) };
        command.spawn().expect("start mayfly")
    }

    /// The user types.
    pub fn type_keys(&self, keys: &[u8]) {
        (&self.user).write_all(keys).expect("type");
    }

    /// What has been printed so far.
    pub fn screen(&self) -> String {
        let screen = self.screen.lock().expect("the reader does not panic");
        String::from_utf8_lossy(&screen).into_owned()
    }

    /// Waits until `text` has been printed.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.screen().contains(text) {
            let screen = self.screen();
            assert!(Instant::now() < end, "no '{text}' on the screen:\n{screen}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The terminal's settings, in a form that can be compared.
    pub fn settings(&self) -> String {
        format!("{:?}", self.termios())
    }

    /// The terminal's settings.
    pub fn termios(&self) -> Termios {
        tcgetattr(&self.program).expect("tcgetattr")
    }
}

/// Reads what is printed until the terminal is gone, so that nobody waits.
fn read_along(mut user: File, screen: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = user.read(&mut buffer) {
            let mut screen = screen.lock().expect("nobody panics with it");
            screen.extend(&buffer[..length]);
        }
    })
}
