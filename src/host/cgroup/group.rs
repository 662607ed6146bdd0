//! A VM's cgroup: made, entered, left and removed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::folder::{Folder, KernelFolder};
use super::hierarchy::{Hierarchy, Version};
use super::{CgroupError, CpuShare, stale};

/// How often a group that vanishes before it is entered is made again.
const MAKE_TRIES: u32 = 3;

/// How long the kernel may take to let go of threads that have ended: they are joined a
/// little before they are out of their cgroup.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(1);

/// What a limit is a limit of, in microseconds: 100 ms, the kernel's own default.
const PERIOD_US: u64 = 100_000;

const PROCS: &str = "cgroup.procs";
const CONTROL: &str = "cgroup.subtree_control";

/// What written to `cgroup.procs` means the process that writes.
const THIS_PROCESS: &[u8] = b"0";

/// The cgroup that this process is in for a VM. Dropping it puts the process back
/// where it was and removes the group. No path is opened for that.
#[derive(Debug)]
pub struct Group<F: Folder = KernelFolder> {
    parent: F,
    name: String,
    /// The full path, for people.
    path: PathBuf,
    /// `cgroup.procs` of the cgroup that the process was in.
    home: F::Writer,
    /// `cgroup.subtree_control` of the parent, if the controller was put in there for us.
    enabled: Option<F::Writer>,
    alone: bool,
}

/// Where a group could be.
struct Place<'a> {
    version: Version,
    parent: &'a Path,
    home: &'a Path,
}

/// Below the cgroup that this process is in. Where that has processes of others it cannot
/// give them and us different shares (version 2: "no internal processes"), so beside it;
/// and for root, at the top.
fn places(hierarchy: &Hierarchy) -> impl Iterator<Item = Place<'_>> {
    let Hierarchy {
        version,
        mount,
        own,
    } = hierarchy;
    let above = (*version == Version::V2 && own != mount)
        .then(|| [own.parent(), Some(mount.as_path())])
        .into_iter()
        .flatten()
        .flatten();
    let mut parents: Vec<&Path> = [own.as_path()].into_iter().chain(above).collect();
    parents.dedup();
    parents.into_iter().map(|parent| Place {
        version: *version,
        parent,
        home: own,
    })
}

/// Of several failures the first that says more than that there is no controller: hosts
/// with both versions have it in only one of them.
fn told(first: Option<CgroupError>, next: CgroupError) -> CgroupError {
    match first {
        Some(first) if !matches!(first, CgroupError::NoController(_)) => first,
        Some(first) if matches!(next, CgroupError::NoController(_)) => first,
        _ => next,
    }
}

/// [`super::survey`], of these hierarchies.
pub(super) fn survey<F: Folder>(
    hierarchies: &[Hierarchy],
) -> Result<(Version, PathBuf), CgroupError> {
    let mut failure = None;
    for place in hierarchies.iter().flat_map(places) {
        match place.may_be_used::<F>() {
            Ok(()) => return Ok((place.version, place.parent.to_owned())),
            Err(error) => failure = Some(told(failure, error)),
        }
    }
    Err(failure.unwrap_or(CgroupError::NoHierarchy))
}

impl Place<'_> {
    fn may_be_used<F: Folder>(&self) -> Result<(), CgroupError> {
        self.needs_enabling(&self.open::<F>()?)?;
        F::may_change(self.parent).map_err(|source| CgroupError::Make(self.parent.into(), source))
    }

    fn open<F: Folder>(&self) -> Result<F, CgroupError> {
        F::open(self.parent).map_err(|source| CgroupError::Open(self.parent.into(), source))
    }

    /// Whether cgroups in `parent` get the controller only when it is enabled there. In
    /// cgroups that are neither our own nor the uppermost of all that is not ours to do.
    fn needs_enabling<F: Folder>(&self, parent: &F) -> Result<bool, CgroupError> {
        if self.version == Version::V1 {
            return Ok(false);
        }
        let has_cpu = |file| match parent.read(file) {
            Ok(text) => Ok(text.split_ascii_whitespace().any(|name| name == "cpu")),
            Err(source) => Err(CgroupError::Open(self.parent.join(file), source)),
        };
        if has_cpu(CONTROL)? {
            return Ok(false);
        }
        let ours = self.parent == self.home || is_top(parent);
        match ours && has_cpu("cgroup.controllers")? {
            true => Ok(true),
            false => Err(CgroupError::NoController(self.parent.into())),
        }
    }
}

/// Whether this is the uppermost cgroup of the host, not only of what is in sight: it
/// alone has no type.
fn is_top<F: Folder>(folder: &F) -> bool {
    folder.read("cgroup.type").is_err()
}

