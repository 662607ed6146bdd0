//! Locks on disk files, so that nobody writes what somebody else reads or writes.
//!
//! They are open file description locks (`fcntl(2)`, F_OFD_SETLK): they belong to
//! the descriptor, so that one VM that names a file twice is found out too, and end
//! with it, however the process ends. A writer locks the whole file exclusively.
//!
//! Readers lock what QEMU locks for one that reads and lets nobody write, so that
//! both respect each other: QEMU holds a shared lock at byte 100 + n for each right
//! that it uses, and at byte 200 + n for each right that it leaves to nobody else
//! (rights: 0 read consistently, 1 write, 3 resize). Any lock of QEMU's keeps our
//! writer out, our writer keeps QEMU out, QEMU's writer keeps our reader out and our
//! reader keeps QEMU's writer out; readers of both stand side by side.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where QEMU marks the rights in use.
const RIGHTS: i64 = 100;
/// Where QEMU marks the rights that it leaves to nobody.
const UNSHARED: i64 = 200;
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;
/// Descriptors looked at in search of a holder.
const MAX_DESCRIPTORS: usize = 100_000;

/// How long a lock that nobody is seen to hold is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries.
const NAP: Duration = Duration::from_millis(10);

/// What is locked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Writers.
    Shared,
    /// Everybody.
    Exclusive,
}

/// Takes the lock, without waiting. It lives as long as the open file description.
///
/// # Errors
/// `WouldBlock` if another holds a lock that excludes this one; else what the
/// system says, say that the file system has no locks.
pub fn lock(file: &File, lock: Lock) -> io::Result<()> {
    match lock {
        Lock::Exclusive => set(file, libc::F_WRLCK, 0, 0),
        Lock::Shared => {
            // Bytes below RIGHTS are for other Mayflies only, whose writers want all.
            set(file, libc::F_RDLCK, 0, RIGHTS + READ + 1)?;
            set(file, libc::F_RDLCK, UNSHARED + WRITE, 1)?;
            set(file, libc::F_RDLCK, UNSHARED + RESIZE, 1)?;
            let clash = is_locked(file, RIGHTS + WRITE)?
                || is_locked(file, RIGHTS + RESIZE)?
                || is_locked(file, UNSHARED + READ)?;
            if clash {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        }
    }
}

/// Why a lock could not be had.
#[derive(Debug)]
pub enum Refusal {
    /// Somebody has one that excludes it.
    Held(Holder),
    /// The file system has no locks, say.
    System(io::Error),
}

/// Takes the lock, and waits a moment for one that nobody seems to hold: the host's
/// kernel takes a VM's last requests back only after the VM's process is gone, and its
/// file is locked until then.
///
/// # Errors
/// [`Refusal`].
pub fn acquire(file: &File, kind: Lock) -> Result<(), Refusal> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lock(file, kind) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Refusal::System(error)),
        }
        let holder = holder(file);
        if holder != Holder::Unknown || Instant::now() >= deadline {
            return Err(Refusal::Held(holder));
        }
        sleep(NAP);
    }
}

fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

/// Locks `len` bytes from `start` on, all to come for 0.
fn set(file: &File, kind: i32, start: i64, len: i64) -> io::Result<()> {
    let range = range(kind, start, len);
    // SAFETY: `range` is a flock structure that outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // POSIX lets EACCES mean the same.
    if error.raw_os_error() == Some(libc::EACCES) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Err(error)
}

/// Whether another holds any lock on the byte.
fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut range = range(libc::F_WRLCK, byte, 1);
    // SAFETY: `range` is a flock structure that outlives the call and may be written.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut range) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(range.l_type) != libc::F_UNLCK)
}

/// Who has a file, as far as `/proc` lets us see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Ourselves,
    /// Another one.
    Process {
        /// Its name.
        command: String,
        /// Its id.
        pid: u32,
        /// Whether it may write.
        writes: bool,
    },
    /// Processes of other users, or on other machines, are not seen.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ourselves => f.write_str("this VM has it already, as another disk"),
            Self::Process {
                command,
                pid,
                writes,
            } => {
                let what = if *writes { "writing" } else { "reading" };
                write!(f, "{command} (pid {pid}) has it open for {what}")
            }
            Self::Unknown => f.write_str("another process has it"),
        }
    }
}

