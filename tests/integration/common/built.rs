//! What the scripts of guest-images/ build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs `guest-images/SCRIPT`, which builds what the cache lacks, and returns the
/// directory that it prints. Words after the name are arguments.
pub fn built_by(script: &str) -> PathBuf {
    let mut words = script.split(' ');
    let script = words.next().unwrap_or_default();
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("guest-images")
        .join(script);
    let output = Command::new("bash")
        .arg(&script)
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("run bash");
    assert!(output.status.success(), "{} failed", script.display());
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
