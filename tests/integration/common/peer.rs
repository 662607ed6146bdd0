//! The other end of a bare guest's network: a packet socket on the host's tap, which
//! counts, returns and sends frames as guest-images/bare/virtio_net.inc asks it to.
//!
//! The frames' type is the one for experiments, 0x88b5, and the byte after it says what
//! is to be done. Big TCP segments have that byte behind TCP's header.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// `struct virtio_net_hdr` as packet sockets have it, without the number of buffers.
const HEADER: usize = 10;
/// Bytes kept of a frame that is received, header included; the rest only counts.
const KEPT: usize = 2048;
/// Frames a system call.
const BATCH: usize = 64;
/// The largest frame that can be asked for, and the most of them at once.
const LONGEST: usize = 65_549;
const MOST: usize = 1 << 20;
/// Room for frames that were not received yet, in bytes of the kernel's own counting.
const ROOM: libc::c_int = 64 << 20;
/// How long a frame may wait while a flood comes in.
const FLOOD_PAUSE: Duration = Duration::from_micros(500);
/// How soon a peer sees that it is to end.
const ATTENTION: libc::timeval = libc::timeval {
    tv_sec: 0,
    tv_usec: 20_000,
};

const TYPE_AT: usize = 12;
const KIND_AT: usize = 14;
const TEST_TYPE: [u8; 2] = [0x88, 0xb5];
const IPV4_TYPE: [u8; 2] = [0x08, 0x00];
/// Ethernet, IPv4 and TCP.
const TCP_HEADERS: usize = 54;
/// What each piece of a big segment carries.
const PIECE: u16 = 1448;

/// Serves a device until it is dropped.
pub struct Peer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    tid: Option<libc::pid_t>,
}

#[derive(Debug, Default)]
struct Shared {
    end: AtomicBool,
    frames: AtomicU64,
    bytes: AtomicU64,
    pings: AtomicU64,
    forbidden: AtomicU64,
    lost: AtomicU64,
}

