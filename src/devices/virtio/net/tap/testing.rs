//! For the tests of this folder: network namespaces, `ip`, and a socket that sees and
//! sends the frames of an interface.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_uid, unshare_unsafe,
};

use super::{TapOptions, TapSource};
use crate::tools_for_tests::need;

/// An ordinary user.
pub(super) const USER: u32 = 1000;

/// Runs `test` on a thread of its own, which alone is in a new network namespace with
/// nothing but `lo` in it. Programs that it starts are there, too.
pub(super) fn in_namespace(test: impl FnOnce() + Send) {
    // There it could not be fetched.
    need(&["ip"]);
    let run = || {
        // SAFETY: this thread shares its network namespace with no code that relies on it.
        let answer = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        answer.expect("this test makes a network namespace: run it as root (CAP_SYS_ADMIN)");
        test();
    };
    let outcome = thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Makes the calling thread that of the ordinary user [`USER`], who may still open
/// `/dev/net/tun`, whatever its permissions are here.
pub(super) fn drop_privileges() {
    set_keep_capabilities(true).unwrap();
    set_thread_groups(&[]).unwrap();
    let user = rustix::process::Uid::from_raw(USER);
    set_thread_res_uid(user, user, user).unwrap();
    let rest = CapabilitySet::DAC_OVERRIDE;
    let sets = CapabilitySets {
        effective: rest,
        permitted: rest,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).unwrap();
}

/// Waits until `condition` holds. What this test closes may live on for a moment in a
/// program that another test is just starting.
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `ip` with `words`; what it printed.
pub(super) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split_whitespace()).output();
    let output = output.expect("run ip");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip` says of the interface `name`; None if there is none.
pub(super) fn describe(name: &str) -> Option<serde_json::Value> {
    let all: serde_json::Value = serde_json::from_str(&ip("-details -json link show")).unwrap();
    let mut all = all.as_array().unwrap().iter();
    all.find(|link| link["ifname"] == name).cloned()
}

/// The names of all interfaces.
pub(super) fn names() -> Vec<String> {
    let all: serde_json::Value = serde_json::from_str(&ip("-json link show")).unwrap();
    let all = all.as_array().unwrap().iter();
    all.map(|link| link["ifname"].to_string()).collect()
}

/// What `ip` says about the tap `name` as a tap.
pub(super) fn tap_data(name: &str) -> serde_json::Value {
    let link = describe(name).expect("the tap is there");
    assert_eq!(link["linkinfo"]["info_kind"], "tun", "{link}");
    link["linkinfo"]["info_data"].clone()
}

/// Options without wishes.
pub(super) fn options(source: TapSource) -> TapOptions {
    TapOptions {
        source,
        pairs: None,
        vcpus: 1,
        mtu: None,
        offload: true,
    }
}

/// Options for the tap `name`.
pub(super) fn existing(name: &str) -> TapOptions {
    options(TapSource::Existing(name.to_owned()))
}

/// The host's side of an interface, seeing whole frames.
pub(super) struct Wire(File);

impl Wire {
    /// A packet socket on the interface `name`.
    pub(super) fn on(name: &str) -> Self {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the call takes numbers and returns a descriptor or an error.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(all)) };
        assert!(fd >= 0, "no packet socket");
        // SAFETY: the kernel has just made this descriptor for us alone.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the structure is made of numbers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = describe(name).unwrap()["ifindex"].as_i64().unwrap() as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the kernel reads `len` bytes, all of `address`.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(bound, 0);
        Self(File::from(socket))
    }

    /// Sends `frame` into the interface.
    pub(super) fn send(&self, frame: &[u8]) {
        loop {
            match (&self.0).write(frame) {
                Ok(sent) => return assert_eq!(sent, frame.len()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => panic!("a frame cannot be sent: {error}"),
            }
        }
    }

    /// The next frame of Mayfly's own test protocol that the interface brings.
    pub(super) fn receive(&self) -> Vec<u8> {
        loop {
            assert!(is_readable(&self.0, 5000), "no frame came");
            let mut frame = vec![0; 1 << 17];
            let len = (&self.0).read(&mut frame).unwrap();
            frame.truncate(len);
            if is_ours(&frame) {
                return frame;
            }
        }
    }
}

/// A frame of `len` bytes that tells itself from the host's own (router solicitations).
pub(super) fn frame(len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at * 7 + at / 256) as u8).collect();
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    // IEEE's "local experimental EtherType 1".
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// Whether `frame` was made by [`frame`].
pub(super) fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x88, 0xb5])
}

/// Whether `fd` gets readable within so many milliseconds.
pub(super) fn is_readable(fd: impl AsFd, milliseconds: u32) -> bool {
    events(fd, PollFlags::IN, milliseconds).contains(PollFlags::IN)
}

/// What happens on `fd` within so many milliseconds.
pub(super) fn events(fd: impl AsFd, wanted: PollFlags, milliseconds: u32) -> PollFlags {
    let mut one = [PollFd::new(&fd, wanted)];
    let timeout = Timespec {
        tv_sec: i64::from(milliseconds / 1000),
        tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
    };
    match poll(&mut one, Some(&timeout)) {
        Ok(_) => one[0].revents(),
        Err(errno) if errno.kind() == ErrorKind::Interrupted => PollFlags::empty(),
        Err(errno) => panic!("poll: {errno}"),
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}
