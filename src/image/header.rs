//! The header of a qcow2 file, version 2 or 3 (QEMU, docs/interop/qcow2).
//!
//! An image is untrusted: what is here has been held against the limits below, so
//! that tables can be read into memory and offsets be added without care.

use std::io;

use thiserror::Error;

use super::source::{Source, be};

/// Bytes of an L1 table at most, as in QEMU.
pub const L1_MAX: u64 = 32 << 20;
/// Bytes of a refcount table at most, as in QEMU.
pub const REFCOUNT_TABLE_MAX: u64 = 8 << 20;
/// Internal snapshots at most, as in QEMU.
pub const SNAPSHOTS_MAX: u32 = 65536;
/// Bytes of a backing file's name at most.
const BACKING_NAME_MAX: u64 = 1023;
/// Bytes of a version 2 header, and of version 3's fixed part.
const V2_LEN: u64 = 72;
const V3_LEN: u64 = 104;

/// Incompatible feature: the refcounts may be out of date.
pub const DIRTY: u64 = 1 << 0;
/// Incompatible feature: metadata is known to be damaged.
pub const CORRUPT: u64 = 1 << 1;
/// Incompatible feature: the data is in another file.
pub const DATA_FILE: u64 = 1 << 2;
/// Incompatible feature: compressed clusters are not deflate's.
pub const COMPRESSION: u64 = 1 << 3;
/// Incompatible feature: L2 entries have subclusters.
pub const EXTENDED_L2: u64 = 1 << 4;
/// Autoclear feature: the bitmaps extension is up to date.
const BITMAPS: u64 = 1 << 0;

/// Why a header cannot be used.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// Reading failed.
    #[error("cannot read the header")]
    Read(#[source] io::Error),
    /// The file does not begin as a qcow2 file.
    #[error("it is not a qcow2 image")]
    Magic,
    /// A version from the future, or version 1.
    #[error("qcow2 version {0} is not supported")]
    Version(u64),
    /// A field is outside what the format or this program allows.
    #[error("{field} is {value:#x}, which {wrong}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is in it.
        value: u64,
        /// What is wrong with that.
        wrong: &'static str,
    },
    /// A name is no text.
    #[error("its {0} is not plain UTF-8 text")]
    Text(&'static str),
}

/// Where persistent bitmaps are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapDirectory {
    /// Bitmaps in it.
    pub count: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its offset in the file.
    pub offset: u64,
}

/// What a header says, checked. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// A cluster is this power of two, 9 to 21.
    pub cluster_bits: u32,
    /// The disk's size.
    pub size: u64,
    /// 0 for none.
    pub encryption: u32,
    /// Entries of the active L1 table.
    pub l1_entries: u64,
    /// Its offset.
    pub l1_offset: u64,
    /// Offset of the refcount table.
    pub refcount_offset: u64,
    /// Its length in clusters.
    pub refcount_clusters: u64,
    /// A refcount has 2 to the power of this many bits, 0 to 6.
    pub refcount_order: u32,
    /// Number of internal snapshots.
    pub snapshots: u32,
    /// Offset of their table.
    pub snapshots_offset: u64,
    /// Feature bits.
    pub incompatible: u64,
    /// The backing file's name as the image has it.
    pub backing_file: Option<String>,
    /// The backing file's format as the image has it.
    pub backing_format: Option<String>,
    /// Persistent bitmaps, if they are valid.
    pub bitmaps: Option<BitmapDirectory>,
    /// Offset and length of an encryption header.
    pub encryption_header: Option<(u64, u64)>,
}

impl Header {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// The first [`HeaderError`] found.
    pub fn read(source: &dyn Source) -> Result<Self, HeaderError> {
        let mut fixed = [0; V3_LEN as usize];
        source.read_at(&mut fixed, 0).map_err(HeaderError::Read)?;
        if be(&fixed, 0, 4) != 0x5146_49fb {
            return Err(HeaderError::Magic);
        }
        let version = be(&fixed, 4, 4);
        if version != 2 && version != 3 {
            return Err(HeaderError::Version(version));
        }
        let cluster_bits = be(&fixed, 20, 4);
        within("the cluster size's power of two", cluster_bits, 9, 21)?;
        let cluster = 1_u64 << cluster_bits;
        let v3 = version == 3;
        let field = |offset, width| if v3 { be(&fixed, offset, width) } else { 0 };
        let header = Self {
            version: small(version),
            cluster_bits: small(cluster_bits),
            size: be(&fixed, 24, 8),
            encryption: small(be(&fixed, 32, 4)),
            l1_entries: be(&fixed, 36, 4),
            l1_offset: be(&fixed, 40, 8),
            refcount_offset: be(&fixed, 48, 8),
            refcount_clusters: be(&fixed, 56, 4),
            refcount_order: if v3 { small(be(&fixed, 96, 4)) } else { 4 },
            snapshots: small(be(&fixed, 60, 4)),
            snapshots_offset: be(&fixed, 64, 8),
            incompatible: field(72, 8),
            backing_file: None,
            backing_format: None,
            bitmaps: None,
            encryption_header: None,
        };
        header.check()?;
        let length = if v3 { be(&fixed, 100, 4) } else { V2_LEN };
        if v3 && !length.is_multiple_of(8) {
            return wrong("the header's length", length, "is not a multiple of 8");
        }
        within(
            "the header's length",
            length,
            if v3 { V3_LEN } else { V2_LEN },
            cluster,
        )?;
        let mut first = vec![0; usize::try_from(cluster).unwrap_or_default()];
        source.read_at(&mut first, 0).map_err(HeaderError::Read)?;
        let autoclear = field(88, 8);
        header
            .with_backing(&first, be(&fixed, 8, 8), be(&fixed, 16, 4))?
            .with_extensions(&first, length, autoclear)
    }