impl<F: Folder> Group<F> {
    /// [`super::enter`], in these hierarchies.
    pub(super) fn enter(
        hierarchies: &[Hierarchy],
        name: &str,
        share: CpuShare,
    ) -> Result<Self, CgroupError> {
        let mut failure = None;
        for place in hierarchies.iter().flat_map(places) {
            match Self::enter_at(&place, name, share) {
                Ok(group) => return Ok(group),
                Err(error) => failure = Some(told(failure, error)),
            }
        }
        Err(failure.unwrap_or(CgroupError::NoHierarchy))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the only one in a cgroup that was made for this process alone, so
    /// that its weight has nothing to be compared with.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    fn enter_at(place: &Place<'_>, name: &str, share: CpuShare) -> Result<Self, CgroupError> {
        let parent: F = place.open()?;
        let enable = place.needs_enabling(&parent)?;
        stale::remove_from(&parent, stale::lives);
        // Of an earlier process with our number, which was killed.
        let _ = parent.remove(name);
        let refused = |source| CgroupError::Make(place.parent.into(), source);
        parent.make(name).map_err(refused)?;
        let home = match F::open(place.home).and_then(|own| own.writer(PROCS)) {
            Ok(home) => home,
            Err(source) => {
                let _ = parent.remove(name);
                return Err(CgroupError::Open(place.home.join(PROCS), source));
            }
        };
        let mut group = Self {
            alone: enable && !is_top(&parent),
            parent,
            name: name.to_owned(),
            path: place.parent.join(name),
            home,
            enabled: None,
        };
        group.move_in(place, share)?;
        if enable {
            group.enable(place)?;
        }
        if place.version == Version::V2 {
            group.set(place, share)?;
        }
        Ok(group)
    }

    /// Goes into the group; with version 1 when it has its values, so that nothing runs
    /// without them.
    fn move_in(&self, place: &Place<'_>, share: CpuShare) -> Result<(), CgroupError> {
        let mut tries = MAKE_TRIES;
        loop {
            tries = tries.saturating_sub(1);
            let ready = match place.version {
                Version::V1 => self.set(place, share),
                Version::V2 => Ok(()),
            };
            match ready.and_then(|()| self.write_procs(place)) {
                // A VM of another PID namespace took it for one that had been left. The
                // next one has no values yet.
                Err(error) if vanished(&error) && tries > 0 => {
                    let _ = self.parent.make(&self.name);
                }
                entered => return entered,
            }
        }
    }

    fn write_procs(&self, place: &Place<'_>) -> Result<(), CgroupError> {
        let procs = self.parent.child(&self.name);
        procs
            .and_then(|group| group.writer(PROCS))
            .and_then(|mut procs| procs.write_all(THIS_PROCESS))
            .map_err(|source| CgroupError::Enter(place.parent.into(), source))
    }

    fn enable(&mut self, place: &Place<'_>) -> Result<(), CgroupError> {
        let refused = |source| CgroupError::Enable(place.parent.into(), source);
        let mut control = self.parent.writer(CONTROL).map_err(refused)?;
        control.write_all(b"+cpu").map_err(refused)?;
        self.enabled = Some(control);
        Ok(())
    }

    fn set(&self, place: &Place<'_>, share: CpuShare) -> Result<(), CgroupError> {
        for (file, value) in values(place.version, share) {
            let group = self.parent.child(&self.name);
            let written = group
                .and_then(|group| group.writer(file))
                .and_then(|mut writer| writer.write_all(value.as_bytes()));
            written.map_err(|source| CgroupError::Set {
                parent: place.parent.into(),
                file,
                value,
                source,
            })?;
        }
        Ok(())
    }
}

/// The cgroup was removed, or is being removed.
fn vanished(error: &CgroupError) -> bool {
    let (CgroupError::Set { source, .. } | CgroupError::Enter(_, source)) = error else {
        return false;
    };
    matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// What is written to which files.
fn values(version: Version, share: CpuShare) -> Vec<(&'static str, String)> {
    let quota = |percent: u32| PERIOD_US.saturating_mul(percent.into()) / 100;
    let mut values = Vec::new();
    match version {
        Version::V2 => {
            values.extend(share.weight.map(|n| ("cpu.weight", n.to_string())));
            let max = |percent| format!("{} {PERIOD_US}", quota(percent));
            values.extend(share.limit.map(|percent| ("cpu.max", max(percent))));
        }
        Version::V1 => {
            // 1024 is what 100 is in version 2.
            let shares = |weight: u32| u64::from(weight).saturating_mul(1024) / 100;
            values.extend(share.weight.map(|n| ("cpu.shares", shares(n).to_string())));
            if let Some(percent) = share.limit {
                values.push(("cpu.cfs_period_us", PERIOD_US.to_string()));
                values.push(("cpu.cfs_quota_us", quota(percent).to_string()));
            }
        }
    }
    values
}

impl<F: Folder> Drop for Group<F> {
    fn drop(&mut self) {
        if self.home.write_all(THIS_PROCESS).is_err()
            && let Some(control) = &mut self.enabled
        {
            // A cgroup that gives out controllers has no processes, unless it is the uppermost.
            let _ = control.write_all(b"-cpu");
            let _ = self.home.write_all(THIS_PROCESS);
        }
        for _ in 0..REMOVE_TRIES {
            match self.parent.remove(&self.name) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sleep(REMOVE_PAUSE),
                _ => break,
            }
        }
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
