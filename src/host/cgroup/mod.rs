//! Control groups: the part of the host's processors that one VM gets.
//!
//! A VM is a process, and its share is the whole process's: a group of its own is made,
//! the process moves in, and at the end it moves back and the group is removed. Both
//! versions are known (Linux `Documentation/admin-guide/cgroup-v2.rst`, "CPU";
//! `Documentation/scheduler/sched-bwc.rst` for version 1).
//!
//! | file           | subject                                                |
//! |----------------|--------------------------------------------------------|
//! | `hierarchy.rs` | where the cgroups are mounted, and which is our own    |
//! | `folder.rs`    | a cgroup as a folder: all that is asked of the kernel  |
//! | `group.rs`     | making a group, entering it, leaving and removing it   |
//! | `memory.rs`    | what the limits of the process's groups leave of memory |
//! | `stale.rs`     | groups whose VM was killed before it could remove them |

mod folder;
mod group;
mod hierarchy;
mod memory;
mod stale;
#[cfg(test)]
mod testing;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use folder::KernelFolder;
pub use group::Group;
pub use hierarchy::Version;
use hierarchy::{Hierarchy, find};
pub use memory::memory_left;
pub use stale::name_for;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuShare {
    /// Weight against the cgroups (and with version 1 the threads) beside it, 1 to 10000;
    /// 100 is what they have.
    pub weight: Option<u32>,
    /// Processor time at most, in percent of one processor.
    pub limit: Option<u32>,
}

/// Why there is no group for a VM.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// `/proc/self/…`
    #[error("cannot read {0}")]
    Proc(&'static str, #[source] io::Error),
    /// No hierarchy with the controller is in sight.
    #[error("no cgroups with a cpu controller are mounted here")]
    NoHierarchy,
    /// The groups there have no cpu controller.
    #[error("the cgroup '{}' has no cpu controller to give", .0.display())]
    NoController(PathBuf),
    /// openat, of a cgroup or of a file of one.
    #[error("cannot open '{}'", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// mkdir.
    #[error("cannot make a cgroup in '{}'", .0.display())]
    Make(PathBuf, #[source] io::Error),
    /// Writing to `cgroup.procs`.
    #[error("cannot move into a cgroup in '{}'", .0.display())]
    Enter(PathBuf, #[source] io::Error),
    /// Writing to `cgroup.subtree_control`; EBUSY if there are processes in the cgroup itself.
    #[error("cannot have the cpu controller for cgroups in '{}'", .0.display())]
    Enable(PathBuf, #[source] io::Error),
    /// A weight or limit.
    #[error("cannot write '{value}' to {file} of a cgroup in '{}'", parent.display())]
    Set {
        /// Above the cgroup.
        parent: PathBuf,
        /// Its file.
        file: &'static str,
        /// What was written.
        value: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Makes a group for this process, called `name`, and moves the process into it.
///
/// # Errors
/// [`CgroupError`], of the first place that was tried; then the process is where it was,
/// and the group is gone. What may stay is the cpu controller, given out at the top of all
/// cgroups: there it is for everybody, and others may use it by then.
#[cold]
pub fn enter(name: &str, share: CpuShare) -> Result<Group, CgroupError> {
    Group::enter(&cpu_hierarchies()?, name, share)
}

/// Where a group could be made, as far as that can be told without making one.
///
/// # Errors
/// [`CgroupError`], of the first place.
pub fn survey() -> Result<(Version, PathBuf), CgroupError> {
    group::survey::<KernelFolder>(&cpu_hierarchies()?)
}

fn cpu_hierarchies() -> Result<Vec<Hierarchy>, CgroupError> {
    let found = hierarchies("cpu")?;
    match found.is_empty() {
        true => Err(CgroupError::NoHierarchy),
        false => Ok(found),
    }
}

/// Those that have `controller`, or may have it.
fn hierarchies(controller: &str) -> Result<Vec<Hierarchy>, CgroupError> {
    let read =
        |path| std::fs::read_to_string(path).map_err(|source| CgroupError::Proc(path, source));
    let mounts = read("/proc/self/mountinfo")?;
    let own = read("/proc/self/cgroup")?;
    Ok(find(&mounts, &own, controller))
}
