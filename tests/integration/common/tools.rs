//! Programs that tests run beside Mayfly; the unit tests have this file too.

use std::path::Path;
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
