//! A cgroup as a folder: what the kernel is asked to do with it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Dir, Mode, OFlags, access, mkdirat, openat, unlinkat};

/// The most that is read of a file: lists of controllers are short.
const FILE_MAX: u64 = 4096;

/// A cgroup's folder, open. A trait, as the kernel's rules are what can go wrong: the
/// unit tests bring a kernel of their own.
pub trait Folder: Sized {
    /// A file of the cgroup, open for writing.
    type Writer: Write;

    /// Opens the cgroup at `path`.
    fn open(path: &Path) -> io::Result<Self>;
    /// Whether this process may make cgroups in the one at `path`, and move processes.
    fn may_change(path: &Path) -> io::Result<()>;
    /// Opens the cgroup `name` in this one.
    fn child(&self, name: &str) -> io::Result<Self>;
    /// Makes the cgroup `name` in this one.
    fn make(&self, name: &str) -> io::Result<()>;
    /// Removes the cgroup `name` in this one; the kernel refuses one with processes.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names in this cgroup.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Reads a file of the cgroup.
    fn read(&self, file: &str) -> io::Result<String>;
    /// Opens a file of the cgroup. Whether that is permitted is decided here, not when
    /// it is written to.
    fn writer(&self, file: &str) -> io::Result<Self::Writer>;
}

/// The kernel's own.
#[derive(Debug)]
pub struct KernelFolder(OwnedFd);

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

impl Folder for KernelFolder {
    type Writer = File;

    fn open(path: &Path) -> io::Result<Self> {
        let fd = openat(CWD, path, FOLDER | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(fd))
    }

    fn may_change(path: &Path) -> io::Result<()> {
        access(path, Access::WRITE_OK | Access::EXEC_OK)?;
        Ok(access(path.join("cgroup.procs"), Access::WRITE_OK)?)
    }

    fn child(&self, name: &str) -> io::Result<Self> {
        let fd = openat(&self.0, name, FOLDER | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(fd))
    }

    fn make(&self, name: &str) -> io::Result<()> {
        Ok(mkdirat(&self.0, name, Mode::from_raw_mode(0o755))?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, file, flags, Mode::empty())?);
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text)?;
        Ok(text)
    }

    fn writer(&self, file: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(openat(&self.0, file, flags, Mode::empty())?.into())
    }
}
