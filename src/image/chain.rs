//! An image with its backing files, ready to be read.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use imago::file::File as Storage;
use imago::format::builder::FormatDriverBuilder;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::vmdk::Vmdk;
use imago::{DenyImplicitOpenGate, FormatAccess, ShallowMapping, StorageOpenOptions};

use super::link::{BACKING_MAX, Link, OpenRules, Use};
use super::source::{Source, be};
use super::{Format, ImageError};

/// An image as the library sees it.
pub type Access = FormatAccess<Storage>;

/// An image of a chain.
pub struct Layer {
    /// Its file.
    pub link: Link,
    /// The disk that this image and those below it make.
    pub access: Arc<Access>,
}

/// What is at an offset of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros, which need not be read.
    Zeros,
    /// Something that has to be read.
    Data,
    /// Nothing of this layer: the backing file's, or zeros where there is none.
    Below,
}

/// An image and what it stands on, the image first.
pub struct Chain {
    /// The image, its backing file, and so on; never empty.
    layers: Vec<Layer>,
}

impl Chain {
    /// Opens and locks the image at `path` and all that it needs; the first
    /// `changed` of them to be changed.
    ///
    /// # Errors
    /// Any of [`ImageError`]'s about opening, locking and images.
    pub fn open(path: &Path, rules: &OpenRules, changed: usize) -> Result<Self, ImageError> {
        let links = links(path, rules, |index| match index < changed {
            true => Use::Change,
            false => Use::Read,
        })?;
        let mut layers: Vec<Layer> = Vec::with_capacity(links.len());
        let count = links.len();
        for (from_below, link) in links.into_iter().rev().enumerate() {
            let below = layers.last().map(|layer| Arc::clone(&layer.access));
            let writable = from_below + 1 + changed > count;
            let access = access(&link, below, rules.backing_any, writable)
                .map_err(|error| link.bad(error.to_string()))?;
            let access = Arc::new(access);
            layers.push(Layer { link, access });
        }
        layers.reverse();
        Ok(Self { layers })
    }

    /// The layers, the image first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The image itself.
    pub fn top(&self) -> Option<&Layer> {
        self.layers.first()
    }

    /// The disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.top().map_or(0, |layer| layer.access.size())
    }

    /// What is at the start of `range` of the disk, and for how many bytes.
    ///
    /// # Errors
    /// What the library or the system says.
    pub fn content(&self, range: Range<u64>) -> io::Result<(Content, u64)> {
        let mut len = range.end - range.start;
        for layer in &self.layers {
            let (content, shorter) = layer.content(range.start..range.start + len)?;
            len = shorter;
            if content != Content::Below {
                return Ok((content, len));
            }
        }
        Ok((Content::Zeros, len))
    }

    /// Fills `buffer` from `offset` of the disk on.
    ///
    /// # Errors
    /// What the library or the system says.
    pub fn read(&self, buffer: &mut Vec<u8>, offset: u64) -> io::Result<()> {
        match self.top() {
            Some(layer) => layer.access.read(buffer, offset),
            None => Ok(()),
        }
    }
}

impl Layer {
    /// What this layer has at the start of `range`, and for how many bytes, at least
    /// one. Behind its end it has zeros.
    ///
    /// # Errors
    /// What the library or the system says.
    pub fn content(&self, range: Range<u64>) -> io::Result<(Content, u64)> {
        let wanted = range.end.saturating_sub(range.start);
        let size = self.access.size();
        if range.start >= size {
            return Ok((Content::Zeros, wanted));
        }
        let wanted = wanted.min(size - range.start);
        let (mapping, len) = self.access.get_shallow_mapping(range.start, wanted)?;
        let len = len.min(wanted);
        if len == 0 {
            return Err(io::Error::other("the image's tables end before its disk"));
        }
        Ok(match mapping {
            ShallowMapping::Raw { offset, .. } if self.link.format != Format::Vmdk => {
                self.data_or_hole(offset, len)?
            }
            ShallowMapping::Zero {
                explicit: false, ..
            } if self.link.format == Format::Qcow2 && self.has_backing() => (Content::Below, len),
            ShallowMapping::Zero { .. } | ShallowMapping::Eof { .. } => (Content::Zeros, len),
            ShallowMapping::Indirect { .. } => (Content::Below, len),
            _ => (Content::Data, len),
        })
    }

    fn has_backing(&self) -> bool {
        let header = self.link.header.as_ref();
        header.is_some_and(|header| header.backing_file.is_some())
    }

