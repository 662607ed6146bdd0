//! What was found, for people.

use std::fmt::Write;
use std::path::Path;

use crate::image::check::{Report, Severity};
use crate::image::info::Info;

/// Findings shown; the others are counted.
const SHOWN: usize = 100;

/// A size in the largest unit that leaves a whole number or two decimals, and bytes.
pub(super) fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut shift = 0_u32;
    while shift < 60 && bytes >> shift >= 1024 {
        shift += 10;
    }
    let unit = usize::try_from(shift / 10).unwrap_or_default();
    let unit = units.get(unit).copied().unwrap_or("bytes");
    let whole = bytes >> shift;
    let rest = bytes & ((1_u64 << shift) - 1);
    if rest == 0 {
        return format!("{whole} {unit}");
    }
    let hundredths = (u128::from(rest) * 100) >> shift;
    format!("{whole}.{hundredths:02} {unit} ({bytes} bytes)")
}

/// An image.
pub(super) fn info(info: &Info) -> String {
    let mut text = String::new();
    row(&mut text, "image", &info.path.display().to_string());
    let version = info.version.map(|version| format!(", version {version}"));
    let format = format!("{}{}", info.format, version.unwrap_or_default());
    row(&mut text, "format", &format);
    row(&mut text, "disk size", &size(info.virtual_size));
    row(&mut text, "file size", &size(info.file_size));
    let sparse = if info.sparse { ", sparse" } else { "" };
    row(
        &mut text,
        "on the host",
        &format!("{}{sparse}", size(info.allocated)),
    );
    if let Some(cluster) = info.cluster_size {
        row(&mut text, "cluster size", &size(cluster));
    }
    if let Some(snapshots @ 1..) = info.snapshots {
        row(&mut text, "snapshots", &snapshots.to_string());
    }
    for (flag, words) in [
        (info.dirty, "was not closed properly"),
        (info.corrupt, "is marked as corrupt"),
        (info.encrypted, "is encrypted"),
    ] {
        if flag == Some(true) {
            row(&mut text, "state", words);
        }
    }
    let locked = info.locked_by.as_deref().unwrap_or("no");
    row(&mut text, "locked", locked);
    for backing in &info.backing {
        let words = format!(
            "{} ({}, {}, {} on the host)",
            backing.path.display(),
            backing.format,
            size(backing.virtual_size),
            size(backing.allocated)
        );
        row(&mut text, "backing file", &words);
    }
    if let Some(error) = &info.backing_error {
        row(&mut text, "backing file", error);
    }
    text
}

/// What a check found.
pub(super) fn report(path: &Path, report: &Report) -> String {
    let mut text = String::new();
    for finding in report.findings.iter().take(SHOWN) {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Leak => "leak",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{severity}: {}", finding.text);
    }
    let all = report.errors.saturating_add(report.leaks);
    let shown = report.findings.len().min(SHOWN) as u64;
    if all > shown {
        let _ = writeln!(text, "and {} more", all - shown);
    }
    let path = path.display();
    let _ = match (report.errors, report.leaks) {
        (0, 0) => writeln!(text, "'{path}': nothing is wrong"),
        (errors, leaks) => writeln!(text, "'{path}': errors: {errors}, leaked clusters: {leaks}"),
    };
    text
}

fn row(text: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{name:<13} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_exact() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (512, "512 bytes"),
            (1024, "1 KiB"),
            (1536, "1.50 KiB (1536 bytes)"),
            (10 << 30, "10 GiB"),
            (u64::MAX, "15.99 EiB (18446744073709551615 bytes)"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
