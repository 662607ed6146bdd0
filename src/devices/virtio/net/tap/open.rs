//! Opening a tap: what there is first, then what it is to be.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use super::super::link::{HEADER_LEN, Link, Offloads, Port};
use super::ioctl::{
    self, Attached, IFF_DETACH_QUEUE, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN, IFF_VNET_HDR,
};
use super::netlink::{Interface, News, Questions};
use super::port::TapPort;
use super::watch::TapWatch;
use super::{MOST_PAIRS, OpenTap, TapError, TapOptions, TapSource};

/// What a new tap is called; the kernel puts a number in.
const NEW_NAME: &str = "mayfly%d";

/// What Ethernet has, where the interface cannot be asked.
const USUAL_MTU: u16 = 1500;

/// Queues of a tap, attached.
struct Queues {
    name: String,
    files: Vec<File>,
    multi_queue: bool,
    /// The interface, if this network namespace has it.
    interface: Option<Interface>,
}

/// Opens the tap. The interface is watched in the network namespace of the caller.
///
/// # Errors
/// [`TapError`], which says what the user can do.
pub fn open(options: &TapOptions) -> Result<OpenTap, TapError> {
    let asked = options.pairs.map(usize::from);
    if let Some(asked) = asked.filter(|asked| !(1..=usize::from(MOST_PAIRS)).contains(asked)) {
        return Err(TapError::Pairs(asked));
    }
    let mut questions = Questions::open().map_err(TapError::Netlink)?;
    // Opened before the first question, so that no change after it is missed.
    let news = News::open().map_err(TapError::Netlink)?;
    let queues = match &options.source {
        TapSource::Existing(name) => existing(name, options, &mut questions)?,
        TapSource::New => new(options, &mut questions)?,
        TapSource::Inherited(fds) => inherited(fds, options, &mut questions)?,
    };
    let (offloads, mtu) = settle(&queues, options)?;
    let ports = queues
        .files
        .into_iter()
        .map(|file| -> Result<Box<dyn Port>, TapError> {
            let enabled = ioctl::attached(file.as_fd())
                .map_err(setup("look at", &queues.name))?
                .flags
                & IFF_DETACH_QUEUE
                == 0;
            Ok(Box::new(TapPort::new(
                file,
                offloads,
                queues.multi_queue,
                enabled,
            )))
        });
    Ok(OpenTap {
        link: Link {
            ports: ports.collect::<Result<_, _>>()?,
            watch: queues
                .interface
                .map(|interface| Box::new(TapWatch::new(news, questions, &interface)) as _),
            offloads,
            mtu,
        },
        name: queues.name,
    })
}

/// Makes a tap and takes it away again: whether that is permitted, and what the kernel
/// can leave to a guest.
///
/// # Errors
/// [`TapError`]
pub fn try_new() -> Result<Offloads, TapError> {
    let file = open_device()?;
    let name = attach_new(file.as_fd(), NEW_NAME, false)?;
    accepted_offloads(file.as_fd()).map_err(setup("set the offloads of", &name))
}

/// A tap that is there before us and after us. Attaching to a name that does not exist
/// makes a tap, where that is permitted, so the name is looked up before and after.
fn existing(
    name: &str,
    options: &TapOptions,
    questions: &mut Questions,
) -> Result<Queues, TapError> {
    check_name(name)?;
    let found = questions.by_name(name).map_err(TapError::Netlink)?;
    let found = found.ok_or_else(|| TapError::Absent(name.to_owned()))?;
    let tap = found
        .tap
        .ok_or_else(|| TapError::NotATap(name.to_owned()))?;
    let pairs = match (options.pairs, tap.multi_queue) {
        (Some(asked), false) if asked > 1 => {
            let name = name.to_owned();
            return Err(TapError::SingleQueue { name, asked });
        }
        (_, false) => 1,
        (asked, true) => asked.unwrap_or_else(|| default_pairs(options)),
    };
    // The kernel lets several programs have queues of one tap, and deals frames out
    // among them.
    if tap.queues > 0 {
        return Err(TapError::Busy(name.to_owned()));
    }
    let mut files = Vec::new();
    for _ in 0..pairs {
        let file = open_device()?;
        let flags = flags(tap.multi_queue);
        ioctl::attach(file.as_fd(), name, flags).map_err(|source| {
            let name = name.to_owned();
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TapError::NotYours {
                    name,
                    multi_queue: tap.multi_queue,
                    source,
                },
                Some(libc::EBUSY) => TapError::Busy(name),
                _ => setup("attach to", &name)(source),
            }
        })?;
        files.push(file);
    }
    let now = questions.by_name(name).map_err(TapError::Netlink)?;
    let now = now.filter(|now| now.index == found.index);
    let interface = now.ok_or_else(|| TapError::Absent(name.to_owned()))?;
    if !interface.is_up {
        log::warn!("tap '{name}' is down; bring it up with 'sudo ip link set {name} up'");
    }
    Ok(Queues {
        name: name.to_owned(),
        files,
        multi_queue: tap.multi_queue,
        interface: Some(interface),
    })
}

