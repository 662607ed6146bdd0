//! Watching a process's system calls through ptrace, in all its threads.
//!
//! Counting costs the process time and nothing else: it makes the same calls.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libc::{c_int, c_long, pid_t};

/// What a process did from its first instruction to its end.
#[derive(Debug)]
pub struct Trace {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// System calls, those of all threads together.
    pub calls: usize,
    /// The most memory that was resident at once, in KiB, file pages included.
    pub peak_kib: u64,
    /// Mappings made executable, as the arguments of mmap, mprotect or pkey_mprotect.
    pub made_executable: Vec<String>,
}

/// The beginning or the end of a system call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The process.
    pub process: pid_t,
    /// The thread that makes the call.
    pub thread: pid_t,
    /// What it returned, `-errno` for an error; `None` at its beginning.
    pub result: Option<i64>,
    /// Its number and arguments; all zero at its end.
    pub number: u64,
    pub arguments: [u64; 6],
}

/// Runs `command` to its end, with nothing on its standard input and its output
/// thrown away.
pub fn trace(command: Command) -> io::Result<Trace> {
    trace_calls(command, &mut |_| Duration::ZERO)
}

/// The same, with a look at each call; its thread is held there for as long as `look`
/// says, while the others go on.
pub fn trace_calls(
    mut command: Command,
    look: &mut dyn FnMut(&Call) -> Duration,
) -> io::Result<Trace> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe { command.pre_exec(|| ptrace(libc::PTRACE_TRACEME, 0, 0, 0).map(drop)) };
    let process = pid_t::try_from(command.spawn()?.id()).expect("a process id");
    // It stops when exec is done, and goes on with its first instruction.
    wait(process)?;
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXIT
        | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, process, 0, options as usize)?;
    go_on(process, 0)?;
    let mut trace = Trace {
        code: None,
        calls: 0,
        peak_kib: 0,
        made_executable: Vec::new(),
    };
    let mut held: Vec<(Instant, pid_t)> = Vec::new();
    loop {
        let (thread, status) = wait_with(&mut held)?;
        if libc::WIFSTOPPED(status) {
            let mut hold = Duration::ZERO;
            let signal = trace.stopped(process, thread, status, &mut |call| hold = look(call))?;
            if hold.is_zero() {
                go_on(thread, signal)?;
            } else {
                held.push((Instant::now() + hold, thread));
            }
        } else if thread == process {
            trace.code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            return Ok(trace);
        }
    }
}

impl Trace {
    /// Looks why `thread` has stopped; returns the signal that it is to get.
    fn stopped(
        &mut self,
        process: pid_t,
        thread: pid_t,
        status: c_int,
        look: &mut dyn FnMut(&Call),
    ) -> io::Result<c_int> {
        const SYSCALL_STOP: c_int = libc::SIGTRAP | 0x80;
        let event = status >> 16;
        match (libc::WSTOPSIG(status), event) {
            (SYSCALL_STOP, _) => self.system_call(process, thread, look)?,
            // The memory is still there when the last thread stops before its end.
            (libc::SIGTRAP, libc::PTRACE_EVENT_EXIT) => {
                self.peak_kib = self.peak_kib.max(peak_kib(process)?);
            }
            // A new thread, here and as its own first stop.
            (libc::SIGTRAP, libc::PTRACE_EVENT_CLONE) => {}
            (libc::SIGSTOP, _) if thread != process => {}
            (signal, _) => return Ok(signal),
        }
        Ok(0)
    }

    fn system_call(
        &mut self,
        process: pid_t,
        thread: pid_t,
        look: &mut dyn FnMut(&Call),
    ) -> io::Result<()> {
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        let address = info.as_mut_ptr().expose_provenance();
        ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread,
            size_of::<libc::ptrace_syscall_info>(),
            address,
        )?;
        // SAFETY: all bytes zero are a valid value, and the kernel has filled it in.
        let info = unsafe { info.assume_init() };
        let mut call = Call {
            process,
            thread,
            result: None,
            number: 0,
            arguments: [0; 6],
        };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            // SAFETY: `op` says that this is the union's field.
            call.result = Some(unsafe { info.u.exit }.sval);
            look(&call);
        }
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(());
        }
        self.calls += 1;
        // SAFETY: `op` says that this is the union's field.
        let entry = unsafe { info.u.entry };
        call.number = entry.nr;
        call.arguments = entry.args;
        look(&call);
        const NAMES: [(c_long, &str); 3] = [
            (libc::SYS_mmap, "mmap"),
            (libc::SYS_mprotect, "mprotect"),
            (libc::SYS_pkey_mprotect, "pkey_mprotect"),
        ];
        let name = NAMES
            .iter()
            .find(|(number, _)| u64::try_from(*number) == Ok(entry.nr));
        // The protection is the third argument of each.
        if let Some((_, name)) = name
            && entry.args[2] & libc::PROT_EXEC as u64 != 0
        {
            self.made_executable
                .push(format!("{name}{:x?}", entry.args));
        }
        Ok(())
    }
}

/// Waits for any thread, and lets those that are held go on when it is time.
fn wait_with(held: &mut Vec<(Instant, pid_t)>) -> io::Result<(pid_t, c_int)> {
    while !held.is_empty() {
        let now = Instant::now();
        for (_, thread) in held.extract_if(.., |(end, _)| *end <= now) {
            go_on(thread, 0)?;
        }
        if let Some(stopped) = wait_options(-1, libc::WNOHANG)? {
            return Ok(stopped);
        }
        sleep(Duration::from_millis(1));
    }
    wait(-1)
}

/// Lets `thread` run to its next system call's beginning or end.
fn go_on(thread: pid_t, signal: c_int) -> io::Result<()> {
    match ptrace(libc::PTRACE_SYSCALL, thread, 0, signal as usize) {
        // Another thread has ended the process.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// `VmHWM` of a process that still has its memory.
fn peak_kib(process: pid_t) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0))
}

/// Waits for a stop or an end of `process`, or of any that this thread has started
/// or traces: another thread's children are none of its business.
fn wait(process: pid_t) -> io::Result<(pid_t, c_int)> {
    let stopped = wait_options(process, 0)?;
    stopped.ok_or_else(|| io::Error::other("waitpid returned for nothing"))
}

/// The same with options; `None` if WNOHANG is one and there is nothing.
fn wait_options(process: pid_t, options: c_int) -> io::Result<Option<(pid_t, c_int)>> {
    let mut status = 0;
    let options = options | libc::__WALL | libc::__WNOTHREAD;
    // SAFETY: the status is valid for writing.
    match unsafe { libc::waitpid(process, &mut status, options) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        who => Ok(Some((who, status))),
    }
}

fn ptrace(request: u32, process: pid_t, address: usize, data: usize) -> io::Result<c_long> {
    // SAFETY: `data` points to memory only for PTRACE_GET_SYSCALL_INFO, which gets
    // the size of what it may write as `address`.
    let result = unsafe {
        libc::ptrace(
            request,
            process,
            ptr::with_exposed_provenance_mut::<u8>(address),
            ptr::with_exposed_provenance_mut::<u8>(data),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}
