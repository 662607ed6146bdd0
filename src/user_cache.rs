//! Where Mayfly keeps what it can make again: guests and unpacked kernels.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The user's folder: `$MAYFLY_CACHE`, else `$XDG_CACHE_HOME/mayfly`, else
/// `~/.cache/mayfly`; without a home there is none. The guest's build script has
/// the same rule.
pub fn folder() -> Option<PathBuf> {
    folder_by(|name| std::env::var_os(name))
}

fn folder_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    variable("MAYFLY_CACHE")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("mayfly")))
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache/mayfly")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let all = [
            ("MAYFLY_CACHE", "/a"),
            ("XDG_CACHE_HOME", "/b"),
            ("HOME", "/c"),
        ];
        let expected = ["/a", "/b/mayfly", "/c/.cache/mayfly"];
        for (first, place) in expected.iter().enumerate() {
            let set = &all[first..];
            let found = folder_by(|name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| OsString::from(value))
            });
            assert_eq!(found, Some(PathBuf::from(place)));
        }
        assert_eq!(folder_by(|_| Some(OsString::new())), None);
    }
}
