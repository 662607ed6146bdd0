//! The command line: flags to configuration, outcomes to lines and exit codes.
//!
//! | file              | subject                                       |
//! |-------------------|-----------------------------------------------|
//! | `run.rs`          | `mayfly run`                                  |
//! | `doctor.rs`       | `mayfly doctor`                               |
//! | `image/`          | `mayfly image`                                |
//! | `default_guest.rs`| the guest that runs without `--kernel`        |
//! | `usage.rs`        | bad usage as one line                         |
//! | `exit_codes.rs`   | the table of exit codes                       |
//! | `logging.rs`      | `-v`                                          |
//! | `say.rs`          | the last words on stdout and stderr           |

mod default_guest;
mod doctor;
mod exit_codes;
mod flood;
mod image;
mod later;
mod logging;
mod run;
mod say;
mod usage;

use std::ffi::OsString;
use std::time::Instant;

use clap::{Parser, Subcommand};

use self::later::Later;

/// Boots disposable virtual machines on Linux/KVM.
#[derive(Debug, Parser)]
#[command(name = "mayfly", version, about)]
#[command(after_help = exit_codes::table())]
#[command(subcommand_required = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a VM and wait for its end
    Run(Box<run::RunArgs>),
    /// Tell whether this host can run VMs
    Doctor(Later<doctor::DoctorArgs>),
    /// Make, show, convert, commit and check disk images
    Image(Later<image::ImageArgs>),
}

/// What a shell takes for success.
const SUCCESS: u8 = 0;

/// Does what `args` (the program's name first) say and gives the exit code.
/// `started` is when the process started, as near as can be told.
pub fn main(args: impl IntoIterator<Item = OsString>, started: Instant) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    match Cli::try_parse_from(&args) {
        Ok(Cli { command }) => match command {
            Command::Run(args) => run::run(*args, started),
            Command::Doctor(args) => doctor::run(&args.0),
            Command::Image(args) => image::run(args.0),
        },
        Err(error) if !error.use_stderr() => {
            say::on_stdout(&error.render().to_string());
            SUCCESS
        }
        Err(error) => usage::report(&error, &args, started),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_shows_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("240") && help.contains("kernel-panic"));
        let mut command = Cli::command();
        let run = command.find_subcommand_mut("run").unwrap();
        assert!(run.render_help().to_string().contains("242"));
    }
}
