//! Images as a guest reads and writes them, and as they are found afterwards.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::Access;
use super::super::open::{Cache, DiskOptions, Format, open};
use super::super::testing::*;
use super::testing::*;

const C: usize = CLUSTER as usize;

/// What is left when the VMM is killed: the file as the host's page cache has it.
fn as_after_a_kill(path: &Path) -> PathBuf {
    let copy = path.with_file_name("killed.qcow2");
    std::fs::copy(path, &copy).unwrap();
    copy
}

#[test]
fn each_kind_of_cluster_is_read() {
    let (dir, path) = file_with("x.qcow2", &[]);
    let below = pattern(3 * C + 512, 7);
    std::fs::write(dir.path().join("base.img"), &below).unwrap();
    let mut image = image(Some(("base.img", Some("raw"))));
    // The fourth cluster is compressed, behind the others in the file.
    let text = pattern(C, 99);
    let level = flate2::Compression::default();
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), level);
    packed.write_all(&text).unwrap();
    let packed = packed.finish().unwrap();
    let place = image.len() as u64;
    let sectors = (packed.len() as u64).div_ceil(512) - 1;
    put(
        &mut image,
        L2 + 24,
        &(1 << 62 | sectors << 54 | place).to_be_bytes(),
    );
    image.extend(packed);
    std::fs::write(&path, &image).unwrap();
    for cache in [Cache::Writeback, Cache::None] {
        let disk = open(&DiskOptions {
            read_only: true,
            cache,
            ..options(&path)
        });
        let disk = disk.unwrap();
        assert_eq!(disk.len(), 16 * CLUSTER);
        let mut expected = vec![0; 16 * C];
        expected[..C].fill(0x11);
        expected[2 * C..3 * C].copy_from_slice(&below[2 * C..3 * C]);
        expected[3 * C..4 * C].copy_from_slice(&text);
        assert!(read(&*disk, 0, 16 * C).unwrap() == expected);
        assert!(read(&*disk, CLUSTER - 512, 1024).unwrap() == expected[C - 512..C + 512]);
    }
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let (_dir, path) = file_with("x.qcow2", &image(None));
    let disk = open(&options(&path)).unwrap();
    let data = pattern(4096, 5);
    write(&*disk, 0, &data).unwrap();
    assert!(!is_dirty(&path), "nothing was taken yet");
    write(&*disk, 5 * CLUSTER + 8192, &data).unwrap();
    write(&*disk, CLUSTER + 512, &data).unwrap();
    let killed = as_after_a_kill(&path);
    assert!(is_dirty(&killed));
    for (cluster, within) in [(0, 0), (5, 8192), (1, 512)] {
        let entry = entry(&killed, cluster);
        assert_eq!(entry & 0x3fff_0000_0000_01ff, 0, "{entry:#x}");
        let place = entry & !COPIED;
        assert_eq!(refcount(&killed, place), 1);
        assert!(bytes(&killed, place + within, 4096) == data);
    }
    drop(disk);
    assert!(!is_dirty(&path), "it was closed");
    // Read-only and ephemeral disks do not mind the dirty bit.
    for (read_only, ephemeral) in [(true, false), (false, true), (false, false)] {
        let disk = open(&DiskOptions {
            read_only,
            ephemeral,
            ..options(&killed)
        });
        let mut expected = vec![0; 8192];
        expected[512..4608].copy_from_slice(&data);
        assert!(read(&*disk.unwrap(), CLUSTER, 8192).unwrap() == expected);
    }
    assert!(!is_dirty(&killed));
}

#[test]
fn a_count_that_is_too_low_is_raised_before_it_does_harm() {
    for version in [2, 3_u8] {
        let mut image = image(None);
        // The host crashed: the mapping is on the disk, its count is not.
        put(&mut image, REFCOUNTS + 10, &[0, 0]);
        image[7] = version;
        image[79] = version - 2;
        // A feature that the library clears, and the whole header with it.
        image[95] = if version == 3 { 1 } else { 0 };
        let (_dir, path) = file_with("x.qcow2", &image);
        let disk = open(&options(&path)).unwrap();
        assert_eq!(refcount(&path, DATA), 1);
        assert_eq!(is_dirty(&path), version == 3);
        write(&*disk, 3 * CLUSTER, &pattern(512, 1)).unwrap();
        assert_eq!(entry(&path, 0), COPIED | DATA);
        assert_ne!(entry(&path, 3), COPIED | DATA);
        assert!(read(&*disk, 0, C).unwrap() == vec![0x11; C]);
    }
}

