//! A VM's part of the host's processors: `--cpu-pin`, `--cpu-weight`, `--cpu-limit`.
//!
//! Where this process may not make cgroups, the tests of weights and limits see to it
//! that a user is told so.

mod cgroup;
mod options;
mod pin;
mod proportion;

use std::fs;
use std::path::PathBuf;

use crate::common::Mayfly;

/// The host CPUs that a thread may run on, as the kernel writes them.
fn allowed(status: &str) -> String {
    let status = fs::read_to_string(status).unwrap_or_else(|error| panic!("{status}: {error}"));
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.expect("a line in every status").trim().to_owned()
}

/// The last host CPU that this process may run on.
fn last_cpu() -> String {
    let list = allowed("/proc/self/status");
    let last = list.rsplit([',', '-']).next();
    last.expect("at least one").to_owned()
}

/// The cgroups with a cpu controller on this host.
struct Cgroups {
    mount: PathBuf,
    version_1: bool,
}

/// Those in which this process may make some at the top; none if it may not, of which the
/// program then says the same as doctor. On the emulated host there are some, of the version
/// that it was given (`MAYFLY_CGROUPS`).
fn cgroups() -> Option<Cgroups> {
    let mounts = fs::read_to_string("/proc/mounts").expect("read the mounts");
    let of_kind = |wanted: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let has_option = option.is_empty() || fields[3].split(',').any(|had| had == option);
            (fields[2] == wanted && has_option).then(|| PathBuf::from(fields[1]))
        })
    };
    let version_1 = of_kind("cgroup", "cpu");
    let is_version_1 = version_1.is_some();
    let mount = version_1.or_else(|| of_kind("cgroup2", ""));
    let given = std::env::var("MAYFLY_CGROUPS").ok();
    if let Some(version) = &given {
        let there = mount.as_ref().map(|_| if is_version_1 { "1" } else { "2" });
        assert_eq!(there, Some(&**version), "cgroups of: {mounts}");
    }
    let found = Cgroups {
        version_1: is_version_1,
        mount: mount?,
    };
    let probe = found.mount.join(format!("tests-{}", std::process::id()));
    // Another test may try at the same time.
    let _ = fs::create_dir(&probe);
    let permitted = probe.is_dir();
    let _ = fs::remove_dir(&probe);
    if !permitted {
        assert_eq!(given, None, "no cgroup at the top of {mounts}");
        let told = Mayfly::bare("hello").args(["--cpu-limit", "50%"]).outcome();
        let refused = told.stderr.contains("--cpu-limit has no effect: ");
        assert_eq!(refused, doctor_says("lacking"), "{told}");
        return None;
    }
    assert!(doctor_says("good"));
    Some(found)
}

/// Whether this is how doctor takes what there is for weights and limits.
fn doctor_says(status: &str) -> bool {
    let report = Mayfly::new(["doctor", "--json"]).outcome().json();
    let findings = report["findings"].as_array().expect("a list");
    let mut shares = findings
        .iter()
        .filter(|finding| finding["name"] == "CPU weights and limits");
    shares.any(|finding| finding["status"] == status)
}

impl Cgroups {
    /// Those below `parent` of a VM called `name`.
    fn of_vm(&self, parent: &str, name: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.mount.join(parent)).expect("list the cgroups");
        let paths = entries.map(|entry| entry.expect("list the cgroups").path());
        let start = format!("mayfly-{name}-");
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(&start)
        };
        paths.filter(is_it).collect()
    }
}

/// Processor time of a process so far, in seconds (proc(5), `utime` and `stime` in 1/100 s).
fn processor_time(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process that runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}