/// Looks for who holds a lock on `file` through another descriptor: its own
/// processes are found by any user, those of others by root.
pub fn holder(file: &File) -> Holder {
    let Ok(wanted) = file.metadata() else {
        return Holder::Unknown;
    };
    let own = (std::process::id(), file.as_raw_fd());
    let mut left = MAX_DESCRIPTORS;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = number::<u32>(&process.file_name()) else {
            continue;
        };
        let descriptors = fs::read_dir(process.path().join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            left = left.saturating_sub(1);
            if left == 0 {
                return Holder::Unknown;
            }
            let same = fs::metadata(descriptor.path())
                .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()));
            let Some(fd) = number::<i32>(&descriptor.file_name()) else {
                continue;
            };
            if !same || (pid, fd) == own {
                continue;
            }
            let info = process.path().join("fdinfo").join(descriptor.file_name());
            if let Some(writes) = lock_in(&fs::read_to_string(info).unwrap_or_default()) {
                return named(&process.path(), pid, writes);
            }
        }
    }
    Holder::Unknown
}

fn number<N: std::str::FromStr>(name: &std::ffi::OsStr) -> Option<N> {
    name.to_str()?.parse().ok()
}

/// Whether the descriptor that `fdinfo` (proc(5)) tells of may write, if it holds a lock.
fn lock_in(fdinfo: &str) -> Option<bool> {
    fdinfo.lines().find(|line| line.starts_with("lock:"))?;
    let flags = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))?;
    let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
    Some(flags & libc::O_ACCMODE != libc::O_RDONLY)
}

fn named(process: &Path, pid: u32, writes: bool) -> Holder {
    if pid == std::process::id() {
        return Holder::Ourselves;
    }
    let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Holder::Process {
        command: command.trim().to_owned(),
        pid,
        writes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    fn open(path: &Path) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(path).unwrap()
    }

    fn is_refused(result: io::Result<()>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Takes a lock that was just given up: a child of another test, between fork and
    /// exec, may have a copy of the file for a moment.
    fn lock_free(file: &File, kind: Lock) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while is_refused(lock(file, kind)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        lock(file, kind).unwrap();
    }

    #[test]
    fn a_writer_is_alone_and_readers_are_not() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let (one, two, three) = (open(path.path()), open(path.path()), open(path.path()));
        lock(&one, Lock::Shared).unwrap();
        lock(&two, Lock::Shared).unwrap();
        assert!(is_refused(lock(&three, Lock::Exclusive)));
        drop((one, two));
        lock_free(&three, Lock::Exclusive);
        let four = open(path.path());
        assert!(is_refused(lock(&four, Lock::Shared)));
        assert!(is_refused(lock(&four, Lock::Exclusive)));
        assert_eq!(holder(&four), Holder::Ourselves);
        drop(three);
        lock_free(&four, Lock::Exclusive);
    }

    #[test]
    fn a_lock_that_is_seen_to_be_held_is_refused_at_once() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let (one, two) = (open(path.path()), open(path.path()));
        lock(&one, Lock::Shared).unwrap();
        let refusal = acquire(&two, Lock::Exclusive).unwrap_err();
        assert!(matches!(refusal, Refusal::Held(Holder::Ourselves)));
        drop(one);
        lock_free(&two, Lock::Exclusive);
        acquire(&two, Lock::Exclusive).unwrap();
    }

    /// The bytes are those that QEMU's documentation of `locking` and its
    /// `/proc/PID/fdinfo` show: 100, 101, 201 and 203 for a writer, 100 and 201 for
    /// a reader.
    #[test]
    fn readers_respect_the_locks_of_qemu() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let qemu = open(path.path());
        for byte in [100, 201] {
            set(&qemu, libc::F_RDLCK, byte, 1).unwrap();
        }
        let ours = open(path.path());
        lock(&ours, Lock::Shared).unwrap();
        assert!(is_refused(lock(&open(path.path()), Lock::Exclusive)));
        // What QEMU asks before it writes: does anybody refuse to share that?
        assert!(is_locked(&qemu, 201).unwrap());
        assert!(is_locked(&qemu, 203).unwrap());
        assert!(!is_locked(&qemu, 101).unwrap());
        drop(ours);
        set(&qemu, libc::F_RDLCK, 101, 1).unwrap();
        assert!(is_refused(lock(&open(path.path()), Lock::Shared)));
    }

    #[test]
    fn another_process_is_named() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut child = std::process::Command::new("flock")
            .args(["--exclusive", "--no-fork"])
            .arg(path.path())
            .args(["sleep", "100"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let file = open(path.path());
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut found = holder(&file);
        while found == Holder::Unknown && Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
            found = holder(&file);
        }
        let line = found.to_string();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            line.contains("(pid ") && line.contains("has it open for"),
            "{line}"
        );
    }

    #[test]
    fn what_the_kernel_tells_of_a_descriptor() {
        let text = "pos:\t0\nflags:\t0100002\nmnt_id:\t29\nino:\t1077\n\
                    lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:1077 0 100\n";
        assert_eq!(lock_in(text), Some(true));
        assert_eq!(lock_in(&text.replace("0100002", "0100000")), Some(false));
        assert_eq!(lock_in("pos:\t0\nflags:\t0100002\n"), None);
        assert_eq!(lock_in(""), None);
    }
}
