//! Frames in both directions, and what becomes of them when the tap does not work.

use rustix::event::PollFlags;

use super::opened;
use super::testing::{
    Wire, events, existing, frame, in_namespace, ip, is_ours, is_readable, options,
};
use crate::devices::virtio::net::link::{HEADER_LEN, LONGEST_FRAME, Port, Received, Sent};
use crate::devices::virtio::net::tap::{OpenTap, TapOptions, TapSource};
use crate::memory::{GuestRam, IoBuffers};

const NO_HEADER: [u8; HEADER_LEN] = [0; HEADER_LEN];

/// Guest memory in pieces of `size` bytes each, `len` in all, from the end to the front.
fn buffers(ram: &GuestRam, len: usize, size: usize) -> IoBuffers {
    let mut buffers = IoBuffers::new(ram.clone(), len.div_ceil(size));
    let mut left = len;
    let mut addr = 1 << 20;
    while left > 0 {
        let part = left.min(size);
        addr -= part as u64 + 1;
        buffers.push(addr, part).unwrap();
        left -= part;
    }
    buffers
}

fn holding(ram: &GuestRam, frame: &[u8], size: usize) -> IoBuffers {
    let buffers = buffers(ram, frame.len(), size);
    assert!(buffers.copy_in(0, frame));
    buffers
}

/// The next frame of a test, header and all.
fn receive(port: &mut dyn Port, buffers: &IoBuffers) -> Vec<u8> {
    let mut spill = vec![0; HEADER_LEN + LONGEST_FRAME];
    loop {
        let Received::Frame(len) = port.receive(buffers, &mut spill).unwrap() else {
            assert!(is_readable(port.fd(), 5000), "no frame came");
            continue;
        };
        let mut frame = vec![0; len.min(buffers.len())];
        assert!(buffers.copy_out(0, &mut frame));
        frame.extend_from_slice(&spill[..len - frame.len()]);
        if is_ours(&frame[HEADER_LEN..]) {
            return frame;
        }
    }
}

/// Reads what the host says by itself when an interface comes up.
fn nothing(port: &mut dyn Port, buffers: &IoBuffers) -> Received {
    let mut spill = vec![0; HEADER_LEN + LONGEST_FRAME];
    for _ in 0..100 {
        if port.receive(buffers, &mut spill).unwrap() == Received::Nothing {
            return Received::Nothing;
        }
    }
    panic!("more and more frames come")
}

fn tap_and_wire() -> (OpenTap, Wire, GuestRam) {
    let mtu = Some(65_521);
    let tap = opened(&TapOptions {
        mtu,
        ..options(TapSource::New)
    });
    let wire = Wire::on("mayfly0");
    (tap, wire, GuestRam::new(1 << 20).unwrap())
}

#[test]
fn frames_are_sent_from_any_number_of_pieces() {
    in_namespace(|| {
        let (mut tap, wire, ram) = tap_and_wire();
        let port = &mut *tap.link.ports[0];
        // 1023 pieces and the header are as many as one call takes.
        for (len, size) in [
            (14, 14),
            (60, 1),
            (1514, 100),
            (1023, 1),
            (1024, 1),
            (65_535, 8),
        ] {
            let frame = frame(len);
            let sent = port.send(&NO_HEADER, &holding(&ram, &frame, size)).unwrap();
            assert_eq!(sent, Sent::Whole, "{len} bytes in pieces of {size}");
            assert!(wire.receive() == frame, "{len} bytes in pieces of {size}");
        }
        assert_eq!(port.system_calls(), 6);
    });
}

#[test]
fn frames_are_received_into_any_number_of_pieces_and_the_spill() {
    in_namespace(|| {
        let (mut tap, wire, ram) = tap_and_wire();
        let port = &mut *tap.link.ports[0];
        let cases = [
            // Room, pieces of it, frame.
            (2048, 2048, 1514),
            (2048, 1, 1514),
            (1023, 1, 1514),
            (1024, 1, 1514),
            (0, 1, 60),
            (5, 5, 60),
            (1526, 64, 1514),
            (1525, 64, 1514),
            (100, 7, 65_535),
        ];
        for (room, size, len) in cases {
            let sent = frame(len);
            wire.send(&sent);
            let got = receive(port, &buffers(&ram, room, size));
            assert_eq!(got[..10], NO_HEADER[..10], "{room}, {size}, {len}");
            assert!(got[HEADER_LEN..] == sent, "{room}, {size}, {len}");
        }
    });
}

