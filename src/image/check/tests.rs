//! Images made here byte by byte, whole and broken.

use super::super::header::{HeaderError, L1_MAX};
use super::*;
use proptest::prelude::*;

pub(in crate::image) const CLUSTER: usize = 512;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// Where the parts of the image are, in clusters: the header in 0, then these.
const REFCOUNT_TABLE: usize = 1;
const REFCOUNT_BLOCK: usize = 2;
const L1: usize = 3;
const L2: usize = 4;
const DATA: usize = 5;
/// Clusters in all: two of data.
pub(in crate::image) const CLUSTERS: usize = 7;

fn put(image: &mut [u8], at: usize, value: u64, width: usize) {
    let bytes = value.to_be_bytes();
    image[at..at + width].copy_from_slice(&bytes[8 - width..]);
}

fn entry(table: usize, index: usize) -> usize {
    table * CLUSTER + index * 8
}

fn refcount(cluster: usize) -> usize {
    REFCOUNT_BLOCK * CLUSTER + cluster * 2
}

/// A disk of 32 KiB with data in its first and third clusters.
pub(in crate::image) fn whole() -> Vec<u8> {
    let mut image = vec![0; CLUSTERS * CLUSTER];
    put(&mut image, 0, 0x5146_49fb, 4);
    put(&mut image, 4, 3, 4);
    put(&mut image, 20, 9, 4);
    put(&mut image, 24, 32 << 10, 8);
    put(&mut image, 36, 1, 4);
    put(&mut image, 40, (L1 * CLUSTER) as u64, 8);
    put(&mut image, 48, (REFCOUNT_TABLE * CLUSTER) as u64, 8);
    put(&mut image, 56, 1, 4);
    put(&mut image, 96, 4, 4);
    put(&mut image, 100, 104, 4);
    put(
        &mut image,
        entry(REFCOUNT_TABLE, 0),
        (REFCOUNT_BLOCK * CLUSTER) as u64,
        8,
    );
    put(&mut image, entry(L1, 0), COPIED | (L2 * CLUSTER) as u64, 8);
    put(
        &mut image,
        entry(L2, 0),
        COPIED | (DATA * CLUSTER) as u64,
        8,
    );
    put(
        &mut image,
        entry(L2, 2),
        COPIED | ((DATA + 1) * CLUSTER) as u64,
        8,
    );
    for cluster in 0..CLUSTERS {
        put(&mut image, refcount(cluster), 1, 2);
    }
    image
}

fn report(image: &[u8]) -> Report {
    let header = Header::read(&image).unwrap();
    qcow2(&image, &header, &mut |_, _| {}).unwrap()
}

/// What is said about a whole image after this change.
fn said(change: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
    let mut image = whole();
    change(&mut image);
    let report = report(&image);
    assert_eq!(report.errors + report.leaks, report.findings.len() as u64);
    report
        .findings
        .into_iter()
        .map(|finding| finding.text)
        .collect()
}

#[test]
fn a_whole_image_has_no_findings() {
    let report = report(&whole());
    assert_eq!((report.errors, report.leaks), (0, 0), "{report:?}");
    assert_eq!(report.data_clusters, 2);
}

#[test]
fn refcounts_that_are_wrong() {
    let leaked = said(|image| {
        image.resize((CLUSTERS + 1) * CLUSTER, 0);
        put(image, refcount(CLUSTERS), 1, 2);
    });
    assert_eq!(
        leaked,
        ["cluster 0xe00 is in use by nothing, but has refcount 1"]
    );
    let lost = said(|image| put(image, refcount(DATA), 0, 2));
    assert_eq!(
        lost,
        [
            "the data of 0x0 at 0xa00 has refcount 0, but its entry says that it is 1",
            "cluster 0xa00 is in use, but has refcount 0"
        ]
    );
    let high = said(|image| put(image, refcount(L2), 3, 2));
    assert_eq!(
        high,
        [
            "L2 table 0 at 0x800 has refcount 3, but its entry says that it is 1",
            "cluster 0x800 is in use once, but has refcount 3"
        ]
    );
}

