//! Why there is no user network, in words for the user.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// Why passt does not serve. Every variant is one line for the user; the operating
/// system's own words, where there are any, are the source.
#[derive(Debug, Error)]
pub enum UserError {
    /// The program is not installed.
    #[error(
        "cannot find 'passt', which a user network needs: install it (apt install passt), or use --net tap=NAME"
    )]
    Missing,
    /// The program cannot be run.
    #[error("cannot start 'passt'")]
    Start(#[source] io::Error),
    /// It has ended at once.
    #[error("'passt' cannot make the user network: {said}")]
    Refused {
        /// Its own words, or how it ended.
        said: String,
    },
    /// It neither serves nor ends.
    #[error("'passt' is not ready after {} seconds{}", after.as_secs(), hint(said))]
    NotReady {
        /// How long it was waited for.
        after: Duration,
        /// Its own words, if it has said something.
        said: Option<String>,
    },
    /// There are no descriptors for the socket or the pipes.
    #[error("cannot make the socket to 'passt'")]
    Socket(#[source] io::Error),
}

fn hint(said: &Option<String>) -> String {
    said.as_ref()
        .map_or_else(String::new, |said| format!(": {said}"))
}
