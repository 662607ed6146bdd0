//! Taps that were made before.

use super::testing::{
    USER, describe, drop_privileges, eventually, existing, in_namespace, ip, names, tap_data,
};
use super::{TapError, error, line, opened};
use crate::devices::virtio::net::tap::TapOptions;

#[test]
fn a_tap_is_opened_with_headers_and_left_there() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        ip("link set tap0 up mtu 1400");
        let mut tap = opened(&existing("tap0"));
        assert_eq!(tap.name, "tap0");
        assert_eq!((tap.link.ports.len(), tap.link.mtu), (1, 1400));
        assert!(tap.link.watch.as_mut().unwrap().is_up());
        let data = tap_data("tap0");
        assert_eq!(data["type"], "tap", "{data}");
        assert_eq!(data["pi"], false, "{data}");
        assert_eq!(data["vnet_hdr"], true, "{data}");
        assert_eq!(data["multi_queue"], false, "{data}");
        drop(tap);
        assert!(describe("tap0").is_some());
    });
}

#[test]
fn what_does_not_exist_is_not_made() {
    in_namespace(|| {
        let before = names();
        assert_eq!(
            line(&existing("tap7")),
            "there is no tap 'tap7'; make one with 'sudo ip tuntap add tap7 mode tap user $USER', or use tap=new"
        );
        for name in [
            "",
            "a name",
            "tap%d",
            "sixteen--letters",
            ".",
            "a/b",
            "a\0b",
        ] {
            assert!(
                matches!(error(&existing(name)), TapError::Name(_)),
                "{name:?}"
            );
        }
        eventually("a tap is left", || names() == before);
    });
}

#[test]
fn the_advice_makes_a_tap_that_its_user_can_open() {
    in_namespace(|| {
        ip(&format!("tuntap add tap7 mode tap user {USER}"));
        ip(&format!("tuntap add many mode tap multi_queue user {USER}"));
        ip("tuntap add theirs mode tap user 1001");
        drop_privileges();
        opened(&existing("tap7"));
        let mut many = opened(&TapOptions {
            vcpus: 2,
            ..existing("many")
        });
        let second = &mut many.link.ports[1];
        second.set_enabled(false).unwrap();
        second.set_enabled(true).unwrap();
        assert_eq!(
            line(&existing("theirs")),
            "tap 'theirs' is not yours; make it so with 'sudo ip tuntap add theirs mode tap user $USER': Operation not permitted (os error 1)"
        );
    });
}

#[test]
fn a_tap_in_use_is_busy_with_one_queue_or_many() {
    in_namespace(|| {
        ip("tuntap add single mode tap");
        ip("tuntap add many mode tap multi_queue");
        for name in ["single", "many"] {
            let first = opened(&existing(name));
            assert_eq!(
                line(&existing(name)),
                format!("tap '{name}' is in use; end the program that has it, or make another tap")
            );
            drop(first);
            opened(&existing(name));
        }
    });
}

#[test]
fn a_queue_that_is_switched_off_is_in_use_all_the_same() {
    in_namespace(|| {
        ip("tuntap add many mode tap multi_queue");
        let mut first = opened(&existing("many"));
        first.link.ports[0].set_enabled(false).unwrap();
        assert!(matches!(error(&existing("many")), TapError::Busy(_)));
    });
}

#[test]
fn other_interfaces_are_no_taps() {
    in_namespace(|| {
        ip("tuntap add tun0 mode tun");
        for name in ["lo", "tun0"] {
            assert!(
                matches!(error(&existing(name)), TapError::NotATap(_)),
                "{name}"
            );
        }
    });
}

#[test]
fn a_tap_for_several_queues_has_one_pair_a_vcpu_or_as_many_as_asked_for() {
    in_namespace(|| {
        ip("tuntap add many mode tap multi_queue");
        let queues = || tap_data("many")["numqueues"].clone();
        let tap = opened(&TapOptions {
            vcpus: 3,
            ..existing("many")
        });
        assert_eq!((tap.link.ports.len(), queues()), (3, 3.into()));
        drop(tap);
        let asked = TapOptions {
            vcpus: 3,
            pairs: Some(2),
            ..existing("many")
        };
        let mut tap = opened(&asked);
        assert_eq!((tap.link.ports.len(), queues()), (2, 2.into()));
        tap.link.ports[1].set_enabled(false).unwrap();
        tap.link.ports[1].set_enabled(false).unwrap();
        assert_eq!(queues(), 1);
        tap.link.ports[1].set_enabled(true).unwrap();
        assert_eq!(queues(), 2);
        drop(tap);
        let tap = opened(&TapOptions {
            vcpus: 99,
            ..existing("many")
        });
        assert_eq!(tap.link.ports.len(), 16);
        for pairs in [0, 17] {
            let options = TapOptions {
                pairs: Some(pairs),
                ..existing("many")
            };
            assert!(matches!(error(&options), TapError::Pairs(_)));
        }
    });
}

#[test]
fn a_tap_for_one_queue_cannot_have_two() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        let tap = opened(&TapOptions {
            vcpus: 4,
            ..existing("tap0")
        });
        assert_eq!(tap.link.ports.len(), 1);
        drop(tap);
        let two = TapOptions {
            pairs: Some(2),
            ..existing("tap0")
        };
        assert_eq!(
            line(&two),
            "tap 'tap0' was made with one queue, so it cannot have 2; leave queues= out, or make it anew with 'sudo ip tuntap add tap0 mode tap multi_queue user $USER'"
        );
    });
}

#[test]
fn the_mtu_is_at_most_that_of_the_tap() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        assert_eq!(
            line(&TapOptions {
                mtu: Some(9000),
                ..existing("tap0")
            }),
            "tap 'tap0' has an MTU of 1500, less than 9000; raise it with 'sudo ip link set tap0 mtu 9000', or ask for less"
        );
        let less = TapOptions {
            mtu: Some(1280),
            ..existing("tap0")
        };
        assert_eq!(opened(&less).link.mtu, 1280);
        assert_eq!(describe("tap0").unwrap()["mtu"], 1500);
        ip("link set tap0 mtu 9000");
        let more = TapOptions {
            mtu: Some(9000),
            ..existing("tap0")
        };
        assert_eq!(opened(&more).link.mtu, 9000);
    });
}
