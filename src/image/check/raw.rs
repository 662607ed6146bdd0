//! Raw images: can all of them be read?

use super::super::format::check_size;
use super::super::source::Source;
use super::super::{Format, Progress};
use super::{CheckError, Report, buffer};

/// Bytes read at once.
const PIECE: u64 = 1 << 20;

/// Reads all that is not a hole.
///
/// # Errors
/// That the file's length or its holes cannot be found out.
pub(super) fn check(
    source: &dyn Source,
    progress: &mut Progress<'_>,
) -> Result<Report, CheckError> {
    let mut report = Report::new(Format::Raw);
    let end = source.size()?;
    if let Err(reason) = check_size(end) {
        report.error(|| reason);
    }
    let mut bytes = buffer(PIECE);
    let mut offset = 0;
    while let Some(data) = source.data_in(offset..end)? {
        progress(data.start, end);
        let len = (data.end - data.start).min(PIECE);
        let piece = usize::try_from(len).unwrap_or_default();
        let piece = bytes.get_mut(..piece).unwrap_or_default();
        if let Err(error) = source.read_at(piece, data.start) {
            let start = data.start;
            report.error(|| format!("{len} bytes at {start:#x} cannot be read: {error}"));
        }
        offset = data.start + len;
    }
    progress(end, end);
    Ok(report)
}
