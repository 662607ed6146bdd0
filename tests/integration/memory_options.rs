//! `--memory`'s options, by the host's own counters of the process that runs the VM.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::running::Running;
use crate::common::{Mayfly, Outcome, is_emulated};

/// The guest touches 4 MiB of its 16.
const TOUCHED_KIB: u64 = 4 << 10;
const ALL_KIB: u64 = 16 << 10;

/// The exit codes for what the host has not got, and for what can never be.
const HOST: i32 = 244;
const USAGE: i32 = 245;

fn touching(memory: &str) -> Mayfly {
    Mayfly::bare("touch").args(["--memory", memory])
}

/// A VM with this memory that has touched its 4 MiB.
#[track_caller]
fn touched(memory: &str) -> Running {
    let mut vm = touching(memory).start();
    vm.wait_for("touched");
    vm
}

fn proc_file(vm: &Running, name: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{name}", vm.id())).unwrap_or_default()
}

/// KiB that `/proc/PID/smaps` counts as `name` over all mappings.
fn smaps(vm: &Running, name: &str) -> u64 {
    let text = proc_file(vm, "smaps");
    assert!(text.contains(name), "no {name} in smaps");
    text.lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(kib)
        .sum()
}

fn kib(text: &str) -> u64 {
    let number = text.split_whitespace().next().expect("a number");
    number.parse().expect("a number")
}

/// KiB on the line of `/proc/PID/status` that starts with `name`.
fn status(vm: &Running, name: &str) -> u64 {
    let text = proc_file(vm, "status");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    kib(line.expect("the line").trim_start_matches(':'))
}

/// It ended with one line of Mayfly's, which has `text` in it: the host has not got that.
#[track_caller]
fn refused(outcome: &Outcome, text: &str) {
    outcome.ended(HOST, "host-error");
    told(outcome, text);
}

#[track_caller]
fn told(outcome: &Outcome, text: &str) {
    let line = &outcome.stderr;
    assert!(line.contains(text), "no '{text}' in: {outcome}");
    assert_eq!(line.lines().count(), 1, "{outcome}");
}

/// A file of the host's settings that has another content for a while.
struct Setting {
    path: String,
    before: String,
}

impl Setting {
    /// None where the host has no such setting, or it is not ours to change.
    fn change(path: &str, value: &str) -> Option<Self> {
        let before = fs::read_to_string(path).ok()?.trim().to_owned();
        fs::write(path, value).ok()?;
        let path = path.to_owned();
        Some(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.before);
    }
}

/// Whether the host's file `enabled` or `shmem_enabled` has chosen `word`.
fn transparent_is(file: &str, word: &str) -> bool {
    let modes = fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{file}"));
    modes.is_ok_and(|modes| modes.contains(&format!("[{word}]")))
}

/// Whether this user may lock so much: with CAP_IPC_LOCK, or by the limit (`ulimit -l`).
fn may_lock(bytes: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the mapping is new, of this function alone, and never touched; locking it
    // when it is touched takes no memory.
    unsafe {
        let place = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0);
        assert_ne!(place, libc::MAP_FAILED, "map {bytes} bytes");
        let locked = libc::mlock2(place, bytes, libc::MLOCK_ONFAULT) == 0;
        libc::munmap(place, bytes);
        locked
    }
}

/// A VM as of [`touched`], of so many bytes, all locked; none where this user may
/// not lock them, and is told so.
#[track_caller]
fn touched_locked(memory: &str, bytes: u64) -> Option<Running> {
    if may_lock(usize::try_from(bytes).expect("64 bits")) {
        return Some(touched(memory));
    }
    let outcome = touching(memory).outcome();
    outcome.ended(HOST, "host-error");
    // There may be warnings of other options.
    let why = "raise the limit ('ulimit -l'";
    assert!(outcome.stderr.contains(why), "{outcome}");
    None
}

#[test]
fn memory_is_private_and_taken_when_touched() {
    let vm = touched("16M");
    let resident = status(&vm, "VmRSS");
    assert!((TOUCHED_KIB..ALL_KIB).contains(&resident), "{resident} KiB");
    assert_eq!(status(&vm, "VmLck"), 0);
    assert!(!proc_file(&vm, "maps").contains("memfd:guest-ram"));
    // Where huge pages are given to those who ask, this one has not asked.
    if transparent_is("enabled", "madvise") {
        assert_eq!(smaps(&vm, "AnonHugePages"), 0);
    }
}

