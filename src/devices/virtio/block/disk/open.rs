//! From what the user says of a disk to the disk: the file opened, its format
//! settled, locks taken.
//!
//! # Which format a file has
//!
//! A guest writes what it likes into a raw disk, a qcow2 header that names a file of
//! the host as backing file, say. So content alone never decides: with
//! [`Format::Auto`] the file's own name does (that of what a symbolic link leads
//! to). `*.qcow2` and `*.vmdk` are images, and must begin like one; all else is raw,
//! and refused if it begins like an image, since it may be one under another name
//! and may be a guest's doing: only the user knows. A file named as an image is
//! never written as a raw disk, so that none becomes an image by what it is given.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Disk;
use super::error::DiskError;
use super::host_file::HostFile;
use super::overlay::{Overlay, ReadPart};
use super::qcow2::open_image;
use super::raw::RawDisk;

/// Backing files followed below an image at most.
pub const BACKING_MAX: usize = 32;

/// What is in a disk's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// What its name says, if the content agrees.
    #[default]
    Auto,
    /// The disk's bytes, one after the other.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// VMware's sparse format, for reading.
    Vmdk,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        })
    }
}

/// What the host keeps of a disk in its page cache, and what a flush does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Through the page cache; a flush reaches stable storage.
    #[default]
    Writeback,
    /// Past the page cache (O_DIRECT); a flush reaches stable storage.
    None,
    /// Through the page cache; a flush does nothing.
    Unsafe,
}

/// A disk as the user asks for it.
#[derive(Clone, Debug, Default)]
pub struct DiskOptions {
    /// The file or block device.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// What is in the file.
    pub format: Format,
    /// Whether what the guest writes goes elsewhere and is gone in the end.
    pub ephemeral: bool,
    /// The host's caching.
    pub cache: Cache,
    /// Whether backing files may lie outside the directory of the image that names them.
    pub backing_any: bool,
    /// Where what an ephemeral disk's guest writes is kept; in memory if None.
    pub scratch_dir: Option<PathBuf>,
}

/// Opens the disk and all files that it needs. No path is opened after this.
///
/// # Errors
/// The [`DiskError`] that tells why not.
pub fn open(options: &DiskOptions) -> Result<Arc<dyn Disk>, DiskError> {
    let writable = !options.read_only && !options.ephemeral;
    let file = HostFile::open(&options.path, writable, options.cache)?;
    if file.is_empty() {
        return Err(DiskError::Empty {
            path: options.path.clone(),
        });
    }
    match resolve(&file, options.format)? {
        Format::Auto | Format::Raw => finish(options, RawDisk::new(file)),
        format => finish(options, open_image(file, format, options)?),
    }
}

/// Puts a place for the guest's writes over the disk, if it is ephemeral.
fn finish<D: ReadPart + 'static>(
    options: &DiskOptions,
    disk: D,
) -> Result<Arc<dyn Disk>, DiskError> {
    if !options.ephemeral {
        return Ok(Arc::new(disk));
    }
    let dir = options.scratch_dir.as_deref();
    Ok(Arc::new(Overlay::new(disk, &options.path, dir)?))
}

/// The format of a file about which the user has said `wanted`; never
/// [`Format::Auto`].
///
/// # Errors
/// The [`DiskError`] that asks the user, or says that the file is something else.
pub fn resolve(file: &HostFile, wanted: Format) -> Result<Format, DiskError> {
    let path = || file.path().to_owned();
    let named = named_format(file.path());
    let content = content_format(file.file()).map_err(|source| DiskError::Read {
        path: path(),
        source,
    })?;
    let format = match wanted {
        Format::Auto => named,
        _ => wanted,
    };
    match format {
        Format::Auto | Format::Raw => {
            if wanted == Format::Auto && content != Format::Raw {
                return Err(DiskError::Ambiguous {
                    path: path(),
                    content,
                });
            }
            if file.is_writable() && named != Format::Raw {
                return Err(DiskError::RawByImageName {
                    path: path(),
                    format: named,
                });
            }
            Ok(Format::Raw)
        }
        Format::Qcow2 | Format::Vmdk if content != format => Err(DiskError::WrongFormat {
            path: path(),
            format,
        }),
        Format::Vmdk if file.is_writable() => Err(DiskError::ReadOnlyFormat {
            path: path(),
            format,
        }),
        Format::Qcow2 | Format::Vmdk => Ok(format),
    }
}

/// What the name of the file that `path` leads to says.
fn named_format(path: &Path) -> Format {
    let name = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match name.extension().and_then(|extension| extension.to_str()) {
        Some(name) if name.eq_ignore_ascii_case("qcow2") => Format::Qcow2,
        Some(name) if name.eq_ignore_ascii_case("vmdk") => Format::Vmdk,
        _ => Format::Raw,
    }
}

