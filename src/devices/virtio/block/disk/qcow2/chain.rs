//! From an image's file to its disk, with the files that it stands on.
//!
//! An image's header is untrusted. The names in it lead only to files in the image's
//! own directory or below it, after all links are resolved, unless the user trusts
//! the image (`backing=any`). A backing file's format is what the image says, and raw
//! if it says nothing: its content is never asked.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use imago::format::builder::FormatDriverBuilder;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::vmdk::Vmdk;
use imago::{FormatAccess, StorageOpenOptions};

use super::super::error::DiskError;
use super::super::host_file::HostFile;
use super::super::image_file::ImageFile;
use super::super::open::{BACKING_MAX, DiskOptions, Format};
use super::header::Header;
use super::{Dirty, ImageDisk, is_disk_size, refcounts};

/// Extents of a VMDK image at most; VMware cuts at 2 GiB.
const MAX_EXTENTS: usize = 1024;

/// The disk in the image `file`, which begins like one of `format`.
///
/// # Errors
/// The [`DiskError`] that tells why it cannot be had.
pub(in super::super) fn open_image(
    file: HostFile,
    format: Format,
    options: &DiskOptions,
) -> Result<ImageDisk, DiskError> {
    let path = file.path().to_owned();
    let is_writable = file.is_writable();
    let (access, top, cluster, dirty) = match format {
        Format::Vmdk => {
            let top = ImageFile::new(file, false);
            (vmdk(&top, options)?, top, 512, Dirty::Never)
        }
        _ => {
            let header = Header::read(&file).map_err(image_error(&path, format))?;
            if is_writable && (header.is_dirty || header.version == 2) {
                refcounts::raise(&file, &header).map_err(image_error(&path, format))?;
            }
            let top = ImageFile::new(file, true);
            let access = qcow2(&top, options, 0)?;
            if is_writable && header.is_dirty {
                // The library may have written the header without it.
                top.set_dirty(true).map_err(image_error(&path, format))?;
            }
            let dirty = match (is_writable && header.version > 2, header.is_dirty) {
                (false, _) => Dirty::Never,
                (true, false) => Dirty::No,
                (true, true) => Dirty::Yes,
            };
            (access, top, header.cluster, dirty)
        }
    };
    if !is_disk_size(access.size()) {
        let reason = format!("its disk has {} bytes", access.size());
        return Err(DiskError::Refused {
            path,
            format,
            reason,
        });
    }
    Ok(ImageDisk {
        access,
        top,
        is_writable,
        cluster,
        dirty: Mutex::new(dirty),
    })
}

fn image_error(path: &Path, format: Format) -> impl FnOnce(std::io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Image {
        path,
        format,
        source,
    }
}

/// The image in `file`, which is `depth` files below the one that the user named.
fn qcow2(
    file: &ImageFile,
    options: &DiskOptions,
    depth: usize,
) -> Result<FormatAccess<ImageFile>, DiskError> {
    let path = file.file().path();
    let bad = || image_error(path, Format::Qcow2);
    let mut image: Qcow2<ImageFile> =
        Qcow2::open_image(file.clone(), file.file().is_writable()).map_err(bad())?;
    image.set_data_file(None);
    let backing = match image.implicit_backing_file() {
        None => None,
        Some(_) if depth >= BACKING_MAX => {
            return Err(DiskError::ChainTooLong {
                path: options.path.clone(),
                max: BACKING_MAX,
            });
        }
        Some(name) => {
            let format = image.implicit_backing_format().map(String::as_str);
            Some(backing(path, Path::new(name), format, options, depth)?)
        }
    };
    image.set_backing(backing);
    Ok(FormatAccess::new(image))
}

fn backing(
    image: &Path,
    name: &Path,
    format: Option<&str>,
    options: &DiskOptions,
    depth: usize,
) -> Result<FormatAccess<ImageFile>, DiskError> {
    let path = resolve(image, name, options.backing_any)?;
    let file = HostFile::open(&path, false, options.cache)?;
    match format {
        None | Some("raw" | "file") => {
            let raw = Raw::open_image(ImageFile::new(file, false), false);
            let raw = raw.map_err(image_error(&path, Format::Raw))?;
            Ok(FormatAccess::new(raw))
        }
        Some("qcow2") => {
            Header::read(&file).map_err(image_error(&path, Format::Qcow2))?;
            qcow2(
                &ImageFile::new(file, true),
                options,
                depth.saturating_add(1),
            )
        }
        Some(other) => Err(DiskError::Refused {
            path: image.to_owned(),
            format: Format::Qcow2,
            reason: format!("the format '{other}' of its backing file is not supported"),
        }),
    }
}

fn vmdk(file: &ImageFile, options: &DiskOptions) -> Result<FormatAccess<ImageFile>, DiskError> {
    let path = file.file().path();
    let mut refused = None;
    let gate = ExtentGate {
        image: path,
        options,
        opened: 0,
        refused: &mut refused,
    };
    let image = Vmdk::<ImageFile>::builder(file.clone()).open(gate);
    match (image, refused) {
        (_, Some(error)) => Err(error),
        (image, None) => Ok(FormatAccess::new(
            image.map_err(image_error(path, Format::Vmdk))?,
        )),
    }
}

/// Opens the extents of a VMDK image, as far as they may be.
struct ExtentGate<'a> {
    image: &'a Path,
    options: &'a DiskOptions,
    opened: usize,
    /// Why the last could not be: the library would make it words.
    refused: &'a mut Option<DiskError>,
}

impl ImplicitOpenGate<ImageFile> for ExtentGate<'_> {
    fn open_format<F: FormatDriverBuilder<ImageFile>>(
        &mut self,
        _builder: F,
    ) -> std::io::Result<FormatAccess<ImageFile>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn open_storage(&mut self, wanted: StorageOpenOptions) -> std::io::Result<ImageFile> {
        self.opened = self.opened.saturating_add(1);
        if self.opened > MAX_EXTENTS {
            return Err(std::io::Error::other("it has too many extents"));
        }
        let name = wanted.get_filename().unwrap_or(Path::new(""));
        let opened = resolve(self.image, name, self.options.backing_any)
            .and_then(|path| HostFile::open(&path, false, self.options.cache));
        match opened {
            Ok(file) => Ok(ImageFile::new(file, false)),
            Err(error) => {
                *self.refused = Some(error);
                Err(std::io::ErrorKind::PermissionDenied.into())
            }
        }
    }
}

/// The file that `name` in the image at `image` leads to, if it may.
fn resolve(image: &Path, name: &Path, any: bool) -> Result<PathBuf, DiskError> {
    let cannot_open = |path: &Path| {
        let path = path.to_owned();
        move |source| DiskError::Open { path, source }
    };
    let image_itself = image.canonicalize().map_err(cannot_open(image))?;
    let dir = image_itself.parent().unwrap_or(Path::new("/"));
    let wanted = dir.join(name);
    let outside = || DiskError::Outside {
        path: image.to_owned(),
        wanted: name.to_owned(),
    };
    // What is outside is not even looked for.
    let climbs = wanted.components().any(|part| part.as_os_str() == "..");
    if !any && (climbs || !wanted.starts_with(dir)) {
        return Err(outside());
    }
    let path = wanted.canonicalize().map_err(cannot_open(&wanted))?;
    if !any && !path.starts_with(dir) {
        return Err(outside());
    }
    Ok(path)
}
