//! The tests' own networks do what the other tests expect of them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use crate::common::netns::{Namespace, Queues, bridge, in_namespace, ip, ping, tap, veth_to};

#[test]
fn a_namespace_has_what_was_put_there_and_nothing_else() {
    let names = in_namespace(|| {
        tap("tap0", Queues::Many);
        tap("tap1", Queues::One);
        bridge("br0", "10.9.8.1/24", &["tap0", "tap1"]);
        ping(Ipv4Addr::new(10, 9, 8, 1), 2, 1000);
        let names = ip(&["-brief", "link"]);
        assert!(ip(&["-details", "link", "show", "tap0"]).contains("multi_queue"));
        names
    });
    let names: Vec<&str> = names
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, ["lo", "tap0", "tap1", "br0"]);
    assert!(!ip(&["-brief", "link"]).contains("br0"));
}

#[test]
fn two_namespaces_reach_each_other_by_their_veth() {
    let outside = Namespace::new();
    let (ours, theirs) = (Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 1));
    in_namespace(|| {
        veth_to(&outside, ours, theirs);
        let listener = outside.run(|| TcpListener::bind((theirs, 7)).expect("listen"));
        let server = thread::spawn(move || {
            let (mut stream, peer) = listener.accept().expect("accept");
            stream.write_all(b"from outside").expect("send");
            peer
        });
        let mut stream = TcpStream::connect((theirs, 7)).expect("connect");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("receive");
        assert_eq!(text, "from outside");
        assert_eq!(server.join().expect("the server").ip(), ours);
        ping(theirs, 1, 56);

        let echo = outside.run(|| UdpSocket::bind((theirs, 7)).expect("bind"));
        let socket = UdpSocket::bind((ours, 0)).expect("bind");
        socket.send_to(b"by day", (theirs, 7)).expect("send");
        let mut datagram = [0; 10];
        let (length, from) = echo.recv_from(&mut datagram).expect("receive");
        assert_eq!(
            (&datagram[..length], from.ip()),
            (&b"by day"[..], ours.into())
        );
    });
}