/// What the file begins like.
fn content_format(file: &File) -> std::io::Result<Format> {
    let mut start = [0; 4];
    let read = std::os::unix::fs::FileExt::read_at(file, &mut start, 0)?;
    Ok(match start.get(..read) {
        Some(b"QFI\xfb") => Format::Qcow2,
        // A sparse extent, or a descriptor in a file of its own.
        Some(b"KDMV" | b"# Di") => Format::Vmdk,
        _ => Format::Raw,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{file_with, options};
    use super::*;
    use crate::one_line::one_line;

    const QCOW2: &[u8; 512] = &{
        let mut start = [0; 512];
        start[0] = b'Q';
        start[1] = b'F';
        start[2] = b'I';
        start[3] = 0xfb;
        start
    };

    /// The line for the user if the file cannot be opened, else the format found.
    fn said(name: &str, content: &[u8], wanted: Format, writable: bool) -> String {
        let (_dir, path) = file_with(name, content);
        let file = HostFile::open(&path, writable, Cache::Writeback).unwrap();
        match resolve(&file, wanted) {
            Ok(format) => format.to_string(),
            Err(error) => one_line(&error),
        }
    }

    #[test]
    fn a_raw_disk_never_becomes_an_image_by_its_content() {
        let refused = said("x.img", QCOW2, Format::Auto, true);
        assert!(
            refused.contains("say format=qcow2, or format=raw"),
            "{refused}"
        );
        let refused = said("x.img", b"KDMV and more", Format::Auto, false);
        assert!(
            refused.contains("say format=vmdk, or format=raw"),
            "{refused}"
        );
        assert_eq!(said("x.img", QCOW2, Format::Raw, true), "raw");
        assert_eq!(said("x.img", QCOW2, Format::Qcow2, true), "qcow2");
        assert_eq!(said("x.img", &[0; 512], Format::Auto, true), "raw");
        assert_eq!(said("qcow2", b"QFI", Format::Auto, true), "raw");
    }

    #[test]
    fn a_name_needs_the_content_to_agree() {
        assert_eq!(said("x.qcow2", QCOW2, Format::Auto, true), "qcow2");
        assert_eq!(said("x.QCOW2", QCOW2, Format::Auto, false), "qcow2");
        assert_eq!(said("x.vmdk", b"KDMV", Format::Auto, false), "vmdk");
        for wanted in [Format::Auto, Format::Qcow2] {
            let refused = said("x.qcow2", &[0; 512], wanted, false);
            assert!(refused.contains("is not a qcow2 image"), "{refused}");
        }
        let refused = said("x.vmdk", b"KDMV", Format::Auto, true);
        assert!(refused.contains("only reads"), "{refused}");
    }

    #[test]
    fn a_file_named_as_an_image_is_not_written_raw() {
        let refused = said("x.qcow2", &[0; 512], Format::Raw, true);
        assert!(
            refused.contains("cannot be written as a raw disk"),
            "{refused}"
        );
        assert_eq!(said("x.qcow2", &[0; 512], Format::Raw, false), "raw");
    }

    #[test]
    fn the_name_that_counts_is_that_of_the_file_itself() {
        let (dir, path) = file_with("x.img", QCOW2);
        let link = dir.path().join("x.qcow2");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let file = HostFile::open(&link, true, Cache::Writeback).unwrap();
        assert!(matches!(
            resolve(&file, Format::Auto),
            Err(DiskError::Ambiguous { .. })
        ));
    }

    #[test]
    fn what_cannot_be_opened_has_its_line() {
        let (dir, path) = file_with("x.img", &[0; 512]);
        let line = |options: &DiskOptions| one_line(&open(options).err().unwrap());
        let missing = dir.path().join("none.img");
        assert_eq!(
            line(&options(&missing)),
            format!(
                "cannot open disk '{}': No such file or directory (os error 2)",
                missing.display()
            )
        );
        assert!(line(&options(dir.path())).contains("neither a regular file nor"));
        assert!(line(&options(Path::new("/dev/null"))).contains("neither a regular file nor"));
        let empty = dir.path().join("empty.img");
        std::fs::write(&empty, []).unwrap();
        assert!(line(&options(&empty)).contains("is empty"));
        let first = open(&options(&path)).unwrap();
        assert!(line(&options(&path)).contains("this VM has it already"));
        drop(first);
        assert!(super::super::testing::open(&options(&path)).is_ok());
    }
}
