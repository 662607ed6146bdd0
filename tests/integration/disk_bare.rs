//! Virtio disks and the entropy device, driven by bare guests: what is served, what
//! a driver that breaks the rules gets, and what a request costs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mayfly::config::{
    CmdlineConfig, CmdlineMode, DiskConfig, DiskFormat, MemoryConfig, SerialConfig, VmConfig,
};
use mayfly::console::Console;
use mayfly::vm::builder::{self, Inputs};
use mayfly::vm::exit::ExitReason;
use mayfly::vm::hardware::Hardware;
use mayfly::vm::running::RunningVm;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Mayfly, Outcome, bare};

const TRANSPORTS: [&str; 2] = ["pci", "mmio"];
const ENGINES: [&str; 2] = ["io_uring", "threads"];
/// The guests' blocks, in bytes.
const BLOCK: usize = 4096;
/// Bytes of the tests' disks.
const SIZE: usize = 16 << 20;

/// A disk image that no guest has changed yet.
struct Image {
    directory: TempDir,
    content: Vec<u8>,
}

impl Image {
    /// [`SIZE`] bytes, each page unlike the others.
    fn new() -> Self {
        Self::in_directory(TempDir::new().expect("create a temporary directory"))
    }

    /// On the file system that the program lies on, and not in memory: direct I/O, and
    /// reads that io_uring answers at once, want that on older kernels.
    fn on_storage() -> Self {
        let place = env!("CARGO_TARGET_TMPDIR");
        fs::create_dir_all(place).expect("create the directory for temporary files");
        Self::in_directory(TempDir::new_in(place).expect("create a temporary directory"))
    }

    fn in_directory(directory: TempDir) -> Self {
        let ramp: Vec<u8> = (0..=250).cycle().take(251 + BLOCK).collect();
        let mut content = Vec::with_capacity(SIZE);
        for page in 0..SIZE / BLOCK {
            content.extend_from_slice(&(page as u64).to_le_bytes());
            content.extend_from_slice(&ramp[page % 251..][..BLOCK - 8]);
        }
        fs::write(directory.path().join("disk.raw"), &content).expect("write the image");
        Self { directory, content }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk.raw")
    }

    fn now(&self) -> Vec<u8> {
        fs::read(self.path()).expect("read the image")
    }

    #[track_caller]
    fn is_unchanged(&self) {
        let now = self.now();
        assert_eq!(now.len(), SIZE, "the image's size has changed");
        let pages = now.chunks(BLOCK).zip(self.content.chunks(BLOCK));
        let changed = pages.into_iter().position(|(now, then)| now != then);
        assert_eq!(changed, None, "a page of the image has changed");
    }
}

/// The bare guest `name` with a disk; `options` follow the disk's path, `words` are
/// for the guest.
fn guest(name: &str, transport: &str, image: &Path, options: &str, words: &str) -> Mayfly {
    let disk = format!("path={},format=raw{options}", image.display());
    without_disk(name, transport, words).args(["--disk", &disk])
}

/// The bare guest `name`, told where its transport is.
fn without_disk(name: &str, transport: &str, words: &str) -> Mayfly {
    let window = mayfly::memory::layout::VIRTIO_MMIO_START;
    let line = match transport {
        "mmio" => format!("bare.mmio={window} {words}"),
        _ => words.to_string(),
    };
    Mayfly::bare(name)
        .args(["--memory", "64M", "--transport", transport])
        .args(["--cmdline", &line])
}

/// What blk_rw.S writes as block `place`.
fn pattern(place: u64) -> Vec<u8> {
    let mut word = 0x1111 + place;
    (0..BLOCK / 8)
        .flat_map(|_| {
            word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(77);
            word.to_le_bytes()
        })
        .collect()
}

/// Where blk_rw.S puts block `place`, in bytes.
fn place(place: usize) -> usize {
    (SIZE - BLOCK) / 512 * place / 3 / 8 * BLOCK
}

#[test]
fn every_request_is_served_and_reaches_the_file() {
    for transport in TRANSPORTS {
        for engine in ENGINES {
            let image = Image::new();
            let options = format!(",aio={engine},serial=bare-disk");
            let outcome = guest("blk_rw", transport, &image.path(), &options, "").outcome();
            outcome
                .all_held()
                .printed("written and read")
                .printed("indirect")
                .printed("id=bare-disk\n")
                .printed("zeroes")
                .printed("discarded");
            assert_eq!(outcome.fact("capacity"), SIZE as u64 / 512, "{outcome}");
            let now = image.now();
            assert_eq!(now.len(), SIZE);
            for number in 2..4 {
                let start = place(number);
                let block = &now[start..start + BLOCK];
                assert!(block == pattern(number as u64), "block {number}: {outcome}");
            }
            assert!(now[..BLOCK].iter().all(|&byte| byte == 0), "{outcome}");
            // What lies between the blocks is as it was.
            for start in [2 * BLOCK, 64 * 512 + BLOCK, place(3) - BLOCK] {
                assert!(now[start..start + BLOCK] == image.content[start..start + BLOCK]);
            }
        }
    }
}

