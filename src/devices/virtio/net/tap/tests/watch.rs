//! The interface goes down, comes up, and goes away.

use super::opened;
use super::testing::{Wire, existing, frame, in_namespace, ip, is_readable, options};
use crate::devices::virtio::net::link::LinkWatch;
use crate::devices::virtio::net::tap::TapSource;

/// The watch tells that the tap is up or not, as expected, and sticks to it.
fn becomes(watch: &mut dyn LinkWatch, expected: bool) {
    loop {
        assert!(is_readable(watch.fd(), 5000), "nothing was told");
        if watch.is_up() == expected {
            return stays(watch, expected);
        }
    }
}

/// Whatever else the kernel tells of changes nothing.
fn stays(watch: &mut dyn LinkWatch, expected: bool) {
    while is_readable(watch.fd(), 50) {
        assert_eq!(watch.is_up(), expected);
    }
    assert_eq!(watch.is_up(), expected);
}

#[test]
fn down_and_up_are_told() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        let mut tap = opened(&existing("tap0"));
        let watch = tap.link.watch.as_deref_mut().unwrap();
        assert!(!watch.is_up());
        ip("link set tap0 up");
        becomes(watch, true);
        ip("link set tap0 down");
        becomes(watch, false);
        ip("link set tap0 up");
        becomes(watch, true);
        ip("link set tap0 carrier off");
        becomes(watch, false);
        ip("link set tap0 carrier on");
        becomes(watch, true);
    });
}

#[test]
fn what_happens_to_others_is_nothing_to_the_tap() {
    in_namespace(|| {
        let mut tap = opened(&options(TapSource::New));
        let watch = tap.link.watch.as_deref_mut().unwrap();
        ip("link set lo up");
        ip("link set lo down");
        ip("tuntap add other mode tap");
        ip("link delete other");
        assert!(is_readable(watch.fd(), 5000));
        stays(watch, true);
    });
}

#[test]
fn a_removed_tap_is_down_for_good() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        ip("link set tap0 up");
        let mut tap = opened(&existing("tap0"));
        let watch = tap.link.watch.as_deref_mut().unwrap();
        assert!(watch.is_up());
        ip("link delete tap0");
        becomes(watch, false);
        ip("tuntap add tap0 mode tap");
        ip("link set tap0 up");
        stays(watch, false);
        assert_eq!(watch.overruns(), Some(0));
    });
}

#[test]
fn a_tap_that_leaves_its_bridge_is_not_removed() {
    in_namespace(|| {
        let mut tap = opened(&options(TapSource::New));
        let watch = tap.link.watch.as_deref_mut().unwrap();
        ip("link add bridge0 type bridge");
        ip("link set mayfly0 master bridge0");
        ip("link set mayfly0 nomaster");
        assert!(is_readable(watch.fd(), 5000));
        stays(watch, true);
    });
}

#[test]
fn a_tap_that_moves_to_another_namespace_is_taken_to_be_up() {
    in_namespace(|| {
        let mut tap = opened(&options(TapSource::New));
        let watch = tap.link.watch.as_deref_mut().unwrap();
        let mut holder = std::process::Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; read end"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut started = [0];
        let output = holder.stdout.as_mut().unwrap();
        std::io::Read::read_exact(output, &mut started).unwrap();
        ip(&format!("link set mayfly0 netns {}", holder.id()));
        assert!(is_readable(watch.fd(), 5000));
        let is_up = watch.is_up();
        drop(holder.stdin.take());
        holder.wait().unwrap();
        assert!(is_up);
    });
}

#[test]
fn frames_that_nobody_reads_are_counted() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        ip("link set tap0 up txqueuelen 10");
        let before = opened(&existing("tap0"));
        let wire = Wire::on("tap0");
        let flood = |count| (0..count).for_each(|_| wire.send(&frame(60)));
        flood(30);
        drop(before);
        let mut tap = opened(&existing("tap0"));
        let watch = tap.link.watch.as_deref_mut().unwrap();
        assert_eq!(watch.overruns(), Some(0));
        flood(100);
        let dropped = watch.overruns().unwrap();
        assert!((90..110).contains(&dropped), "{dropped}");
    });
}
