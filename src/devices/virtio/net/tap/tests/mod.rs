//! Tests with real taps, in network namespaces of their own. They need root.

mod existing;
mod frames;
mod inherited;
mod new;
mod watch;

use super::testing::{self, eventually};
use super::{OpenTap, TapError, TapOptions, open};
use crate::one_line::one_line;

fn error(options: &TapOptions) -> TapError {
    match open(options) {
        Ok(tap) => panic!("'{}' was opened with {options:?}", tap.name),
        Err(error) => error,
    }
}

fn line(options: &TapOptions) -> String {
    one_line(&error(options))
}

fn opened(options: &TapOptions) -> OpenTap {
    let mut outcome = open(options);
    eventually("the tap remains busy", || {
        if matches!(outcome, Err(TapError::Busy(_))) {
            outcome = open(options);
        }
        !matches!(outcome, Err(TapError::Busy(_)))
    });
    outcome.unwrap_or_else(|error| panic!("{}", one_line(&error)))
}
