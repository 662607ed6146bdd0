//! Taps that Mayfly makes, and what is left to the guest.

use std::os::fd::AsRawFd;

use super::testing::{
    Wire, describe, drop_privileges, eventually, existing, in_namespace, names, options, tap_data,
};
use super::{TapError, error, line, opened};
use crate::devices::virtio::net::link::Offloads;
use crate::devices::virtio::net::tap::{TapOptions, TapSource, try_new};

#[test]
fn a_new_tap_is_up_and_goes_with_its_last_queue() {
    in_namespace(|| {
        let before = names();
        let mut first = opened(&options(TapSource::New));
        let second = opened(&TapOptions {
            vcpus: 2,
            mtu: Some(1280),
            ..options(TapSource::New)
        });
        assert_eq!((&*first.name, &*second.name), ("mayfly0", "mayfly1"));
        assert_eq!((first.link.ports.len(), first.link.mtu), (1, 1500));
        assert_eq!((second.link.ports.len(), second.link.mtu), (2, 1280));
        assert_eq!(describe("mayfly1").unwrap()["mtu"], 1280);
        let data = tap_data("mayfly1");
        assert_eq!(
            (&data["persist"], &data["numqueues"]),
            (&false.into(), &2.into())
        );
        let flags = describe("mayfly0").unwrap()["flags"].to_string();
        assert!(
            flags.contains("\"UP\"") && flags.contains("\"LOWER_UP\""),
            "{flags}"
        );
        assert!(first.link.watch.as_mut().unwrap().is_up());
        drop((first, second));
        eventually("a tap is left", || names() == before);
    });
}

#[test]
fn an_mtu_that_the_kernel_refuses_leaves_nothing_behind() {
    in_namespace(|| {
        let tiny = TapOptions {
            mtu: Some(60),
            ..options(TapSource::New)
        };
        assert_eq!(
            line(&tiny),
            "cannot bring the new tap 'mayfly0' up with an MTU of 60: Invalid argument (os error 22)"
        );
        eventually("a tap is left", || describe("mayfly0").is_none());
    });
}

#[test]
fn without_privileges_no_tap_is_made_and_the_way_out_told() {
    in_namespace(|| {
        drop_privileges();
        assert_eq!(
            line(&options(TapSource::New)),
            "cannot make a tap without CAP_NET_ADMIN; have one made with 'sudo ip tuntap add tap0 mode tap user $USER' and use tap=tap0, or use --net user: Operation not permitted (os error 1)"
        );
        // A name that does not exist is no other case for those who could not make it.
        assert!(matches!(error(&existing("tap7")), TapError::Absent(_)));
        assert!(matches!(try_new(), Err(TapError::NewNotPermitted(_))));
    });
}

#[test]
fn trying_leaves_nothing_behind() {
    in_namespace(|| {
        let before = names();
        let offloads = try_new().unwrap();
        assert!(offloads.checksum && offloads.tso4 && offloads.tso6 && offloads.ecn);
        eventually("a tap is left", || names() == before);
    });
}

#[test]
fn the_interface_leaves_to_the_guest_what_the_driver_takes() {
    in_namespace(|| {
        let mut tap = opened(&options(TapSource::New));
        let offloads = tap.link.offloads;
        assert!(offloads.checksum && offloads.tso4 && offloads.tso6 && offloads.ecn);
        let port = &mut tap.link.ports[0];
        assert_eq!(features("mayfly0"), (false, false));
        port.set_offloads(offloads).unwrap();
        assert_eq!(features("mayfly0"), (true, true));
        let checksum = Offloads {
            checksum: true,
            ..Offloads::default()
        };
        port.set_offloads(checksum).unwrap();
        assert_eq!(features("mayfly0"), (true, false));
        port.set_offloads(Offloads::default()).unwrap();
        assert_eq!(features("mayfly0"), (false, false));
        assert_eq!(port.system_calls(), 3);
    });
}

#[test]
fn with_offload_off_nothing_is_left_to_the_guest_whatever_it_asks_for() {
    in_namespace(|| {
        let mut tap = opened(&TapOptions {
            offload: false,
            ..options(TapSource::New)
        });
        assert_eq!(tap.link.offloads, Offloads::default());
        let all = Offloads {
            checksum: true,
            tso4: true,
            tso6: true,
            ecn: true,
            uso: true,
        };
        tap.link.ports[0].set_offloads(all).unwrap();
        assert_eq!(features("mayfly0"), (false, false));
    });
}

/// What ethtool says of the interface: whether it leaves checksums and TCP segmentation
/// to its other side (Linux, `include/uapi/linux/ethtool.h`).
fn features(name: &str) -> (bool, bool) {
    const GET_TX_CHECKSUM: u32 = 0x16;
    const GET_TSO: u32 = 0x1e;
    (ethtool(name, GET_TX_CHECKSUM), ethtool(name, GET_TSO))
}

fn ethtool(name: &str, command: u32) -> bool {
    let mut value = [command, 0];
    // SAFETY: the structure is made of numbers and of pointers that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as i8;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = Wire::on(name);
    // SAFETY: the command reads and writes a `struct ethtool_value` of two numbers.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    assert_eq!(answer, 0, "ethtool {command:#x}");
    value[1] != 0
}
