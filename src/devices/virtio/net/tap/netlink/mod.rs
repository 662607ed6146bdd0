//! Sockets of rtnetlink: one to ask and one to be told.

mod message;

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub(super) use message::Interface;
use message::{Message, Request, messages};

/// Room for what the kernel sends at once: it keeps below 32 KiB.
const BUFFER_LEN: usize = 32 << 10;

/// Messages looked at before the answer has to be among them.
const MOST_BEFORE_ANSWER: usize = 16;

/// Asks about interfaces of the network namespace in which it was opened.
pub(super) struct Questions {
    socket: File,
    buffer: Vec<u8>,
}

/// Is told of all changes of interfaces.
pub(super) struct News {
    socket: File,
    buffer: Vec<u8>,
}

/// What [`News`] has to tell.
#[derive(Debug)]
pub(super) enum Change {
    /// An interface is now like this.
    Is(Interface),
    /// An interface is no longer there.
    WasRemoved(Interface),
    /// Something was lost: everything may have changed.
    Anything,
}

impl Questions {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: socket()?,
            buffer: vec![0; BUFFER_LEN],
        })
    }

    /// The interface called `name`; None if there is none.
    pub(super) fn by_name(&mut self, name: &str) -> io::Result<Option<Interface>> {
        self.interface(Request::get_by_name(name))
    }

    /// The interface with the number `index`; None if there is none.
    pub(super) fn by_index(&mut self, index: u32) -> io::Result<Option<Interface>> {
        self.interface(Request::get(index))
    }

    /// Switches an interface on, with `mtu` if there is one.
    pub(super) fn bring_up(&mut self, index: u32, mtu: Option<u16>) -> io::Result<()> {
        match self.ask(Request::bring_up(index, mtu))? {
            Message::Answer(0) => Ok(()),
            Message::Answer(errno) => Err(message::error(errno)),
            _ => Err(message::error(libc::EPROTO)),
        }
    }

    fn interface(&mut self, request: Request) -> io::Result<Option<Interface>> {
        match self.ask(request)? {
            Message::Is(interface) => Ok(Some(interface)),
            Message::Answer(libc::ENODEV) => Ok(None),
            Message::Answer(errno) => Err(message::error(errno)),
            _ => Err(message::error(libc::EPROTO)),
        }
    }

    /// The kernel answers before the write returns, so nothing has to be waited for.
    fn ask(&mut self, request: Request) -> io::Result<Message> {
        self.socket.write_all(&request.into_bytes())?;
        for _ in 0..MOST_BEFORE_ANSWER {
            let len = self.socket.read(&mut self.buffer)?;
            let received = self.buffer.get(..len).unwrap_or_default();
            let mut all = messages(received);
            if let Some(answer) = all.find(|message| *message != Message::Other) {
                return Ok(answer);
            }
        }
        Err(message::error(libc::EPROTO))
    }
}

impl News {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket()?;
        subscribe(socket.as_fd())?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_LEN],
        })
    }

    /// Readable when there is some.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Hands what the kernel has sent at once to `each`; false if there is nothing.
    pub(super) fn take(&mut self, mut each: impl FnMut(Change)) -> bool {
        let len = match self.socket.read(&mut self.buffer) {
            Ok(len) => len,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                each(Change::Anything);
                return true;
            }
            Err(error) => return error.kind() == io::ErrorKind::Interrupted,
        };
        for message in messages(self.buffer.get(..len).unwrap_or_default()) {
            match message {
                Message::Is(interface) => each(Change::Is(interface)),
                Message::WasRemoved(interface) => each(Change::WasRemoved(interface)),
                Message::Answer(_) | Message::Other => {}
            }
        }
        true
    }
}

/// A file, because reading and writing it is all that is done with it.
fn socket() -> io::Result<File> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes numbers and returns a descriptor or an error.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Has the kernel send what happens to interfaces.
fn subscribe(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the structure is made of numbers.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = libc::RTMGRP_LINK.cast_unsigned();
    let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes, all of `address`, which outlives the call.
    let answer: c_int = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
