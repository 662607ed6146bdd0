//! Linux with its root on a disk: the default guest on the image that
//! guest-images/root makes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::disk;
use crate::common::disk::{
    content, copy_sparse, file_on_ext4, fnv, guest_pattern, image_folder, qemu_img, root_image,
    text, tool,
};
use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{HostKind, Mayfly, Outcome, host_kind};

/// Bytes of the file that each boot writes: some extents, more than a request holds.
const FILE: usize = 300_000;

/// Bytes of a file that is deleted and discarded.
const GONE: u64 = 2_000_000;

/// What a file takes on its file system, in bytes.
fn allocated(path: &Path) -> u64 {
    fs::metadata(path).expect("examine the image").blocks() * 512
}

/// One way to have the disk.
struct Setup {
    transport: &'static str,
    queues: u32,
    aio: &'static str,
}

impl Setup {
    /// The default guest with its root on `image`.
    fn boot(&self, image: &Path, options: &str, words: &str) -> Outcome {
        // The default guest, found in the cache.
        tiny("vmlinux");
        let Self {
            transport,
            queues,
            aio,
        } = self;
        let options = format!("{options},queues={queues},aio={aio}");
        Mayfly::new(["run", "--json", "--transport", transport])
            .args(["--cpus", &queues.to_string()])
            .args(disk(image, &options))
            .args(["--cmdline", &format!("root=/dev/vda {words}")])
            .outcome()
    }

    fn told(&self) -> String {
        format!("{} queues={} aio={}", self.transport, self.queues, self.aio)
    }
}

/// Words that write a file and make sure of it, and what the guest then says.
fn write_words(name: &str) -> String {
    format!("rw mayfly.put=/note,{name} mayfly.fill=/data,{FILE} mayfly.sync")
}

/// Words that read the file of another boot, and the lines that must come of it.
fn read_words(name: &str) -> (String, [String; 2]) {
    let sum = fnv(&guest_pattern(FILE));
    let lines = [
        format!("mayfly-guest: /note: {name}\n"),
        format!("mayfly-guest: /data: bytes={FILE} fnv={sum}\n"),
    ];
    ("mayfly.show=/note mayfly.sum=/data".to_string(), lines)
}

#[track_caller]
fn read_what_was_written(outcome: &Outcome, lines: &[String; 2]) {
    for line in lines {
        outcome.printed(line);
    }
}

#[test]
fn root_on_a_disk_keeps_what_was_written_unless_ephemeral() {
    let _turn = turn_to_boot();
    let folder = image_folder();
    let image = folder.path().join("root.ext4");
    copy_sparse(&root_image(), &image);
    let pci = Setup {
        transport: "pci",
        queues: 1,
        aio: "io_uring",
    };
    let taken = allocated(&image);
    let words = format!(
        "{} mayfly.fill=/gone,{GONE} mayfly.delete=/gone mayfly.sync mayfly.trim=/",
        write_words("first")
    );
    let outcome = pci.boot(&image, "", &words);
    outcome
        .ended(0, "power-off")
        .printed("mayfly-guest: synced")
        .printed("mayfly-guest: /: trimmed=");
    // What the guest has discarded takes no space.
    let more = allocated(&image).saturating_sub(taken);
    assert!(more < FILE as u64 + GONE / 2, "{more} bytes: {outcome}");
    // The guest left a clean file system, and it is all there.
    tool("e2fsck", &["-f", "-n", text(&image)]);
    assert_eq!(file_on_ext4(&image, "/note"), "first\n");
    assert!(file_on_ext4(&image, "/data").into_bytes() == guest_pattern(FILE));

    let before = fs::read(&image).expect("read the image");
    let mmio = Setup {
        transport: "mmio",
        // A second processor doubles what a boot costs where it is interpreted.
        queues: if host_kind() == HostKind::Pvm { 1 } else { 2 },
        aio: "threads",
    };
    let (words, lines) = read_words("first");
    let words = format!(
        "rw {words} mayfly.put=/note,second mayfly.delete=/data mayfly.fill=/more,{FILE} \
         mayfly.sync mayfly.show=/note mayfly.reboot"
    );
    let outcome = mmio.boot(&image, ",ephemeral", &words);
    // A restart is as clean an end as the other.
    outcome.ended(0, "reset").printed("mayfly-guest: synced");
    read_what_was_written(&outcome, &lines);
    // It had what it wrote as long as it ran.
    outcome.printed("mayfly-guest: /note: second");
    let after = fs::read(&image).expect("read the image");
    assert!(before == after, "an ephemeral disk's file has changed");
}

