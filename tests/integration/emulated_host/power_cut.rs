//! The power is cut: QEMU, and with it a whole emulated host, is killed while guests
//! write to disks whose own cache is lost then. What was flushed is there.
//!
//! One host has them all: its start costs more than what is tested.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::machine::EmulatedHost;
use super::nbd::VolatileDisk;
use super::root::RootTree;
use super::{MAYFLY, host_files};
use crate::common::bare;
use crate::common::disk::{image_folder, sparse_file, text, tool};
use crate::common::pattern::{Acknowledged, BLOCK};

/// Places of a guest's disk.
const BLOCKS: u64 = 2048;
const SIZE: u64 = BLOCKS * BLOCK as u64;
/// The moment: so many FLUSHes have been told by each guest.
const FLUSHES: usize = 25;

/// A guest whose disk is a volatile disk of its host, or lies on one.
struct Victim {
    folder: TempDir,
    disk: VolatileDisk,
    /// The disk's name in the host.
    name: String,
    /// The file on the disk's file system, if it has one.
    image: Option<&'static str>,
    options: &'static str,
    told: Acknowledged,
}

impl Victim {
    fn new(host: &mut EmulatedHost, image: Option<&'static str>, options: &'static str) -> Self {
        let folder = image_folder();
        let content = match image {
            None => vec![0; SIZE as usize],
            Some(image) => fs::read(file_system_with(folder.path(), image)).expect("read a disk"),
        };
        let disk = VolatileDisk::serve(folder.path(), content);
        let name = host.add_disk(&disk.drive());
        Self {
            folder,
            disk,
            name,
            image,
            options,
            told: Acknowledged::default(),
        }
    }

    /// A line for a shell: the guest writes its pattern, and each line of it is told with
    /// this number before it.
    fn script(&self, number: usize) -> String {
        let (mount, path) = match self.image {
            None => (String::new(), self.name.clone()),
            Some(image) => (
                format!(
                    "mkdir /disk{number} && mount -t ext4 {} /disk{number} && ",
                    self.name
                ),
                format!("/disk{number}/{image}"),
            ),
        };
        let options = self.options;
        format!(
            "{{ {mount}{MAYFLY} run --kernel {} --disk path={path}{options} \
             --cmdline 'bare.blocks={BLOCKS} bare.depth=4 bare.flush=7' 2>&1; }} | tell {number} &\n",
            bare("blk_pattern").display()
        )
    }

    /// What the power cut has left of the guest's disk.
    fn kept(&self) -> Vec<u8> {
        let kept = self.disk.after_power_cut();
        match self.image {
            None => kept,
            Some(image) => take_out(self.folder.path(), &kept, image),
        }
    }

    /// Whether all that was flushed, as far as that was told, is there.
    fn has_what_was_flushed(&self) -> Result<(), String> {
        println!(
            "{} {}: {} writes and {} flushes were told, the disk was flushed {} times",
            self.image.unwrap_or("block device"),
            self.options,
            self.told.writes,
            self.told.flushes,
            self.disk.flushes()
        );
        self.told.verify_flushed(&self.kept(), BLOCKS)
    }
}

/// Hands out the lines of what was printed, each to the guest whose number it has, and
/// returns the lines of nobody.
fn hand_out(printed: &str, victims: &mut [Victim]) -> Result<String, String> {
    let mut others = String::new();
    for line in printed.split_inclusive('\n') {
        let numbered = line.split_once(' ').and_then(|(number, rest)| {
            let victim = victims.get_mut(number.parse::<usize>().ok()?)?;
            Some((victim, rest))
        });
        match numbered {
            Some((victim, rest)) => victim.told.add(rest, BLOCKS)?,
            None => others.push_str(line),
        }
    }
    Ok(others)
}

#[test]
fn power_cut_leaves_what_was_flushed_and_no_more() {
    const PROBE_WRITTEN: &str = "the probe is written";
    let mut host = EmulatedHost::new(host_files());
    host.timeout = Duration::from_secs(120);
    let folder = image_folder();
    let probe = VolatileDisk::serve(folder.path(), vec![0; 1 << 20]);
    let name = host.add_disk(&probe.drive());
    let mut victims = [
        (None, ",format=raw,aio=io_uring"),
        (Some("image.raw"), ",format=raw,aio=threads"),
        (Some("image.qcow2"), ",format=qcow2,aio=io_uring"),
        (None, ",format=raw,cache=unsafe"),
    ]
    .map(|(image, options)| Victim::new(&mut host, image, options));
    let script = format!(
        "tell() {{ while read -r line; do echo \"$1 $line\"; done; }}
         yes lasting | dd of={name} bs=4096 count=4 conv=fsync 2>&1
         yes passing | dd of={name} bs=4096 seek=16 count=4 oflag=direct 2>&1
         echo {PROBE_WRITTEN}
         {}wait",
        (0..)
            .zip(&victims)
            .map(|(number, victim)| victim.script(number))
            .collect::<String>()
    );
    let mut root = RootTree::new(host_files());
    root.add_program(Path::new(MAYFLY))
        .add(&bare("blk_pattern"));
    let (mut seen, mut others) = (0, String::new());
    let output = host.run_until(root, &["sh", "-c", &script], &mut |output| {
        // Whole lines.
        let end = output.rfind('\n').map_or(0, |end| end + 1);
        match hand_out(&output[seen..end], &mut victims) {
            Ok(more) => others.push_str(&more),
            // A request that failed: the host need not go on.
            Err(error) => panic!("{error}: {output}"),
        }
        seen = end;
        victims.iter().all(|victim| victim.told.flushes >= FLUSHES)
    });
    output.unwrap();
    // The disk loses what was not flushed: all else rests on this.
    assert!(others.contains(PROBE_WRITTEN), "{others}");
    let (before, after) = (probe.before_power_cut(), probe.after_power_cut());
    assert!(before.starts_with(b"lasting\n") && after.starts_with(b"lasting\n"));
    let passing = 16 * 4096..16 * 4096 + 8;
    assert_eq!(&before[passing.clone()], b"passing\n");
    assert_eq!(&after[passing], [0; 8]);
    // That the others find all is worth something only if this one does not.
    let [flushing @ .., never_flushing] = &victims;
    assert!(never_flushing.has_what_was_flushed().is_err());
    for victim in flushing {
        victim
            .has_what_was_flushed()
            .unwrap_or_else(|error| panic!("{}: {error}", victim.options));
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
