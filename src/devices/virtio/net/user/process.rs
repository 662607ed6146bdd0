//! passt as a process: started with next to nothing, awaited, and ended with the VM.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, fchmod};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use super::UserOptions;
use super::error::UserError;
use super::forward::{Forward, Protocol};
use super::resolver;
use super::words::Words;

/// How long passt may take to start. It takes some 20 ms; a host may be slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most lines told of why it did not.
const LINES_TOLD: usize = 3;

/// passt's words for a host without a default route, for one version of IP and for both.
const NO_SUCH_PROTOCOL: &str = "No external routable interface";
const NO_WAY_OUT: &str = "External interface not usable";

/// A passt that serves. Dropping it ends it.
///
/// If this process ends in any other way, the socket does, and passt with it. The
/// kernel's own signal to children (`PR_SET_PDEATHSIG`) comes on top of that: it
/// reaches a passt that does not look at its socket, but none that was started as root
/// and became another user.
pub struct Passt {
    child: Child,
    words: Arc<Words>,
    /// What passt wrote its number to. Kept, as it would be ended by writing there again.
    _ready: OwnedFd,
}

impl Drop for Passt {
    fn drop(&mut self) {
        // Both fail only for a child that was reaped, which nobody else does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Passt {
    /// Starts passt with `socket` and waits until it serves, or ends.
    ///
    /// # Errors
    /// [`UserError`]
    pub(super) fn start(options: &UserOptions, socket: UnixStream) -> Result<Self, UserError> {
        let path = std::env::var_os("PATH");
        Self::start_in(path, options, socket, PATIENCE)
    }

    /// The same, with the folders in which passt may lie, and how long it may take.
    fn start_in(
        path: Option<OsString>,
        options: &UserOptions,
        socket: UnixStream,
        patience: Duration,
    ) -> Result<Self, UserError> {
        let (words, stderr) = Words::pipe().map_err(UserError::Socket)?;
        let (ready, stdout) = ready_pipe().map_err(UserError::Socket)?;
        let mut command = Command::new("passt");
        command
            .args(arguments(options, socket.as_raw_fd()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // A Ctrl-C at the terminal is for us, and ends passt when it ends us.
            .process_group(0);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let inherited = socket.as_raw_fd();
        // SAFETY: between fork and exec the closure makes three system calls and touches
        // no memory, lock or allocator of the parent.
        unsafe {
            command.pre_exec(move || confine(inherited));
        }
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => UserError::Missing,
            _ => UserError::Start(error),
        })?;
        let mut passt = Self {
            child,
            words: Arc::new(words),
            _ready: ready,
        };
        // Our copies of its ends of the pipes and of the socket, so that we see it end.
        drop(command);
        drop(socket);
        passt.wait_until_ready(patience)?;
        Ok(passt)
    }

    /// What passt says from now on.
    pub(super) fn words(&self) -> Arc<Words> {
        self.words.clone()
    }

    /// Waits for passt to write its number to the file that it is told of, which it
    /// does last, after it has opened the forwarded ports and confined itself.
    fn wait_until_ready(&mut self, patience: Duration) -> Result<(), UserError> {
        let deadline = Instant::now() + patience;
        let in_time = wait_readable(&self._ready, deadline).map_err(UserError::Start)?;
        if in_time && matches!(rustix::io::read(&self._ready, &mut [0; 16]), Ok(1..)) {
            return Ok(());
        }
        let mut said = self.words.hear();
        if !in_time {
            return Err(UserError::NotReady {
                after: patience,
                said: said.pop(),
            });
        }
        let status = self.end_by(deadline).map_err(UserError::Start)?;
        said.extend(self.words.hear());
        // What passt says on every host without IPv6 is no reason, unless it is the reason.
        if said.last().is_none_or(|last| last != NO_WAY_OUT) {
            said.retain(|line| !line.starts_with(NO_SUCH_PROTOCOL));
        }
        said.truncate(LINES_TOLD);
        if said.is_empty() {
            said.push(format!("it ended with {status}"));
        }
        Err(UserError::Refused {
            said: said.join("; "),
        })
    }

    /// Waits for a passt that has closed its standard output, as it does by ending.
    fn end_by(&mut self, deadline: Instant) -> io::Result<ExitStatus> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            wait_readable(pidfd_open(pid, PidfdFlags::empty())?, deadline)?;
        }
        // It fails for one that has ended.
        let _ = self.child.kill();
        self.child.wait()
    }
}

/// passt's arguments; `socket` is the number of the descriptor.
fn arguments(options: &UserOptions, socket: RawFd) -> Vec<String> {
    let mut arguments = vec![
        "--foreground".to_owned(),
        "--quiet".to_owned(),
        "--fd".to_owned(),
        socket.to_string(),
        "--pid".to_owned(),
        // Its standard output, a pipe.
        "/proc/self/fd/1".to_owned(),
    ];
    if let Some(mtu) = options.mtu {
        arguments.extend(["--mtu".to_owned(), mtu.to_string()]);
    }
    // Otherwise the host's loopback is to be had at the address of the guest's gateway,
    // which the answers to forwarded datagrams need, as passt had it until 2024.
    let udp = |forward: &Forward| forward.protocol == Protocol::Udp;
    if !options.forwards.iter().any(udp) {
        arguments.push("--no-map-gw".to_owned());
        for server in resolver::servers_to_tell() {
            arguments.extend(["--dns".to_owned(), server.to_string()]);
        }
    }
    arguments.extend(options.forwards.iter().flat_map(Forward::arguments));
    arguments
}

/// A pipe that a passt which was started as root may open again as another user.
fn ready_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    fchmod(&writer, Mode::from_raw_mode(0o622))?;
    Ok((reader, writer))
}

/// Makes the child end with the thread that started it, and leaves it no descriptors
/// but the standard ones and `inherited`.
fn confine(inherited: RawFd) -> io::Result<()> {
    const FIRST: libc::c_uint = libc::STDERR_FILENO as libc::c_uint + 1;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The C library's function is younger than the kernels that have the call (5.11).
    // Older ones refuse it; then what we were started with is handed on.
    // SAFETY: the call marks descriptors to be closed at exec and closes none.
    unsafe {
        let (last, flags) = (libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        libc::syscall(libc::SYS_close_range, FIRST, last, flags);
    }
    // SAFETY: the caller keeps the descriptor open until after the child has started.
    let inherited = unsafe { BorrowedFd::borrow_raw(inherited) };
    Ok(fcntl_setfd(inherited, FdFlags::empty())?)
}

/// Waits until `fd` is readable or its other end closed; false if `deadline` came first.
fn wait_readable(fd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