#[test]
fn root_on_a_disk_however_it_is_served() {
    if host_kind() == HostKind::Pvm {
        println!("a boot takes many seconds here; this runs on the emulated host");
        return;
    }
    let _turn = turn_to_boot();
    for format in ["raw", "qcow2"] {
        every_way(format);
    }
}

/// Each boot finds what the one before has left, which had the disk another way.
fn every_way(format: &str) {
    let folder = image_folder();
    let image = folder.path().join(format!("root.{format}"));
    match format {
        "raw" => copy_sparse(&root_image(), &image),
        _ => {
            let root = root_image();
            qemu_img(&[
                "convert",
                "-f",
                "raw",
                "-O",
                format,
                text(&root),
                text(&image),
            ]);
        }
    }
    let option = format!(",format={format}");
    let mut last: Option<String> = None;
    for (index, setup) in ways(format).iter().enumerate() {
        println!("{format} {}", setup.told());
        let name = format!("boot-{index}");
        let (words, lines) = match &last {
            Some(last) => read_words(last),
            None => (String::new(), Default::default()),
        };
        let outcome = setup.boot(&image, &option, &format!("{words} {}", write_words(&name)));
        outcome
            .ended(0, "power-off")
            .printed("mayfly-guest: synced");
        read_what_was_written(&outcome, &lines);
        last = Some(name);
    }
    let name = last.expect("a boot");

    let raw = folder.path().join("converted.raw");
    let bytes = content(&image, format);
    fs::write(&raw, &bytes).expect("write an image");
    // What QEMU finds in the image is a clean file system with the last file.
    tool("e2fsck", &["-f", "-n", text(&raw)]);
    assert_eq!(file_on_ext4(&raw, "/note"), format!("{name}\n"));
    assert!(file_on_ext4(&raw, "/data").into_bytes() == guest_pattern(FILE));
    if format == "raw" {
        return;
    }
    qemu_img(&["check", "-f", format, text(&image)]);

    // The guest sees the same bytes in all of the disk, which it may not change now.
    let setup = &ways(format)[0];
    let words = "ro mayfly.sum=/dev/vda mayfly.put=/note,changed";
    let outcome = setup.boot(&image, &format!("{option},readonly"), words);
    outcome.ended(0, "power-off");
    let sum = format!(
        "mayfly-guest: /dev/vda: bytes={} fnv={}\n",
        bytes.len(),
        fnv(&bytes)
    );
    outcome.printed(&sum);
    // EROFS
    outcome.printed("mayfly-guest: cannot open /note: errno=30");
    qemu_img(&[
        "compare",
        "-f",
        "raw",
        "-F",
        format,
        text(&raw),
        text(&image),
    ]);
}

/// Half of all ways to have an image of this format: any two choices, of the format, the
/// transport, the number of queues and the engine, and any three, meet in some boot.
fn ways(format: &str) -> Vec<Setup> {
    let mut ways = Vec::new();
    for transport in ["pci", "mmio"] {
        for queues in [1, 4] {
            let even = (format == "raw") ^ (transport == "pci") ^ (queues == 1);
            let aio = if even { "io_uring" } else { "threads" };
            ways.push(Setup {
                transport,
                queues,
                aio,
            });
        }
    }
    ways
}
