//! The system calls of `/dev/net/tun` (Linux, `Documentation/networking/tuntap.rst` and
//! `include/uapi/linux/if_tun.h`), each as a safe function.

use std::ffi::{c_int, c_short, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::super::link::Offloads;

const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const TUNGETIFF: c_ulong = 0x8004_54d2;
const TUNSETVNETHDRSZ: c_ulong = 0x4004_54d8;
const TUNSETQUEUE: c_ulong = 0x4004_54d9;

/// Packets without an Ethernet header.
pub(super) const IFF_TUN: c_short = 0x0001;
/// Ethernet frames.
pub(super) const IFF_TAP: c_short = 0x0002;
/// Several descriptors may be queues of one interface.
pub(super) const IFF_MULTI_QUEUE: c_short = 0x0100;
const IFF_ATTACH_QUEUE: c_short = 0x0200;
/// The queue gets nothing at present.
pub(super) const IFF_DETACH_QUEUE: c_short = 0x0400;
/// No packet information before each frame.
pub(super) const IFF_NO_PI: c_short = 0x1000;
/// A `virtio_net_hdr` before each frame.
pub(super) const IFF_VNET_HDR: c_short = 0x4000;

const TUN_F_CSUM: c_ulong = 0x01;
const TUN_F_TSO4: c_ulong = 0x02;
const TUN_F_TSO6: c_ulong = 0x04;
const TUN_F_TSO_ECN: c_ulong = 0x08;
const TUN_F_USO4: c_ulong = 0x20;
const TUN_F_USO6: c_ulong = 0x40;

/// Bytes of an interface's name with the NUL behind it.
const NAME_SIZE: usize = libc::IFNAMSIZ;

/// What a descriptor is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    /// The interface.
    pub(super) name: String,
    /// `IFF_…`
    pub(super) flags: c_short,
}

/// A descriptor that is attached to nothing yet.
pub(super) fn open_device() -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
}

/// Makes `fd` a queue of the tap `name`, which is made if there is none; `%d` in the
/// name stands for a number that the kernel chooses. The name that it has.
pub(super) fn attach(fd: BorrowedFd<'_>, name: &str, flags: c_short) -> io::Result<String> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = flags;
    with_request(fd, TUNSETIFF, &mut request)?;
    Ok(name_in(&request))
}

/// What `fd` is attached to.
pub(super) fn attached(fd: BorrowedFd<'_>) -> io::Result<Attached> {
    let mut request = request("")?;
    with_request(fd, TUNGETIFF, &mut request)?;
    Ok(Attached {
        name: name_in(&request),
        // SAFETY: every bit pattern is a number, and the kernel has just written this one.
        flags: unsafe { request.ifr_ifru.ifru_flags },
    })
}

/// Has each frame preceded by a header of `len` bytes.
pub(super) fn set_header_len(fd: BorrowedFd<'_>, len: c_int) -> io::Result<()> {
    let mut len = len;
    // SAFETY: the command reads one int, which outlives the call.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw mut len) })
}

/// Has the kernel leave to the reader what `offloads` says.
pub(super) fn set_offloads(fd: BorrowedFd<'_>, offloads: Offloads) -> io::Result<()> {
    // SAFETY: the command takes a number and no memory.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, offload_flags(offloads)) })
}

/// Nothing else may be left to a reader who does not do checksums.
fn offload_flags(offloads: Offloads) -> c_ulong {
    if !offloads.checksum {
        return 0;
    }
    let big_udp = TUN_F_USO4 | TUN_F_USO6;
    [
        (offloads.tso4, TUN_F_TSO4),
        (offloads.tso6, TUN_F_TSO6),
        (offloads.ecn, TUN_F_TSO_ECN),
        (offloads.uso, big_udp),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(TUN_F_CSUM, |flags, (_, flag)| flags | flag)
}

/// The hardware address of the interface behind `fd`.
pub(super) fn hardware_address(fd: BorrowedFd<'_>) -> io::Result<[u8; 6]> {
    let mut request = request("")?;
    with_request(fd, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: every bit pattern is a number, and the kernel has just written these.
    let bytes = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let [a, b, c, d, e, f, ..] = bytes.map(i8::cast_unsigned);
    Ok([a, b, c, d, e, f])
}

/// Whether the queue `fd` of a multi-queue tap gets frames.
pub(super) fn set_queue(fd: BorrowedFd<'_>, enabled: bool) -> io::Result<()> {
    let mut request = request("")?;
    request.ifr_ifru.ifru_flags = if enabled {
        IFF_ATTACH_QUEUE
    } else {
        IFF_DETACH_QUEUE
    };
    with_request(fd, TUNSETQUEUE, &mut request)
}

/// A request about the interface `name`.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: the structure is made of numbers and of pointers that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= NAME_SIZE || name.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    Ok(request)
}

fn name_in(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `command` has to be one that takes a `struct ifreq`.
fn with_request(fd: BorrowedFd<'_>, command: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the commands of this file that come here read and write one `struct ifreq`
    // at most, and this one outlives the call.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), command, std::ptr::from_mut(request)) })
}

fn done(answer: c_int) -> io::Result<()> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_who_does_no_checksums() {
        let mut all = Offloads {
            checksum: true,
            tso4: true,
            tso6: true,
            ecn: true,
            uso: true,
        };
        assert_eq!(offload_flags(all), 0x6f);
        all.uso = false;
        assert_eq!(offload_flags(all), 0x0f);
        all.checksum = false;
        assert_eq!(offload_flags(all), 0);
    }

    #[test]
    fn names_go_in_and_come_out_whole_or_not_at_all() {
        assert_eq!(name_in(&request("mayfly0").unwrap()), "mayfly0");
        assert_eq!(
            name_in(&request("fifteen-letters").unwrap()),
            "fifteen-letters"
        );
        assert!(request("sixteen--letters").is_err());
        assert!(request("nu\0l").is_err());
    }
}
