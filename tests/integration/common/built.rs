//! What the scripts of guest-images/ build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Installs the programs that are missing, if this is root; the test fails if it is not.
pub fn need(programs: &[&str]) {
    static CHECKED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let list = programs.join(" ");
    let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    if checked.contains(&list) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-images/tools.sh");
    let status = Command::new("bash")
        .arg(&script)
        .args(programs)
        .stdin(Stdio::null())
        .status()
        .expect("run bash");
    assert!(status.success(), "these are needed: {list}");
    checked.push(list);
}

/// Runs `guest-images/SCRIPT`, which builds what the cache lacks, and returns the
/// directory that it prints.
pub fn built_by(script: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("guest-images")
        .join(script);
    let output = Command::new("bash")
        .arg(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("run bash");
    assert!(output.status.success(), "{} failed", script.display());
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
