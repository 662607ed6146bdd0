//! Files that get their name when they are whole.
//!
//! Until then a file has no name at all (O_TMPFILE), so that nothing is left of it
//! however the process ends; where the file system has no such files, a name of its
//! own in the same directory, which goes when the work fails.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with};
use rustix::io::Errno;

use super::ImageError;
use super::link::{Use, open_locked};

/// A file to be.
pub struct NewFile {
    /// Its content.
    file: File,
    /// Where it will be.
    path: PathBuf,
    /// That, as the user says it.
    shown: PathBuf,
    /// Where it is meanwhile, if anywhere.
    meanwhile: Option<PathBuf>,
    /// What is replaced, locked so that nobody uses it.
    replaced: Option<File>,
}

impl NewFile {
    /// A file that will be at `path`, where there is none yet, or with `replace` one
    /// that nobody uses.
    ///
    /// # Errors
    /// [`ImageError::Exists`], [`ImageError::Locked`] or what the system says.
    pub fn new(path: &Path, replace: bool) -> Result<Self, ImageError> {
        // What a symbolic link leads to is replaced, not the link.
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let replaced = match fs::symlink_metadata(&real) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            _ if !replace => {
                let path = path.to_owned();
                return Err(ImageError::Exists { path });
            }
            Ok(found) if !found.is_file() => {
                let path = path.to_owned();
                return Err(ImageError::NotAFile { path });
            }
            _ => Some(open_locked(path, Use::Change)?.0),
        };
        let (file, meanwhile) = unnamed(&real).map_err(|source| ImageError::Create {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            file,
            path: real,
            shown: path.to_owned(),
            meanwhile,
            replaced,
        })
    }

    /// A new file in the place of `path`, which the caller has locked; with its mode,
    /// and its owner if we may.
    ///
    /// # Errors
    /// What the system says.
    pub fn in_place_of(path: &Path, old: &File) -> Result<Self, ImageError> {
        let create_error = |source| ImageError::Create {
            path: path.to_owned(),
            source,
        };
        let replaced = old.try_clone().map_err(create_error)?;
        let (file, meanwhile) = unnamed(path).map_err(create_error)?;
        let new = Self {
            file,
            path: path.to_owned(),
            shown: path.to_owned(),
            meanwhile,
            replaced: Some(replaced),
        };
        let metadata = old.metadata().map_err(create_error)?;
        use std::os::unix::fs::MetadataExt;
        // Without the right to give it away it stays ours.
        let _ = std::os::unix::fs::fchown(&new.file, Some(metadata.uid()), Some(metadata.gid()));
        let mode = new.file.set_permissions(metadata.permissions());
        mode.map_err(create_error)?;
        Ok(new)
    }

    /// The content.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Puts the content on stable storage and gives the file its name.
    ///
    /// # Errors
    /// [`ImageError::Exists`] if somebody else took the name meanwhile, or what the
    /// system says. The name then leads where it led before.
    pub fn finish(mut self) -> Result<(), ImageError> {
        let result = self.file.sync_all().and_then(|()| self.name());
        result.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => ImageError::Exists {
                path: self.shown.clone(),
            },
            _ => ImageError::Create {
                path: self.shown.clone(),
                source,
            },
        })
    }

    fn name(&mut self) -> io::Result<()> {
        if self.meanwhile.is_none() {
            if self.replaced.is_none() {
                link(&self.file, &self.path)?;
                return sync_directory(&self.path);
            }
            let name = beside(&self.path, 0);
            link(&self.file, &name)?;
            self.meanwhile = Some(name);
        }
        if let Some(name) = &self.meanwhile {
            if self.replaced.is_some() {
                fs::rename(name, &self.path)?;
            } else {
                rename_to_free(name, &self.path)?;
            }
            self.meanwhile = None;
        }
        sync_directory(&self.path)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = self.meanwhile.take() {
            // Whatever failed has been said already.
            let _ = fs::remove_file(name);
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name in the same directory that nobody else uses.
fn beside(path: &Path, attempt: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(40).collect();
    let id = std::process::id();
    directory(path).join(format!(".{short}.mayfly-{id}-{attempt}"))
}

/// A file without a name, or with one of its own where that cannot be.
fn unnamed(path: &Path) -> io::Result<(File, Option<PathBuf>)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let anonymous = options
        .clone()
        .custom_flags(libc::O_TMPFILE)
        .open(directory(path));
    match anonymous {
        Ok(file) => return Ok((file, None)),
        Err(error) => match error.raw_os_error() {
            // As open(2) says for file systems and kernels without them.
            Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL) => {}
            _ => return Err(error),
        },
    }
    for attempt in 0..100 {
        let name = beside(path, attempt);
        match options.clone().create_new(true).open(&name) {
            Ok(file) => return Ok((file, Some(name))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Gives a file without a name one that is free.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // The file system does not know the flag; the name was free before.
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(from, to),
        Err(error) => Err(error.into()),
    }
}

/// A name is stable when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        entries.map(|entry| name(entry).unwrap()).collect()
    }

    #[test]
    fn a_file_has_its_name_only_when_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        let new = NewFile::new(&path, false).unwrap();
        new.file().write_all(b"whole").unwrap();
        assert!(!path.exists());
        new.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        drop(NewFile::new(&path, true).unwrap());
        assert_eq!(names(dir.path()), ["x.img"]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn a_name_is_taken_over_only_when_asked_and_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        fs::write(&path, b"old").unwrap();
        let refused = NewFile::new(&path, false).err().unwrap();
        assert!(matches!(refused, ImageError::Exists { .. }));
        let new = NewFile::new(&path, true).unwrap();
        let second = NewFile::new(&path, true).err().unwrap();
        assert!(matches!(second, ImageError::Locked { .. }));
        new.file().write_all(b"new").unwrap();
        new.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["x.img"]);
        let late = NewFile::new(&dir.path().join("y"), false).unwrap();
        fs::write(dir.path().join("y"), b"first").unwrap();
        assert!(matches!(late.finish(), Err(ImageError::Exists { .. })));
        assert_eq!(fs::read(dir.path().join("y")).unwrap(), b"first");
    }
}
