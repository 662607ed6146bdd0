//! The flags of `mayfly image`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use crate::config::size;
use crate::image::convert::ConvertOptions;
use crate::image::create::{Backing, CreateOptions};
use crate::image::{Format, OpenRules};

/// Exit codes of `check`, for its help.
pub(super) const CHECK_CODES: &str = "\
Exit codes:
  0    nothing is wrong
  2    errors were found: data is lost, or will be when the image is written
  3    leaks were found, but no errors: space is lost
  244  the image could not be read or locked
  245  bad usage, or the image is not what it should be";

/// The flags of `mayfly image`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImageArgs {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What is done with images.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an empty image
    Create(CreateArgs),
    /// Show what an image is, what it costs and who has it
    Info(InfoArgs),
    /// Copy an image to a new one, leaving zeros out
    Convert(ConvertArgs),
    /// Write an overlay's data into its backing file and empty the overlay
    Commit(CommitArgs),
    /// Find out whether an image is consistent; nothing is changed
    #[command(after_help = CHECK_CODES)]
    Check(CheckArgs),
}

/// How an existing image is found.
#[derive(Debug, Args)]
pub(super) struct Finding {
    /// What the file is [default: qcow2 or vmdk if it is named so, else raw]
    #[arg(long, value_name = "FORMAT", value_parser = any_format())]
    format: Option<Format>,
    /// Follow backing files out of the image's directory: the image is trusted
    #[arg(long)]
    backing_any: bool,
}

impl Finding {
    fn rules(&self) -> OpenRules {
        OpenRules {
            format: self.format,
            format_option: "--format",
            backing_any: self.backing_any,
        }
    }
}

/// The flags of `create`.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The file to make
    pub(super) file: PathBuf,
    /// The disk's size, for example 10G; without it the backing file's
    #[arg(value_parser = size::parse)]
    size: Option<u64>,
    /// What the image will be [default: qcow2 if it is named so or has a backing file, else raw]
    #[arg(long, value_name = "FORMAT", value_parser = our_format())]
    format: Option<Format>,
    /// The file that shows through where nothing is written yet
    #[arg(long, value_name = "FILE")]
    backing: Option<PathBuf>,
    /// What the backing file is [default: qcow2 or vmdk if it is named so, else raw]
    #[arg(long, value_name = "FORMAT", value_parser = any_format(), requires = "backing")]
    backing_format: Option<Format>,
    /// Let the backing file, and its own, lie outside the image's directory
    #[arg(long, requires = "backing")]
    backing_any: bool,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

impl CreateArgs {
    pub(super) fn options(&self) -> CreateOptions {
        let of_name = match (Format::of_name(&self.file), &self.backing) {
            (Format::Raw, Some(_)) => Format::Qcow2,
            (format, _) => format,
        };
        let backing = self.backing.as_ref().map(|path| Backing {
            path: path.clone(),
            format: self.backing_format,
            anywhere: self.backing_any,
        });
        CreateOptions {
            size: self.size,
            format: self.format.unwrap_or(of_name),
            backing,
            force: self.force,
        }
    }
}

/// The flags of `info`.
#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// The image
    pub(super) file: PathBuf,
    #[command(flatten)]
    finding: Finding,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl InfoArgs {
    pub(super) fn rules(&self) -> OpenRules {
        self.finding.rules()
    }
}

/// The flags of `convert`.
#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// The image to read
    pub(super) source: PathBuf,
    /// The image to make
    pub(super) target: PathBuf,
    /// What the new image will be [default: qcow2 if it is named so, else raw]
    #[arg(long, value_name = "FORMAT", value_parser = our_format())]
    format: Option<Format>,
    /// What the source is [default: qcow2 or vmdk if it is named so, else raw]
    #[arg(long, value_name = "FORMAT", value_parser = any_format())]
    source_format: Option<Format>,
    /// Follow backing files out of the source's directory: the source is trusted
    #[arg(long)]
    backing_any: bool,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

impl ConvertArgs {
    pub(super) fn options(&self) -> ConvertOptions {
        ConvertOptions {
            source: OpenRules {
                format: self.source_format,
                format_option: "--source-format",
                backing_any: self.backing_any,
            },
            format: self.format.unwrap_or(Format::of_name(&self.target)),
            force: self.force,
        }
    }
}

/// The flags of `commit`.
#[derive(Debug, Args)]
pub(super) struct CommitArgs {
    /// The overlay
    pub(super) file: PathBuf,
    #[command(flatten)]
    finding: Finding,
}

impl CommitArgs {
    pub(super) fn rules(&self) -> OpenRules {
        self.finding.rules()
    }
}

/// The flags of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The image
    pub(super) file: PathBuf,
    #[command(flatten)]
    finding: Finding,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl CheckArgs {
    pub(super) fn rules(&self) -> OpenRules {
        self.finding.rules()
    }
}

/// The formats that can be read.
fn any_format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["raw", "qcow2", "vmdk"]).map(known)
}

/// The formats that can be written.
fn our_format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["raw", "qcow2"]).map(known)
}

fn known(name: String) -> Format {
    Format::from_name(&name).unwrap_or(Format::Raw)
}