impl Peer {
    /// A peer at `device` of this thread's network namespace.
    #[track_caller]
    pub fn start(device: &str) -> Self {
        let socket = open(device).unwrap_or_else(|error| {
            panic!("cannot open a packet socket on '{device}' ({error}): that needs CAP_NET_RAW")
        });
        let shared = Arc::new(Shared::default());
        let server = Server {
            socket,
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new().name("peer".into());
        let (tid_to, tid) = mpsc::channel();
        let thread = thread.spawn(move || {
            // SAFETY: the call has no arguments and cannot fail.
            let _ = tid_to.send(unsafe { libc::gettid() });
            server.serve().expect("serve as a peer");
        });
        Self {
            shared,
            thread: Some(thread.expect("start a thread")),
            tid: tid.recv().ok(),
        }
    }

    /// Has what comes from here on go by the processor that this thread is on alone, and
    /// the peer go first there: frames that it was asked for are all there when a device
    /// looks, however busy the machine is.
    #[track_caller]
    pub fn goes_first(&self) {
        let tid = self.tid.expect("a peer that runs");
        let first = libc::sched_param { sched_priority: 1 };
        // SAFETY: both calls take a structure of their own kind, which outlives them, and
        // concern scheduling alone.
        let done = unsafe {
            let mut cpus: libc::cpu_set_t = zeroed();
            libc::CPU_SET(
                usize::try_from(libc::sched_getcpu()).unwrap_or(0),
                &mut cpus,
            );
            let size = size_of::<libc::cpu_set_t>();
            [
                libc::sched_setaffinity(0, size, &cpus),
                libc::sched_setaffinity(tid, size, &cpus),
                libc::sched_setscheduler(tid, libc::SCHED_FIFO, &first),
            ]
        };
        assert_eq!(done, [0; 3], "{}", io::Error::last_os_error());
    }

    /// Frames that the guest sent for their own sake.
    pub fn frames(&self) -> u64 {
        self.shared.frames.load(Ordering::SeqCst)
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Frames that were returned.
    pub fn pings(&self) -> u64 {
        self.shared.pings.load(Ordering::SeqCst)
    }

    /// Frames that no device ought to have let pass.
    pub fn forbidden(&self) -> u64 {
        self.shared.forbidden.load(Ordering::SeqCst)
    }

    /// Frames that came faster than they could be looked at; only their number is known,
    /// and only after a moment's quiet.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Waits until so many frames have come; false if they have not after a while.
    pub fn has_got(&self, frames: u64) -> bool {
        for _ in 0..500 {
            if self.frames() + self.lost() >= frames {
                return true;
            }
            thread::sleep(Duration::from_millis(4));
        }
        false
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            ended.transpose().expect("the peer's thread");
        }
    }
}

struct Server {
    socket: OwnedFd,
    shared: Arc<Shared>,
}

impl Server {
    fn serve(&self) -> io::Result<()> {
        let mut incoming = Messages::new(BATCH, KEPT);
        while !self.shared.end.load(Ordering::SeqCst) {
            let count = match incoming.receive(&self.socket) {
                Ok(count) => count,
                // Nothing came for a while; or the device went down, or away.
                Err(error) if is_passing(&error) => {
                    let lost = lost_since(&self.socket)?;
                    self.shared.lost.fetch_add(lost, Ordering::SeqCst);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut asked = false;
            for index in 0..count {
                let (kept, length) = incoming.received(index);
                asked |= self.take(kept, length)?;
            }
            if count == BATCH && !asked {
                // To wake up for each of a flood's frames would slow its sender down.
                thread::sleep(FLOOD_PAUSE);
            }
        }
        Ok(())
    }

    /// Does what a frame asks for; whether it did. `length` has the header's with it.
    fn take(&self, kept: &[u8], length: usize) -> io::Result<bool> {
        let Some(frame) = kept.get(HEADER..) else {
            return Ok(false);
        };
        let big = frame.get(TYPE_AT..KIND_AT) == Some(&IPV4_TYPE);
        let kind = match frame.get(TYPE_AT..KIND_AT) {
            Some(kind) if kind == TEST_TYPE => frame.get(KIND_AT),
            Some(_) if big => frame.get(TCP_HEADERS),
            _ => None,
        };
        match kind {
            Some(b'D') => {
                self.shared.frames.fetch_add(1, Ordering::SeqCst);
                let bytes = (length - HEADER) as u64;
                self.shared.bytes.fetch_add(bytes, Ordering::SeqCst);
                Ok(false)
            }
            Some(b'P') if !big && length == kept.len() => {
                self.shared.pings.fetch_add(1, Ordering::SeqCst);
                let mut answer = vec![0; HEADER];
                answer.extend(answer_to(frame, b'p'));
                self.send(&answer, 1)?;
                Ok(true)
            }
            Some(b'Q') if !big => {
                let word = |at: usize| {
                    let bytes = frame.get(at..at + 4)?;
                    Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
                };
                let words = word(16).zip(word(20)).zip(word(24));
                if let Some(((count, size), flags)) = words {
                    let size = size.min(LONGEST);
                    let message = if flags & 1 == 0 {
                        data_frame(frame, size)
                    } else {
                        segment(frame, size)
                    };
                    self.send(&message, count.min(MOST))?;
                }
                Ok(true)
            }
            Some(b'B') => {
                self.shared.forbidden.fetch_add(1, Ordering::SeqCst);
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Sends the same message `count` times; what the device does not take is lost.
    fn send(&self, message: &[u8], count: usize) -> io::Result<()> {
        let mut outgoing = Messages::repeating(message, BATCH);
        let mut left = count;
        while left > 0 {
            match outgoing.send(&self.socket, left.min(BATCH)) {
                Ok(sent) => left -= sent,
                Err(error) if is_passing(&error) => left -= 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a device that is full, down, too small or gone explains it.
fn is_passing(error: &io::Error) -> bool {
    let passing = [
        libc::EAGAIN,
        libc::EINTR,
        libc::ENETDOWN,
        libc::ENOBUFS,
        libc::ENXIO,
        libc::ENODEV,
        libc::EMSGSIZE,
        libc::EINVAL,
        libc::EIO,
    ];
    error
        .raw_os_error()
        .is_some_and(|number| passing.contains(&number))
}

/// `frame` back to where it came from, as one of another kind.
fn answer_to(frame: &[u8], kind: u8) -> Vec<u8> {
    let mut answer = [&frame[6..12], &frame[..6], &frame[12..]].concat();
    answer[KIND_AT] = kind;
    answer
}

/// A message of a frame of `size` bytes for the sender of `frame`; its bytes after the
/// kind count up.
fn data_frame(frame: &[u8], size: usize) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message.extend(answer_to(&frame[..=KIND_AT], b'd'));
    message.extend((KIND_AT + 1..size.max(KIND_AT + 1)).map(|place| place as u8));
    message
}

/// A message of a TCP segment of `size` bytes in all, to be cut up, for the sender of
/// `frame`.
fn segment(frame: &[u8], size: usize) -> Vec<u8> {
    let size = size.max(TCP_HEADERS + 1);
    // NEEDS_CSUM, TCPV4, where the headers end, the pieces' size, the checksum's place.
    let mut message = vec![1, 1];
    for half in [TCP_HEADERS as u16, PIECE, 34, 16] {
        message.extend(half.to_le_bytes());
    }
    message.extend(&answer_to(&frame[..=KIND_AT], 0)[..TYPE_AT]);
    message.extend(IPV4_TYPE);
    message.extend([0x45, 0]);
    message.extend(((size - KIND_AT) as u16).to_be_bytes());
    message.extend([0, 0, 0, 0, 64, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend([0; 8]);
    message.extend([0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff]);
    message.extend([0; 4]);
    message.push(b'd');
    message.resize(HEADER + size, 0);
    message
}

/// Buffers and headers for one `recvmmsg` or `sendmmsg`.
struct Messages {
    /// Where the headers' vectors point; not touched while a call runs.
    bytes: Vec<u8>,
    each: usize,
    /// Boxed with the headers that point to them.
    _vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Messages {
    /// Room for `count` messages of `each` bytes.
    fn new(count: usize, each: usize) -> Self {
        Self::over(vec![0; count * each], each, count, each)
    }

    /// The same message `count` times.
    fn repeating(message: &[u8], count: usize) -> Self {
        Self::over(message.to_vec(), message.len(), count, 0)
    }

    /// `count` messages of `each` bytes, one every `distance`.
    fn over(mut bytes: Vec<u8>, each: usize, count: usize, distance: usize) -> Self {
        assert!(count > 0 && (count - 1) * distance + each <= bytes.len());
        let start = bytes.as_mut_ptr();
        let mut vectors: Vec<libc::iovec> = (0..count)
            .map(|index| libc::iovec {
                iov_base: start.wrapping_add(index * distance).cast(),
                iov_len: each,
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all zeroes are a message header without name and control data.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self {
            bytes,
            each,
            _vectors: vectors,
            headers,
        }
    }

    /// Waits for messages; how many there are.
    fn receive(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        let flags = libc::MSG_WAITFORONE | libc::MSG_TRUNC;
        let count = self.headers.len() as libc::c_uint;
        // SAFETY: the headers point to vectors and those to bytes that live as long as
        // `self`, which is borrowed mutably.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                flags as _,
                ptr::null_mut(),
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// What was kept of a message that was received, and its whole length.
    fn received(&self, index: usize) -> (&[u8], usize) {
        let length = self.headers[index].msg_len as usize;
        let start = index * self.each;
        (&self.bytes[start..start + length.min(self.each)], length)
    }

    /// Sends the first `count`; how many were sent.
    fn send(&mut self, socket: &OwnedFd, count: usize) -> io::Result<usize> {
        let count = count.min(self.headers.len()) as libc::c_uint;
        // SAFETY: as in `receive`.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// A packet socket for all that the guest behind `device` sends.
fn open(device: &str) -> io::Result<OwnedFd> {
    let all = u16::to_be(libc::ETH_P_ALL as u16);
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call has no pointers. Without a protocol nothing is received yet.
    let socket = match unsafe { libc::socket(libc::AF_PACKET, kind, 0) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new and nobody else's.
        socket => unsafe { OwnedFd::from_raw_fd(socket) },
    };
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1)?;
    set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)?;
    // Only root of the first user namespace may have that much.
    let _ = set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &ROOM);
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &ATTENTION)?;
    // SAFETY: all zeroes are a valid address of this kind.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index_of(device)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let pointer: *const libc::sockaddr_ll = &address;
    // SAFETY: the address is valid for so many bytes.
    match unsafe { libc::bind(socket.as_raw_fd(), pointer.cast(), length) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Not in the libc crate.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

fn set<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let value: *const T = value;
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is valid for so many bytes.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Frames that did not fit in the socket's buffer since this was last asked.
fn lost_since(socket: &OwnedFd) -> io::Result<u64> {
    let mut counts: libc::tpacket_stats = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
    let pointer: *mut libc::tpacket_stats = &mut counts;
    // SAFETY: the counts are valid for so many bytes.
    let got =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, pointer.cast(), &mut length) };
    match got {
        0 => Ok(u64::from(counts.tp_drops)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn index_of(device: &str) -> io::Result<i32> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: the name ends in a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => i32::try_from(index).map_err(io::Error::other),
    }
}
