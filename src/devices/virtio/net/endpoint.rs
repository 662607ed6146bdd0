//! A queue pair's end of the link, as its thread sees it: a port that can be gone, and is
//! told nothing twice.

use std::io;
use std::os::fd::BorrowedFd;

use super::link::{Gone, HEADER_LEN, Offloads, Port, Received, Sent};
use crate::memory::IoBuffers;

/// A port. What is sent while it is gone or the pair is not in use is dropped, and
/// nothing is received.
pub struct Endpoint {
    port: Box<dyn Port>,
    gone: bool,
    /// What the port was told last, if anything.
    enabled: Option<bool>,
    offloads: Option<Offloads>,
}

impl Endpoint {
    /// A port that was told nothing yet.
    pub fn new(port: Box<dyn Port>) -> Self {
        Self {
            port,
            gone: false,
            enabled: None,
            offloads: None,
        }
    }

    /// The port is of no use any more.
    pub fn lose(&mut self) {
        self.gone = true;
    }

    /// Whether it is so.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    fn is_open(&self) -> bool {
        !self.gone && self.enabled == Some(true)
    }
}

impl Port for Endpoint {
    fn fd(&self) -> BorrowedFd<'_> {
        self.port.fd()
    }

    fn send(&mut self, header: &[u8; HEADER_LEN], frame: &IoBuffers) -> Result<Sent, Gone> {
        if !self.is_open() {
            return Ok(Sent::Dropped);
        }
        self.port.send(header, frame)
    }

    fn receive(&mut self, buffers: &IoBuffers, spill: &mut [u8]) -> Result<Received, Gone> {
        if !self.is_open() {
            return Ok(Received::Nothing);
        }
        self.port.receive(buffers, spill)
    }

    fn set_offloads(&mut self, guest: Offloads) -> io::Result<()> {
        if self.gone || self.offloads == Some(guest) {
            return Ok(());
        }
        self.port.set_offloads(guest)?;
        self.offloads = Some(guest);
        Ok(())
    }

    fn set_enabled(&mut self, enabled: bool) -> io::Result<()> {
        if self.gone || self.enabled == Some(enabled) {
            return Ok(());
        }
        self.port.set_enabled(enabled)?;
        self.enabled = Some(enabled);
        Ok(())
    }

    fn system_calls(&self) -> u64 {
        self.port.system_calls()
    }
}
