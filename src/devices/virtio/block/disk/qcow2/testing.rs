//! qcow2 images put together by hand from the specification, and looked into by hand,
//! so that the tests do not believe the library about itself.

use std::os::unix::fs::FileExt;
use std::path::Path;

/// A cluster of the images here, in bytes.
pub(super) const CLUSTER: u64 = 64 << 10;
/// Where the parts of [`image`] lie.
pub(super) const REFCOUNTS: u64 = 2 * CLUSTER;
pub(super) const L1: u64 = 3 * CLUSTER;
pub(super) const L2: u64 = 4 * CLUSTER;
pub(super) const DATA: u64 = 5 * CLUSTER;
/// The bit of an entry that says that its cluster is used once.
pub(super) const COPIED: u64 = 1 << 63;

pub(super) fn put(image: &mut [u8], offset: u64, field: &[u8]) {
    let at = offset as usize;
    image[at..at + field.len()].copy_from_slice(field);
}

/// A version 3 image of a disk of 16 clusters, of which the first is mapped and full
/// of 0x11, and the second is zeros.
pub(super) fn image(backing: Option<(&str, Option<&str>)>) -> Vec<u8> {
    let mut image = vec![0; 6 * CLUSTER as usize];
    put(&mut image, 0, b"QFI\xfb\0\0\0\x03");
    put(&mut image, 20, &16_u32.to_be_bytes());
    put(&mut image, 24, &(16 * CLUSTER).to_be_bytes());
    put(&mut image, 36, &1_u32.to_be_bytes());
    put(&mut image, 40, &L1.to_be_bytes());
    put(&mut image, 48, &CLUSTER.to_be_bytes());
    put(&mut image, 56, &1_u32.to_be_bytes());
    put(&mut image, 96, &4_u32.to_be_bytes());
    put(&mut image, 100, &104_u32.to_be_bytes());
    if let Some((name, format)) = backing {
        put(&mut image, 8, &4096_u64.to_be_bytes());
        put(&mut image, 16, &(name.len() as u32).to_be_bytes());
        put(&mut image, 4096, name.as_bytes());
        if let Some(format) = format {
            put(&mut image, 104, &0xe279_2aca_u32.to_be_bytes());
            put(&mut image, 108, &(format.len() as u32).to_be_bytes());
            put(&mut image, 112, format.as_bytes());
        }
    }
    put(&mut image, CLUSTER, &REFCOUNTS.to_be_bytes());
    for cluster in 0..6 {
        put(&mut image, REFCOUNTS + cluster * 2, &1_u16.to_be_bytes());
    }
    put(&mut image, L1, &(COPIED | L2).to_be_bytes());
    put(&mut image, L2, &(COPIED | DATA).to_be_bytes());
    put(&mut image, L2 + 8, &1_u64.to_be_bytes());
    put(&mut image, DATA, &[0x11; CLUSTER as usize]);
    image
}

fn number(path: &Path, offset: u64, width: usize) -> u64 {
    let mut bytes = [0; 8];
    let file = std::fs::File::open(path).unwrap();
    file.read_exact_at(&mut bytes[8 - width..], offset).unwrap();
    u64::from_be_bytes(bytes)
}

/// What the image's L2 table, the only one, has for a guest cluster.
pub(super) fn entry(path: &Path, cluster: u64) -> u64 {
    let table = number(path, L1, 8) & !COPIED;
    number(path, table + cluster * 8, 8)
}

/// How often the host cluster at `offset` is counted.
pub(super) fn refcount(path: &Path, offset: u64) -> u64 {
    number(path, REFCOUNTS + offset / CLUSTER * 2, 2)
}

/// Whether the dirty bit is set.
pub(super) fn is_dirty(path: &Path) -> bool {
    number(path, 72, 8) & 1 == 1
}

/// `len` bytes of the file.
pub(super) fn bytes(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = std::fs::File::open(path).unwrap();
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}
