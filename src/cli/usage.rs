//! Bad usage as one helpful line.

use std::error::Error;
use std::ffi::OsString;
use std::time::Instant;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::one_line::one_line;
use crate::vm::Report;
use crate::vm::exit::ExitReason;

/// Tells the user what is wrong with `args`, in JSON as well if they ask for it.
pub(super) fn report(error: &clap::Error, args: &[OsString], started: Instant) -> u8 {
    let json = args.iter().any(|arg| arg == "--json");
    let reason = ExitReason::Usage {
        message: squeeze(error, args),
    };
    super::run::tell(&Report::of_failure(reason, started), json)
}

/// Makes one line of clap's many, and says where help is.
fn squeeze(error: &clap::Error, args: &[OsString]) -> String {
    let what = match (error.kind(), error.source()) {
        // Our own parsers say all that is to be said.
        (ErrorKind::ValueValidation, Some(cause)) => return one_line(cause),
        (ErrorKind::MissingSubcommand, _)
        | (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            return match command(args) {
                "mayfly" => "a command is missing; try 'mayfly run' or 'mayfly --help'".to_owned(),
                command => format!("a command is missing; try '{command} --help'"),
            };
        }
        _ => first_paragraph(&error.render().to_string()),
    };
    let tip = match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(similar)) => format!(" (did you mean '{similar}'?)"),
        _ => String::new(),
    };
    format!("{what}{tip}; try '{} --help'", command(args))
}

/// What clap says before its hints, without the word that we replace.
fn first_paragraph(text: &str) -> String {
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let joined = lines.collect::<Vec<_>>().join(" ");
    joined.strip_prefix("error: ").unwrap_or(&joined).to_owned()
}

/// The command whose help would help: the one that was called, if it is one.
fn command(args: &[OsString]) -> &'static str {
    match args.get(1).and_then(|arg| arg.to_str()) {
        Some("run") => "mayfly run",
        Some("doctor") => "mayfly doctor",
        Some("image") => "mayfly image",
        _ => "mayfly",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn line(args: &[&str]) -> String {
        let args = std::iter::once(&"mayfly").chain(args);
        let args: Vec<OsString> = args.map(OsString::from).collect();
        squeeze(&Cli::try_parse_from(&args).unwrap_err(), &args)
    }

    #[test]
    fn each_mistake_has_one_line() {
        assert_eq!(
            line(&[]),
            "a command is missing; try 'mayfly run' or 'mayfly --help'"
        );
        assert_eq!(
            line(&["image"]),
            "a command is missing; try 'mayfly image --help'"
        );
        assert_eq!(
            line(&["run", "--memroy", "1G"]),
            "unexpected argument '--memroy' found (did you mean '--memory'?); try 'mayfly run --help'"
        );
        assert_eq!(
            line(&["walk"]),
            "unrecognized subcommand 'walk'; try 'mayfly --help'"
        );
        assert_eq!(
            line(&["run", "--memory", "lots"]),
            "'lots' is not a size; write for example 512M, 2G or 1GiB"
        );
        assert_eq!(
            line(&["run", "--cpus", "-1"]),
            "--cpus takes a number, not '-1'"
        );
        assert_eq!(
            line(&["run", "--serial", "file="]),
            "the path of the serial file is empty; give a file name"
        );
        assert_eq!(
            line(&["run", "--cmdline", "a", "--cmdline-only", "b"]),
            "the argument '--cmdline <STRING>' cannot be used with '--cmdline-only <STRING>'; try 'mayfly run --help'"
        );
        assert_eq!(
            line(&["run", "--kernel"]),
            "a value is required for '--kernel <FILE>' but none was supplied; try 'mayfly run --help'"
        );
        assert_eq!(
            line(&["doctor", "--fix"]),
            "unexpected argument '--fix' found; try 'mayfly doctor --help'"
        );
    }
}
