//! Programs that unit tests run.

use std::path::Path;
use std::process::{Command, Stdio};

/// Installs the program if it is missing and this is root; the test fails if it is not.
pub fn need(program: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-images/tools.sh");
    let status = Command::new("bash")
        .arg(&script)
        .arg(program)
        .stdin(Stdio::null())
        .status()
        .expect("run bash");
    assert!(status.success(), "{program} is needed");
}
