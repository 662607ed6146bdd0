//! The power is cut: QEMU, and with it a whole emulated host, is killed while a guest
//! writes to a disk whose own cache is lost then. What was flushed is there.

use std::fs;
use std::path::{Path, PathBuf};

use super::machine::EmulatedHost;
use super::nbd::VolatileDisk;
use super::root::RootTree;
use super::{MAYFLY, host_files};
use crate::common::bare;
use crate::common::disk::{image_folder, sparse_file, text, tool};
use crate::common::pattern::{Acknowledged, BLOCK};

/// Places of the guest's disk.
const BLOCKS: u64 = 2048;
const SIZE: u64 = BLOCKS * BLOCK as u64;
/// The moment: so many FLUSHes have been told.
const FLUSHES: usize = 25;

/// A host with a volatile disk.
struct Victim {
    host: EmulatedHost,
    root: RootTree,
    disk: VolatileDisk,
    /// The disk's name in the host.
    name: String,
}

impl Victim {
    fn new(folder: &Path, content: Vec<u8>) -> Self {
        let disk = VolatileDisk::serve(folder, content);
        let mut host = EmulatedHost::new(host_files());
        let name = host.add_disk(&disk.drive());
        let mut root = RootTree::new(host_files());
        root.add_program(Path::new(MAYFLY))
            .add(&bare("blk_pattern"));
        Self {
            host,
            root,
            disk,
            name,
        }
    }

    /// Runs the script, which has the guest write, until enough is told; then the power
    /// is cut. Returns what the guest told and what the disk has kept.
    fn cut(
        self,
        script: &str,
        enough: &mut dyn FnMut(&Acknowledged) -> bool,
    ) -> (Acknowledged, Vec<u8>) {
        let mut told = Acknowledged::default();
        let mut seen = 0;
        let output = self
            .host
            .run_until(self.root, &["sh", "-c", script], &mut |output| {
                // Whole lines; an error is found again below.
                let end = output.rfind('\n').map_or(0, |end| end + 1);
                let _ = told.add(&output[seen..end], BLOCKS);
                seen = end;
                enough(&told)
            });
        let output = output.unwrap();
        let mut told = Acknowledged::default();
        told.add(&output, BLOCKS).unwrap();
        println!(
            "{} writes and {} flushes were told",
            told.writes, told.flushes
        );
        println!("the disk was flushed {} times", self.disk.flushes());
        (told, self.disk.after_power_cut())
    }
}

/// The pattern's guest on `image`, as a line for a shell.
fn pattern_on(image: &str, options: &str) -> String {
    format!(
        "exec {MAYFLY} run --kernel {} --disk path={image}{options} \
         --cmdline 'bare.blocks={BLOCKS} bare.depth=4 bare.flush=7'",
        bare("blk_pattern").display()
    )
}

fn enough_flushes(told: &Acknowledged) -> bool {
    told.flushes >= FLUSHES
}

#[test]
fn power_cut_leaves_what_was_flushed_to_a_block_device() {
    let folder = image_folder();
    let victim = Victim::new(folder.path(), vec![0; SIZE as usize]);
    let script = pattern_on(&victim.name, ",format=raw,aio=io_uring");
    let (told, kept) = victim.cut(&script, &mut enough_flushes);
    told.verify_flushed(&kept, BLOCKS).unwrap();
}

#[test]
fn power_cut_with_cache_unsafe_loses_what_was_flushed() {
    // That the others find all is worth something only if this one does not.
    let folder = image_folder();
    let victim = Victim::new(folder.path(), vec![0; SIZE as usize]);
    let script = pattern_on(&victim.name, ",format=raw,cache=unsafe");
    let (told, kept) = victim.cut(&script, &mut enough_flushes);
    assert!(told.verify_flushed(&kept, BLOCKS).is_err());
}

#[test]
fn power_cut_leaves_what_was_flushed_to_files_on_ext4() {
    for (image, options) in [
        ("image.raw", ",format=raw,aio=threads"),
        ("image.qcow2", ",format=qcow2,aio=io_uring"),
    ] {
        let folder = image_folder();
        let disk = file_system_with(folder.path(), image);
        let victim = Victim::new(folder.path(), fs::read(&disk).expect("read the disk"));
        let script = format!(
            "mkdir /disk && mount -t ext4 {} /disk && {}",
            victim.name,
            pattern_on(&format!("/disk/{image}"), options)
        );
        let (told, kept) = victim.cut(&script, &mut enough_flushes);
        let found = take_out(folder.path(), &kept, image);
        told.verify_flushed(&found, BLOCKS)
            .unwrap_or_else(|error| panic!("{image}: {error}"));
    }
}

/// An ext4 file system that holds an empty image.
pub fn file_system_with(folder: &Path, image: &str) -> PathBuf {
    let (tree, disk) = (folder.join("tree"), folder.join("disk.ext4"));
    fs::create_dir(&tree).expect("create a directory");
    let empty = tree.join(image);
    match image.ends_with("raw") {
        true => sparse_file(&empty, SIZE),
        false => {
            let size = SIZE.to_string();
            tool(
                "qemu-img",
                &["create", "-q", "-f", "qcow2", text(&empty), &size],
            );
        }
    }
    let arguments = ["-q", "-t", "ext4", "-d", text(&tree), text(&disk), "32M"];
    tool("mke2fs", &arguments);
    disk
}

/// Reads the image from what a power cut has left of its file system, as the next boot
/// would find it: with the journal replayed.
fn take_out(folder: &Path, kept: &[u8], image: &str) -> Vec<u8> {
    let (disk, file) = (folder.join("kept.ext4"), folder.join(image));
    fs::write(&disk, kept).expect("write a disk");
    // Replays the journal; its status says that it did.
    let _ = std::process::Command::new("/sbin/e2fsck")
        .args(["-p", "-E", "journal_only", text(&disk)])
        .output();
    let request = format!("dump /{image} {}", text(&file));
    tool("debugfs", &["-R", &request, text(&disk)]);
    if image.ends_with("raw") {
        return fs::read(&file).expect("read an image");
    }
    tool(
        "qemu-img",
        &["check", "-q", "-r", "leaks", "-f", "qcow2", text(&file)],
    );
    crate::common::disk::content(&file, "qcow2")
}

#[test]
fn volatile_disk_loses_what_was_not_flushed() {
    // The tests above rest on this one.
    let folder = image_folder();
    let victim = Victim::new(folder.path(), vec![0; 1 << 20]);
    let name = &victim.name;
    let script = format!(
        "yes lasting | dd of={name} bs=4096 count=4 conv=fsync 2>&1; \
         yes passing | dd of={name} bs=4096 seek=16 count=4 oflag=direct 2>&1; \
         echo both are written; sleep 1000"
    );
    let result = victim
        .host
        .run_until(victim.root, &["sh", "-c", &script], &mut |output| {
            output.contains("both are written")
        });
    result.unwrap();
    let (seen, kept) = (
        victim.disk.before_power_cut(),
        victim.disk.after_power_cut(),
    );
    assert!(seen.starts_with(b"lasting\n") && kept.starts_with(b"lasting\n"));
    let passing = 16 * 4096..16 * 4096 + 8;
    assert_eq!(&seen[passing.clone()], b"passing\n");
    assert_eq!(&kept[passing], [0; 8]);
}
