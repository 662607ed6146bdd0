//! The tiny Linux: where it lies, and who may boot it when.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread;

use super::built::built_by;

/// A file of the tiny guest (`vmlinux`, `bzImage`, `init.cpio`), which is built on
/// the first call if the cache has none.
pub fn tiny(file: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| built_by("tiny/build.sh"));
    let path = directory.join(file);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

/// Linuxes that boot at the moment.
static BOOTING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Held while a Linux boots. It gives its place to the next when it is dropped, by a
/// failed test too.
pub struct Turn;

/// Waits until a processor is left for another booting Linux: libtest runs tests side
/// by side, and more kernels than processors would only make each other slow.
pub fn turn_to_boot() -> Turn {
    let places = thread::available_parallelism().map_or(1, NonZero::get);
    let (booting, left) = &BOOTING;
    let booting = booting.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = left.wait_while(booting, |booting| *booting >= places);
    *waited.unwrap_or_else(PoisonError::into_inner) += 1;
    Turn
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (booting, left) = &BOOTING;
        *booting.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        left.notify_one();
    }
}
