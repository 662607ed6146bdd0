//! `mayfly image`, held against `qemu-img` and images that are broken on purpose.

mod check;
mod commit;
mod formats;
mod refuse;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Mayfly, Outcome};

const MIB: u64 = 1 << 20;
/// What bad usage and bad images end with.
const USAGE: i32 = 245;
/// What the host's refusals end with.
const HOST: i32 = 244;

/// A directory for a test's images.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The names in it, in order.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the directory");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string())
            .collect::<Result<_, _>>()
            .expect("names of ours");
        names.sort();
        names
    }

    /// `mayfly image …` here.
    fn image<I, S>(&self, arguments: I) -> Mayfly
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let script = r#"cd "$0" && exec "$@""#;
        Mayfly::new(["image"]).args(arguments).under(
            "sh",
            [OsStr::new("-c"), script.as_ref(), self.0.path().as_os_str()],
        )
    }

    /// The same, which must end well.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.image(arguments).outcome();
        assert_eq!(outcome.code, 0, "{arguments:?}: {outcome}");
        assert_eq!(outcome.stderr, "", "{arguments:?}: {outcome}");
        outcome
    }

    /// The same, which must end with `code` and one line on stderr; gives that line.
    #[track_caller]
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let outcome = self.image(arguments).outcome();
        assert_eq!(outcome.code, code, "{arguments:?}: {outcome}");
        let line = outcome.stderr.strip_suffix('\n').unwrap_or_default();
        let one = line.starts_with("mayfly: ") && !line.contains('\n');
        assert!(one && outcome.stdout.is_empty(), "{arguments:?}: {outcome}");
        line.to_owned()
    }

    /// `qemu-img` or `qemu-io` here.
    fn qemu(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program)
            .args(arguments)
            .current_dir(self.0.path())
            .output()
            .unwrap_or_else(|error| panic!("cannot start {program} (package qemu-utils): {error}"))
    }

    /// `qemu-img`, which must end well; gives its output.
    #[track_caller]
    fn qemu_img(&self, arguments: &[&str]) -> String {
        let output = self.qemu("qemu-img", arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text} {output:?}");
        text
    }

    /// `qemu-io` commands on an image.
    #[track_caller]
    fn qemu_io(&self, name: &str, commands: &[&str]) {
        let mut arguments: Vec<&str> = Vec::new();
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(name);
        let output = self.qemu("qemu-io", &arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn qemu_info(&self, name: &str) -> Value {
        let text = self.qemu_img(&["info", "--output=json", name]);
        serde_json::from_str(&text).expect("JSON of qemu-img")
    }

    fn open(&self, name: &str) -> File {
        let mut options = File::options();
        let file = options.read(true).write(true).open(self.path(name));
        file.expect("an image")
    }

    /// A sparse raw disk of 64 MiB with data at odd places; gives what is where.
    fn sparse(&self, name: &str) -> Vec<(u64, Vec<u8>)> {
        let file = File::create(self.path(name)).expect("a file");
        file.set_len(64 * MIB).expect("a length");
        let data = vec![
            (0, noise(1, 512)),
            (5 * MIB + 512, noise(2, 3_000_000)),
            (20 * MIB + 4096, noise(3, 4096)),
            (50_000_001, noise(4, 70_000)),
            (64 * MIB - 1, vec![7]),
        ];
        for (offset, bytes) in &data {
            file.write_all_at(bytes, *offset).expect("data");
        }
        // Zeros that are written are no hole.
        file.write_all_at(&[0; 65536], 30 * MIB).expect("zeros");
        data
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(next).collect()
}

/// Bytes that the host has given a file.
fn allocated(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").blocks() * 512
}

/// The raw disk is `data` and zeros elsewhere.
#[track_caller]
fn assert_holds(path: &Path, size: u64, data: &[(u64, Vec<u8>)]) {
    let bytes = fs::read(path).expect("the disk");
    assert_eq!(bytes.len() as u64, size);
    let mut expected = vec![0; bytes.len()];
    for (offset, part) in data {
        let start = usize::try_from(*offset).expect("an offset");
        expected[start..start + part.len()].copy_from_slice(part);
    }
    let differs = bytes
        .iter()
        .zip(&expected)
        .position(|(is, ought)| is != ought);
    assert_eq!(differs, None, "the first byte that differs");
}
