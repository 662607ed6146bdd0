//! Where unpacked payloads are kept between runs.

use std::path::{Path, PathBuf};

/// The cache of unpacked payloads, or its absence.
#[derive(Clone, Debug, Default)]
pub struct PayloadCache {
    dir: Option<PathBuf>,
}

impl PayloadCache {
    /// The user's cache: `$MAYFLY_CACHE`, else `$XDG_CACHE_HOME/mayfly`, else
    /// `~/.cache/mayfly`; without a home there is none.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dir = variable("MAYFLY_CACHE")
            .map(PathBuf::from)
            .or_else(|| variable("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("mayfly")))
            .or_else(|| variable("HOME").map(|dir| Path::new(&dir).join(".cache/mayfly")));
        Self { dir }
    }

    /// A cache in this directory, which need not exist yet.
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: Some(dir.to_owned()),
        }
    }

    /// No cache: everything is unpacked each time.
    pub fn none() -> Self {
        Self::default()
    }

    /// The cache's directory.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }
}
