//! Networks of a test's own, in network namespaces that go away with it.
//!
//! A namespace belongs to a thread here: what the thread does, and the threads and
//! programs that it starts, have the namespace's interfaces, addresses and sockets, and
//! the other tests of this process do not. `/proc/thread-self/net` is the right one;
//! `/proc/net` and `/sys/class/net` stay those of the process.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::disk::tool;
use super::tools::need;

/// How long a host waits for an answer of a guest whose kernel may be interpreted.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace. It exists as long as this, a thread in it, or a socket of it.
pub struct Namespace {
    handle: OwnedFd,
}

impl Namespace {
    /// A namespace with nothing but a loopback interface, which is up. IPv6 is off, so
    /// that no frame goes about that the test has not sent; ping sockets are allowed to
    /// everybody.
    #[track_caller]
    pub fn new() -> Self {
        // There they could not be fetched.
        need(&["ip", "passt"]);
        let made = in_new_thread(|| {
            // SAFETY: of the namespaces only the network's is left, which no code has
            // handles of that it expects to stay valid.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            let handle = File::open("/proc/thread-self/ns/net")?;
            for which in ["default", "all"] {
                // A kernel without IPv6 has no such file.
                let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
            }
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
            ip(&["link", "set", "lo", "up"]);
            io::Result::Ok(handle)
        });
        match made {
            Ok(handle) => Self {
                handle: handle.into(),
            },
            Err(error) => panic!(
                "this test needs a network namespace and cannot make one ({error}): run the \
                 tests as root, or under `unshare --map-root-user --net`"
            ),
        }
    }

    /// Runs `body` in this namespace, in a thread of its own; its panics are the
    /// caller's.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        in_new_thread(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.handle.as_fd(), network)
                .expect("enter a network namespace");
            body()
        })
    }

    /// What names it for `ip link set DEVICE netns PATH`.
    pub fn path(&self) -> String {
        let process = std::process::id();
        format!("/proc/{process}/fd/{}", self.handle.as_raw_fd())
    }
}

/// Runs a test in a new namespace.
#[track_caller]
pub fn in_namespace<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    Namespace::new().run(body)
}

/// Runs `body` in a thread that ends with it, under the name of this one, by which a
/// panic tells its test.
fn in_new_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let name = thread::current().name().unwrap_or("test").to_string();
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, body);
        match thread.expect("start a thread").join() {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// `ip` with these arguments (package iproute2); what it printed.
#[track_caller]
pub fn ip(arguments: &[&str]) -> String {
    tool("ip", arguments)
}

/// Makes a persistent tap that is up; with `queues`, one of several queues.
#[track_caller]
pub fn tap(name: &str, queues: Queues) {
    let mut add = vec!["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"];
    if queues == Queues::Many {
        add.push("multi_queue");
    }
    ip(&add);
    ip(&["link", "set", name, "up"]);
}

/// What a tap is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    One,
    Many,
}

/// Gives an interface an address, `10.0.0.1/24`.
#[track_caller]
pub fn give_address(device: &str, address: &str) {
    ip(&["address", "add", address, "dev", device]);
}

/// Makes a bridge that is up, has an address and these ports.
#[track_caller]
pub fn bridge(name: &str, address: &str, ports: &[&str]) {
    // It forwards at once, whoever joins it.
    ip(&["link", "add", name, "type", "bridge", "forward_delay", "0"]);
    for port in ports {
        ip(&["link", "set", port, "master", name]);
    }
    give_address(name, address);
    ip(&["link", "set", name, "up"]);
}

/// Joins this namespace and `other` by a pair of interfaces, `uplink` here with the
/// address `ours/24` and `downlink` there with `theirs/24`, by which this one's default
/// route leads.
#[track_caller]
pub fn veth_to(other: &Namespace, ours: Ipv4Addr, theirs: Ipv4Addr) {
    let pair = [
        "link", "add", "uplink", "type", "veth", "peer", "name", "downlink", "netns",
    ];
    ip(&[&pair[..], &[&other.path()]].concat());
    give_address("uplink", &format!("{ours}/24"));
    ip(&["link", "set", "uplink", "up"]);
    other.run(|| {
        give_address("downlink", &format!("{theirs}/24"));
        ip(&["link", "set", "downlink", "up"]);
    });
    ip(&["route", "add", "default", "via", &theirs.to_string()]);
}

/// Sends `count` echo requests with `size` bytes of data to `address`, one after the
/// other, and waits for the answer to each; how long each took.
#[track_caller]
pub fn ping(address: Ipv4Addr, count: u16, size: usize) -> Vec<Duration> {
    let socket = ping_socket(address).expect("open a ping socket");
    let data: Vec<u8> = (0..size).map(|index| index as u8).collect();
    (1..=count)
        .map(|sequence| {
            // Type, code, checksum and identifier; the kernel fills in the latter two.
            let mut request = vec![8, 0, 0, 0, 0, 0];
            request.extend(sequence.to_be_bytes());
            request.extend(&data);
            let start = Instant::now();
            socket.send(&request).expect("send an echo request");
            wait_for_answer(&socket, address, &request);
            start.elapsed()
        })
        .collect()
}

/// Waits for the answer to `request`; others may come late.
#[track_caller]
fn wait_for_answer(socket: &UdpSocket, address: Ipv4Addr, request: &[u8]) {
    let end = Instant::now() + PATIENCE;
    let mut answer = vec![0; request.len() + 1];
    while Instant::now() < end {
        let Ok(length) = socket.recv(&mut answer) else {
            break;
        };
        // An echo reply with the same number and data.
        if answer[0] == 0 && answer[6..length] == request[6..] {
            return;
        }
    }
    panic!("{address} does not answer ping within {PATIENCE:?}");
}

/// A socket for echo requests and their answers, dressed as one that the standard
/// library knows: it sends and receives like any other.
fn ping_socket(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: the call has no pointers.
    let socket = match unsafe { libc::socket(libc::AF_INET, kind, libc::IPPROTO_ICMP) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new and nobody else's.
        socket => unsafe { OwnedFd::from_raw_fd(socket) },
    };
    let socket = UdpSocket::from(socket);
    socket.connect(SocketAddr::from((address, 0)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}