#[test]
fn transparent_huge_pages_are_used() {
    let mut vm = touched("16M,hugepages=thp");
    if !transparent_is("enabled", "madvise") && !transparent_is("enabled", "always") {
        vm.wait_for_error("warning: hugepages=thp has no effect");
        return;
    }
    let huge = smaps(&vm, "AnonHugePages");
    // Not every 2 MiB may be found.
    assert!(huge >= TOUCHED_KIB / 2, "{huge} KiB in huge pages");
}

/// Memory of two ranges is asked for what it cannot have: one line is enough.
fn warnings_of(memory: &str) -> usize {
    let outcome = touching(memory).args(["--timeout", "100ms"]).outcome();
    outcome.stderr.matches(" has no effect").count()
}

#[test]
fn transparent_huge_pages_that_are_off_are_told_of_once() {
    for (memory, file) in [
        ("4G,hugepages=thp", "enabled"),
        ("4G,hugepages=thp,shared", "shmem_enabled"),
    ] {
        let words = ["always", "within_size", "advise", "madvise", "force"];
        let given = words.iter().any(|word| transparent_is(file, word));
        assert_eq!(warnings_of(memory), usize::from(!given), "{memory}");
    }
}

#[test]
fn huge_pages_come_out_of_the_hosts_pool() {
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let count = |file: &str| -> u64 {
        let text = fs::read_to_string(format!("{POOL}/{file}"));
        text.map_or(0, |text| kib(&text))
    };
    // A pool of 240 GiB nobody has.
    let too_many = touching("240G,hugepages=2M").outcome();
    if !Path::new(POOL).exists() {
        refused(&too_many, "this host has no pool of 2 MiB huge pages");
        return;
    }
    refused(&too_many, "guest memory needs 122880 huge pages of 2 MiB");
    let free = || count("free_hugepages") - count("resv_hugepages");
    // On the emulated host they are there from the start.
    let wanted = (count("nr_hugepages") + 10).to_string();
    let lacking = free() < 8 && !is_emulated();
    let more = lacking.then(|| Setting::change(&format!("{POOL}/nr_hugepages"), &wanted));
    let there = free() >= 8;
    assert!(there || !is_emulated(), "{} pages are free", free());
    for memory in ["16M,hugepages=2M", "16M,hugepages=2M,shared,lock"] {
        if !there {
            refused(&touching(memory).outcome(), "nr_hugepages");
            continue;
        }
        let vm = touched(memory);
        let huge = smaps(&vm, "Private_Hugetlb") + smaps(&vm, "Shared_Hugetlb");
        let bounds = TOUCHED_KIB..=ALL_KIB;
        assert!(bounds.contains(&huge), "{memory}: {huge} KiB in huge pages");
        // Those that are not touched yet are kept for it.
        let kept = count("resv_hugepages") * 2048;
        assert!(kept >= ALL_KIB - huge, "{memory}: {kept} KiB reserved");
        assert!(
            fs::read_to_string("/proc/meminfo").is_ok_and(|text| {
                let line = text.lines().find(|line| line.starts_with("HugePages_Free"));
                line.is_some_and(|line| !line.ends_with(&format!(" {}", count("nr_hugepages"))))
            }),
            "{memory}: all pages are free"
        );
    }
    drop(more);
}

#[test]
fn a_huge_page_of_1_gib_is_all_that_a_guest_needs() {
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB";
    let count = |file: &str| -> u64 {
        let text = fs::read_to_string(format!("{POOL}/{file}"));
        text.map_or(0, |text| kib(&text))
    };
    let free = || count("free_hugepages") - count("resv_hugepages");
    if free() == 0 {
        // Nobody finds so much in one piece when a host has run for a while.
        assert!(!is_emulated(), "no page of 1 GiB is free");
        let line = match Path::new(POOL).exists() {
            true => "guest memory needs 1 huge pages of 1024 MiB",
            false => "this host has no pool of 1024 MiB huge pages",
        };
        refused(&touching("1G,hugepages=1G").outcome(), line);
        return;
    }
    let before = free();
    let vm = touched("1G,hugepages=1G");
    assert_eq!(smaps(&vm, "Private_Hugetlb"), 1 << 20);
    assert_eq!(free(), before - 1);
    // More than are left.
    let memory = format!("{before}G,hugepages=1G,shared");
    let line = format!("of which this host has {} to give", before - 1);
    refused(&touching(&memory).outcome(), &line);
}

