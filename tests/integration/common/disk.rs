//! Disk images for the tests, and readers of them that are none of ours.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::built::built_by;

/// A directory for images, on a file system that knows O_DIRECT, as a tmpfs need not.
pub fn image_folder() -> TempDir {
    TempDir::with_prefix_in("disk-", env!("CARGO_TARGET_TMPDIR"))
        .expect("create a temporary directory")
}

/// An ext4 file system with the tiny guest's init, to be copied before use.
pub fn root_image() -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| built_by("root/build.sh"));
    directory.join("root.ext4")
}

/// A file of `size` bytes that takes no space.
pub fn sparse_file(path: &Path, size: u64) {
    let file = File::create(path).expect("create an image");
    file.set_len(size).expect("size an image");
}

/// Copies an image without its holes.
pub fn copy_sparse(from: &Path, to: &Path) {
    const PIECE: usize = 4096;
    let content = fs::read(from).expect("read an image");
    sparse_file(to, content.len() as u64);
    let file = File::options().write(true).open(to).expect("open a copy");
    for (index, piece) in content.chunks(PIECE).enumerate() {
        if piece != &[0; PIECE][..piece.len()] {
            file.write_all_at(piece, (index * PIECE) as u64)
                .expect("write a copy");
        }
    }
}

/// `qemu-img` with these arguments; what it printed.
#[track_caller]
pub fn qemu_img(arguments: &[&str]) -> String {
    tool("qemu-img", arguments)
}

/// Runs a program to success and returns what it printed.
#[track_caller]
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A raw image's bytes, or those that `qemu-img` finds in a qcow2 image.
pub fn content(image: &Path, format: &str) -> Vec<u8> {
    if format == "raw" {
        return fs::read(image).expect("read an image");
    }
    let raw = image.with_extension("converted");
    let (from, to) = (text(image), text(&raw));
    qemu_img(&["convert", "-f", format, "-O", "raw", from, to]);
    let content = fs::read(&raw).expect("read an image");
    fs::remove_file(&raw).expect("remove an image");
    content
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A file of an ext4 file system, read without mounting it.
#[track_caller]
pub fn file_on_ext4(image: &Path, path: &str) -> String {
    tool("debugfs", &["-R", &format!("cat {path}"), text(image)])
}

/// The pattern that the tiny guest writes (`mayfly.fill`).
pub fn guest_pattern(bytes: usize) -> Vec<u8> {
    let letters = |line| (0..54).map(move |i| b'a' + ((line + i) % 26) as u8);
    let lines = (0..bytes.div_ceil(64)).flat_map(|line| {
        let number = format!("{line:08}:").into_bytes();
        number.into_iter().chain(letters(line)).chain(*b"\n")
    });
    lines.take(bytes).collect()
}

/// FNV-1a with 64 bits, as the tiny guest sums (`mayfly.sum`).
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
