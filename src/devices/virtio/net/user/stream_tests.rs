use super::*;

use std::io::{Read, Write};

use crate::devices::virtio::net::link::LONGEST_FRAME;
use crate::memory::GuestRam;

const RAM_SIZE: u64 = 4 << 20;
const FRAME_ADDR: u64 = 0x10_0000;
const NO_HEADER: [u8; HEADER_LEN] = [0; HEADER_LEN];

/// A port and passt's end of its socket.
fn port() -> (StreamPort, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (StreamPort::new(ours).unwrap(), theirs)
}

fn ram() -> GuestRam {
    GuestRam::new(RAM_SIZE).unwrap()
}

/// `frame` in guest memory, cut into `pieces` of equal length that do not touch.
fn in_memory(ram: &GuestRam, frame: &[u8], pieces: usize) -> IoBuffers {
    let mut list = IoBuffers::new(ram.clone(), pieces + 1);
    let size = frame.len().div_ceil(pieces).max(1);
    let mut addr = FRAME_ADDR;
    for piece in frame.chunks(size) {
        ram.write(addr, piece).unwrap();
        list.push(addr, piece.len()).unwrap();
        addr += piece.len() as u64 + 64;
    }
    list
}

/// A frame to a multicast address, with a pattern that tells its bytes apart.
fn frame(len: usize, seed: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| ((at * 31 + seed) % 251) as u8).collect();
    for (place, byte) in frame.iter_mut().zip([1u8, 0, 0x5e, 0, 0, 1]) {
        *place = byte;
    }
    frame
}

/// A frame as it goes over the socket.
fn on_the_wire(frame: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(frame);
    bytes
}

