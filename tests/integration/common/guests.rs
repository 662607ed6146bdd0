//! The bare guests, assembled when first asked for.
//!
//! They are cached outside the repository under a hash of their sources, which
//! this program carries with it: a machine without compiler or repository can
//! run the tests if it has the cache.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../guest-images/bare/", $name)))),*]
    };
}

/// What the guests include, and the linker script.
const SHARED: &[(&str, &str)] = sources![
    "guest.ld",
    "acpi.inc",
    "blk_load.inc",
    "cases.inc",
    "disk_hostile.inc",
    "guest.inc",
    "interrupts.inc",
    "kvmclock.inc",
    "memory_map.inc",
    "moment.inc",
    "net_hostile.inc",
    "net_load.inc",
    "net_ping.inc",
    "processors.inc",
    "user.inc",
    "virtio.inc",
    "virtio_blk.inc",
    "virtio_irq.inc",
    "virtio_net.inc",
    "virtio_pci.inc",
    "window.inc",
];

/// The guests, one a file.
const GUESTS: &[(&str, &str)] = sources![
    "blk_bench.S",
    "blk_hostile.S",
    "blk_irq.S",
    "blk_pattern.S",
    "blk_rw.S",
    "blk_sweep.S",
    "boot_linux64.S",
    "boot_pvh.S",
    "clock_answer.S",
    "clock_watch.S",
    "cpu_model.S",
    "deadline_ticks.S",
    "exit_loop.S",
    "hello.S",
    "hostile.S",
    "initrd.S",
    "instr.S",
    "memory.S",
    "mmio.S",
    "net_bench.S",
    "net_buffers.S",
    "net_echo.S",
    "net_floods.S",
    "net_hostile.S",
    "net_irq.S",
    "net_link.S",
    "panic_text.S",
    "pause_load.S",
    "ports.S",
    "power_button.S",
    "poweroff.S",
    "pvpanic.S",
    "reboots.S",
    "reset_cf9.S",
    "rng.S",
    "serial_irq.S",
    "smp.S",
    "spin.S",
    "spin_user.S",
    "status.S",
    "syscall_forgery.S",
    "time.S",
    "timer.S",
    "touch.S",
    "triple_fault.S",
    "uncovered.S",
    "virtio_hostile.S",
    "wild_jump.S",
];

/// The ELF file of the bare guest `name`.
pub fn bare(name: &str) -> PathBuf {
    let path = bare_dir().join(name);
    assert!(path.is_file(), "there is no bare guest '{name}'");
    path
}

/// The directory with all bare guests, assembled if it is not there yet.
pub fn bare_dir() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = cache().join("guests").join(format!("bare-{}", recipe()));
        if !directory.is_dir() {
            assemble_into(&directory);
        }
        directory
    })
}

/// The cache directory, as the program and the build scripts choose it.
pub fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(cache) = variable("MAYFLY_CACHE") {
        return PathBuf::from(cache);
    }
    if let Some(cache) = variable("XDG_CACHE_HOME") {
        return PathBuf::from(cache).join("mayfly");
    }
    let home = variable("HOME").expect("HOME must be set to find the cache directory");
    PathBuf::from(home).join(".cache/mayfly")
}

const CC: &[&str] = &[
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,-T,guest.ld",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
    "-x",
    "assembler",
];

/// What the guests are made from, in 16 hexadecimal digits.
fn recipe() -> String {
    let mut hash = Sha256::new();
    for (name, text) in SHARED.iter().chain(GUESTS) {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    for option in CC {
        hash.update(option.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Assembles in a directory beside the final one and moves it there whole.
fn assemble_into(directory: &Path) {
    let parent = directory.parent().expect("a directory in the cache");
    fs::create_dir_all(parent).expect("create the cache directory");
    let building = tempfile::Builder::new()
        .prefix("bare-building-")
        .tempdir_in(parent)
        .expect("create a directory in the cache");
    for (name, text) in SHARED.iter().chain(GUESTS) {
        fs::write(building.path().join(name), text).expect("write a guest's source");
    }
    for (source, _) in GUESTS {
        assemble(building.path(), source);
    }
    let building = building.keep();
    if let Err(error) = fs::rename(&building, directory) {
        // Another process may have been faster; its guests are the same.
        fs::remove_dir_all(&building).expect("remove the build directory");
        let there = directory.is_dir() && error.kind() != io::ErrorKind::PermissionDenied;
        assert!(there, "cannot create {}: {error}", directory.display());
    }
}

fn assemble(directory: &Path, source: &str) {
    let guest = source.trim_end_matches(".S");
    let output = Command::new("cc")
        .args(CC)
        .args([source, "-o", guest])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("run cc, the C toolchain that Rust needs too");
    assert!(
        output.status.success(),
        "cannot assemble {source}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