#[test]
fn clusters_that_are_used_twice() {
    let shared = said(|image| put(image, entry(L2, 2), COPIED | (DATA * CLUSTER) as u64, 8));
    assert_eq!(
        shared,
        [
            "cluster 0xa00 is in use 2 times, but has refcount 1",
            "cluster 0xc00 is in use by nothing, but has refcount 1"
        ]
    );
    let l2_is_header = said(|image| put(image, entry(L1, 0), COPIED | 0x200, 8));
    assert_eq!(
        l2_is_header[0],
        "L2 table 0 at 0x200 is something else as well"
    );
    let block_is_table = said(|image| put(image, entry(REFCOUNT_TABLE, 0), 0x200, 8));
    assert_eq!(
        block_is_table[0],
        "refcount block 0 at 0x200 is something else as well"
    );
}

#[test]
fn entries_that_lead_nowhere() {
    let outside = said(|image| put(image, entry(L2, 1), COPIED | 1 << 40, 8));
    assert_eq!(
        outside,
        ["the data of 0x200 at 0x10000000000 lies outside the file"]
    );
    let outside = said(|image| put(image, entry(L1, 0), COPIED | 1 << 50, 8));
    assert_eq!(
        outside[0],
        "L2 table 0 at 0x4000000000000 lies outside the file"
    );
    let outside = said(|image| put(image, entry(REFCOUNT_TABLE, 3), 1 << 40, 8));
    assert_eq!(
        outside,
        ["refcount block 3 at 0x10000000000 lies outside the file"]
    );
    let cut = said(|image| image.truncate(DATA * CLUSTER));
    assert_eq!(cut[0], "the data of 0x0 at 0xa00 lies outside the file");
    assert_eq!(cut.len(), 4);
}

#[test]
fn entries_with_bits_that_mean_nothing() {
    let reserved = said(|image| put(image, entry(L1, 0), COPIED | 0x801, 8));
    assert_eq!(
        reserved,
        ["L1 entry 0 has reserved bits set: 0x8000000000000801"]
    );
    let reserved = said(|image| put(image, entry(L2, 0), COPIED | 0xa02, 8));
    assert!(reserved[0].starts_with("the L2 entry of 0x0 has reserved bits set"));
    let reserved = said(|image| put(image, entry(REFCOUNT_TABLE, 0), 0x401, 8));
    assert_eq!(
        reserved,
        ["refcount table entry 0 has reserved bits set: 0x401"]
    );
    let unsaid = said(|image| put(image, entry(L2, 0), 0xa00, 8));
    assert_eq!(
        unsaid,
        ["the data of 0x0 at 0xa00 has refcount 1, but its entry says that it is not 1"]
    );
}

#[test]
fn zeros_and_compressed_clusters_are_counted_as_what_they_are() {
    assert_eq!(said(|image| put(image, entry(L2, 1), 1, 8)), [""; 0]);
    // Two sectors from 0xc00 on: clusters of 512 bytes have one bit for that.
    let compressed = COMPRESSED | 1 << 61 | 0xc00;
    let two = said(|image| {
        image.resize((CLUSTERS + 1) * CLUSTER, 0);
        put(image, refcount(CLUSTERS), 1, 2);
        put(image, entry(L2, 2), compressed, 8);
    });
    assert_eq!(two, [""; 0]);
    let flagged = said(|image| put(image, entry(L2, 2), COPIED | COMPRESSED | 0xc00, 8));
    assert_eq!(
        flagged,
        ["the L2 entry of 0x400 is compressed and has flags that forbid it"]
    );
}

#[test]
fn what_the_header_says_of_the_image() {
    let dirty = said(|image| put(image, 72, DIRTY, 8));
    assert!(dirty[0].contains("was not closed"));
    let corrupt = said(|image| put(image, 72, CORRUPT, 8));
    assert_eq!(corrupt, ["the header says that the image is corrupt"]);
}