#[test]
fn damage_that_cannot_be_repaired_is_told() {
    let mut image = image(None);
    image[79] = 1;
    put(&mut image, CLUSTER, &[0; 8]);
    let (_dir, path) = file_with("x.qcow2", &image);
    let error = open(&options(&path)).err().unwrap();
    let line = crate::one_line::one_line(&error);
    assert!(line.contains("qemu-img check -r all"), "{line}");
}

#[test]
fn zeros_and_discards_take_no_space_and_move_nothing() {
    let (_dir, path) = file_with("x.qcow2", &image(None));
    let disk = open(&options(&path)).unwrap();
    write(&*disk, 2 * CLUSTER, &pattern(2 * C, 1)).unwrap();
    let places = [0, 2, 3].map(|cluster| entry(&path, cluster) & !COPIED);
    disk.discard(0, CLUSTER).unwrap();
    disk.write_zeroes(2 * CLUSTER + 512, CLUSTER, true).unwrap();
    disk.write_zeroes(3 * CLUSTER + 1024, 512, false).unwrap();
    disk.write_zeroes(9 * CLUSTER, 512, false).unwrap();
    disk.discard(7 * CLUSTER, 9 * CLUSTER).unwrap();
    let mut expected = vec![0; 16 * C];
    expected[2 * C..4 * C].copy_from_slice(&pattern(2 * C, 1));
    expected[2 * C + 512..3 * C + 512].fill(0);
    expected[3 * C + 1024..3 * C + 1536].fill(0);
    assert!(read(&*disk, 0, 16 * C).unwrap() == expected);
    assert_eq!(
        [0, 2, 3].map(|cluster| entry(&path, cluster) & !(COPIED | 1)),
        places
    );
    assert_eq!(entry(&path, 0) & 1, 1);
    assert!(
        bytes(&path, DATA, C) == vec![0; C],
        "its space is given back"
    );
    disk.flush().unwrap();
    drop(disk);
    let disk = open(&options(&path)).unwrap();
    assert!(read(&*disk, 0, 16 * C).unwrap() == expected);
}

#[test]
fn transfers_may_go_to_clusters_of_their_own() {
    let (_dir, path) = file_with("x.qcow2", &image(None));
    let disk = open(&options(&path)).unwrap();
    let place = disk.locate(Access::Write, 512, 4096).unwrap();
    assert_eq!(place.offset, DATA + 512);
    assert!(disk.locate(Access::Read, 0, CLUSTER).is_some());
    for (offset, len) in [
        (0, CLUSTER + 512),
        (CLUSTER, 512),
        (2 * CLUSTER, 512),
        (u64::MAX, 1),
    ] {
        assert!(disk.locate(Access::Write, offset, len).is_none());
        assert!(disk.locate(Access::Read, offset, len).is_none());
    }
    drop(disk);
    // A cluster that something else uses too is copied before it is written.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&DATA.to_be_bytes(), L2).unwrap();
    file.write_all_at(&[0, 2], REFCOUNTS + 10).unwrap();
    let disk = open(&options(&path)).unwrap();
    assert!(disk.locate(Access::Write, 0, 512).is_none());
    assert!(disk.locate(Access::Read, 0, 512).is_some());
    write(&*disk, 0, &[3; 512]).unwrap();
    assert!(bytes(&path, DATA, C) == vec![0x11; C]);
    assert_eq!(
        read(&*disk, 0, 1024).unwrap()[..513],
        [vec![3; 512], vec![0x11]].concat()
    );
}