#[test]
fn the_kernel_completes_the_checksum_that_the_header_asks_for() {
    in_namespace(|| {
        let (mut tap, wire, ram) = tap_and_wire();
        let port = &mut *tap.link.ports[0];
        let mut frame = frame(60);
        frame[34..].fill(0);
        frame[40..42].copy_from_slice(&[0x12, 0x34]);
        // NEEDS_CSUM from byte 34 on, behind an IP header; the sum at offset 2 from there.
        let header = [1, 0, 0, 0, 0, 0, 34, 0, 2, 0, 0, 0];
        let sent = port.send(&header, &holding(&ram, &frame, 60)).unwrap();
        assert_eq!(sent, Sent::Whole);
        let got = wire.receive();
        // A packet socket sees the frame before or after the sum is made; a sum over
        // 0x1234 is 0xedcb.
        assert!(
            [[0, 0], [0xed, 0xcb]].contains(&[got[36], got[37]]),
            "{got:x?}"
        );
    });
}

#[test]
fn a_frame_that_the_kernel_refuses_is_dropped_and_the_next_one_sent() {
    in_namespace(|| {
        let (mut tap, wire, ram) = tap_and_wire();
        let port = &mut *tap.link.ports[0];
        let good = frame(60);
        let buffers = holding(&ram, &good, 60);
        // hdr_len beyond the frame; an unknown kind of segmentation; segments of nothing;
        // a checksum behind the end.
        let headers = [
            [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 0x7f, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 14, 0, 2, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        ];
        for header in headers {
            let sent = port.send(&header, &buffers).unwrap();
            assert_eq!(sent, Sent::Dropped, "{header:x?}");
        }
        assert_eq!(
            port.send(&NO_HEADER, &holding(&ram, &good[..13], 13))
                .unwrap(),
            Sent::Dropped
        );
        let buffers = holding(&ram, &good, 60);
        assert_eq!(port.send(&NO_HEADER, &buffers).unwrap(), Sent::Whole);
        assert!(wire.receive() == good);
    });
}

#[test]
fn what_is_sent_while_the_interface_is_down_is_dropped() {
    in_namespace(|| {
        let (mut tap, _wire, ram) = tap_and_wire();
        let port = &mut *tap.link.ports[0];
        let buffers = holding(&ram, &frame(60), 60);
        ip("link set mayfly0 down");
        assert_eq!(port.send(&NO_HEADER, &buffers).unwrap(), Sent::Dropped);
        assert_eq!(nothing(port, &buffers), Received::Nothing);
        let quiet = events(port.fd(), PollFlags::IN, 0);
        assert!(quiet.is_empty(), "{quiet:?}");
        ip("link set mayfly0 up");
        let wire = Wire::on("mayfly0");
        assert_eq!(
            port.send(&NO_HEADER, &holding(&ram, &frame(60), 60))
                .unwrap(),
            Sent::Whole
        );
        assert!(wire.receive() == frame(60));
    });
}

#[test]
fn a_removed_interface_is_gone_in_both_directions() {
    in_namespace(|| {
        ip("tuntap add many mode tap multi_queue");
        ip("link set many up");
        let ram = GuestRam::new(1 << 20).unwrap();
        let buffers = holding(&ram, &frame(60), 60);
        let mut tap = opened(&TapOptions {
            vcpus: 2,
            ..existing("many")
        });
        tap.link.ports[1].set_enabled(false).unwrap();
        ip("link delete many");
        for port in &mut tap.link.ports {
            let told = events(port.fd(), PollFlags::IN, 5000);
            assert!(told.contains(PollFlags::ERR), "{told:?}");
            assert!(port.send(&NO_HEADER, &buffers).is_err());
            let mut spill = vec![0; HEADER_LEN + LONGEST_FRAME];
            assert!(port.receive(&buffers, &mut spill).is_err());
        }
    });
}

#[test]
fn a_queue_that_is_switched_off_gets_nothing() {
    in_namespace(|| {
        ip("tuntap add many mode tap multi_queue");
        ip("link set many up");
        let ram = GuestRam::new(1 << 20).unwrap();
        let room = buffers(&ram, 2048, 2048);
        let mut tap = opened(&TapOptions {
            vcpus: 2,
            ..existing("many")
        });
        let wire = Wire::on("many");
        let [first, second] = &mut tap.link.ports[..] else {
            panic!("two ports");
        };
        second.set_enabled(false).unwrap();
        for host in 0..64 {
            // Many senders, which would be dealt out among the queues.
            let mut frame = frame(60);
            frame[11] = host;
            wire.send(&frame);
            assert!(receive(&mut **first, &room)[HEADER_LEN..] == frame);
        }
        assert_eq!(nothing(&mut **second, &room), Received::Nothing);
        assert!(!is_readable(second.fd(), 0));
    });
}