#[test]
fn a_snapshot_shares_clusters() {
    // The snapshot's L1 table in cluster 7, the snapshot table in cluster 8.
    let with_snapshot = |image: &mut Vec<u8>| {
        image.resize(9 * CLUSTER, 0);
        put(image, 60, 1, 4);
        put(image, 64, 8 * CLUSTER as u64, 8);
        put(image, 7 * CLUSTER, (L2 * CLUSTER) as u64, 8);
        put(image, 8 * CLUSTER, 7 * CLUSTER as u64, 8);
        put(image, 8 * CLUSTER + 8, 1, 4);
        for cluster in [L2, DATA, DATA + 1] {
            put(image, refcount(cluster), 2, 2);
        }
        put(image, refcount(7), 1, 2);
        put(image, refcount(8), 1, 2);
        put(image, entry(L1, 0), (L2 * CLUSTER) as u64, 8);
        put(image, entry(L2, 0), (DATA * CLUSTER) as u64, 8);
        put(image, entry(L2, 2), ((DATA + 1) * CLUSTER) as u64, 8);
    };
    assert_eq!(said(with_snapshot), [""; 0]);
    let lost = said(|image| {
        with_snapshot(image);
        put(image, refcount(DATA), 1, 2);
    });
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(lost[1].contains("is in use 2 times, but has refcount 1"));
}

#[test]
fn hostile_headers_are_refused() {
    let refused = |at, value, width| {
        let mut image = whole();
        put(&mut image, at, value, width);
        one_line(&Header::read(&image.as_slice()).unwrap_err())
    };
    assert_eq!(refused(0, 0, 4), "it is not a qcow2 image");
    assert_eq!(refused(4, 4, 4), "qcow2 version 4 is not supported");
    for bits in [0, 8, 22, 63, 64, 0xffff_ffff] {
        assert!(refused(20, bits, 4).starts_with("the cluster size's power of two is"));
    }
    assert!(refused(36, L1_MAX / 8 + 1, 4).contains("L1 entries is 0x400001, which is too large"));
    assert!(refused(36, 0, 4).contains("more than the L1 table has entries for"));
    assert!(refused(24, u64::MAX, 8).contains("the disk's size is 0xffffffffffffffff"));
    assert!(refused(40, 0x601, 8).contains("not a multiple of the cluster size"));
    assert!(refused(48, u64::MAX << 9, 8).contains("the refcount table's offset"));
    assert!(refused(56, 0x4001, 4).contains("refcount table's clusters"));
    assert!(refused(60, 65537, 4).contains("the number of snapshots"));
    assert!(refused(72, 1 << 40, 8).contains("unknown features is 0x10000000000"));
    assert!(refused(96, 7, 4).contains("refcounts' power of two"));
    assert!(refused(100, 0xffff_fff8, 4).contains("header's length"));
    assert!(refused(8, 1 << 30, 8).contains("backing file's name"));
    assert!(matches!(
        Header::read(&b"QFI\xfb".as_slice()),
        Err(HeaderError::Version(0))
    ));
}

#[test]
fn names_in_the_header_are_found_and_plain() {
    let mut image = whole();
    put(&mut image, 104, 0xe279_2aca, 4);
    put(&mut image, 108, 3, 4);
    image[112..115].copy_from_slice(b"raw");
    put(&mut image, 8, 200, 8);
    put(&mut image, 16, 8, 4);
    image[200..208].copy_from_slice(b"base.img");
    let header = Header::read(&image.as_slice()).unwrap();
    assert_eq!(header.backing_file.as_deref(), Some("base.img"));
    assert_eq!(header.backing_format.as_deref(), Some("raw"));
    image[200] = 0x1b;
    let refused = one_line(&Header::read(&image.as_slice()).unwrap_err());
    assert_eq!(refused, "its backing file's name is not plain UTF-8 text");
}

proptest! {
    #[test]
    fn no_damage_panics(
        damage in prop::collection::vec((0_usize..CLUSTERS * CLUSTER, any::<u8>()), 0..40),
        len in 0_usize..=CLUSTERS * CLUSTER,
    ) {
        let mut image = whole();
        for (at, value) in damage {
            image[at] = value;
        }
        image.truncate(len);
        if let Ok(header) = Header::read(&image.as_slice()) {
            let _ = qcow2(&image.as_slice(), &header, &mut |_, _| {});
        }
    }

    #[test]
    fn no_entries_panic(
        entries in prop::collection::vec((0_usize..4, 0_usize..64, any::<u64>()), 1..40),
        extended: bool,
    ) {
        let mut image = whole();
        if extended {
            put(&mut image, 72, 1 << 4, 8);
        }
        for (table, index, value) in entries {
            put(&mut image, entry(REFCOUNT_TABLE + table, index), value, 8);
        }
        if let Ok(header) = Header::read(&image.as_slice()) {
            let _ = qcow2(&image.as_slice(), &header, &mut |_, _| {});
        }
    }
}
