//! Descriptors that somebody else has opened.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use super::testing::{drop_privileges, in_namespace, ip, options, tap_data};
use super::{TapError, error, line, opened};
use crate::devices::virtio::net::tap::ioctl;
use crate::devices::virtio::net::tap::{TapOptions, TapSource};

/// Linux, `include/uapi/linux/if_tun.h`.
const TUN: i16 = 0x0001;
const TAP: i16 = 0x0002;
const MULTI_QUEUE: i16 = 0x0100;
const NO_PI: i16 = 0x1000;
const VNET_HDR: i16 = 0x4000;

/// What a parent would do before it starts Mayfly.
fn handed_down(name: &str, flags: i16) -> File {
    let file = ioctl::open_device().unwrap();
    ioctl::attach(file.as_fd(), name, flags).unwrap();
    fcntl_setfl(&file, OFlags::empty()).unwrap();
    fcntl_setfd(&file, FdFlags::empty()).unwrap();
    file
}

fn inherited(fds: &[&File]) -> TapOptions {
    let fds: Vec<RawFd> = fds.iter().map(|file| file.as_raw_fd()).collect();
    options(TapSource::Inherited(fds))
}

#[test]
fn a_tap_is_taken_over_with_its_name_and_mtu() {
    in_namespace(|| {
        let file = handed_down("parent0", TAP | NO_PI | VNET_HDR);
        ip("link set parent0 up mtu 4000");
        let mut tap = opened(&inherited(&[&file]));
        assert_eq!(
            (&*tap.name, tap.link.mtu, tap.link.ports.len()),
            ("parent0", 4000, 1)
        );
        assert!(tap.link.watch.as_mut().unwrap().is_up());
        assert!(fcntl_getfl(&file).unwrap().contains(OFlags::NONBLOCK));
        assert_eq!(fcntl_getfd(&file).unwrap(), FdFlags::CLOEXEC);
        let own = tap.link.ports[0].fd();
        assert_ne!(own.as_raw_fd(), file.as_raw_fd());
        assert_eq!(fcntl_getfd(own).unwrap(), FdFlags::CLOEXEC);
        let larger = TapOptions {
            mtu: Some(4001),
            ..inherited(&[&file])
        };
        assert!(matches!(
            error(&larger),
            TapError::Mtu {
                mtu: 4000,
                asked: 4001,
                ..
            }
        ));
    });
}

#[test]
fn several_queues_are_taken_over_and_switched_without_privileges() {
    in_namespace(|| {
        let flags = TAP | NO_PI | VNET_HDR | MULTI_QUEUE;
        let [a, b] = [handed_down("parent0", flags), handed_down("parent0", flags)];
        let queues = || tap_data("parent0")["numqueues"].clone();
        drop_privileges();
        let mut tap = opened(&inherited(&[&a, &b]));
        assert_eq!((tap.link.ports.len(), queues()), (2, 2.into()));
        tap.link.ports[1].set_enabled(false).unwrap();
        assert_eq!(queues(), 1);
        tap.link.ports[1].set_enabled(true).unwrap();
        assert_eq!(queues(), 2);
        assert!(matches!(
            error(&TapOptions {
                pairs: Some(3),
                ..inherited(&[&a, &b])
            }),
            TapError::DescriptorCount { asked: 3, given: 2 }
        ));
        assert!(matches!(
            error(&inherited(&[&a, &b, &a])),
            TapError::DescriptorTwice(_)
        ));
        assert!(matches!(error(&inherited(&[])), TapError::Pairs(0)));
    });
}

#[test]
fn a_queue_that_was_switched_off_before_can_be_switched_on() {
    in_namespace(|| {
        let flags = TAP | NO_PI | VNET_HDR | MULTI_QUEUE;
        let [a, b] = [handed_down("parent0", flags), handed_down("parent0", flags)];
        ioctl::set_queue(b.as_fd(), false).unwrap();
        let mut tap = opened(&inherited(&[&a, &b]));
        tap.link.ports[1].set_enabled(true).unwrap();
        assert_eq!(tap_data("parent0")["numqueues"], 2);
    });
}

#[test]
fn other_descriptors_are_refused_in_words() {
    in_namespace(|| {
        let kinds = [
            (TUN | NO_PI | VNET_HDR, "as a tun (IFF_TUN)"),
            (TAP | VNET_HDR, "without IFF_NO_PI"),
            (TAP | NO_PI, "without IFF_VNET_HDR"),
        ];
        for (at, (flags, what)) in kinds.into_iter().enumerate() {
            let name = format!("kind{at}");
            let file = handed_down(&name, flags);
            let fd = file.as_raw_fd();
            assert_eq!(
                line(&inherited(&[&file])),
                format!(
                    "descriptor {fd} is of '{name}', which was opened {what}; open it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
                )
            );
        }
        let unattached = ioctl::open_device().unwrap();
        let other = File::open("/dev/null").unwrap();
        for fd in [-1, 0, 2, 100_000, unattached.as_raw_fd(), other.as_raw_fd()] {
            let text = line(&options(TapSource::Inherited(vec![fd])));
            let start = format!("descriptor {fd} is not that of a tap; pass one of ");
            assert!(text.starts_with(&start), "{text}");
        }
        let [a, b] = ["parent0", "parent1"].map(|name| handed_down(name, TAP | NO_PI | VNET_HDR));
        assert!(matches!(
            error(&inherited(&[&a, &b])),
            TapError::DescriptorsDiffer { .. }
        ));
    });
}

#[test]
fn an_interface_in_another_namespace_is_not_mistaken_for_one_here() {
    in_namespace(|| {
        let file = handed_down("parent0", TAP | NO_PI | VNET_HDR);
        let given = &file;
        in_namespace(move || {
            ip("tuntap add parent0 mode tap");
            ip("link set parent0 mtu 9000");
            let tap = opened(&inherited(&[given]));
            assert_eq!((&*tap.name, tap.link.mtu), ("parent0", 1500));
            assert!(tap.link.watch.is_none());
        });
    });
}