#[test]
fn ephemeral_disk_takes_every_request_and_leaves_the_file_alone() {
    for transport in TRANSPORTS {
        for engine in ENGINES {
            let image = Image::new();
            let options = format!(",ephemeral,aio={engine}");
            let outcome = guest("blk_rw", transport, &image.path(), &options, "").outcome();
            outcome.all_held().printed("written and read");
            image.is_unchanged();
        }
    }
}

#[test]
fn unbuffered_disk_serves_every_request() {
    let image = Image::on_storage();
    for engine in ENGINES {
        let options = format!(",cache=none,aio={engine}");
        let outcome = guest("blk_rw", "pci", &image.path(), &options, "").outcome();
        outcome.all_held().printed("written and read");
    }
}

#[test]
fn readonly_disk_is_read_and_not_written() {
    for transport in TRANSPORTS {
        let image = Image::new();
        let words = "bare.count=64 bare.depth=4";
        let outcome = guest("blk_bench", transport, &image.path(), ",readonly", words).outcome();
        outcome.all_held().printed("requests=64 ");
        let words = "bare.count=1 bare.write=1";
        let outcome = guest("blk_bench", transport, &image.path(), ",readonly", words).outcome();
        outcome.printed("FAIL a request").ended(1, "guest-status");
        image.is_unchanged();
    }
}

#[test]
fn guests_that_go_without_event_indices_are_served() {
    for transport in TRANSPORTS {
        let image = Image::new();
        let words = "bare.event_idx=0 bare.count=500 bare.depth=16 bare.write=1 bare.random=1";
        let outcome = guest("blk_bench", transport, &image.path(), "", words).outcome();
        outcome.all_held().printed("requests=500 ");
    }
}

#[test]
fn interrupts_wake_a_halted_guest() {
    for transport in TRANSPORTS {
        for event_idx in [0, 1] {
            let image = Image::new();
            let words = format!("bare.irq=5 bare.count=60 bare.depth=3 bare.event_idx={event_idx}");
            let outcome = guest("blk_irq", transport, &image.path(), "", &words).outcome();
            outcome.all_held().printed("requests=60 ");
        }
    }
}

#[test]
fn entropy_device_fills_buffers() {
    for transport in TRANSPORTS {
        let outcome = without_disk("rng", transport, "").arg("--rng").outcome();
        outcome.all_held();
    }
}

#[test]
fn entropy_device_and_disks_stand_side_by_side() {
    for transport in TRANSPORTS {
        let image = Image::new();
        let disk = guest("blk_rw", transport, &image.path(), "", "").arg("--rng");
        disk.outcome().all_held();
        let entropy = guest("rng", transport, &image.path(), "", "").arg("--rng");
        entropy.outcome().all_held();
    }
}

/// Runs all cases of a hostile guest, after each of which the disk must be alive.
fn survives(name: &str, transport: &str, options: &str, cases: usize) {
    let image = Image::on_storage();
    let words = format!("bare.ram={}", 64 << 20);
    let outcome = guest(name, transport, &image.path(), options, &words).outcome();
    outcome.all_held();
    let alive = outcome.guest().matches(" alive").count();
    assert_eq!(alive, cases, "cases survived: {outcome}");
    // However often it does a thing again.
    let told_off = outcome.stderr.matches("has to reset the device").count();
    assert!(told_off <= TOLD, "{told_off} lines: {outcome}");
    image.is_unchanged();
}

/// Lines of one kind in a minute at most.
const TOLD: usize = 10;

/// `CASE` lines of blk_hostile.S and virtio_hostile.S.
const REQUEST_CASES: usize = 16;
const RING_CASES: usize = 19;

#[test]
fn hostile_requests_harm_nothing_on_pci() {
    survives("blk_hostile", "pci", "", REQUEST_CASES);
}

#[test]
fn hostile_requests_harm_nothing_on_mmio() {
    survives("blk_hostile", "mmio", "", REQUEST_CASES);
}

#[test]
fn hostile_requests_harm_no_pool_of_threads() {
    survives("blk_hostile", "pci", ",aio=threads", REQUEST_CASES);
}

#[test]
fn hostile_requests_harm_no_ephemeral_disk() {
    survives("blk_hostile", "pci", ",ephemeral", REQUEST_CASES);
}

#[test]
fn hostile_requests_harm_no_unbuffered_disk() {
    survives("blk_hostile", "pci", ",cache=none", REQUEST_CASES);
}

#[test]
fn hostile_rings_and_registers_harm_nothing_on_pci() {
    survives("virtio_hostile", "pci", "", RING_CASES);
}

#[test]
fn hostile_rings_and_registers_harm_nothing_on_mmio() {
    survives("virtio_hostile", "mmio", "", RING_CASES);
}

#[test]
fn hostile_rings_and_resets_harm_no_pool_of_threads() {
    survives("virtio_hostile", "mmio", ",aio=threads", RING_CASES);
}

