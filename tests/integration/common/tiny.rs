//! The tiny Linux: where it lies, and who may boot it when.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A file of the tiny guest (`vmlinux`, `bzImage`, `init.cpio`), which is built on
/// the first call if the cache has none.
pub fn tiny(file: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(build);
    let path = directory.join(file);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

fn build() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-images/tiny/build.sh");
    let output = Command::new("bash")
        .arg(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("run bash");
    assert!(output.status.success(), "{} failed", script.display());
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Held while a Linux boots: libtest runs tests side by side, and several
/// booting kernels on few processors would only make each other slow.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static BOOTING: Mutex<()> = Mutex::new(());
    // A failed test that held it has broken nothing for the next.
    BOOTING.lock().unwrap_or_else(PoisonError::into_inner)
}
