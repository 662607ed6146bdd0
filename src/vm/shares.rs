//! A VM's part of the host's processors: its vCPU threads on theirs, its process in a
//! cgroup with its weight and limit.
//!
//! Weight and limit are the whole process's, and so passt's: what a guest has its disks
//! and networks do is its own work.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::error::BuildError;
use crate::config::shares::CpuPins;
use crate::config::{ConfigError, SharesConfig, VmConfig};
use crate::host::cgroup::{self, CgroupError, CpuShare, Group};
use crate::one_line::one_line;

/// What was asked for, in effect as long as this lives. Nothing, for most VMs.
#[derive(Debug, Default)]
pub struct Shares {
    pins: Vec<(u32, CpuSet)>,
    _group: Option<Group>,
}

impl Shares {
    /// Checks the host CPUs, and moves this process into a cgroup of its own if the VM has
    /// a weight or a limit. Where that cannot be, the VM goes without, with a warning.
    ///
    /// # Errors
    /// [`BuildError`], for host CPUs that this process cannot have.
    pub fn prepare(config: &VmConfig) -> Result<Self, BuildError> {
        let shares = &config.shares;
        let asked = shares.weight.is_some() || shares.limit.is_some();
        Ok(Self {
            pins: match shares.pin.is_empty() {
                true => Vec::new(),
                false => pins(&shares.pin)?,
            },
            _group: asked.then(|| enter(config)).flatten(),
        })
    }

    /// To be called first by the thread of vCPU `id`, on itself.
    pub fn enter_vcpu_thread(&self, id: u32) {
        let pin = self.pins.iter().find(|(vcpu, _)| *vcpu == id);
        if let Some((_, cpus)) = pin
            && let Err(error) = sched_setaffinity(None, cpus)
        {
            // They were there a moment ago.
            log::warn!("cannot pin vCPU {id} to its host CPUs any more: {error}");
        }
    }
}

/// The sets for the kernel, of CPUs that this process may run on.
#[cold]
fn pins(pins: &CpuPins) -> Result<Vec<(u32, CpuSet)>, BuildError> {
    let allowed = sched_getaffinity(None).map_err(|errno| BuildError::Affinity(errno.into()))?;
    let set_of = |(vcpu, cpus)| Ok((vcpu, set(vcpu, cpus, &allowed)?));
    let pins = pins.iter().map(|pin| (pin.vcpu, pin.host_cpus()));
    pins.map(set_of).collect()
}

fn set(
    vcpu: u32,
    cpus: impl Iterator<Item = u32>,
    allowed: &CpuSet,
) -> Result<CpuSet, ConfigError> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        match usize::try_from(cpu) {
            Ok(index) if index < CpuSet::MAX_CPU && allowed.is_set(index) => set.set(index),
            _ => {
                return Err(ConfigError::PinHostCpu {
                    vcpu,
                    cpu,
                    allowed: list(allowed),
                });
            }
        }
    }
    Ok(set)
}

/// A set as the kernel writes it: `0-3,8`.
fn list(set: &CpuSet) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)) {
        match ranges.last_mut() {
            Some((_, last)) if last.saturating_add(1) == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let ranges = ranges.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(",")
}

/// Enters a cgroup, or tells why not.
#[cold]
fn enter(config: &VmConfig) -> Option<Group> {
    let SharesConfig { weight, limit, .. } = config.shares;
    let share = CpuShare {
        weight: weight.map(|weight| weight.get()),
        limit: limit.map(|limit| limit.percent()),
    };
    let name = cgroup::name_for(config.name.as_deref());
    match cgroup::enter(&name, share) {
        Ok(group) => {
            log::info!("this process is in cgroup '{}'", group.path().display());
            if let (Some(weight), true) = (share.weight, group.is_alone()) {
                log::warn!(
                    "--cpu-weight has nothing to be compared with: the VM is alone in the cgroup above '{}'; \
                     use 'systemd-run --user --scope -p CPUWeight={weight} mayfly run …'",
                    group.path().display()
                );
            }
            Some(group)
        }
        Err(error) => {
            log::warn!("{}", without(share, &error));
            None
        }
    }
}

/// What the user is told of options without effect.
fn without(share: CpuShare, error: &CgroupError) -> String {
    let options = [
        ("--cpu-weight", "CPUWeight", share.weight, ""),
        ("--cpu-limit", "CPUQuota", share.limit, "%"),
    ];
    let given = options
        .into_iter()
        .filter_map(|(option, property, value, unit)| {
            Some((option, format!(" -p {property}={}{unit}", value?)))
        });
    let (names, properties): (Vec<_>, Vec<_>) = given.unzip();
    let have = match names.len() {
        1 => "has",
        _ => "have",
    };
    format!(
        "{} {have} no effect: {}; run as root, or by 'systemd-run --user --scope{} mayfly run …'",
        names.join(" and "),
        one_line(error),
        properties.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn cpus(numbers: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        numbers.iter().for_each(|&cpu| set.set(cpu));
        set
    }

    #[test]
    fn sets_are_told_as_the_kernel_does() {
        assert_eq!(list(&cpus(&[0])), "0");
        assert_eq!(list(&cpus(&[0, 1, 2, 8, 10, 11])), "0-2,8,10-11");
        assert_eq!(list(&cpus(&[1023])), "1023");
        assert_eq!(list(&CpuSet::new()), "");
    }

    #[test]
    fn a_cpu_that_is_not_allowed_is_refused_with_those_that_are() {
        let allowed = cpus(&[0, 1, 5]);
        assert_eq!(set(0, [1, 5].into_iter(), &allowed), Ok(cpus(&[1, 5])));
        for cpu in [2, 1023, 1024, u32::MAX] {
            let line = set(3, [0, cpu].into_iter(), &allowed).unwrap_err();
            assert_eq!(
                line.to_string(),
                format!(
                    "cannot pin vCPU 3 to host CPU {cpu}: the host lets Mayfly run on 0-1,5; choose among those"
                )
            );
        }
    }

    #[test]
    fn a_vcpu_thread_pins_itself_and_no_other() {
        let here = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| here.is_set(cpu)).unwrap();
        let shares = Shares {
            pins: vec![(1, cpus(&[first]))],
            _group: None,
        };
        let after = |id| {
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    shares.enter_vcpu_thread(id);
                    sched_getaffinity(None).unwrap()
                });
                thread.join().unwrap()
            })
        };
        assert_eq!(after(1), cpus(&[first]));
        assert_eq!(after(0), here);
        assert_eq!(sched_getaffinity(None).unwrap(), here);
    }

    #[test]
    fn who_gets_no_cgroup_is_told_another_way() {
        let error = CgroupError::Make(
            "/sys/fs/cgroup".into(),
            io::Error::from_raw_os_error(libc::EACCES),
        );
        let share = |weight, limit| CpuShare { weight, limit };
        assert_eq!(
            without(share(None, Some(150)), &error),
            "--cpu-limit has no effect: cannot make a cgroup in '/sys/fs/cgroup': \
             Permission denied (os error 13); run as root, or by \
             'systemd-run --user --scope -p CPUQuota=150% mayfly run …'"
        );
        let both = without(share(Some(7), Some(1)), &error);
        assert!(both.starts_with("--cpu-weight and --cpu-limit have no effect: "));
        assert!(both.contains("-p CPUWeight=7 -p CPUQuota=1% mayfly"));
    }
}
