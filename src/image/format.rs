//! What is in an image file.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::source::Source;
use super::{ImageError, SECTOR};

/// How a file holds a disk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One after the other.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// VMware's format, for reading: a descriptor with flat extents.
    Vmdk,
}

impl Format {
    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "raw" => Some(Self::Raw),
            "qcow2" => Some(Self::Qcow2),
            "vmdk" => Some(Self::Vmdk),
            _ => None,
        }
    }

    /// The name that people and image headers use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }

    /// What the name of a file says; raw where it says nothing.
    pub fn of_name(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(name) if name.eq_ignore_ascii_case("qcow2") => Self::Qcow2,
            Some(name) if name.eq_ignore_ascii_case("vmdk") => Self::Vmdk,
            _ => Self::Raw,
        }
    }

    /// What a file begins like.
    fn of_content(start: &[u8]) -> Self {
        match start {
            b"QFI\xfb" => Self::Qcow2,
            // A sparse extent, or a descriptor in a file of its own.
            b"KDMV" | b"# Di" => Self::Vmdk,
            _ => Self::Raw,
        }
    }

    /// The format of the file that was opened at `path` and whose true name is
    /// `real`. The content alone decides nothing: a guest may have written it into
    /// its raw disk. `option` is what to say `wanted` with.
    ///
    /// # Errors
    /// [`ImageError::Ambiguous`], [`ImageError::WrongFormat`] or what reading says.
    pub fn resolve(
        path: &Path,
        real: &Path,
        source: &dyn Source,
        wanted: Option<Self>,
        option: &'static str,
    ) -> Result<Self, ImageError> {
        let mut start = [0; 4];
        source
            .read_at(&mut start, 0)
            .map_err(|source| ImageError::Read {
                path: path.to_owned(),
                source,
            })?;
        let content = Self::of_content(&start);
        let format = wanted.unwrap_or(Self::of_name(real));
        match format {
            Self::Raw if wanted.is_none() && content != Self::Raw => Err(ImageError::Ambiguous {
                path: path.to_owned(),
                content,
                option,
            }),
            Self::Raw => Ok(Self::Raw),
            _ if content == format => Ok(format),
            _ => Err(ImageError::WrongFormat {
                path: path.to_owned(),
                format,
            }),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a disk may have this size.
///
/// # Errors
/// Says why not.
pub fn check_size(size: u64) -> Result<(), String> {
    if size == 0 {
        return Err("a disk needs at least 512 bytes".to_owned());
    }
    if !size.is_multiple_of(SECTOR) {
        return Err(format!(
            "its size must be a multiple of 512 bytes, which {size} is not"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::one_line::one_line;

    fn said(name: &str, content: &[u8], wanted: Option<Format>) -> String {
        let path = Path::new(name);
        match Format::resolve(path, path, &content, wanted, "--format") {
            Ok(format) => format.to_string(),
            Err(error) => one_line(&error),
        }
    }

    #[test]
    fn content_alone_decides_nothing() {
        assert!(said("x.img", b"QFI\xfb...", None).contains("say --format qcow2, or --format raw"));
        assert!(said("x", b"# Disk DescriptorFile", None).contains("--format vmdk"));
        assert_eq!(said("x.img", b"QFI\xfb...", Some(Format::Raw)), "raw");
        assert_eq!(said("x.img", b"QFI\xfb...", Some(Format::Qcow2)), "qcow2");
        assert_eq!(said("x.img", b"", None), "raw");
    }

    #[test]
    fn a_name_needs_the_content_to_agree() {
        assert_eq!(said("x.QCOW2", b"QFI\xfb...", None), "qcow2");
        assert_eq!(said("x.vmdk", b"KDMV", None), "vmdk");
        assert!(said("x.qcow2", b"bytes", None).contains("is not a qcow2 image"));
        assert!(said("x.img", b"bytes", Some(Format::Vmdk)).contains("is not a vmdk image"));
    }

    #[test]
    fn sizes_are_whole_sectors() {
        assert_eq!(check_size(512), Ok(()));
        assert!(check_size(0).is_err());
        assert!(check_size(1000).unwrap_err().contains("which 1000 is not"));
    }
}