/// The guest's load goes on over many pauses, each of which waits for what is in
/// flight. There is no command for it, so this one drives the library.
#[test]
fn pauses_lose_no_request() {
    let image = Image::new();
    let mut config = VmConfig::new(bare("blk_bench"));
    config.serial = SerialConfig::Null;
    config.memory = MemoryConfig::new(64 << 20);
    config.cmdline = CmdlineConfig {
        mode: CmdlineMode::Replace,
        text: "bare.count=40000 bare.depth=32 bare.random=1".into(),
    };
    let mut disk = DiskConfig::new(image.path());
    disk.format = DiskFormat::Raw;
    config.disks.push(disk);
    let mut inputs = Inputs::open(&config).expect("this test needs /dev/kvm");
    let console = Console::open(&config.serial).unwrap();
    let hardware = Hardware::new(&config, &mut inputs, console, Instant::now()).unwrap();
    let built = builder::build(&config, &inputs, &hardware).unwrap();
    let lifecycle = built.machine.lifecycle.clone();
    let vm = RunningVm::start(built).unwrap();
    let mut pauses = 0;
    while lifecycle.reason().is_none() {
        vm.pause();
        vm.resume();
        pauses += 1;
        thread::sleep(Duration::from_millis(1));
    }
    let ended = vm.finish();
    println!("{pauses} pauses");
    assert_eq!(ended.reason, ExitReason::Reset);
    assert_eq!(hardware.finish().disks[0].totals.requests, 40_000);
    assert!(pauses > 1, "the guest was faster than the first pause");
    image.is_unchanged();
}

/// All exits of a run, and what its disk served and cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    exits: u64,
    requests: u64,
    calls: u64,
}

/// What `count` reads cost at a depth.
fn cost(image: &Image, transport: &str, depth: u64, count: u64) -> Cost {
    let words = format!("bare.count={count} bare.depth={depth} bare.random=1");
    let outcome = guest("blk_bench", transport, &image.path(), "", &words).outcome();
    outcome.all_held();
    let json = outcome.json();
    let exits = json["exits"].as_object().expect("a map");
    let disk = &json["disks"][0];
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{outcome}"));
    assert_eq!(disk["name"], "vda", "{outcome}");
    assert_eq!(disk["errors"], 0, "{outcome}");
    Cost {
        exits: exits.values().map(number).sum(),
        requests: number(&disk["requests"]),
        calls: number(&disk["system_calls"]),
    }
}

#[test]
fn a_kick_is_no_exit_and_a_request_few_system_calls() {
    let image = Image::on_storage();
    for transport in TRANSPORTS {
        for (depth, bound) in [(1, 2.0), (32, 0.5)] {
            let few = cost(&image, transport, depth, 1000);
            let many = cost(&image, transport, depth, 5000);
            assert_eq!(many.requests - few.requests, 4000, "{few:?} {many:?}");
            // What the guest prints takes exits, and its numbers differ by some digits.
            assert!(many.exits <= few.exits + 100, "{few:?} {many:?}");
            // Of the whole run: whether looking out pays may differ between the two.
            let calls = many.calls as f64 / many.requests as f64;
            println!("{transport}, depth {depth}: {calls:.3} system calls a request");
            // The start's calls, and a stray wake-up now and then, are no call a request.
            assert!(
                calls <= bound + 0.02,
                "depth {depth}: {calls} {few:?} {many:?}"
            );
        }
    }
    image.is_unchanged();
}

/// A VM with a disk that runs until it is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("kill mayfly");
        self.0.wait().expect("wait for mayfly");
    }
}

/// Starts a VM that holds the disk, and waits until its guest runs.
fn holding(image: &Image, options: &str) -> Running {
    let mut command = guest("spin_user", "pci", &image.path(), options, "").into_command();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running(child.spawn().expect("start mayfly"));
    let output = running.0.stdout.take().expect("a pipe");
    let line = BufReader::new(output).lines().next();
    let line = line.expect("a line").expect("read the output");
    assert!(line.contains("spinning"), "{line}");
    running
}

fn second(image: &Image, options: &str) -> Outcome {
    guest("hello", "pci", &image.path(), options, "").outcome()
}

#[test]
fn second_vm_on_a_disk_fails_and_names_the_holder() {
    let image = Image::new();
    let first = holding(&image, "");
    for options in ["", ",readonly", ",ephemeral"] {
        let refused = second(&image, options);
        assert!(!refused.stdout.contains("hello"), "{refused}");
        assert_ne!(refused.code, 0, "{refused}");
        assert_eq!(refused.stderr.lines().count(), 1, "one line: {refused}");
        let holder = first.0.id().to_string();
        for word in ["disk.raw", &holder, "mayfly"] {
            assert!(refused.stderr.contains(word), "no {word}: {refused}");
        }
    }
    drop(first);
    second(&image, "").all_held();
}

#[test]
fn readers_share_a_disk_and_keep_writers_out() {
    let image = Image::new();
    let first = holding(&image, ",readonly");
    second(&image, ",readonly").all_held();
    second(&image, ",ephemeral").all_held();
    let refused = second(&image, "");
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stderr.contains("disk.raw"), "{refused}");
    drop(first);
}