fn read_exactly(socket: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn frames_go_out_behind_their_length_in_one_call() {
    let (mut port, mut passt) = port();
    let ram = ram();
    for (len, pieces) in [
        (14, 1),
        (14, 14),
        (53, 2),
        (54, 1),
        (55, 55),
        (1514, 3),
        (65_535, 40),
    ] {
        let sent = frame(len, pieces);
        let calls = port.system_calls();
        let list = in_memory(&ram, &sent, pieces);
        assert_eq!(port.send(&NO_HEADER, &list).unwrap(), Sent::Whole);
        assert_eq!(port.system_calls() - calls, 1);
        assert_eq!(read_exactly(&mut passt, len + 4), on_the_wire(&sent));
    }
}

#[test]
fn frames_that_cannot_be_sent_are_dropped() {
    let (mut port, passt) = port();
    let ram = ram();
    let mut send = |list: &IoBuffers| port.send(&NO_HEADER, list).unwrap();
    assert_eq!(send(&in_memory(&ram, &[], 1)), Sent::Dropped);
    let too_long = frame(LONGEST_FRAME + 1, 0);
    assert_eq!(send(&in_memory(&ram, &too_long, 1)), Sent::Dropped);
    let in_shreds = frame(3000, 0);
    assert_eq!(send(&in_memory(&ram, &in_shreds, 3000)), Sent::Dropped);
    let mut to_loopback = frame(60, 0);
    to_loopback[12..14].copy_from_slice(&[8, 0]);
    to_loopback[30..34].copy_from_slice(&[127, 0, 0, 1]);
    assert_eq!(send(&in_memory(&ram, &to_loopback, 60)), Sent::Dropped);
    passt.set_nonblocking(true).unwrap();
    let nothing = (&passt).read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_full_socket_delays_frames_and_garbles_none() {
    let (mut port, mut passt) = port();
    // The kernel takes the least it knows, some kilobytes.
    set_buffer(&port.socket, 1).unwrap();
    passt.set_nonblocking(true).unwrap();
    let ram = ram();
    let frames: Vec<Vec<u8>> = [65_535, 14, 60_000, 1514, 65_535, 40_000, 33]
        .into_iter()
        .zip(1..)
        .map(|(len, seed)| frame(len, seed))
        .collect();
    let expected: Vec<u8> = frames.iter().flat_map(|frame| on_the_wire(frame)).collect();
    let mut came = Vec::new();
    let mut delays = 0;
    for sent in &frames {
        loop {
            let list = in_memory(&ram, sent, 7);
            match port.send(&NO_HEADER, &list).unwrap() {
                Sent::Whole => break,
                Sent::Later => delays += 1,
                Sent::Dropped => panic!("frames are not lost"),
            }
            // What has been begun is ended as it was, whatever the guest writes now.
            if delays % 2 == 0 {
                ram.write(FRAME_ADDR + 100, &[0xff; 1 << 16]).unwrap();
            }
            let mut some = [0; 3000];
            while let Ok(count) = passt.read(&mut some) {
                came.extend_from_slice(&some[..count]);
                if delays % 3 != 0 {
                    break;
                }
            }
        }
    }
    passt.set_nonblocking(false).unwrap();
    let rest = read_exactly(&mut passt, expected.len() - came.len());
    came.extend(rest);
    assert!(delays > frames.len(), "{delays} delays");
    assert!(came == expected);
}

#[test]
fn the_rest_of_a_frame_goes_out_even_if_no_other_follows() {
    let (mut port, mut passt) = port();
    set_buffer(&port.socket, 1).unwrap();
    let ram = ram();
    let sent = frame(65_000, 1);
    let list = in_memory(&ram, &sent, 1);
    assert_eq!(port.send(&NO_HEADER, &list).unwrap(), Sent::Later);
    let nowhere = IoBuffers::new(ram.clone(), 1);
    let mut came = Vec::new();
    while came.len() < sent.len() + 4 {
        let mut some = vec![0; 1 << 16];
        let count = passt.read(&mut some).unwrap();
        assert!(count > 0);
        came.extend_from_slice(&some[..count]);
        assert_eq!(
            port.receive(&nowhere, &mut []).unwrap(),
            Received::Nothing,
            "but the rest goes out"
        );
    }
    assert!(came == on_the_wire(&sent));
    // Its sender is told when it comes again, and it is not sent twice.
    assert_eq!(port.send(&NO_HEADER, &list).unwrap(), Sent::Whole);
    let next = frame(60, 2);
    let list = in_memory(&ram, &next, 1);
    assert_eq!(port.send(&NO_HEADER, &list).unwrap(), Sent::Whole);
    assert_eq!(read_exactly(&mut passt, 64), on_the_wire(&next));
}

#[test]
fn another_frame_than_the_one_put_off_is_sent() {
    let (mut port, mut passt) = port();
    set_buffer(&port.socket, 1).unwrap();
    let ram = ram();
    let forgotten = frame(65_000, 1);
    let list = in_memory(&ram, &forgotten, 1);
    assert_eq!(port.send(&NO_HEADER, &list).unwrap(), Sent::Later);
    let next = frame(60, 2);
    let mut came = Vec::new();
    loop {
        let mut some = vec![0; 1 << 16];
        let count = passt.read(&mut some).unwrap();
        came.extend_from_slice(&some[..count]);
        let list = in_memory(&ram, &next, 1);
        if port.send(&NO_HEADER, &list).unwrap() == Sent::Whole {
            break;
        }
    }
    let expected = [on_the_wire(&forgotten), on_the_wire(&next)].concat();
    let rest = read_exactly(&mut passt, expected.len() - came.len());
    came.extend(rest);
    assert!(came == expected);
}

#[test]
fn received_frames_fill_the_buffers_and_then_the_spill() {
    let (mut port, mut passt) = port();
    let ram = ram();
    let frames = [frame(100, 1), frame(14, 2), frame(65_520, 3)];
    for frame in &frames {
        passt.write_all(&on_the_wire(frame)).unwrap();
    }
    let mut list = IoBuffers::new(ram.clone(), 2);
    list.push(FRAME_ADDR, 5).unwrap();
    list.push(FRAME_ADDR + 0x1000, 60).unwrap();
    for sent in &frames {
        let mut spill = vec![0; LONGEST_FRAME + HEADER_LEN];
        let received = port.receive(&list, &mut spill).unwrap();
        let len = sent.len() + HEADER_LEN;
        assert_eq!(received, Received::Frame(len));
        let expected = [&NO_HEADER[..], sent].concat();
        let in_buffers = len.min(65);
        let mut found = vec![0; in_buffers];
        assert!(list.copy_out(0, &mut found));
        found.extend_from_slice(&spill[..len - in_buffers]);
        assert!(found == expected);
    }
    let nothing = port.receive(&list, &mut []).unwrap();
    assert_eq!(nothing, Received::Nothing);
    assert!(
        port.system_calls() <= 3,
        "two reads and one that finds nothing"
    );
}

#[test]
fn one_read_serves_many_frames() {
    let (mut port, mut passt) = port();
    let ram = ram();
    let sent = frame(60, 1);
    // In one piece: a socket may not have room for a hundred small ones.
    passt.write_all(&on_the_wire(&sent).repeat(100)).unwrap();
    let mut list = IoBuffers::new(ram, 1);
    list.push(FRAME_ADDR, 2048).unwrap();
    for _ in 0..100 {
        let received = port.receive(&list, &mut []).unwrap();
        assert_eq!(received, Received::Frame(72));
    }
    assert_eq!(port.system_calls(), 1);
}

#[test]
fn the_end_of_passt_is_told_after_the_frames_before_it() {
    let (port, mut passt) = port();
    let (words, writer) = Words::pipe().unwrap();
    let mut port = port.told_by(Arc::new(words));
    let mut list = IoBuffers::new(ram(), 1);
    list.push(FRAME_ADDR, 2048).unwrap();
    passt.write_all(&on_the_wire(&frame(60, 1))).unwrap();
    passt.write_all(&[0, 0, 0]).unwrap();
    rustix::io::write(&writer, b"first\nOut of patience\n").unwrap();
    drop(passt);
    let received = port.receive(&list, &mut []).unwrap();
    assert_eq!(received, Received::Frame(72));
    let Gone(error) = port.receive(&list, &mut []).unwrap_err();
    assert_eq!(error.to_string(), "'passt' has ended: Out of patience");
    let Gone(error) = port.send(&NO_HEADER, &list).unwrap_err();
    assert_eq!(error.to_string(), "'passt' has ended");
}

#[test]
fn what_is_no_stream_of_frames_ends_the_link() {
    for garbage in [[0u8; 4], [0xff; 4], [0, 1, 0, 18]] {
        let (mut port, mut passt) = port();
        let mut list = IoBuffers::new(ram(), 1);
        list.push(FRAME_ADDR, 2048).unwrap();
        passt.write_all(&garbage).unwrap();
        for _ in 0..2 {
            let Gone(error) = port.receive(&list, &mut []).unwrap_err();
            assert!(error.to_string().contains("announced a frame of"));
        }
    }
}
