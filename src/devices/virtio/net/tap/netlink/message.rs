//! Messages of rtnetlink about interfaces (Linux, `include/uapi/linux/netlink.h`,
//! `rtnetlink.h`, `if_link.h`): taken apart with every length checked, and made.

use std::io;

const HEADER_LEN: usize = 16;
/// Bytes of `struct ifinfomsg`.
const INFO_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
/// `RTM_SETLINK`
const SET_LINK: u16 = 19;
/// Bits that say which kind of value an attribute has.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_NEW_NETNSID: u16 = 45;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PI: u16 = 4;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;
/// `IFF_TAP`, as `IFLA_TUN_TYPE` has it.
const TYPE_TAP: u8 = 2;
/// Offset of `tx_dropped` in `struct rtnl_link_stats64`.
const TX_DROPPED: usize = 7 * 8;

const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;

/// An interface, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Interface {
    /// Its number, which no other has as long as it lives.
    pub(in super::super) index: u32,
    /// Switched on, and with something at its other end.
    pub(in super::super) is_up: bool,
    /// Its hardware address.
    pub(in super::super) address: Vec<u8>,
    /// The largest packet behind an Ethernet header, in bytes.
    pub(in super::super) mtu: u32,
    /// Frames that nobody read.
    pub(in super::super) dropped: Option<u64>,
    /// What it is, if it is a tap.
    pub(in super::super) tap: Option<Tap>,
    /// It goes to another network namespace.
    pub(in super::super) moves: bool,
}

/// A tap among the interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Tap {
    /// Packet information precedes each frame, in front of everything else.
    pub(in super::super) packet_info: bool,
    /// It was made to have several queues.
    pub(in super::super) multi_queue: bool,
    /// Queues that it has now, if it is one for several.
    pub(in super::super) queues: u32,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// There is an interface, and this is how it is.
    Is(Interface),
    /// There is one no longer.
    WasRemoved(Interface),
    /// The errno of what was asked for; 0 is success.
    Answer(i32),
    /// Something else.
    Other,
}

/// What is asked of the kernel.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// How is the interface called `name`?
    pub(super) fn get_by_name(name: &str) -> Self {
        let mut request = Self::new(libc::RTM_GETLINK, NLM_F_REQUEST, 0, 0);
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        request.add(IFLA_IFNAME, &value);
        request
    }

    /// How is the interface with the number `index`?
    pub(super) fn get(index: u32) -> Self {
        Self::new(libc::RTM_GETLINK, NLM_F_REQUEST, index, 0)
    }

    /// Switch the interface on, with `mtu` if there is one.
    pub(super) fn bring_up(index: u32, mtu: Option<u16>) -> Self {
        let mut request = Self::new(SET_LINK, NLM_F_REQUEST | NLM_F_ACK, index, IFF_UP);
        if let Some(mtu) = mtu {
            request.add(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
        request
    }

    /// `flags` are the interface's that are to be set.
    fn new(kind: u16, request_flags: u16, index: u32, flags: u32) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&request_flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&index.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        Self { bytes }
    }

    /// `value` is short: a number or a name.
    fn add(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(ATTRIBUTE_HEADER_LEN + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// As it is sent.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(..4) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
        self.bytes
    }
}

/// The messages in what was received at once; what is cut off at the end is left out.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let kind = u16_at(bytes, 4)?;
        let body = bytes.get(HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message(kind, body))
    })
}

fn message(kind: u16, body: &[u8]) -> Message {
    match kind {
        NLMSG_ERROR => {
            let code = u32_at(body, 0).map_or(-libc::EPROTO, u32::cast_signed);
            Message::Answer(code.checked_neg().unwrap_or(libc::EPROTO))
        }
        libc::RTM_NEWLINK => interface(body).map_or(Message::Other, Message::Is),
        libc::RTM_DELLINK => interface(body).map_or(Message::Other, Message::WasRemoved),
        _ => Message::Other,
    }
}

/// None if the message is about something else: bridges tell of their ports, under
/// their own address family, as if those were interfaces that come and go.
fn interface(body: &[u8]) -> Option<Interface> {
    let family = *body.first()?;
    if i32::from(family) != libc::AF_UNSPEC {
        return None;
    }
    let flags = u32_at(body, 8)?;
    let mut interface = Interface {
        index: u32_at(body, 4)?,
        is_up: flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP,
        ..Interface::default()
    };
    for (kind, value) in attributes(body.get(INFO_LEN..)?) {
        match kind {
            IFLA_ADDRESS => interface.address = value.to_vec(),
            IFLA_MTU => interface.mtu = u32_at(value, 0)?,
            IFLA_STATS64 => interface.dropped = u64_at(value, TX_DROPPED),
            IFLA_NEW_NETNSID => interface.moves = true,
            IFLA_LINKINFO => interface.tap = tap(value),
            _ => {}
        }
    }
    Some(interface)
}

fn tap(link_info: &[u8]) -> Option<Tap> {
    let find = |wanted: u16| attributes(link_info).find(|(kind, _)| *kind == wanted);
    let (_, name) = find(IFLA_INFO_KIND)?;
    if name != b"tun\0" {
        return None;
    }
    let mut tap = Tap::default();
    let mut kind_of_tun = 0;
    for (kind, value) in attributes(find(IFLA_INFO_DATA)?.1) {
        match kind {
            IFLA_TUN_TYPE => kind_of_tun = *value.first()?,
            IFLA_TUN_PI => tap.packet_info = *value.first()? != 0,
            IFLA_TUN_MULTI_QUEUE => tap.multi_queue = *value.first()? != 0,
            IFLA_TUN_NUM_QUEUES | IFLA_TUN_NUM_DISABLED_QUEUES => {
                tap.queues = tap.queues.saturating_add(u32_at(value, 0)?);
            }
            _ => {}
        }
    }
    (kind_of_tun == TYPE_TAP).then_some(tap)
}

/// Each attribute's type and value; what is cut off at the end is left out.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_TYPE;
        let value = bytes.get(ATTRIBUTE_HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The error of an answer.
pub(super) fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
