//! Errors that only a host of one's own can have: a bad block of its disk, a file
//! system that it makes read-only because of one.

use std::fs;
use std::path::Path;

use super::machine::EmulatedHost;
use super::nbd::VolatileDisk;
use super::power_cut::file_system_with;
use super::root::RootTree;
use super::{MAYFLY, host_files};
use crate::common::bare;
use crate::common::disk::image_folder;

/// Bytes a request of `blk_sweep`.
const PIECE: usize = 0x10000;

/// A root disk with what these tests run.
fn root() -> RootTree {
    let mut root = RootTree::new(host_files());
    root.add_program(Path::new(MAYFLY)).add(&bare("blk_sweep"));
    root
}

/// A command line that has the guest ask for all of the disk: 0 reads, 1 writes.
fn sweep(kind: u8, disk: &str, more: &str) -> String {
    let guest = bare("blk_sweep");
    format!(
        "{MAYFLY} run --disk path={disk} --kernel {} --cmdline \"bare.type={kind} {more}\" 2>&1",
        guest.display()
    )
}

#[test]
fn bad_block_of_a_disk_is_an_io_error_for_the_guest() {
    let folder = image_folder();
    let disk = VolatileDisk::serve(folder.path(), vec![0; 32 * PIECE]);
    disk.break_range(5 * PIECE..5 * PIECE + 4096);
    let mut host = EmulatedHost::new(host_files());
    let name = host.add_disk(&disk.drive());
    let script: String = [(0, "io_uring"), (1, "threads")]
        .map(|(kind, aio)| {
            let disk = format!("{name},format=raw,cache=none,aio={aio}");
            format!("{} || exit\n", sweep(kind, &disk, ""))
        })
        .concat();
    let outcome = host.run(root(), &["sh", "-c", &script]).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    // Sector 5 * 128.
    let facts = "ok=1f ioerr=1 other=0 first=280 flush=0";
    let swept = outcome.output.matches(facts).count();
    assert_eq!(swept, 2, "{}", outcome.output);
    let told = outcome.output.matches("Input/output error").count();
    assert_eq!(told, 2, "{}", outcome.output);
}

#[test]
fn file_system_that_becomes_read_only_fails_writes() {
    let folder = image_folder();
    let disk = file_system_with(folder.path(), "image.raw");
    let disk = VolatileDisk::serve(folder.path(), fs::read(&disk).expect("read the disk"));
    let mut host = EmulatedHost::new(host_files());
    let name = host.add_disk(&disk.drive());
    // The guest waits for a key; the host makes everything read-only at once (u), as
    // a file system does that finds an error.
    let script = format!(
        "mkdir /disk && mount -t ext4 {name} /disk && mkfifo /tmp/keys && exec 3<>/tmp/keys
         {} </tmp/keys &
         until grep -q ready /tmp/said; do sleep 0.1; done
         echo u >/proc/sysrq-trigger
         until grep -q '/disk ext4 ro' /proc/mounts; do sleep 0.1; done
         echo >&3
         wait $!; status=$?; cat /tmp/said; exit $status",
        sweep(1, "/disk/image.raw,format=raw,cache=none", "bare.key=1") + " >/tmp/said"
    );
    let outcome = host.run(root(), &["sh", "-c", &script]).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    let facts = "ok=0 ioerr=80 other=0 first=0";
    assert!(outcome.output.contains(facts), "{}", outcome.output);
    let told = outcome.output.matches("Read-only file system").count();
    assert_eq!(told, 1, "{}", outcome.output);
}
