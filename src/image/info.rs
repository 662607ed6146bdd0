//! What an image is and what it costs.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::chain::Chain;
use super::header::{CORRUPT, DIRTY};
use super::link::{BACKING_MAX, Link, OpenRules, Use, lock_holder};
use super::{Format, ImageError};
use crate::one_line::one_line;

/// An image, told.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub format: Format,
    /// The disk's size in bytes.
    pub virtual_size: u64,
    /// The file's length in bytes.
    pub file_size: u64,
    /// Bytes that the host has given the file.
    pub allocated: u64,
    /// Whether the host has given the file less than its length or than the disk's.
    pub sparse: bool,
    /// Bytes of a cluster, of qcow2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The qcow2 format's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Internal snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<u32>,
    /// Whether it was not closed properly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
    /// Whether it is known to be damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// Whether its data is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Who has it locked.
    pub locked_by: Option<String>,
    /// The backing files, the nearest first.
    pub backing: Vec<BackingInfo>,
    /// Why there are no more of them, if there should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_error: Option<String>,
}

/// A backing file, told.
#[derive(Clone, Debug, Serialize)]
pub struct BackingInfo {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub format: Format,
    /// Its disk's size in bytes.
    pub virtual_size: u64,
    /// Bytes that the host has given the file.
    pub allocated: u64,
}

/// Looks at the image, whoever has it, and at its backing files as far as the rules
/// let us.
///
/// # Errors
/// An [`ImageError`] about the image itself.
pub fn info(path: &Path, rules: &OpenRules) -> Result<Info, ImageError> {
    let link = Link::open(path, rules, Use::Look)?;
    let (virtual_size, allocated) = (virtual_size(&link, rules)?, link.allocated()?);
    let file_size = link.file_size()?;
    let header = link.header.as_ref();
    let mut info = Info {
        path: path.to_owned(),
        format: link.format,
        virtual_size,
        file_size,
        allocated,
        sparse: allocated < file_size || allocated < virtual_size,
        cluster_size: header.map(|header| header.cluster()),
        version: header.map(|header| header.version),
        snapshots: header.map(|header| header.snapshots),
        dirty: header.map(|header| header.incompatible & DIRTY != 0),
        corrupt: header.map(|header| header.incompatible & CORRUPT != 0),
        encrypted: header.map(|header| header.encryption != 0),
        locked_by: lock_holder(&link.file).map_err(|source| link.cannot_read(source))?,
        backing: Vec::new(),
        backing_error: None,
    };
    if let Err(error) = follow(link, rules, &mut info.backing) {
        info.backing_error = Some(one_line(&error));
    }
    Ok(info)
}

fn follow(
    mut link: Link,
    rules: &OpenRules,
    found: &mut Vec<BackingInfo>,
) -> Result<(), ImageError> {
    while let Some((path, format)) = link.backing(rules.backing_any)? {
        if found.len() >= BACKING_MAX {
            let path = link.path;
            let max = BACKING_MAX;
            return Err(ImageError::ChainTooLong { path, max });
        }
        let rules = OpenRules { format, ..*rules };
        link = Link::open(&path, &rules, Use::Look)?;
        found.push(BackingInfo {
            path,
            format: link.format,
            virtual_size: virtual_size(&link, &rules)?,
            allocated: link.allocated()?,
        });
    }
    Ok(())
}

fn virtual_size(link: &Link, rules: &OpenRules) -> Result<u64, ImageError> {
    match link.virtual_size()? {
        Some(size) => Ok(size),
        None => Ok(Chain::open(&link.path, rules, 0)?.size()),
    }
}
