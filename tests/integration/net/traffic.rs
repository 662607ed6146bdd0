//! The host's end of what guests send and receive (`mayfly.tcp`, `mayfly.udp` and their
//! servers). Threads start in the network namespace of the one that calls.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::common::disk::{FNV_START, fnv_on};
use crate::common::run::LIMIT;

const BLOCK: usize = 1 << 16;
const LINE: usize = 64;

/// The beginning of the pattern that guests send, block by block.
fn blocks(bytes: usize) -> impl Iterator<Item = Vec<u8>> {
    let letters: Vec<u8> = (b'a'..=b'z').cycle().take(26 + 54).collect();
    (0..bytes).step_by(BLOCK).map(move |start| {
        let mut block = Vec::with_capacity(BLOCK);
        for line in start / LINE..(start + BLOCK) / LINE {
            write!(block, "{line:08}:").expect("memory takes all");
            block.extend(&letters[line % 26..][..54]);
            block.push(b'\n');
        }
        block.truncate(bytes - start);
        block
    })
}

/// The guest's checksum of that much of the pattern.
pub fn sum(bytes: usize) -> u64 {
    blocks(bytes).fold(FNV_START, |sum, block| fnv_on(sum, &block))
}

/// Sends that much of the pattern and the end.
pub fn send_pattern(stream: &mut TcpStream, bytes: usize) {
    for block in blocks(bytes) {
        stream.write_all(&block).expect("send to a guest");
    }
    stream.shutdown(Shutdown::Write).expect("send the end");
}

/// Receives that much of the pattern and the end, and nothing else.
pub fn receive_pattern(stream: &mut TcpStream, bytes: usize) {
    let mut received = Vec::with_capacity(BLOCK);
    for block in blocks(bytes) {
        received.clear();
        let mut part = Read::by_ref(stream).take(block.len() as u64);
        part.read_to_end(&mut received).expect("receive of a guest");
        assert!(received == block, "a guest sent something else");
    }
    let more = stream.read(&mut [0]).expect("receive the end");
    assert_eq!(more, 0, "a guest sent more than it was to");
}

/// Listens, and accepts one connection: receives `theirs` bytes of the pattern and the
/// end, and then sends `ours`.
pub fn serve_tcp(port: u16, theirs: usize, ours: usize) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen");
    Server::new(move || {
        let (mut stream, _) = listener.accept().expect("accept a guest's connection");
        stream.set_read_timeout(Some(LIMIT)).expect("set a limit");
        receive_pattern(&mut stream, theirs);
        send_pattern(&mut stream, ours);
    })
}

/// Connects to a guest that listens: sends `ours` bytes of the pattern and the end, and
/// receives `theirs`.
#[track_caller]
pub fn exchange_by_tcp(guest: Ipv4Addr, port: u16, ours: usize, theirs: usize) {
    let mut stream = TcpStream::connect((guest, port)).expect("connect to a guest");
    stream.set_read_timeout(Some(LIMIT)).expect("set a limit");
    send_pattern(&mut stream, ours);
    receive_pattern(&mut stream, theirs);
}

/// Sends every datagram back, for as long as this process lives.
pub fn echo_udp(port: u16) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
    thread::spawn(move || {
        let mut datagram = vec![0; 1 << 16];
        while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], peer);
        }
    });
}

/// Sends a datagram to a guest's `mayfly.udp-serve` and waits for the same back.
#[track_caller]
pub fn exchange_by_udp(guest: Ipv4Addr, port: u16, datagram: &[u8]) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
    socket.set_read_timeout(Some(LIMIT)).expect("set a limit");
    socket.connect((guest, port)).expect("connect");
    socket.send(datagram).expect("send to a guest");
    let mut echo = vec![0; 1 << 16];
    let length = socket.recv(&mut echo).expect("a guest's echo");
    assert!(echo[..length] == *datagram, "a guest's echo is another");
}

/// Ends a guest's `mayfly.udp-serve`.
#[track_caller]
pub fn stop(guest: Ipv4Addr, port: u16) {
    exchange_by_udp(guest, port, b"stop");
}

/// A thread that serves guests. A failed test does not wait for it.
pub struct Server {
    done: Receiver<()>,
}

impl Server {
    pub fn new(serve: impl FnOnce() + Send + 'static) -> Self {
        let (sender, done) = channel();
        thread::spawn(move || {
            serve();
            let _ = sender.send(());
        });
        Self { done }
    }

    /// Waits until all has come and gone as it was to.
    #[track_caller]
    pub fn is_done(self) {
        let done = self.done.recv_timeout(LIMIT);
        assert!(done.is_ok(), "a server of guests failed: {done:?}");
    }
}
