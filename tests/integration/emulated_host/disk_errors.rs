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

/// Two disks in one host, which becomes unusable in the end.
#[test]
fn bad_block_and_read_only_file_system_are_io_errors_for_the_guest() {
    let mut host = EmulatedHost::new(host_files());
    let folders = [image_folder(), image_folder()];
    let bad = VolatileDisk::serve(folders[0].path(), vec![0; 32 * PIECE]);
    bad.break_range(5 * PIECE..5 * PIECE + 4096);
    let bad_name = host.add_disk(&bad.drive());
    let ext4 = file_system_with(folders[1].path(), "image.raw");
    let ext4 = fs::read(&ext4).expect("read the disk");
    let ext4 = VolatileDisk::serve(folders[1].path(), ext4);
    let ext4_name = host.add_disk(&ext4.drive());

    let script = sweep_bad_block(&bad_name) + &sweep_read_only(&ext4_name);
    let outcome = host.run(root(), &["sh", "-c", &script]).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    for (text, times) in [
        // Sector 5 * 128; a read, and a write.
        ("ok=1f ioerr=1 other=0 first=280 flush=0", 2),
        ("Input/output error", 2),
        ("ok=0 ioerr=80 other=0 first=0", 1),
        ("Read-only file system", 1),
    ] {
        let found = outcome.output.matches(text).count();
        assert_eq!(found, times, "'{text}': {}", outcome.output);
    }
}

/// Reads and writes all of a disk with a bad block.
fn sweep_bad_block(name: &str) -> String {
    [(0, "io_uring"), (1, "threads")]
        .map(|(kind, aio)| {
            let disk = format!("{name},format=raw,cache=none,aio={aio}");
            format!("{} || exit\n", sweep(kind, &disk, ""))
        })
        .concat()
}

/// The guest waits for a key; the host makes everything read-only at once (u), as a
/// file system does that finds an error.
fn sweep_read_only(name: &str) -> String {
    format!(
        "mkdir /disk && mount -t ext4 {name} /disk && mkfifo /tmp/keys && exec 3<>/tmp/keys
         {} </tmp/keys &
         until grep -q ready /tmp/said; do sleep 0.1; done
         echo u >/proc/sysrq-trigger
         until grep -q '/disk ext4 ro' /proc/mounts; do sleep 0.1; done
         echo >&3
         wait $!; status=$?; cat /tmp/said; exit $status",
        sweep(1, "/disk/image.raw,format=raw,cache=none", "bare.key=1") + " >/tmp/said"
    )
}
