//! The host's end of what guests send and receive (`mayfly.tcp`, `mayfly.udp` and their
//! servers). Threads start in the network namespace of the one that calls.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::common::disk::{fnv, guest_pattern};
use crate::common::run::LIMIT;
use crate::common::{HostKind, host_kind};

const LINE: usize = 64;

/// After so many lines the pattern has the same letters and last three digits again.
const PERIOD: usize = 13_000;

/// The beginning of the pattern that guests send. Tests are not optimized, and where all
/// of the host is emulated 64 MiB made byte by byte would take a quarter of a minute.
fn pattern(bytes: usize) -> Vec<u8> {
    static LINES: OnceLock<Vec<u8>> = OnceLock::new();
    let lines = LINES.get_or_init(|| guest_pattern(PERIOD * LINE));
    let mut pattern = lines.repeat(bytes.div_ceil(lines.len()));
    for (number, thousand) in pattern.chunks_mut(1000 * LINE).enumerate() {
        let digits = format!("{number:05}").into_bytes();
        for line in thousand.chunks_mut(LINE) {
            line[..digits.len()].copy_from_slice(&digits);
        }
    }
    pattern.truncate(bytes);
    pattern
}

/// The guest's checksums of that much of the pattern, for the same reason.
const SUMS: [(usize, u64); 2] = [
    (8 << 20, 0x3001_21c5_3f57_a19f),
    (64 << 20, 0x6e14_3e2b_ab56_6fb7),
];

/// The guest's checksum of that much of the pattern.
pub fn sum(bytes: usize) -> u64 {
    let known = SUMS.iter().find(|(length, _)| *length == bytes);
    known.map_or_else(|| fnv(&pattern(bytes)), |(_, sum)| *sum)
}

#[test]
fn the_pattern_is_the_guests() {
    for bytes in [0, 1, 64, 100, 2_000_000] {
        assert!(pattern(bytes) == guest_pattern(bytes), "{bytes} bytes");
    }
    if host_kind() == HostKind::Pvm {
        for (bytes, sum) in SUMS {
            assert_eq!(fnv(&pattern(bytes)), sum, "{bytes} bytes");
        }
    }
}

/// Sends that much of the pattern and the end.
pub fn send_pattern(stream: &mut TcpStream, bytes: usize) {
    stream.write_all(&pattern(bytes)).expect("send to a guest");
    stream.shutdown(Shutdown::Write).expect("send the end");
}

/// Receives that much of the pattern and the end, and nothing else.
pub fn receive_pattern(stream: &TcpStream, bytes: usize) {
    let mut received = Vec::with_capacity(bytes + 1);
    let mut stream = stream.take(bytes as u64 + 1);
    stream
        .read_to_end(&mut received)
        .expect("receive of a guest");
    let length = received.len();
    assert_eq!(
        length, bytes,
        "a guest sent so much, and was to send that much"
    );
    assert!(received == pattern(bytes), "a guest sent something else");
}

/// Listens, and accepts one connection: receives `theirs` bytes of the pattern and the
/// end, and then sends `ours`.
pub fn serve_tcp(port: u16, theirs: usize, ours: usize) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen");
    Server::new(move || {
        let (mut stream, _) = listener.accept().expect("accept a guest's connection");
        stream.set_read_timeout(Some(LIMIT)).expect("set a limit");
        receive_pattern(&stream, theirs);
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
    receive_pattern(&stream, theirs);
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
    pub fn finish(self) {
        let done = self.done.recv_timeout(LIMIT);
        assert!(done.is_ok(), "a server of guests failed: {done:?}");
    }
}
