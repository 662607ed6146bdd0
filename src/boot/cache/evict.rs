//! Keeping the cache small: the payloads used longest ago go first.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Payloads that are kept.
const MAX_PAYLOADS: usize = 10;
/// Remembered hashes that are kept.
const MAX_KNOWN: usize = 100;
/// How the names of unfinished files begin.
pub(super) const TEMPORARY: &str = ".unfinished-";
/// Files of a writer that was killed are this old at least.
const STALE: Duration = Duration::from_secs(3600);
const SEAL: &str = ".seal";

/// Says that a payload was used now.
pub(super) fn touch(seal: &Path) {
    if let Ok(file) = File::open(seal) {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Removes what is too much or left over. Whoever has a payload open keeps it.
pub(super) fn evict(payloads: &Path, by_file: &Path) {
    let files = newest_first(payloads);
    let kept: HashSet<String> = files
        .iter()
        .filter_map(|(name, _)| name.to_str()?.strip_suffix(SEAL))
        .take(MAX_PAYLOADS)
        .map(str::to_owned)
        .collect();
    for (name, modified) in &files {
        let name_text = name.to_string_lossy();
        let payload = name_text.strip_suffix(SEAL);
        let superfluous = match payload {
            Some(payload) => !kept.contains(payload),
            // A payload without a seal may be about to get one.
            None => !kept.contains(name_text.as_ref()) && is_stale(*modified),
        };
        if superfluous {
            let _ = fs::remove_file(payloads.join(name));
            if let Some(payload) = payload {
                let _ = fs::remove_file(payloads.join(payload));
            }
        }
    }
    for (position, (name, modified)) in newest_first(by_file).iter().enumerate() {
        let unfinished = name.to_string_lossy().starts_with(TEMPORARY);
        if position >= MAX_KNOWN && !unfinished || unfinished && is_stale(*modified) {
            let _ = fs::remove_file(by_file.join(name));
        }
    }
}

fn is_stale(modified: SystemTime) -> bool {
    modified.elapsed().is_ok_and(|age| age > STALE)
}

/// The files of a directory with their times, the newest first.
fn newest_first(dir: &Path) -> Vec<(OsString, SystemTime)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let modified = entry.metadata().ok()?.modified().ok()?;
            Some((entry.file_name(), modified))
        })
        .collect();
    files.sort_by_key(|(_, modified)| std::cmp::Reverse(*modified));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, name: &str, age: u64) {
        let file = File::create(dir.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age))
            .unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = newest_first(dir)
            .into_iter()
            .map(|(name, _)| name.into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_payloads_used_last_stay() {
        let dir = tempfile::tempdir().unwrap();
        for age in 0..15 {
            make(dir.path(), &format!("{age:02}.kernel"), 9_999);
            make(dir.path(), &format!("{age:02}.kernel.seal"), age * 60);
        }
        evict(dir.path(), &dir.path().join("none"));
        let left = names(dir.path());
        assert_eq!(left.len(), 20);
        assert_eq!(left.last().unwrap(), "09.kernel.seal");
    }

    #[test]
    fn leftovers_go_when_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), ".unfinished-1-0", 7200);
        make(dir.path(), ".unfinished-2-0", 5);
        make(dir.path(), "orphan.kernel", 7200);
        make(dir.path(), "new.kernel", 5);
        evict(dir.path(), &dir.path().join("none"));
        assert_eq!(names(dir.path()), [".unfinished-2-0", "new.kernel"]);
    }

    #[test]
    fn remembered_hashes_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for age in 0..120 {
            make(dir.path(), &format!("{age:03}"), age);
        }
        evict(&dir.path().join("none"), dir.path());
        assert_eq!(names(dir.path()).len(), 100);
        assert_eq!(names(dir.path()).last().unwrap(), "099");
    }
}