    /// The fixed fields against the format and the limits.
    fn check(&self) -> Result<(), HeaderError> {
        let cluster = self.cluster();
        let known = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
        if self.incompatible & !known != 0 {
            let unknown = self.incompatible & !known;
            return wrong("the set of unknown features", unknown, "is not supported");
        }
        within(
            "the refcounts' power of two",
            self.refcount_order.into(),
            0,
            6,
        )?;
        within("the encryption method", self.encryption.into(), 0, 2)?;
        within("the number of L1 entries", self.l1_entries, 0, L1_MAX / 8)?;
        within(
            "the number of the refcount table's clusters",
            self.refcount_clusters,
            0,
            REFCOUNT_TABLE_MAX / cluster,
        )?;
        within(
            "the number of snapshots",
            self.snapshots.into(),
            0,
            SNAPSHOTS_MAX.into(),
        )?;
        for (field, offset) in [
            ("the L1 table's offset", self.l1_offset),
            ("the refcount table's offset", self.refcount_offset),
            ("the snapshot table's offset", self.snapshots_offset),
        ] {
            if !offset.is_multiple_of(cluster) {
                return wrong(field, offset, "is not a multiple of the cluster size");
            }
            // No file is longer.
            within(field, offset, 0, 1 << 62)?;
        }
        if self.has_extended_l2() && self.cluster_bits < 14 {
            let bits = self.cluster_bits.into();
            return wrong(
                "the cluster size's power of two",
                bits,
                "is too small for subclusters",
            );
        }
        let mapped = self.l1_entries.saturating_mul(self.mapped_by_table());
        if self.size > mapped {
            return wrong(
                "the disk's size",
                self.size,
                "is more than the L1 table has entries for",
            );
        }
        Ok(())
    }

    fn with_backing(mut self, first: &[u8], offset: u64, len: u64) -> Result<Self, HeaderError> {
        if offset == 0 {
            return Ok(self);
        }
        within(
            "the length of the backing file's name",
            len,
            1,
            BACKING_NAME_MAX,
        )?;
        within(
            "the offset of the backing file's name",
            offset,
            V2_LEN,
            self.cluster() - len,
        )?;
        self.backing_file = Some(text(first, offset, len, "backing file's name")?);
        Ok(self)
    }

    fn with_extensions(
        mut self,
        first: &[u8],
        mut offset: u64,
        autoclear: u64,
    ) -> Result<Self, HeaderError> {
        const END: u64 = 0;
        const BACKING_FORMAT: u64 = 0xe279_2aca;
        const BITMAP_DIRECTORY: u64 = 0x2385_2875;
        const ENCRYPTION_HEADER: u64 = 0x0537_be77;
        // Each step goes 8 bytes on at least, within one cluster.
        while offset + 8 <= self.cluster() {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let (kind, len) = (be(first, at, 4), be(first, at + 4, 4));
            offset += 8;
            if kind == END {
                break;
            }
            within(
                "the length of a header extension",
                len,
                0,
                self.cluster() - offset,
            )?;
            let at = at + 8;
            match kind {
                BACKING_FORMAT => {
                    self.backing_format = Some(text(first, offset, len, "backing file's format")?);
                }
                BITMAP_DIRECTORY if autoclear & BITMAPS != 0 && len >= 24 => {
                    self.bitmaps = Some(BitmapDirectory {
                        count: be(first, at, 4),
                        len: be(first, at + 8, 8),
                        offset: be(first, at + 16, 8),
                    });
                }
                ENCRYPTION_HEADER if len >= 16 => {
                    self.encryption_header = Some((be(first, at, 8), be(first, at + 8, 8)));
                }
                _ => {}
            }
            offset += len.next_multiple_of(8);
        }
        Ok(self)
    }

    /// A cluster in bytes.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of an L2 entry.
    pub fn l2_entry(&self) -> u64 {
        if self.has_extended_l2() { 16 } else { 8 }
    }

    /// Bytes of the disk that one L2 table maps.
    pub fn mapped_by_table(&self) -> u64 {
        self.cluster() / self.l2_entry() * self.cluster()
    }

    /// Whether the data is in another file.
    pub fn has_data_file(&self) -> bool {
        self.incompatible & DATA_FILE != 0
    }

    /// Whether L2 entries have subclusters.
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible & EXTENDED_L2 != 0
    }
}

/// Fields that fit into 32 bits by their width.
fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn wrong<T>(field: &'static str, value: u64, wrong: &'static str) -> Result<T, HeaderError> {
    Err(HeaderError::Field {
        field,
        value,
        wrong,
    })
}

fn within(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), HeaderError> {
    if value < min {
        return wrong(field, value, "is too small");
    }
    if value > max {
        return wrong(field, value, "is too large");
    }
    Ok(())
}

fn text(first: &[u8], offset: u64, len: u64, what: &'static str) -> Result<String, HeaderError> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
    let bytes = first.get(start..end).unwrap_or_default();
    // Names are shown on terminals, which control characters would command.
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(HeaderError::Text(what)),
    }
}
