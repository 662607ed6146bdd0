//! A disk with a volatile cache, for a host that may lose its power: an NBD server
//! (the protocol is in the NBD project's doc/proto.md) whose writes last only after a
//! flush. QEMU is its client.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const FIXED_NEWSTYLE: u16 = 1;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 1 << 31 | 1;
const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const INFO_EXPORT: u16 = 0;
/// HAS_FLAGS, SEND_FLUSH, SEND_FUA: a cache, and ways to write through it.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 3;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const FUA: u16 = 1;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
/// A request may be this long, in bytes.
const LONGEST: usize = 64 << 20;

/// The disk's two states.
#[derive(Debug, Default)]
pub struct Media {
    /// What a reader sees.
    current: Vec<u8>,
    /// What is there after a power cut.
    durable: Vec<u8>,
    /// Where the two may differ.
    unflushed: Vec<Range<usize>>,
    /// What cannot be read or written.
    broken: Range<usize>,
    /// Flushes so far.
    flushes: usize,
}

/// The server, for as long as its client is there.
pub struct VolatileDisk {
    socket: PathBuf,
    media: Arc<Mutex<Media>>,
}

impl VolatileDisk {
    /// Serves a disk with this content on a socket in `folder`.
    pub fn serve(folder: &Path, content: Vec<u8>) -> Self {
        let socket = folder.join("nbd");
        let listener = UnixListener::bind(&socket).expect("listen on a socket");
        let media = Arc::new(Mutex::new(Media {
            durable: content.clone(),
            current: content,
            ..Media::default()
        }));
        let shared = Arc::clone(&media);
        thread::spawn(move || {
            for client in listener.incoming() {
                // A client that is killed breaks off in the middle of anything.
                let _ = client.and_then(|client| talk(client, &shared));
            }
        });
        Self { socket, media }
    }

    /// Makes a part of the disk bad: all that touches it fails.
    pub fn break_range(&self, range: Range<usize>) {
        self.media().broken = range;
    }

    /// Options of QEMU's `-drive`. The host's own cache is what a disk is asked to
    /// flush; QEMU adds none.
    pub fn drive(&self) -> String {
        format!(
            "file=nbd+unix:///?socket={},cache=none",
            self.socket.display()
        )
    }

    /// What a reader saw at last.
    pub fn before_power_cut(&self) -> Vec<u8> {
        self.media().current.clone()
    }

    /// What a power cut leaves behind.
    pub fn after_power_cut(&self) -> Vec<u8> {
        self.media().durable.clone()
    }

    /// Flushes so far.
    pub fn flushes(&self) -> usize {
        self.media().flushes
    }

    fn media(&self) -> MutexGuard<'_, Media> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Media {
    fn checked(&self, offset: u64, length: usize) -> Result<Range<usize>, u32> {
        let start = usize::try_from(offset).map_err(|_| EINVAL)?;
        let range = start..start.checked_add(length).ok_or(EINVAL)?;
        if range.end > self.current.len() {
            return Err(EINVAL);
        }
        let broken = range.start < self.broken.end && self.broken.start < range.end;
        if broken { Err(EIO) } else { Ok(range) }
    }

    fn write(&mut self, offset: u64, data: &[u8], through: bool) -> Result<(), u32> {
        let range = self.checked(offset, data.len())?;
        self.current[range.clone()].copy_from_slice(data);
        if through {
            self.durable[range].copy_from_slice(data);
        } else {
            self.unflushed.push(range);
        }
        Ok(())
    }

    fn flush(&mut self) {
        for range in self.unflushed.drain(..) {
            self.durable[range.clone()].copy_from_slice(&self.current[range]);
        }
        self.flushes += 1;
    }
}

/// Serves one client to its end.
fn talk(mut client: UnixStream, media: &Mutex<Media>) -> io::Result<()> {
    let size = lock(media).current.len() as u64;
    if !negotiate(&mut client, size)? {
        return Ok(());
    }
    loop {
        if take::<4>(&mut client)? != REQUEST.to_be_bytes() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let flags = u16::from_be_bytes(take(&mut client)?);
        let kind = u16::from_be_bytes(take(&mut client)?);
        let cookie = take::<8>(&mut client)?;
        let offset = u64::from_be_bytes(take(&mut client)?);
        let length = u32::from_be_bytes(take(&mut client)?) as usize;
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut data = vec![0; if kind == WRITE { length } else { 0 }];
        client.read_exact(&mut data)?;
        let result = {
            let mut media = lock(media);
            match kind {
                READ => media.checked(offset, length).map(|range| {
                    data.extend_from_slice(&media.current[range]);
                }),
                WRITE => media.write(offset, &data, flags & FUA != 0),
                FLUSH => {
                    media.flush();
                    Ok(())
                }
                DISCONNECT => return Ok(()),
                _ => Err(EINVAL),
            }
        };
        let mut reply = REPLY.to_be_bytes().to_vec();
        reply.extend(result.err().unwrap_or(0).to_be_bytes());
        reply.extend(cookie);
        if kind == READ && result.is_ok() {
            reply.append(&mut data);
        }
        client.write_all(&reply)?;
    }
}

/// The handshake; false if the client wants nothing more.
fn negotiate(client: &mut UnixStream, size: u64) -> io::Result<bool> {
    client.write_all(GREETING)?;
    client.write_all(&FIXED_NEWSTYLE.to_be_bytes())?;
    take::<4>(client)?;
    loop {
        take::<8>(client)?;
        let option = take::<4>(client)?;
        let length = u32::from_be_bytes(take(client)?) as usize;
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // The export's name, and what the client would like to know: there is one.
        client.read_exact(&mut vec![0; length])?;
        let mut reply = |kind: u32, data: &[u8]| {
            let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
            bytes.extend(option);
            bytes.extend(kind.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(data);
            client.write_all(&bytes)
        };
        match u32::from_be_bytes(option) {
            OPTION_GO => {
                let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                info.extend(size.to_be_bytes());
                info.extend(EXPORT_FLAGS.to_be_bytes());
                reply(REPLY_INFO, &info)?;
                reply(REPLY_ACK, &[])?;
                return Ok(true);
            }
            OPTION_ABORT => {
                reply(REPLY_ACK, &[])?;
                return Ok(false);
            }
            // Structured replies among them: the client goes on without.
            _ => reply(REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn take<const N: usize>(client: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn lock(media: &Mutex<Media>) -> MutexGuard<'_, Media> {
    media.lock().unwrap_or_else(PoisonError::into_inner)
}