#[test]
fn an_image_cut_off_underneath_is_an_error() {
    let (_dir, path) = file_with("x.qcow2", &image(None));
    let disk = open(&options(&path)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    file.unwrap().set_len(DATA + 4096).unwrap();
    assert!(read(&*disk, 0, 4096).is_ok());
    assert!(read(&*disk, 4096, 4096).is_err());
}

/// The line for the user, if an image with that backing file cannot be opened.
fn refused(dir: &Path, name: &str, backing_any: bool) -> Option<String> {
    let path = dir.join("x.qcow2");
    std::fs::write(&path, image(Some((name, Some("raw"))))).unwrap();
    let disk = open(&DiskOptions {
        backing_any,
        ..options(&path)
    });
    disk.err().map(|error| crate::one_line::one_line(&error))
}

#[test]
fn backing_files_are_followed_in_the_images_own_directory_only() {
    let (outside, secret) = file_with("secret", &[0x5e; 65536]);
    let dir = outside.path().join("images");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/base"), [1; 512]).unwrap();
    std::os::unix::fs::symlink("../secret", dir.join("link")).unwrap();
    std::os::unix::fs::symlink("..", dir.join("up")).unwrap();
    let secret = secret.to_str().unwrap();
    for name in [
        secret,
        "../secret",
        "link",
        "up/secret",
        "sub/../../secret",
        "/etc/passwd",
    ] {
        let line = refused(&dir, name, false).unwrap_or_default();
        assert!(line.contains("add backing=any"), "{name}: {line}");
    }
    for (name, any) in [("sub/base", false), (secret, true), ("link", true)] {
        assert_eq!(refused(&dir, name, any), None, "{name}");
    }
    let inside = dir.join("sub/base");
    assert_eq!(refused(&dir, inside.to_str().unwrap(), false), None);
    assert!(
        refused(&dir, "none", false)
            .unwrap()
            .contains("No such file")
    );
}

#[test]
fn a_backing_file_without_a_format_is_raw_whatever_is_in_it() {
    let (dir, path) = file_with("x.qcow2", &image(Some(("base", None))));
    let base = image(Some(("secret", Some("raw"))));
    std::fs::write(dir.path().join("base"), &base).unwrap();
    let disk = open(&options(&path)).unwrap();
    assert!(read(&*disk, 2 * CLUSTER, C).unwrap() == base[2 * C..3 * C]);
    drop(disk);
    std::fs::write(&path, image(Some(("base", Some("nbd"))))).unwrap();
    let line = crate::one_line::one_line(&open(&options(&path)).err().unwrap());
    assert!(line.contains("format 'nbd'"), "{line}");
}

#[test]
fn chains_end() {
    let (dir, path) = file_with("x.qcow2", &image(Some(("a.qcow2", Some("qcow2")))));
    let a = dir.path().join("a.qcow2");
    std::fs::write(&a, image(Some(("a.qcow2", Some("qcow2"))))).unwrap();
    let line = crate::one_line::one_line(&open(&options(&path)).err().unwrap());
    assert!(line.contains("form a loop"), "{line}");
    std::fs::write(&a, image(None)).unwrap();
    let disk = open(&options(&path)).unwrap();
    // The backing file is locked too.
    assert!(open(&options(&a)).is_err());
    assert!(write(&*disk, 0, &[1; 512]).is_ok());
    assert!(std::fs::read(&a).unwrap() == image(None));
}

#[test]
fn a_vmdk_image_of_flat_extents_is_read() {
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n\
                createType=\"monolithicFlat\"\nRW 4 FLAT \"flat\" 2\nRW 2 ZERO\n";
    let (dir, path) = file_with("x.vmdk", text.as_bytes());
    std::fs::write(dir.path().join("flat"), pattern(4096, 1)).unwrap();
    let read_only = |path: &Path| {
        open(&DiskOptions {
            read_only: true,
            ..options(path)
        })
    };
    let disk = read_only(&path).unwrap();
    let mut expected = pattern(4096, 1)[1024..3072].to_vec();
    expected.resize(3072, 0);
    assert_eq!(read(&*disk, 0, 3072).unwrap(), expected);
    std::fs::write(&path, text.replace("flat\"", "../flat\"")).unwrap();
    let line = crate::one_line::one_line(&read_only(&path).err().unwrap());
    assert!(line.contains("not in its directory"), "{line}");
}

#[test]
fn a_file_that_is_no_image_is_told_so() {
    let (_dir, path) = file_with("x.img", &image(None));
    let disk = open(&DiskOptions {
        format: Format::Qcow2,
        ..options(&path)
    });
    assert!(disk.is_ok());
    std::fs::write(&path, b"QFI\xfb and no more").unwrap();
    drop(disk);
    assert!(
        open(&DiskOptions {
            format: Format::Qcow2,
            ..options(&path)
        })
        .is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Tables of an untrusted image may say anything: errors, but no panic and no hang.
    #[test]
    fn damaged_tables_do_not_panic(
        at in prop::sample::select(vec![0, CLUSTER, REFCOUNTS, L1, L2]),
        within in 0..128_u64,
        damage in prop::collection::vec(any::<u8>(), 1..24),
        read_only in any::<bool>(),
    ) {
        let mut image = image(None);
        put(&mut image, at + within, &damage);
        let (_dir, path) = file_with("x.img", &image);
        let disk = open(&DiskOptions { read_only, format: Format::Qcow2, ..options(&path) });
        if let Ok(disk) = disk {
            for offset in [0, CLUSTER, 3 * CLUSTER] {
                let _ = read(&*disk, offset, 4096);
                let _ = write(&*disk, offset, &[1; 512]);
                let _ = disk.locate(Access::Write, offset, 512);
                let _ = disk.discard(offset, CLUSTER);
                let _ = disk.write_zeroes(offset, 512, true);
            }
            let _ = disk.flush();
        }
    }
}
