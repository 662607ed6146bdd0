//! Making empty images.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use imago::file::File as Storage;
use imago::format::builder::{FormatCreateBuilder, FormatDriverBuilder};
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess};

use super::chain::{Access, Chain};
use super::format::check_size;
use super::link::OpenRules;
use super::new_file::NewFile;
use super::{Format, ImageError};

/// Bytes of a cluster of the images that we make, as in QEMU.
pub const CLUSTER: u64 = 64 << 10;
/// A qcow2 image with such clusters has at most this size: more would need a larger
/// L1 table than QEMU takes.
const QCOW2_MAX: u64 = 1 << 51;
/// Bytes of a backing file's name at most.
const NAME_MAX: usize = 1023;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The disk's size in bytes; the backing file's without it.
    pub size: Option<u64>,
    /// Raw or qcow2.
    pub format: Format,
    /// What the image stands on.
    pub backing: Option<Backing>,
    /// Whether an existing file is replaced.
    pub force: bool,
}

/// What an image stands on.
#[derive(Clone, Debug)]
pub struct Backing {
    /// The file, as the user names it from where they are.
    pub path: PathBuf,
    /// What it is, if its name does not say so.
    pub format: Option<Format>,
    /// Whether it may lie anywhere.
    pub anywhere: bool,
}

/// How a qcow2 image is laid out.
pub(super) struct Layout {
    /// The disk's size in bytes.
    pub size: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Name and format of the backing file, as the header has them.
    pub backing: Option<(String, Format)>,
}

/// Makes an empty image at `path`; gives its disk's size in bytes.
///
/// # Errors
/// An [`ImageError`]; nothing is left then.
pub fn create(path: &Path, options: &CreateOptions) -> Result<u64, ImageError> {
    let refused = |reason: String| ImageError::Refused {
        path: path.to_owned(),
        reason,
    };
    let new = NewFile::new(path, options.force)?;
    let (backing, backing_size) = match &options.backing {
        None => (None, None),
        Some(_) if options.format != Format::Qcow2 => {
            let reason = "only qcow2 images have backing files; add --format qcow2";
            return Err(refused(reason.to_owned()));
        }
        Some(backing) => {
            let (name, format, size) = describe(path, backing)?;
            (Some((name, format)), Some(size))
        }
    };
    let size = options.size.or(backing_size);
    let size = size.ok_or_else(|| refused("give its size, for example 10G".to_owned()))?;
    check_size(size).map_err(refused)?;
    match options.format {
        Format::Raw => new
            .file()
            .set_len(size)
            .map_err(|source| ImageError::Create {
                path: path.to_owned(),
                source,
            })?,
        Format::Qcow2 => {
            let layout = Layout {
                size,
                cluster: CLUSTER,
                backing,
            };
            drop(qcow2(path, &new, layout)?);
        }
        Format::Vmdk => return Err(refused("VMDK is for reading only".to_owned())),
    }
    new.finish()?;
    Ok(size)
}

/// Lays an empty qcow2 image out in `new`, for writing.
pub(super) fn qcow2(path: &Path, new: &NewFile, layout: Layout) -> Result<Access, ImageError> {
    if layout.size > QCOW2_MAX {
        return Err(ImageError::Refused {
            path: path.to_owned(),
            reason: format!("a qcow2 image holds at most {QCOW2_MAX} bytes (2 PiB)"),
        });
    }
    lay_out(new, layout).map_err(|source| ImageError::Create {
        path: path.to_owned(),
        source,
    })
}

fn lay_out(new: &NewFile, layout: Layout) -> io::Result<Access> {
    let storage = Storage::try_from(new.file().try_clone()?)?;
    let mut builder = Qcow2::<Storage>::create_builder(storage)
        .size(layout.size)
        .cluster_size(usize::try_from(layout.cluster).map_err(io::Error::other)?);
    if let Some((name, format)) = layout.backing {
        builder = builder.backing(name, format.name().to_owned());
    }
    let image = builder.create_open(DenyImplicitOpenGate::default(), |storage| {
        Ok(Qcow2::builder(storage).backing(None).write(true))
    })?;
    let access = FormatAccess::new(image);
    access.flush()?;
    Ok(access)
}

/// Name, format and size of a backing file, as the header of `image` will have them.
fn describe(image: &Path, backing: &Backing) -> Result<(String, Format, u64), ImageError> {
    let rules = OpenRules {
        format: backing.format,
        format_option: "--backing-format",
        backing_any: backing.anywhere,
    };
    let chain = Chain::open(&backing.path, &rules, 0)?;
    let refused = |reason: &str| ImageError::Refused {
        path: image.to_owned(),
        reason: reason.to_owned(),
    };
    let Some(top) = chain.top() else {
        return Err(refused("its backing file cannot be opened"));
    };
    let directory = match image.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = fs::canonicalize(directory).map_err(|source| ImageError::Create {
        path: image.to_owned(),
        source,
    })?;
    let name = match top.link.real.strip_prefix(&directory) {
        Ok(name) => name,
        Err(_) if backing.anywhere => top.link.real.as_path(),
        Err(_) => {
            return Err(refused(
                "its backing file is not in its directory; put it there, or add --backing-any and trust the image later",
            ));
        }
    };
    match name.to_str() {
        Some(name) if name.len() <= NAME_MAX && !name.contains(char::is_control) => {
            Ok((name.to_owned(), top.link.format, chain.size()))
        }
        _ => Err(refused(
            "the backing file's name is longer than 1023 bytes or not plain UTF-8",
        )),
    }
}
