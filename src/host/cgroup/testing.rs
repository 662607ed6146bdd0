//! A kernel with cgroups for the unit tests: the rules of version 2 that matter here, and
//! version 1, which has next to none. One a test, as each has a thread of its own.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::hierarchy::{Hierarchy, Version};

/// Where its hierarchy is mounted.
pub const MOUNT: &str = "/cg";

/// The process under test, and another one.
const SELF: u32 = 1;
const OTHER: u32 = 2;

#[derive(Default)]
struct Kernel {
    version_1: bool,
    /// What is mounted is a namespace's root only.
    namespace: bool,
    groups: BTreeMap<PathBuf, State>,
    /// Cgroups and files that may not be changed.
    denied: BTreeSet<PathBuf>,
    /// All that was written, as `PATH/FILE VALUE`.
    log: Vec<String>,
    /// How many cgroups somebody else removes as soon as they are made.
    thieves: u32,
    /// How many it removes as they are entered.
    late_thieves: u32,
}

#[derive(Default)]
struct State {
    processes: BTreeSet<u32>,
    gives_cpu: bool,
}

thread_local! {
    static KERNEL: RefCell<Kernel> = RefCell::default();
}

fn with<T>(use_it: impl FnOnce(&mut Kernel) -> T) -> T {
    KERNEL.with(|kernel| use_it(&mut kernel.borrow_mut()))
}

fn errno<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

impl Kernel {
    fn is_top(&self, path: &Path) -> bool {
        path == Path::new(MOUNT) && !self.namespace
    }

    /// Whether a cgroup has the files of the controller.
    fn has_cpu(&self, path: &Path) -> bool {
        let given = |parent| self.groups.get(parent).is_some_and(|state| state.gives_cpu);
        self.version_1 || path == Path::new(MOUNT) || path.parent().is_some_and(given)
    }

    fn permit(&self, path: &Path) -> io::Result<()> {
        match self.denied.contains(path) {
            true => errno(libc::EACCES),
            false => Ok(()),
        }
    }

    fn move_in(&mut self, path: &Path) -> io::Result<()> {
        let top = self.is_top(path);
        match self.groups.get(path) {
            None => return errno(libc::ENODEV),
            Some(state) if state.gives_cpu && !top => return errno(libc::EBUSY),
            Some(_) => {}
        }
        for (place, state) in &mut self.groups {
            match place == path {
                true => state.processes.insert(SELF),
                false => state.processes.remove(&SELF),
            };
        }
        Ok(())
    }

    fn control(&mut self, path: &Path, gives: bool) -> io::Result<()> {
        let (top, has_cpu) = (self.is_top(path), self.has_cpu(path));
        let state = self.groups.get_mut(path).expect("an open cgroup");
        if !has_cpu {
            return errno(libc::ENOENT);
        }
        if gives && !top && !state.processes.is_empty() {
            return errno(libc::EBUSY);
        }
        state.gives_cpu = gives;
        Ok(())
    }
}

/// A cgroup of that kernel.
#[derive(Debug)]
pub struct FakeFolder(PathBuf);

impl FakeFolder {
    /// The uppermost one, of a kernel with version 2.
    pub fn root() -> Self {
        with(|kernel| {
            kernel.groups.entry(MOUNT.into()).or_default();
        });
        Self(MOUNT.into())
    }

    pub fn version_1(self) -> Self {
        with(|kernel| kernel.version_1 = true);
        self
    }

    pub fn namespace(self) -> Self {
        with(|kernel| kernel.namespace = true);
        self
    }

    /// Makes the cgroups above `path`, which give out the controller, and `path`, where
    /// the process under test then is.
    pub fn start_in(self, path: &str) -> Hierarchy {
        let own = match path {
            "" => self.0.clone(),
            below => self.0.join(below),
        };
        with(|kernel| {
            for above in own.ancestors().skip(1) {
                if above.starts_with(MOUNT) {
                    let state = kernel.groups.entry(above.into()).or_default();
                    state.gives_cpu = true;
                }
            }
            let state = kernel.groups.entry(own.clone()).or_default();
            state.processes.insert(SELF);
            Hierarchy {
                version: match kernel.version_1 {
                    true => Version::V1,
                    false => Version::V2,
                },
                mount: MOUNT.into(),
                own,
            }
        })
    }
}

/// Another process goes into this cgroup.
pub fn put_other_into(path: &str) {
    with(|kernel| {
        let state = kernel.groups.get_mut(Path::new(path));
        state.expect("a cgroup").processes.insert(OTHER);
    });
}

/// The cgroup or file at this path may not be changed, nor a cgroup made in it.
pub fn deny(path: &str) {
    with(|kernel| kernel.denied.insert(path.into()));
}

/// The next cgroups vanish as soon as they are made.
pub fn steal(count: u32) {
    with(|kernel| kernel.thieves = count);
}

