//! `mayfly image`: making, showing, converting, committing and checking disk images.
//!
//! | file          | subject                                        |
//! |---------------|------------------------------------------------|
//! | `args.rs`     | the flags                                      |
//! | `show.rs`     | what `info` and `check` found, for people      |
//! | `progress.rs` | how far a long one is                          |

mod args;
mod progress;
mod show;

use std::path::Path;

pub(super) use self::args::ImageArgs;
use self::args::{CheckArgs, Command, CommitArgs, ConvertArgs, CreateArgs, InfoArgs};
use self::progress::Bar;
use super::{SUCCESS, say};
use crate::image::check::Report;
use crate::image::{ImageError, check, commit, convert, create, info};
use crate::one_line::one_line;
use crate::vm::exit::ExitReason;

/// `check` found errors.
const FOUND_ERRORS: u8 = 2;
/// `check` found no errors, but leaks.
const FOUND_LEAKS: u8 = 3;

/// Does what `args` say and gives the exit code.
pub(super) fn run(args: ImageArgs) -> u8 {
    let result = match args.command {
        Command::Create(args) => create(&args),
        Command::Info(args) => info(&args),
        Command::Convert(args) => convert(&args),
        Command::Commit(args) => commit(&args),
        Command::Check(args) => check(&args),
    };
    result.unwrap_or_else(|error| {
        let message = one_line(&error);
        say::on_stderr(&format!("mayfly: {message}\n"));
        let reason = match error.is_usage() {
            true => ExitReason::Usage { message },
            false => ExitReason::HostError { message },
        };
        reason.code()
    })
}

fn create(args: &CreateArgs) -> Result<u8, ImageError> {
    let options = args.options();
    let size = create::create(&args.file, &options)?;
    say::on_stdout(&format!(
        "'{}': {}, {}\n",
        args.file.display(),
        options.format,
        show::size(size)
    ));
    Ok(SUCCESS)
}

fn info(args: &InfoArgs) -> Result<u8, ImageError> {
    let info = info::info(&args.file, &args.rules())?;
    say::on_stdout(&if args.json {
        json(&info)
    } else {
        show::info(&info)
    });
    Ok(SUCCESS)
}

fn convert(args: &ConvertArgs) -> Result<u8, ImageError> {
    let options = args.options();
    let mut bar = Bar::new(&doing("converting", &args.source));
    let done = convert::convert(&args.source, &args.target, &options, &mut |done, all| {
        bar.show(done, all);
    });
    bar.clear();
    let done = done?;
    say::on_stdout(&format!(
        "'{}': {}, {}, of which {} are not zeros\n",
        args.target.display(),
        options.format,
        show::size(done.size),
        show::size(done.written)
    ));
    Ok(SUCCESS)
}

fn commit(args: &CommitArgs) -> Result<u8, ImageError> {
    let mut bar = Bar::new(&doing("committing", &args.file));
    let written = commit::commit(&args.file, &args.rules(), &mut |done, all| {
        bar.show(done, all);
    });
    bar.clear();
    let written = written?;
    say::on_stdout(&format!(
        "'{}': {} written to its backing file; it is empty now\n",
        args.file.display(),
        show::size(written)
    ));
    Ok(SUCCESS)
}

fn check(args: &CheckArgs) -> Result<u8, ImageError> {
    let mut bar = Bar::new(&doing("checking", &args.file));
    let report = check::check(&args.file, &args.rules(), &mut |done, all| {
        bar.show(done, all);
    });
    bar.clear();
    let report = report?;
    say::on_stdout(&if args.json {
        json(&report)
    } else {
        show::report(&args.file, &report)
    });
    Ok(found(&report))
}

fn found(report: &Report) -> u8 {
    match (report.errors, report.leaks) {
        (0, 0) => SUCCESS,
        (0, _) => FOUND_LEAKS,
        _ => FOUND_ERRORS,
    }
}

fn doing(what: &str, path: &Path) -> String {
    format!("{what} '{}'", path.display())
}

fn json(value: &impl serde::Serialize) -> String {
    // Paths that are not UTF-8 cannot be told in JSON.
    serde_json::to_string(value).map_or_else(
        |error| format!("{}\n", serde_json::json!({ "error": error.to_string() })),
        |object| format!("{object}\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Format;

    const DOCUMENT: &str = include_str!("../../../docs/exit-codes.md");

    #[test]
    fn the_exit_codes_are_those_that_are_documented() {
        let report = |errors, leaks| Report {
            format: Format::Qcow2,
            errors,
            leaks,
            data_clusters: 0,
            findings: Vec::new(),
        };
        assert_eq!(found(&report(0, 0)), 0);
        assert_eq!(found(&report(1, 0)), 2);
        assert_eq!(found(&report(1, 1)), 2);
        assert_eq!(found(&report(0, 1)), 3);
        for line in [
            "- 0: nothing is wrong",
            "- 2: errors were found",
            "- 3: leaks were found, but no errors",
        ] {
            assert!(DOCUMENT.contains(line), "docs/exit-codes.md lacks: {line}");
            let line = line.trim_start_matches("- ").replace(": ", "    ");
            assert!(args::CHECK_CODES.contains(&line), "--help lacks: {line}");
        }
    }
}
