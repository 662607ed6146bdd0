//! One file of a chain of images: opened, locked, its header read.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::header::Header;
use super::source::Source;
use super::{Format, ImageError};
use crate::devices::virtio::block::disk::lock::{self, Holder, Lock, Refusal};
pub use crate::devices::virtio::block::disk::open::BACKING_MAX;
use crate::one_line::one_line;

/// Bytes of a unit of `st_blocks` (stat(2)).
const STAT_BLOCK: u64 = 512;

/// How an image and what it names are found.
#[derive(Clone, Copy, Debug)]
pub struct OpenRules {
    /// What the user says that the image is.
    pub format: Option<Format>,
    /// The option that says so.
    pub format_option: &'static str,
    /// Whether backing files may lie anywhere.
    pub backing_any: bool,
}

/// What is done with a file, and so how it is opened and locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Looked at, whoever has it.
    Look,
    /// Read while nobody writes.
    Read,
    /// Changed while nobody else has it.
    Change,
}

/// A file of a chain.
#[derive(Debug)]
pub struct Link {
    /// The path, as the user or the image above gave it.
    pub path: PathBuf,
    /// Where that leads, symbolic links followed.
    pub real: PathBuf,
    /// The file, locked.
    pub file: File,
    /// What is in it.
    pub format: Format,
    /// The header, of qcow2.
    pub header: Option<Header>,
}

impl Link {
    /// Opens the image that the user names.
    ///
    /// # Errors
    /// Any of [`ImageError`]'s about opening and locking.
    pub fn open(path: &Path, rules: &OpenRules, how: Use) -> Result<Self, ImageError> {
        let (file, real) = open_locked(path, how)?;
        let format = Format::resolve(path, &real, &file, rules.format, rules.format_option)?;
        let mut link = Self {
            path: path.to_owned(),
            real,
            file,
            format,
            header: None,
        };
        if format == Format::Qcow2 {
            link.header =
                Some(Header::read(&link.file).map_err(|error| link.bad(one_line(&error)))?);
        }
        Ok(link)
    }

    /// The backing file's path, if there is one, and what the header says it is.
    ///
    /// # Errors
    /// [`ImageError::Outside`], or that the file is not there.
    pub fn backing(&self, any: bool) -> Result<Option<(PathBuf, Option<Format>)>, ImageError> {
        let Some(header) = &self.header else {
            return Ok(None);
        };
        let Some(name) = &header.backing_file else {
            return Ok(None);
        };
        let format = match header.backing_format.as_deref() {
            None => None,
            Some(name) => match Format::from_name(name) {
                Some(format) => Some(format),
                None => {
                    let reason = format!("its backing file is of the unknown format '{name}'");
                    return Err(self.bad(reason));
                }
            },
        };
        Ok(Some((self.named(Path::new(name), any)?, format)))
    }

    /// The path of a file that the image names: within its directory, unless `any`.
    ///
    /// # Errors
    /// [`ImageError::Outside`], or that the file is not there.
    pub fn named(&self, name: &Path, any: bool) -> Result<PathBuf, ImageError> {
        let directory = self.real.parent().unwrap_or(Path::new("/"));
        let wanted = directory.join(name);
        // Nothing is said about files elsewhere, not even whether they are there.
        let outside = || ImageError::Outside {
            path: self.path.clone(),
            wanted: name.to_owned(),
        };
        let climbs = name.is_absolute() && !name.starts_with(directory)
            || name
                .components()
                .any(|part| part == std::path::Component::ParentDir);
        if climbs && !any {
            return Err(outside());
        }
        let real = fs::canonicalize(&wanted).map_err(|source| ImageError::Open {
            path: wanted.clone(),
            source,
        })?;
        if !any && !real.starts_with(directory) {
            return Err(outside());
        }
        Ok(wanted)
    }

    /// The disk's size in bytes; of VMDK only the library knows it.
    ///
    /// # Errors
    /// [`ImageError::Read`].
    pub fn virtual_size(&self) -> Result<Option<u64>, ImageError> {
        Ok(match (self.format, &self.header) {
            (_, Some(header)) => Some(header.size),
            (Format::Vmdk, _) => None,
            _ => Some(self.file_size()?),
        })
    }

    /// The file's length in bytes.
    ///
    /// # Errors
    /// [`ImageError::Read`].
    pub fn file_size(&self) -> Result<u64, ImageError> {
        self.file.size().map_err(|source| self.cannot_read(source))
    }

    /// Bytes that the host has given the file.
    ///
    /// # Errors
    /// [`ImageError::Read`].
    pub fn allocated(&self) -> Result<u64, ImageError> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|source| self.cannot_read(source))?;
        if metadata.is_file() {
            return Ok(metadata.blocks().saturating_mul(STAT_BLOCK));
        }
        self.file_size()
    }

    /// That reading the file failed.
    pub fn cannot_read(&self, source: io::Error) -> ImageError {
        ImageError::Read {
            path: self.path.clone(),
            source,
        }
    }

    /// That the image is not usable.
    pub fn bad(&self, reason: String) -> ImageError {
        ImageError::Bad {
            path: self.path.clone(),
            format: self.format,
            reason,
        }
    }
}

/// Opens and locks the file; gives it with its true path.
pub(super) fn open_locked(path: &Path, how: Use) -> Result<(File, PathBuf), ImageError> {
    let open_error = |source| ImageError::Open {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(how == Use::Change)
        // A FIFO is not to be waited for.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let is_usable = |kind: fs::FileType| kind.is_file() || kind.is_block_device();
    let file = match file {
        Ok(file) => file,
        // Directories and sockets say this in words of their own.
        Err(_) if fs::metadata(path).is_ok_and(|found| !is_usable(found.file_type())) => {
            let path = path.to_owned();
            return Err(ImageError::NotAFile { path });
        }
        Err(error) => return Err(open_error(error)),
    };
    if !is_usable(file.metadata().map_err(open_error)?.file_type()) {
        let path = path.to_owned();
        return Err(ImageError::NotAFile { path });
    }
    match how {
        Use::Look => {}
        Use::Read => take(path, &file, Lock::Shared)?,
        Use::Change => take(path, &file, Lock::Exclusive)?,
    }
    let real = fs::canonicalize(path).map_err(open_error)?;
    Ok((file, real))
}

fn take(path: &Path, file: &File, kind: Lock) -> Result<(), ImageError> {
    lock::acquire(file, kind).map_err(|refusal| {
        let path = path.to_owned();
        match refusal {
            Refusal::Held(holder) => ImageError::Locked {
                path,
                holder: match holder {
                    Holder::Ourselves => holder_words(&Holder::Ourselves),
                    other => format!("{other}; end that first"),
                },
            },
            Refusal::System(source) => ImageError::Lock { path, source },
        }
    })
}

fn holder_words(holder: &Holder) -> String {
    match holder {
        Holder::Ourselves => "it is named twice here".to_owned(),
        other => other.to_string(),
    }
}

/// Who has the file locked, if anybody.
///
/// # Errors
/// What the system says.
pub(super) fn lock_holder(file: &File) -> io::Result<Option<String>> {
    let mut range = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: `range` is a flock structure that outlives the call and may be written.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut range) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if i32::from(range.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    Ok(Some(holder_words(&lock::holder(file))))
}