    /// Whether the file has a hole at `offset`.
    fn data_or_hole(&self, offset: u64, len: u64) -> io::Result<(Content, u64)> {
        // What is not there would read as zeros.
        if self.link.format == Format::Qcow2 && offset >= self.link.file.size()? {
            let text = format!("its data at {offset:#x} lies outside the file; is it cut off?");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let end = offset.saturating_add(len);
        Ok(match self.link.file.data_in(offset..end)? {
            None => (Content::Zeros, len),
            Some(data) if data.start > offset => (Content::Zeros, data.start - offset),
            Some(data) => (Content::Data, data.end - offset),
        })
    }
}

/// The files of a chain, the image first.
///
/// # Errors
/// Any of [`ImageError`]'s about opening, locking and images.
pub(super) fn links(
    path: &Path,
    rules: &OpenRules,
    how: impl Fn(usize) -> Use,
) -> Result<Vec<Link>, ImageError> {
    let mut links = vec![Link::open(path, rules, how(0))?];
    while let Some(last) = links.last() {
        let Some((path, format)) = last.backing(rules.backing_any)? else {
            break;
        };
        if links.len() > BACKING_MAX {
            return Err(ImageError::ChainTooLong {
                path: links.swap_remove(0).path,
                max: BACKING_MAX,
            });
        }
        let rules = OpenRules { format, ..*rules };
        links.push(Link::open(&path, &rules, how(links.len()))?);
    }
    Ok(links)
}

fn access(
    link: &Link,
    below: Option<Arc<Access>>,
    backing_any: bool,
    writable: bool,
) -> io::Result<Access> {
    let storage = || Storage::try_from(link.file.try_clone()?);
    match link.format {
        Format::Raw => Ok(FormatAccess::new(Raw::open_image(storage()?, writable)?)),
        Format::Qcow2 => {
            let has_data_file = link
                .header
                .as_ref()
                .is_some_and(|header| header.has_data_file());
            if has_data_file {
                return Err(io::Error::other("external data files are not supported"));
            }
            check_l1(link)?;
            let builder = Qcow2::<Storage, Arc<Access>>::builder(storage()?);
            let image = builder
                .backing(below)
                .write(writable)
                .open(DenyImplicitOpenGate::default())?;
            Ok(FormatAccess::new(image))
        }
        Format::Vmdk => {
            // By its path: the library finds the extents beside it.
            let options = StorageOpenOptions::new().filename(&link.real);
            let descriptor = <Storage as imago::Storage>::open(options)?;
            let gate = ExtentGate { link, backing_any };
            Ok(FormatAccess::new(
                Vmdk::<Storage>::builder(descriptor).open(gate)?,
            ))
        }
    }
}

/// Whether the L1 and L2 tables are in the file: the library reads zeros where they
/// are not, which say that there is no data.
fn check_l1(link: &Link) -> io::Result<()> {
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let Some(header) = &link.header else {
        return Ok(());
    };
    let end = link.file.size()?;
    let outside = |what: String| {
        let text = format!("{what} lies outside the file; is it cut off?");
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
    };
    let len = header.l1_entries.saturating_mul(8);
    if header.l1_offset.saturating_add(len) > end {
        return outside("its L1 table".to_owned());
    }
    let mut table = vec![0; usize::try_from(len).unwrap_or_default()];
    link.file.read_at(&mut table, header.l1_offset)?;
    for (index, entry) in table.chunks_exact(8).enumerate() {
        let offset = be(entry, 0, 8) & OFFSET;
        if offset != 0 && offset.saturating_add(header.cluster()) > end {
            return outside(format!("its L2 table {index}"));
        }
    }
    Ok(())
}

/// Lets a VMDK descriptor have its extents, where the rules allow.
struct ExtentGate<'a> {
    link: &'a Link,
    backing_any: bool,
}

impl ImplicitOpenGate<Storage> for ExtentGate<'_> {
    fn open_format<F: FormatDriverBuilder<Storage>>(&mut self, _: F) -> io::Result<Access> {
        Err(io::Error::other("its extents must be flat files"))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<Storage> {
        let path = options.get_filename().unwrap_or(Path::new(""));
        let path = self.link.named(path, self.backing_any);
        let path = path.map_err(|error| io::Error::other(crate::one_line::one_line(&error)))?;
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::other("an extent is no regular file"));
        }
        let file = File::open(&path)?;
        Storage::try_from(file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{CLUSTER, CLUSTERS, whole};
    use super::*;
    use proptest::prelude::*;

    /// Reads the disk as `convert` does.
    fn read_all(path: &Path) -> Result<Vec<u8>, ImageError> {
        let rules = OpenRules {
            format: None,
            format_option: "--format",
            backing_any: false,
        };
        let chain = Chain::open(path, &rules, 0)?;
        let read_error = |source| ImageError::Read {
            path: path.to_owned(),
            source,
        };
        let mut disk = Vec::new();
        // Only so much of a disk that damage made huge.
        let size = chain.size().min(64 << 10);
        while (disk.len() as u64) < size {
            let offset = disk.len() as u64;
            let (content, len) = chain.content(offset..size).map_err(read_error)?;
            let mut piece = vec![0; usize::try_from(len).unwrap()];
            if content == Content::Data {
                chain.read(&mut piece, offset).map_err(read_error)?;
            }
            disk.append(&mut piece);
        }
        Ok(disk)
    }

    #[test]
    fn a_disk_is_read_through_its_tables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.qcow2");
        let mut image = whole();
        image[5 * CLUSTER..6 * CLUSTER].fill(1);
        image[6 * CLUSTER..].fill(2);
        fs::write(&path, image).unwrap();
        let disk = read_all(&path).unwrap();
        assert_eq!(disk.len(), 32 << 10);
        assert_eq!(disk[..CLUSTER], [1; CLUSTER]);
        assert_eq!(disk[CLUSTER..2 * CLUSTER], [0; CLUSTER]);
        assert_eq!(disk[2 * CLUSTER..3 * CLUSTER], [2; CLUSTER]);
        assert!(disk[3 * CLUSTER..].iter().all(|byte| *byte == 0));
    }

    proptest! {
        #[test]
        fn no_damage_panics(
            damage in prop::collection::vec((0_usize..CLUSTERS * CLUSTER, any::<u8>()), 0..20),
            len in 0_usize..=CLUSTERS * CLUSTER,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.qcow2");
            let mut image = whole();
            for (at, value) in damage {
                image[at] = value;
            }
            image.truncate(len.max(5 * CLUSTER));
            fs::write(&path, image).unwrap();
            let _ = read_all(&path);
        }
    }
}
