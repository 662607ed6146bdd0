//! The checker of qcow2 images, held against a simpler reading of the same tables.
//!
//! Input: the length of a hole behind the file (16 bits, in 512 bytes), then the file.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use mayfly::image::check::{self, Report};
use mayfly::image::header::Header;
use mayfly::image::source::Source;
use mayfly::one_line::one_line;

use super::script::Script;

/// A file with a hole at its end.
struct Image<'a> {
    bytes: &'a [u8],
    len: u64,
}

impl Source for Image<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes.read_at(buffer, offset)
    }

    fn data_in(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        self.bytes.data_in(range)
    }
}

/// Checks the file.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let hole = u64::from(script.u16()) * 512;
    let bytes = script.rest();
    let image = Image {
        bytes,
        len: bytes.len() as u64 + hole,
    };
    let header = match Header::read(&image) {
        Ok(header) => header,
        Err(error) => {
            let line = one_line(&error);
            assert!(!line.is_empty() && !line.contains(char::is_control));
            return;
        }
    };
    let Ok(report) = check::qcow2(&image, &header, &mut |_, _| {}) else {
        return;
    };
    check_report(&report);
    let again = check::qcow2(&image, &header, &mut |_, _| {});
    assert_eq!(again.ok().as_ref(), Some(&report));
    if report.errors == 0 {
        check_clean(&image, &header);
    }
}

fn check_report(report: &Report) {
    let all = report.errors + report.leaks;
    assert_eq!(report.findings.len() as u64, all.min(1000));
    for finding in &report.findings {
        let text = &finding.text;
        assert!(!text.is_empty() && text.len() < 200 && !text.contains(char::is_control));
    }
}

/// No cluster of an image without errors is used twice or not there.
fn check_clean(image: &Image<'_>, header: &Header) {
    if header.snapshots > 0 || header.has_extended_l2() || header.has_data_file() {
        return;
    }
    let cluster = header.cluster();
    let mut used = BTreeSet::new();
    let mut take = |offset: u64| {
        assert_eq!(offset % cluster, 0, "{offset:#x}");
        assert!(offset < image.len && used.insert(offset), "{offset:#x}");
    };
    let take_all = |take: &mut dyn FnMut(u64), offset: u64, len: u64| {
        (0..len.div_ceil(cluster)).for_each(|n| take(offset + n * cluster));
    };
    take(0);
    take_all(&mut take, header.l1_offset, header.l1_entries * 8);
    take_all(
        &mut take,
        header.refcount_offset,
        header.refcount_clusters * cluster,
    );
    for entry in entries(
        image,
        header.refcount_offset,
        header.refcount_clusters * cluster,
    ) {
        if entry != 0 {
            take(entry);
        }
    }
    for l1 in entries(image, header.l1_offset, header.l1_entries * 8) {
        let l2 = l1 & 0x00ff_ffff_ffff_fe00;
        if l2 == 0 {
            continue;
        }
        take(l2);
        for entry in entries(image, l2, cluster) {
            let data = entry & 0x00ff_ffff_ffff_fe00;
            if entry & 1 << 62 == 0 && data != 0 {
                take(data);
            }
        }
    }
}

/// The numbers of a table.
fn entries(image: &Image<'_>, offset: u64, len: u64) -> Vec<u64> {
    let mut table = vec![0; usize::try_from(len).expect("a table")];
    image.read_at(&mut table, offset).expect("bytes");
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
    table.chunks_exact(8).map(number).collect()
}
