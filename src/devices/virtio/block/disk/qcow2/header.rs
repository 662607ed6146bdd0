//! What of a qcow2 header is looked at before the image library sees the file
//! (QEMU, docs/interop/qcow2): its sizes are untrusted, and become memory.

use std::io;

use super::super::host_file::HostFile;

/// Bytes of an L1 table at most, as in QEMU: 128 GiB to 2 EiB of disk.
const MAX_L1: u64 = 32 << 20;
/// Bytes of a refcount table at most, as in QEMU.
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// Snapshots at most. QEMU allows more; each costs time at a repair.
const MAX_SNAPSHOTS: u64 = 1024;
/// Incompatible feature: refcounts may be too low.
const DIRTY: u64 = 1;
/// Incompatible feature: the data is in another file.
const DATA_FILE: u64 = 1 << 2;

/// A checked header. Offsets and lengths are in bytes.
#[derive(Clone, Debug)]
pub(in super::super) struct Header {
    /// 2 or 3.
    pub(super) version: u64,
    /// Size of a cluster.
    pub(super) cluster: u64,
    /// The disk's size.
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    pub(super) refcounts_offset: u64,
    pub(super) refcounts_len: u64,
    /// A refcount has two to the power of this many bits.
    pub(super) refcount_order: u64,
    pub(super) snapshots: u64,
    pub(super) snapshots_offset: u64,
    /// Whether refcounts may be too low.
    pub(super) is_dirty: bool,
}

/// A big-endian number of `N` bytes at `offset`; zero where there is none.
pub(super) fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let field = bytes.get(offset..).and_then(|rest| rest.get(..N));
    let field = field.unwrap_or_default().iter();
    field.fold(0, |value, &byte| value << 8 | u64::from(byte))
}

impl Header {
    /// Reads and checks the header of `file`.
    ///
    /// # Errors
    /// What is wrong, or what the system says.
    pub(in super::super) fn read(file: &HostFile) -> io::Result<Self> {
        let mut bytes = [0; 104];
        std::os::unix::fs::FileExt::read_exact_at(file.file(), &mut bytes, 0)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8; 104]) -> io::Result<Self> {
        let version = number::<4>(bytes, 4);
        let is_v3 = match version {
            2 => false,
            3 => true,
            _ => return wrong(format!("its version {version} is not supported")),
        };
        let features = if is_v3 { number::<8>(bytes, 72) } else { 0 };
        let bits = number::<4>(bytes, 20);
        if !(9..=21).contains(&bits) {
            return wrong(format!("a cluster size of 2^{bits} bytes is not supported"));
        }
        let header = Self {
            version,
            cluster: 1 << bits,
            size: number::<8>(bytes, 24),
            l1_offset: number::<8>(bytes, 40),
            l1_entries: number::<4>(bytes, 36),
            refcounts_offset: number::<8>(bytes, 48),
            refcounts_len: number::<4>(bytes, 56).saturating_mul(1 << bits),
            refcount_order: if is_v3 { number::<4>(bytes, 96) } else { 4 },
            snapshots: number::<4>(bytes, 60),
            snapshots_offset: number::<8>(bytes, 64),
            is_dirty: features & DIRTY != 0,
        };
        if number::<4>(bytes, 32) != 0 {
            return wrong("it is encrypted, which is not supported".to_owned());
        }
        if features & DATA_FILE != 0 {
            return wrong("its data is in another file, which is not supported".to_owned());
        }
        header.check_sizes()?;
        Ok(header)
    }

    fn check_sizes(&self) -> io::Result<()> {
        if self.l1_entries.saturating_mul(8) > MAX_L1 {
            return wrong(format!("its L1 table has {} entries", self.l1_entries));
        }
        if self.refcounts_len > MAX_REFCOUNT_TABLE {
            let len = self.refcounts_len;
            return wrong(format!("its refcount table has {len} bytes"));
        }
        if self.refcount_order > 6 {
            let order = self.refcount_order;
            return wrong(format!("refcounts of 2^{order} bits are not supported"));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return wrong(format!("it has {} snapshots", self.snapshots));
        }
        // Below, an offset and a length can be added.
        let offsets = [self.l1_offset, self.refcounts_offset, self.snapshots_offset];
        if offsets.iter().any(|&offset| offset >= 1 << 56) {
            return wrong("a table lies beyond what a file can hold".to_owned());
        }
        // An L2 table is a cluster, and 8 bytes of it map a cluster.
        let mapped = (self.cluster / 8).saturating_mul(self.cluster);
        if self.size > self.l1_entries.saturating_mul(mapped) {
            let size = self.size;
            return wrong(format!("its size of {size} bytes is beyond its L1 table"));
        }
        if !self.size.is_multiple_of(512) {
            let size = self.size;
            return wrong(format!("its size of {size} bytes is no multiple of 512"));
        }
        Ok(())
    }
}

pub(super) fn wrong<T>(what: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A version 3 header of a disk of 1 GiB with clusters of 64 KiB.
    fn good() -> [u8; 104] {
        let mut bytes = [0; 104];
        let mut put = |offset: usize, field: &[u8]| {
            bytes[offset..offset + field.len()].copy_from_slice(field);
        };
        put(0, b"QFI\xfb\0\0\0\x03");
        put(20, &16_u32.to_be_bytes());
        put(24, &(1_u64 << 30).to_be_bytes());
        put(36, &2_u32.to_be_bytes());
        put(40, &0x3_0000_u64.to_be_bytes());
        put(48, &0x1_0000_u64.to_be_bytes());
        put(56, &1_u32.to_be_bytes());
        put(96, &4_u32.to_be_bytes());
        put(100, &104_u32.to_be_bytes());
        bytes
    }

    #[test]
    fn a_usual_header_is_taken() {
        let header = Header::parse(&good()).unwrap();
        assert_eq!((header.size, header.cluster), (1 << 30, 65536));
        assert_eq!((header.l1_entries, header.refcounts_len), (2, 65536));
        assert!(!header.is_dirty);
    }

    #[test]
    fn sizes_that_would_become_memory_are_refused() {
        for (offset, field, says) in [
            (4, &4_u32.to_be_bytes()[..], "version 4"),
            (20, &22_u32.to_be_bytes(), "2^22"),
            (20, &u32::MAX.to_be_bytes(), "cluster size"),
            (24, &u64::MAX.to_be_bytes(), "beyond its L1 table"),
            (24, &1000_u64.to_be_bytes(), "no multiple of 512"),
            (32, &1_u32.to_be_bytes(), "encrypted"),
            (36, &u32::MAX.to_be_bytes(), "L1 table has"),
            (40, &u64::MAX.to_be_bytes(), "beyond what a file"),
            (56, &u32::MAX.to_be_bytes(), "refcount table has"),
            (60, &65536_u32.to_be_bytes(), "65536 snapshots"),
            (72, &4_u64.to_be_bytes(), "in another file"),
            (96, &7_u32.to_be_bytes(), "2^7 bits"),
        ] {
            let mut bytes = good();
            bytes[offset..offset + field.len()].copy_from_slice(field);
            let line = Header::parse(&bytes).unwrap_err().to_string();
            assert!(line.contains(says), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(tail in prop::array::uniform32(any::<u8>()), at in 4..72_usize) {
            let mut bytes = good();
            bytes[at..at + 32].copy_from_slice(&tail);
            let _ = Header::parse(&bytes);
        }
    }
}
