//! What goes wrong with a disk on the host, told once for each kind.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::request::Operation;
use super::slots::Request;
use crate::one_line::one_line;

/// Kinds told at most, whatever the host comes up with.
const MOST_KINDS: usize = 32;

/// Says of each kind of failure of a disk the first in the log. The guest is told of
/// each, and may provoke as many as it likes.
pub struct Report {
    disk: String,
    told: Mutex<Vec<(&'static str, Option<i32>)>>,
}

impl Report {
    /// Nothing was told of disk `disk`.
    pub fn new(disk: &str) -> Self {
        Self {
            disk: disk.to_owned(),
            told: Mutex::new(Vec::new()),
        }
    }

    /// Carrying out `request` has failed.
    pub fn failed(&self, request: &Request, error: &io::Error) {
        let (verb, place) = match request.operation {
            Operation::Read { offset } => ("read from", Some(offset)),
            Operation::Write { offset } => ("write to", Some(offset)),
            Operation::Flush => ("flush", None),
            Operation::GetId => ("name", None),
            Operation::Discard(_) => ("discard a range of", None),
            Operation::WriteZeroes(_) => ("write zeros to", None),
        };
        if !self.is_new(verb, error.raw_os_error()) {
            return;
        }
        let place = place.map_or(String::new(), |offset| {
            format!(" ({} bytes at {offset})", request.total())
        });
        log::error!(
            "cannot {verb} disk {}{place}: {}; the guest gets an I/O error, \
             and the next ones of this kind are not told",
            self.disk,
            one_line(error),
        );
    }

    fn is_new(&self, verb: &'static str, errno: Option<i32>) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = (verb, errno);
        let new = told.len() < MOST_KINDS && !told.contains(&kind);
        if new {
            told.push(kind);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once() {
        let report = Report::new("vda");
        assert!(report.is_new("write to", Some(libc::ENOSPC)));
        assert!(!report.is_new("write to", Some(libc::ENOSPC)));
        assert!(report.is_new("write to", Some(libc::EIO)));
        assert!(report.is_new("read from", Some(libc::EIO)));
        assert!(report.is_new("read from", None));
        for errno in 0..1000 {
            report.is_new("flush", Some(errno));
        }
        assert!(!report.is_new("flush", Some(2000)));
    }
}
