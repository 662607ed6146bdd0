//! The floor: a program that makes the KVM calls of a start and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program, from tests/bench/floor.c. On an emulated host, which has no
/// compiler, it was compiled before.
pub fn floor() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("floor");
        if std::env::var_os("MAYFLY_EMULATED_HOST").is_none() {
            compile(&program);
        }
        program
    })
}

/// Compiles beside the final place and moves the program there: another process
/// may be running it.
fn compile(program: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/floor.c");
    let fresh = program.with_extension(std::process::id().to_string());
    let output = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o"])
        .arg(&fresh)
        .arg(source)
        .output()
        .expect("run cc, the C toolchain that Rust needs too");
    assert!(
        output.status.success(),
        "cannot compile {source}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::rename(&fresh, program).expect("move the floor program");
}
