//! Subcommands whose flags are set up only if they are called.

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// The flags `A` of a subcommand that `mayfly run` does without: what sets them up is
/// neither executed nor resident in its starts.
#[derive(Debug)]
pub(super) struct Later<A>(pub(super) A);

impl<A: Args> Args for Later<A> {
    fn augment_args(command: Command) -> Command {
        command.defer(A::augment_args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        command.defer(A::augment_args_for_update)
    }
}

impl<A: FromArgMatches> FromArgMatches for Later<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        A::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}
