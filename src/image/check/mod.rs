//! Is an image consistent?
//!
//! For qcow2 every cluster that the tables refer to is counted, and the counts are
//! held against the file's own refcounts. Nothing is written. A hostile image costs
//! bounded memory and time: tables are limited in size by the header's check, holes
//! are not read, counts are kept only for clusters that something refers to, and
//! what is read in all is limited.
//!
//! | file           | subject                                           |
//! |----------------|---------------------------------------------------|
//! | `counts.rs`    | references counted, cluster by cluster            |
//! | `refcounts.rs` | the file's own refcounts                          |
//! | `tables.rs`    | L1 and L2 tables                                  |
//! | `others.rs`    | snapshots, bitmaps, encryption header             |
//! | `raw.rs`       | raw images                                        |

mod counts;
mod others;
mod raw;
mod refcounts;
mod tables;
#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::path::Path;

use serde::Serialize;
use thiserror::Error;

use self::counts::Counts;
use self::refcounts::Refcounts;
use super::header::{CORRUPT, DIRTY, Header};
use super::link::{Link, OpenRules, Use};
use super::source::Source;
use super::{Format, ImageError, Progress};
use crate::one_line::one_line;

/// Findings kept in words; more are only counted.
const FINDINGS_MAX: usize = 1000;
/// Bytes of tables read at most. All L2 tables of a full 16 TiB image are 2 GiB.
const READ_MAX: u64 = 64 << 30;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Data is lost, or will be when the image is written.
    Error,
    /// Space is lost.
    Leak,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub text: String,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was checked.
    pub format: Format,
    /// Number of errors.
    pub errors: u64,
    /// Number of leaked clusters.
    pub leaks: u64,
    /// Clusters of the disk that have data in the file, of qcow2.
    pub data_clusters: u64,
    /// The findings, the first thousand.
    pub findings: Vec<Finding>,
}

impl Report {
    fn new(format: Format) -> Self {
        Self {
            format,
            errors: 0,
            leaks: 0,
            data_clusters: 0,
            findings: Vec::new(),
        }
    }

    fn add(&mut self, severity: Severity, text: impl FnOnce() -> String) {
        match severity {
            Severity::Error => self.errors = self.errors.saturating_add(1),
            Severity::Leak => self.leaks = self.leaks.saturating_add(1),
        }
        if self.findings.len() < FINDINGS_MAX {
            let text = text();
            self.findings.push(Finding { severity, text });
        }
    }

    fn error(&mut self, text: impl FnOnce() -> String) {
        self.add(Severity::Error, text);
    }
}

/// Why a check cannot be finished.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Reading failed.
    #[error("cannot read it")]
    Read(#[from] io::Error),
    /// The tables refer to each other without end.
    #[error("its tables are larger than {} GiB in all", READ_MAX >> 30)]
    TooMuch,
    /// The clusters lie too far apart to be counted in bounded memory.
    #[error("its clusters are spread too widely to be counted")]
    TooWide,
}

/// Checks the image at `path`.
///
/// # Errors
/// An [`ImageError`] if it cannot be checked. What is wrong with it is in the report.
pub fn check(
    path: &Path,
    rules: &OpenRules,
    progress: &mut Progress<'_>,
) -> Result<Report, ImageError> {
    let link = Link::open(path, rules, Use::Read)?;
    let result = match &link.header {
        Some(header) => qcow2(&link.file, header, progress),
        None if link.format == Format::Raw => raw::check(&link.file, progress),
        None => {
            return Err(ImageError::Check {
                path: path.to_owned(),
                reason: format!("{} images have nothing to check", link.format),
            });
        }
    };
    let mut report = result.map_err(|error| match error {
        CheckError::Read(source) => link.cannot_read(source),
        other => ImageError::Check {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    })?;
    if let Err(error) = backing(&link, rules) {
        report.error(|| one_line(&error));
    }
    Ok(report)
}

/// Whether the backing file is there and what it should be.
fn backing(link: &Link, rules: &OpenRules) -> Result<(), ImageError> {
    if let Some((path, format)) = link.backing(rules.backing_any)? {
        Link::open(&path, &OpenRules { format, ..*rules }, Use::Look)?;
    }
    Ok(())
}

/// Checks a qcow2 file of which the header has been read.
///
/// # Errors
/// A [`CheckError`].
pub fn qcow2(
    source: &dyn Source,
    header: &Header,
    progress: &mut Progress<'_>,
) -> Result<Report, CheckError> {
    let mut checker = Checker {
        source,
        header,
        end: source.size()?,
        counts: Counts::default(),
        refcounts: Refcounts::default(),
        report: Report::new(Format::Qcow2),
        read_left: READ_MAX,
    };
    checker.run(progress)?;
    Ok(checker.report)
}

/// A check under way.
struct Checker<'a> {
    source: &'a dyn Source,
    header: &'a Header,
    /// The file's length in bytes.
    end: u64,
    counts: Counts,
    refcounts: Refcounts,
    report: Report,
    /// Bytes of tables that may still be read.
    read_left: u64,
}

impl Checker<'_> {
    fn run(&mut self, progress: &mut Progress<'_>) -> Result<(), CheckError> {
        if self.header.incompatible & CORRUPT != 0 {
            self.report
                .error(|| "the header says that the image is corrupt".to_owned());
        }
        if self.header.incompatible & DIRTY != 0 {
            self.report.error(|| {
                "the header says that the image was not closed and its refcounts are out of date"
                    .to_owned()
            });
        }
        self.refer("the header", 0, self.header.cluster())?;
        self.load_refcounts()?;
        self.check_active(progress)?;
        self.check_snapshots()?;
        self.check_bitmaps()?;
        self.check_encryption_header()?;
        self.compare()
    }

    /// Counts one reference to each cluster of `len` bytes from `offset` on; false if
    /// they are not all in the file.
    fn refer(&mut self, what: &str, offset: u64, len: u64) -> Result<bool, CheckError> {
        if offset >= self.end {
            self.report
                .error(|| format!("{what} at {offset:#x} lies outside the file"));
            return Ok(false);
        }
        let bits = self.header.cluster_bits;
        let last = offset.saturating_add(len.saturating_sub(1)) >> bits;
        let last_in_file = (self.end - 1) >> bits;
        for cluster in offset >> bits..=last.min(last_in_file) {
            self.counts.add(cluster)?;
        }
        if last > last_in_file {
            self.report
                .error(|| format!("{what} at {offset:#x} reaches outside the file"));
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether an offset is a multiple of the cluster size; an error is noted if not.
    fn is_aligned(&mut self, what: &str, offset: u64) -> bool {
        let aligned = offset.is_multiple_of(self.header.cluster());
        if !aligned {
            self.report
                .error(|| format!("{what} at {offset:#x} is not aligned to the cluster size"));
        }
        aligned
    }

    /// Reads a table, which may be long gone from the file's end on.
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), CheckError> {
        self.spend(buffer.len() as u64)?;
        Ok(self.source.read_at(buffer, offset)?)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), CheckError> {
        let left = self.read_left.checked_sub(bytes);
        self.read_left = left.ok_or(CheckError::TooMuch)?;
        Ok(())
    }
}

/// A buffer for a table whose length the header's check has limited.
fn buffer(len: u64) -> Vec<u8> {
    vec![0; usize::try_from(len).unwrap_or_default()]
}