/// The next cgroups that nobody is in vanish as they are entered.
pub fn steal_late(count: u32) {
    with(|kernel| kernel.late_thieves = count);
}

/// The controller is not given out in this cgroup.
pub fn withhold(path: &str) {
    with(|kernel| {
        kernel
            .groups
            .get_mut(Path::new(path))
            .expect("one")
            .gives_cpu = false
    });
}

/// Where the process under test is.
pub fn place() -> PathBuf {
    with(|kernel| {
        let mut groups = kernel.groups.iter();
        let at = groups.find(|(_, state)| state.processes.contains(&SELF));
        at.expect("it is somewhere").0.clone()
    })
}

/// All cgroups, and whether they give out the controller.
pub fn groups() -> Vec<(String, bool)> {
    with(|kernel| {
        let groups = kernel.groups.iter();
        let told = groups.map(|(path, state)| (path.display().to_string(), state.gives_cpu));
        told.collect()
    })
}

/// Takes the log.
pub fn written() -> Vec<String> {
    with(|kernel| std::mem::take(&mut kernel.log))
}

impl Folder for FakeFolder {
    type Writer = FakeWriter;

    fn open(path: &Path) -> io::Result<Self> {
        match with(|kernel| kernel.groups.contains_key(path)) {
            true => Ok(Self(path.into())),
            false => errno(libc::ENOENT),
        }
    }

    fn may_change(path: &Path) -> io::Result<()> {
        with(|kernel| kernel.permit(path))
    }

    fn child(&self, name: &str) -> io::Result<Self> {
        Self::open(&self.0.join(name))
    }

    fn make(&self, name: &str) -> io::Result<()> {
        with(|kernel| {
            kernel.permit(&self.0)?;
            let path = self.0.join(name);
            if kernel.groups.contains_key(&path) {
                return errno(libc::EEXIST);
            }
            match kernel.thieves {
                0 => drop(kernel.groups.insert(path, State::default())),
                _ => kernel.thieves -= 1,
            }
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        with(|kernel| {
            kernel.permit(&self.0)?;
            let path = self.0.join(name);
            match kernel.groups.get(&path) {
                None => errno(libc::ENOENT),
                Some(state) if !state.processes.is_empty() => errno(libc::EBUSY),
                Some(_) => {
                    kernel.groups.remove(&path);
                    Ok(())
                }
            }
        })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        with(|kernel| {
            let paths = kernel.groups.keys();
            let below = paths.filter(|path| path.parent() == Some(&self.0));
            let names = below.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
            Ok(names.collect())
        })
    }

    fn read(&self, file: &str) -> io::Result<String> {
        with(|kernel| {
            let state = kernel.groups.get(&self.0).expect("an open cgroup");
            let list = |has| match has {
                true => "cpuset cpu io\n".to_owned(),
                false => "cpuset io\n".to_owned(),
            };
            match file {
                "cgroup.controllers" => Ok(list(kernel.has_cpu(&self.0))),
                "cgroup.subtree_control" => Ok(list(state.gives_cpu)),
                "cgroup.type" if !kernel.is_top(&self.0) => Ok("domain\n".to_owned()),
                _ => errno(libc::ENOENT),
            }
        })
    }

    fn writer(&self, file: &str) -> io::Result<FakeWriter> {
        with(|kernel| {
            kernel.permit(&self.0)?;
            kernel.permit(&self.0.join(file))?;
            if file.starts_with("cpu.") && !kernel.has_cpu(&self.0) {
                return errno(libc::ENOENT);
            }
            let empty = |state: &State| state.processes.is_empty();
            if file == "cgroup.procs"
                && kernel.late_thieves > 0
                && kernel.groups.get(&self.0).is_some_and(empty)
            {
                kernel.late_thieves -= 1;
                kernel.groups.remove(&self.0);
            }
            Ok(FakeWriter {
                folder: self.0.clone(),
                file: file.to_owned(),
            })
        })
    }
}

/// An open file of a cgroup.
#[derive(Debug)]
pub struct FakeWriter {
    folder: PathBuf,
    file: String,
}

impl Write for FakeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let value = std::str::from_utf8(bytes).expect("text");
        with(|kernel| {
            match (&*self.file, value) {
                ("cgroup.procs", "0") => kernel.move_in(&self.folder)?,
                ("cgroup.subtree_control", "+cpu") => kernel.control(&self.folder, true)?,
                ("cgroup.subtree_control", "-cpu") => kernel.control(&self.folder, false)?,
                (file, _) if file.starts_with("cpu.") => {}
                _ => return errno(libc::EINVAL),
            }
            let path = self.folder.join(&self.file);
            kernel.log.push(format!("{} {value}", path.display()));
            Ok(bytes.len())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