/// A tap that goes when its last descriptor is closed.
fn new(options: &TapOptions, questions: &mut Questions) -> Result<Queues, TapError> {
    let pairs = options.pairs.unwrap_or_else(|| default_pairs(options));
    let multi_queue = pairs > 1;
    let first = open_device()?;
    let name = attach_new(first.as_fd(), NEW_NAME, multi_queue)?;
    let mut files = vec![first];
    for _ in 1..pairs {
        let file = open_device()?;
        attach_new(file.as_fd(), &name, multi_queue)?;
        files.push(file);
    }
    let index = interface_index(&name, questions)?;
    let mtu = options.mtu;
    questions
        .bring_up(index, mtu)
        .map_err(|source| TapError::Up {
            name: name.clone(),
            mtu,
            source,
        })?;
    Ok(Queues {
        interface: questions.by_index(index).map_err(TapError::Netlink)?,
        name,
        files,
        multi_queue,
    })
}

/// A tap that somebody else has opened for us.
fn inherited(
    fds: &[RawFd],
    options: &TapOptions,
    questions: &mut Questions,
) -> Result<Queues, TapError> {
    if !(1..=usize::from(MOST_PAIRS)).contains(&fds.len()) {
        return Err(TapError::Pairs(fds.len()));
    }
    if let Some(asked) = options
        .pairs
        .filter(|asked| usize::from(*asked) != fds.len())
    {
        return Err(TapError::DescriptorCount {
            asked,
            given: fds.len(),
        });
    }
    let mut files = Vec::new();
    let mut first: Option<Attached> = None;
    for (at, &fd) in fds.iter().enumerate() {
        if fds.iter().take(at).any(|before| *before == fd) {
            return Err(TapError::DescriptorTwice(fd));
        }
        let (file, attached) = adopt(fd)?;
        check_kind(fd, &attached)?;
        let first = first.get_or_insert_with(|| attached.clone());
        if first.name != attached.name {
            return Err(TapError::DescriptorsDiffer {
                fd,
                name: attached.name,
                first: first.name.clone(),
            });
        }
        files.push(file);
    }
    let (Some(first), Some(file), Some(&fd)) = (first, files.first(), fds.first()) else {
        return Err(TapError::Pairs(0));
    };
    let interface = here(&first.name, file.as_fd(), questions)?;
    // TUNGETIFF cannot tell: it sets the bit of IFF_NO_PI whenever the descriptor has no
    // filter. In another namespace the parent has to be trusted with it.
    let tap = interface.as_ref().and_then(|interface| interface.tap);
    if tap.is_some_and(|tap| tap.packet_info) {
        return Err(wrong_kind(fd, &first, "without IFF_NO_PI"));
    }
    Ok(Queues {
        multi_queue: first.flags & IFF_MULTI_QUEUE != 0,
        interface,
        name: first.name,
        files,
    })
}

/// A descriptor of our own for what is behind the number `fd`, which neither blocks nor
/// is handed down, and neither is `fd` any more.
fn adopt(fd: RawFd) -> Result<(File, Attached), TapError> {
    let descriptor = |source: io::Error| TapError::Descriptor { fd, source };
    if fd <= libc::STDERR_FILENO {
        return Err(descriptor(io::Error::from_raw_os_error(libc::EBADF)));
    }
    // SAFETY: the number is not -1. If nothing is open under it, the calls below say so
    // and do no harm.
    let given = unsafe { BorrowedFd::borrow_raw(fd) };
    let attached = ioctl::attached(given).map_err(descriptor)?;
    let own = fcntl_dupfd_cloexec(given, libc::STDERR_FILENO + 1)
        .and_then(|own| {
            fcntl_setfd(given, FdFlags::CLOEXEC)?;
            fcntl_setfl(&own, fcntl_getfl(&own)? | OFlags::NONBLOCK)?;
            Ok(own)
        })
        .map_err(|errno| descriptor(errno.into()))?;
    Ok((File::from(own), attached))
}

fn check_kind(fd: RawFd, attached: &Attached) -> Result<(), TapError> {
    let has = |flag| attached.flags & flag != 0;
    if has(IFF_TUN) {
        return Err(wrong_kind(fd, attached, "as a tun (IFF_TUN)"));
    }
    if !has(IFF_VNET_HDR) {
        return Err(wrong_kind(fd, attached, "without IFF_VNET_HDR"));
    }
    Ok(())
}

fn wrong_kind(fd: RawFd, attached: &Attached, what: &'static str) -> TapError {
    TapError::DescriptorKind {
        fd,
        name: attached.name.clone(),
        what,
    }
}

/// The interface of an inherited descriptor, unless it lies in another network
/// namespace: there may be another of its name in this one.
fn here(
    name: &str,
    queue: BorrowedFd<'_>,
    questions: &mut Questions,
) -> Result<Option<Interface>, TapError> {
    let Ok(address) = ioctl::hardware_address(queue) else {
        return Ok(None);
    };
    let found = questions.by_name(name).map_err(TapError::Netlink)?;
    Ok(found.filter(|interface| interface.address == address))
}