#[test]
fn equal_pages_are_merged() {
    const KSM: &str = "/sys/kernel/mm/ksm";
    let memory = match may_lock(16 << 20) {
        true => "16M,mergeable,lock",
        false => "16M,mergeable",
    };
    let mut vm = touching(memory).start();
    let Ok(run) = fs::read_to_string(format!("{KSM}/run")) else {
        refused(
            &vm.outcome(),
            "the kernel of this host cannot merge equal pages",
        );
        return;
    };
    vm.wait_for("touched");
    if run.trim() != "1" {
        vm.wait_for_error("warning: mergeable has no effect yet: KSM does not run");
        assert_eq!(warnings_of("4G,mergeable"), 1);
    }
    // A page that nobody has asked to merge is left alone.
    let other = touched("16M");
    let settings = [
        ("sleep_millisecs", "1"),
        ("pages_to_scan", "4000"),
        ("run", "1"),
    ];
    let settings = settings.map(|(file, value)| Setting::change(&format!("{KSM}/{file}"), value));
    if run.trim() != "1" && settings.iter().any(Option::is_none) {
        // Not ours to switch on: the warning is all there is to see.
        return;
    }
    let merged = |vm: &Running| kib(&proc_file(vm, "ksm_merging_pages")) * 4;
    let end = Instant::now() + Duration::from_secs(60);
    while merged(&vm) < TOUCHED_KIB * 3 / 4 {
        let so_far = merged(&vm);
        assert!(
            Instant::now() < end,
            "{so_far} KiB of equal pages are merged"
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(merged(&other), 0);
    let sharing = fs::read_to_string(format!("{KSM}/pages_sharing"));
    assert!(kib(&sharing.expect("pages_sharing")) * 4 >= TOUCHED_KIB / 2);
    // The switch first, as the others may only slow a host down.
    settings.into_iter().rev().for_each(drop);
}

#[test]
fn locked_memory_is_counted_as_such() {
    let Some(vm) = touched_locked("16M,lock", ALL_KIB << 10) else {
        return;
    };
    assert_eq!(status(&vm, "VmLck"), ALL_KIB);
    // Only what is touched is there.
    assert!(status(&vm, "VmRSS") < ALL_KIB);
}

#[test]
fn more_than_may_be_locked_is_refused() {
    const LIMIT: u64 = 1 << 20;
    let mut command = touching("16M,lock").into_command();
    let give_up_the_right = || {
        const CAP_IPC_LOCK: i32 = 14;
        let limit = libc::rlimit {
            rlim_cur: LIMIT,
            rlim_max: LIMIT,
        };
        // SAFETY: both calls are made in the new process and touch nothing but its
        // rights; a user who has no such right fails to drop it, which is as well.
        unsafe {
            libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK);
            if libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(give_up_the_right) };
    let output = command.output().expect("run mayfly");
    assert_eq!(output.status.code(), Some(HOST), "{output:?}");
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "this user may lock 1048576 (RLIMIT_MEMLOCK)";
    assert!(line.contains(expected), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[test]
fn memory_is_taken_at_once_or_not_at_all() {
    let vm = touched("16M,prealloc");
    assert!(status(&vm, "VmRSS") >= ALL_KIB);
    assert_eq!(status(&vm, "VmLck"), 0);
    let all = "16M,prealloc,lock,shared,hugepages=thp";
    if let Some(mut vm) = touched_locked(all, ALL_KIB << 10) {
        assert!(status(&vm, "VmRSS") >= ALL_KIB);
        assert_eq!(status(&vm, "VmLck"), ALL_KIB);
        // Files in memory have a switch of their own.
        if transparent_is("shmem_enabled", "never") {
            vm.wait_for_error("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
        }
    }
    let outcome = touching("240G,prealloc").outcome();
    refused(
        &outcome,
        "cannot take 245760 MiB of guest memory at the start",
    );
}

/// A cgroup for memory with a limit, of the version that the host has; removed when it is
/// dropped.
struct LimitedGroup {
    path: PathBuf,
    /// What the controller was given out in for it.
    enabled: Option<String>,
}

impl LimitedGroup {
    /// None where such a cgroup is not ours to make.
    fn new(limit: u64) -> Option<Self> {
        let (top, file) = match Path::new("/sys/fs/cgroup/memory").is_dir() {
            true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            false => ("/sys/fs/cgroup", "memory.max"),
        };
        // Version 1 has no such file.
        let control = format!("{top}/cgroup.subtree_control");
        let needed = fs::read_to_string(&control).is_ok_and(|text| !text.contains("memory"));
        let enabled = needed && fs::write(&control, "+memory").is_ok();
        let enabled = enabled.then_some(control);
        let path = Path::new(top).join(format!("limited-{}", std::process::id()));
        let made = fs::create_dir(&path).is_ok();
        let group = Self { path, enabled };
        let limited = fs::write(group.path.join(file), limit.to_string());
        (made && limited.is_ok()).then_some(group)
    }
}

impl Drop for LimitedGroup {
    fn drop(&mut self) {
        // Those that have ended may be in it for another moment.
        for _ in 0..100 {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(10));
                }
                _ => break,
            }
        }
        if let Some(control) = &self.enabled {
            let _ = fs::write(control, "-memory");
        }
    }
}

#[test]
fn no_more_is_taken_at_once_than_a_cgroup_has() {
    let Some(group) = LimitedGroup::new(64 << 20) else {
        assert!(!is_emulated(), "no cgroup with a limit of memory");
        return;
    };
    let script = format!(
        "echo 0 >{}/cgroup.procs && exec \"$@\"",
        group.path.display()
    );
    let inside = |memory| touching(memory).under("bash", ["-c", &script, "bash"]);
    let outcome = inside("512M,prealloc").outcome();
    refused(&outcome, "because this process's cgroup has ");
    // There is room for 16, and what is not taken at once is not looked at.
    for memory in ["16M,prealloc", "512M"] {
        let mut vm = inside(memory).start();
        vm.wait_for("touched");
    }
}

#[test]
fn shared_memory_is_a_file_that_is_not_merged() {
    let vm = touched("64G,shared");
    let maps = proc_file(&vm, "maps");
    let line = maps.lines().find(|line| line.contains("memfd:guest-ram"));
    assert!(line.is_some_and(|line| line.contains(" rw-s ")), "{maps}");
    // These counters may be some 64 pages late.
    let resident = status(&vm, "RssShmem");
    assert!(
        (TOUCHED_KIB * 3 / 4..ALL_KIB).contains(&resident),
        "{resident} KiB"
    );
    let outcome = touching("16M,shared,mergeable").outcome();
    assert_eq!(outcome.code, USAGE, "{outcome}");
    let why = "KSM merges only private anonymous memory";
    assert!(outcome.stderr.contains(why), "{outcome}");
}

#[test]
fn memory_comes_from_the_node_that_was_chosen() {
    if !Path::new("/sys/devices/system/node").exists() {
        let outcome = touching("16M,numa=0").outcome();
        refused(&outcome, "knows no NUMA nodes");
        return;
    }
    let vm = touched("16M,numa=0");
    let maps = proc_file(&vm, "numa_maps");
    let pages = |line: &str| -> Option<u64> {
        let (_, rest) = line.split_once(" bind:0 ")?;
        let count = rest
            .split_whitespace()
            .find_map(|word| word.strip_prefix("N0="))?;
        count.parse().ok()
    };
    let bound: u64 = maps.lines().filter_map(pages).sum();
    assert!(bound * 4 >= TOUCHED_KIB, "{maps}");
    let outcome = touching("16M,numa=0-999").outcome();
    outcome.ended(USAGE, "usage");
    told(&outcome, "this host has no NUMA node");
}

#[test]
fn more_memory_than_the_host_has_in_huge_pages() {
    let Some(vm) = touched_locked("64G,hugepages=thp,lock", 64 << 30) else {
        return;
    };
    let resident = status(&vm, "VmRSS");
    assert!(resident < 2 * ALL_KIB, "{resident} KiB");
}

/// What a host says that promises no more than it has: here one that only seems to, and
/// whose limit is that of the process.
#[test]
fn a_host_that_keeps_its_promises_is_told_of() {
    let mode = tempfile::NamedTempFile::new().expect("a file");
    fs::write(mode.path(), "2\n").expect("write it");
    let script = format!(
        "mount --bind {} /proc/sys/vm/overcommit_memory && ulimit -v 2097152 && exec \"$@\"",
        mode.path().display()
    );
    let outcome = touching("64G")
        .under("unshare", ["--mount", "bash", "-c", &script, "bash"])
        .outcome();
    refused(&outcome, "vm.overcommit_memory=2");
    let outcome = touching("64G")
        .under("bash", ["-c", "ulimit -v 2097152 && exec \"$@\"", "bash"])
        .outcome();
    refused(
        &outcome,
        "choose a smaller --memory: Cannot allocate memory",
    );
}
