//! A file descriptor of our own, or one of the process's three.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the console reads from or writes to.
#[derive(Debug)]
pub enum Descriptor {
    /// Closed when this is dropped.
    Owned(OwnedFd),
    /// Standard input or output, which stay open as long as the process lives.
    Standard(BorrowedFd<'static>),
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Owned(fd) => fd.as_fd(),
            Self::Standard(fd) => *fd,
        }
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self::Owned(fd)
    }
}