/// Brings all queues to what the ports expect, with nothing left to the guest yet: what
/// could be, and the MTU.
fn settle(queues: &Queues, options: &TapOptions) -> Result<(Offloads, u16), TapError> {
    let mut offloads = Offloads::default();
    for file in &queues.files {
        ioctl::set_header_len(file.as_fd(), HEADER_LEN as i32)
            .map_err(setup("set the header length of", &queues.name))?;
        offloads =
            accepted_offloads(file.as_fd()).map_err(setup("set the offloads of", &queues.name))?;
    }
    if !options.offload {
        offloads = Offloads::default();
    }
    let interface = queues.interface.as_ref();
    let mtu = interface.map(|interface| u16::try_from(interface.mtu).unwrap_or(u16::MAX));
    match (options.mtu, mtu) {
        (Some(asked), Some(mtu)) if asked > mtu => Err(TapError::Mtu {
            name: queues.name.clone(),
            mtu,
            asked,
        }),
        (asked, mtu) => Ok((offloads, asked.or(mtu).unwrap_or(USUAL_MTU))),
    }
}

/// What the kernel is able to leave to the reader, tried out, and nothing of it
/// switched on.
fn accepted_offloads(queue: BorrowedFd<'_>) -> io::Result<Offloads> {
    let accepted = try_offloads(|offloads| ioctl::set_offloads(queue, offloads).is_ok());
    ioctl::set_offloads(queue, Offloads::default())?;
    Ok(accepted)
}

/// All that `accepts` has no objection to: all at once, or else one after the other.
fn try_offloads(mut accepts: impl FnMut(Offloads) -> bool) -> Offloads {
    let all = Offloads {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso: true,
    };
    if accepts(all) {
        return all;
    }
    let fields: [fn(&mut Offloads) -> &mut bool; 5] = [
        |offloads| &mut offloads.checksum,
        |offloads| &mut offloads.tso4,
        |offloads| &mut offloads.tso6,
        |offloads| &mut offloads.ecn,
        |offloads| &mut offloads.uso,
    ];
    let mut accepted = Offloads::default();
    for field in fields {
        let mut with = accepted;
        *field(&mut with) = true;
        // Nothing else goes without checksums.
        if with.checksum && accepts(with) {
            accepted = with;
        }
    }
    accepted
}

fn default_pairs(options: &TapOptions) -> u16 {
    options.vcpus.clamp(1, MOST_PAIRS)
}

fn flags(multi_queue: bool) -> i16 {
    let several = if multi_queue { IFF_MULTI_QUEUE } else { 0 };
    IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | several
}

fn open_device() -> Result<File, TapError> {
    ioctl::open_device().map_err(no_device)
}

fn no_device(error: io::Error) -> TapError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver(error),
        Some(libc::EACCES | libc::EPERM) => TapError::DeviceNotPermitted(error),
        _ => TapError::Device(error),
    }
}

fn attach_new(file: BorrowedFd<'_>, name: &str, multi_queue: bool) -> Result<String, TapError> {
    ioctl::attach(file, name, flags(multi_queue)).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NewNotPermitted(error),
        _ => setup("make", name)(error),
    })
}

fn interface_index(name: &str, questions: &mut Questions) -> Result<u32, TapError> {
    let interface = questions.by_name(name).map_err(TapError::Netlink)?;
    let interface = interface.ok_or_else(|| TapError::Absent(name.to_owned()))?;
    Ok(interface.index)
}

/// Linux, `net/core/dev.c` `dev_valid_name`; `%` would have the kernel choose a number.
fn check_name(name: &str) -> Result<(), TapError> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    let good = (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(odd);
    good.then_some(())
        .ok_or_else(|| TapError::Name(name.to_owned()))
}

fn setup(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> TapError + use<> {
    let name = name.to_owned();
    move |source| TapError::Setup {
        action,
        name,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::one_line::one_line;

    #[test]
    fn what_an_older_kernel_refuses_is_left_out() {
        let no_uso = try_offloads(|offloads| !offloads.uso);
        let expected = Offloads {
            checksum: true,
            tso4: true,
            tso6: true,
            ecn: true,
            uso: false,
        };
        assert_eq!(no_uso, expected);
        let only_sums = try_offloads(|offloads| {
            !(offloads.tso4 || offloads.tso6 || offloads.ecn || offloads.uso)
        });
        let expected = Offloads {
            checksum: true,
            ..Offloads::default()
        };
        assert_eq!(only_sums, expected);
        let none = try_offloads(|offloads| !offloads.checksum);
        assert_eq!(none, Offloads::default());
    }

    #[test]
    fn what_is_wrong_with_the_device_node_comes_with_advice() {
        let text = |errno| one_line(&no_device(io::Error::from_raw_os_error(errno)));
        assert_eq!(
            text(libc::ENOENT),
            "cannot open /dev/net/tun; load its driver with 'sudo modprobe tun': No such file or directory (os error 2)"
        );
        assert!(text(libc::ENODEV).contains("modprobe tun"));
        assert!(text(libc::EACCES).contains("sudo chmod 666 /dev/net/tun"));
        assert!(text(libc::EMFILE).starts_with("cannot open /dev/net/tun: "));
    }
}
