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

    /// Whether the port was told that the driver takes something that it does not take
    /// with `guest`: frames that were sent before may be of that kind.
    pub fn narrows(&self, guest: Offloads) -> bool {
        self.offloads.is_some_and(|told| told.and(guest) != told)
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

#[cfg(test)]
mod tests {
    use super::super::testing::{ALL, Answer, link, plain};
    use super::*;
    use crate::memory::GuestRam;

    fn buffers() -> IoBuffers {
        let mut buffers = IoBuffers::new(GuestRam::new(1 << 20).unwrap(), 4);
        buffers.push(0x1000, 256).unwrap();
        buffers
    }

    #[test]
    fn a_port_is_used_while_it_is_enabled_and_not_gone() {
        let (port, peer) = link();
        let mut end = Endpoint::new(Box::new(port));
        let (buffers, mut spill) = (buffers(), vec![0; 1 << 17]);
        let header = [0; HEADER_LEN];
        peer.send(&plain(&[1; 60]));
        for (enabled, sent, received) in [
            (None, Sent::Dropped, Received::Nothing),
            (Some(true), Sent::Whole, Received::Frame(72)),
            (Some(false), Sent::Dropped, Received::Nothing),
        ] {
            if let Some(enabled) = enabled {
                end.set_enabled(enabled).unwrap();
                assert_eq!(peer.shared().enabled, Some(enabled));
            }
            assert_eq!(end.send(&header, &buffers).unwrap(), sent);
            assert_eq!(end.receive(&buffers, &mut spill).unwrap(), received);
            assert_eq!(peer.take().is_some(), sent == Sent::Whole);
        }
        end.set_enabled(true).unwrap();
        peer.answer(Answer::Gone);
        assert!(end.receive(&buffers, &mut spill).is_err());
        end.lose();
        assert!(end.is_gone());
        peer.shared().enabled = None;
        end.set_enabled(false).unwrap();
        assert_eq!(peer.shared().enabled, None);
        assert_eq!(end.send(&header, &buffers).unwrap(), Sent::Dropped);
        assert_eq!(end.system_calls(), 3);
    }

    #[test]
    fn what_the_driver_takes_is_told_once_and_narrows_when_something_goes() {
        let (port, peer) = link();
        let mut end = Endpoint::new(Box::new(port));
        assert!(!end.narrows(Offloads::default()));
        end.set_offloads(Offloads::default()).unwrap();
        assert!(!end.narrows(ALL));
        end.set_offloads(ALL).unwrap();
        assert_eq!(peer.shared().offloads.take(), Some(ALL));
        end.set_offloads(ALL).unwrap();
        assert_eq!(peer.shared().offloads, None);
        assert!(!end.narrows(ALL));
        for less in [
            Offloads {
                checksum: false,
                ..ALL
            },
            Offloads { tso4: false, ..ALL },
            Offloads { tso6: false, ..ALL },
            Offloads { ecn: false, ..ALL },
            Offloads { uso: false, ..ALL },
        ] {
            assert!(end.narrows(less));
        }
    }
}
