//! Guests in user mode: passt is their network, and no privileges are needed.
//!
//! The test's host is a namespace with one way out, to another namespace where servers
//! wait. In the way of servers and guests is a limit of passt of 2023: if the guest ends
//! its half of a connection first, it never hears of the end of the other half.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::traffic::{
    Server, echo_udp, exchange_by_tcp, exchange_by_udp, receive_pattern, send_pattern, stop, sum,
};
use crate::common::netns::{Namespace, in_namespace, ip, veth_to};
use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{Mayfly, bare};

/// The host, whose address the guest has too; its router; and a server behind that.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 7, 7, 7);
/// What the server's name is said to mean.
const NAMED: Ipv4Addr = Ipv4Addr::new(10, 7, 7, 8);

const TCP: u16 = 8;
const UDP: u16 = 7;
const DNS: u16 = 53;
/// Ports of the guest's servers, and of the host that lead there.
const GUEST_TCP: u16 = 9;
const FORWARDED_TCP: u16 = 8009;
const GUEST_UDP: u16 = 7;
const FORWARDED_UDP: u16 = 8007;

/// Bytes that the guest sends, and that it receives.
const FROM_GUEST: usize = 300_000;
const TO_GUEST: usize = 1000;

/// The exit code for what the user can mend.
const UNUSABLE: i32 = 245;

/// Runs `body` on a host with a way out.
fn on_a_host<T: Send>(body: impl FnOnce(&Namespace) -> T + Send) -> T {
    let outside = Namespace::new();
    in_namespace(|| {
        veth_to(&outside, HOST, ROUTER);
        outside.run(|| {
            for address in [SERVER, NAMED] {
                ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]);
            }
        });
        body(&outside)
    })
}

/// Accepts so many connections: sends on each, and then receives.
fn serve_tcp(connections: usize) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, TCP)).expect("listen");
    Server::new(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().expect("accept a guest's connection");
            send_pattern(&mut stream, TO_GUEST);
            receive_pattern(&stream, FROM_GUEST);
        }
    })
}

/// A name server that knows one answer (RFC 1035 §4).
fn serve_names() {
    let socket = UdpSocket::bind((SERVER, DNS)).expect("bind");
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            let mut answer = query[..length].to_vec();
            // A response without error, and one record: the name asked for, an address
            // (A, IN), valid for a minute.
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[6..8].copy_from_slice(&[0, 1]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(NAMED.octets());
            let _ = socket.send_to(&answer, peer);
        }
    });
}

/// `mayfly` without a privilege over anything of this test's host: a user namespace of
/// its own leaves it the files that it could open before, `/dev/kvm` among them. Its
/// name server is `SERVER`.
fn unprivileged(mayfly: Mayfly) -> Mayfly {
    let script = format!(
        "echo nameserver {SERVER} > /tmp/resolv.conf && \
         mount --bind /tmp/resolv.conf /etc/resolv.conf && umount -l /tmp && \
         exec unshare --user --map-user=65534 --map-group=65534 \"$@\""
    );
    let script = format!("mount -t tmpfs none /tmp && {script}");
    // Not the shell of a busybox, which has an unshare of its own that can do less.
    mayfly.under("unshare", ["--mount", "bash", "-c", &script, "bash"])
}

/// The processes that `parent` has started and that have not ended.
fn children(parent: u32) -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").expect("list processes");
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let is_child = status.contains(&format!("\nPPid:\t{parent}\n"));
        is_child && !status.contains("\nState:\tZ")
    })
    .collect()
}

/// The one process that `mayfly` has started.
#[track_caller]
fn passt_of(mayfly: u32) -> u32 {
    let children = children(mayfly);
    assert_eq!(children.len(), 1, "{children:?}");
    let passt = *children.first().expect("one");
    let name = fs::read_to_string(format!("/proc/{passt}/comm")).expect("its name");
    assert!(name.starts_with("passt"), "{name}");
    passt
}

fn is_there(process: u32) -> bool {
    fs::exists(format!("/proc/{process}")).expect("look for a process")
}

#[test]
fn an_unprivileged_guest_has_a_network_and_is_reached_by_a_forward() {
    let _turn = turn_to_boot();
    on_a_host(|outside| {
        let server = outside.run(|| {
            serve_names();
            echo_udp(UDP);
            serve_tcp(2)
        });
        // Found in the cache.
        tiny("vmlinux");
        let net = format!("user,forward=tcp:{FORWARDED_TCP}:{GUEST_TCP}");
        // The router, which is the guest's too, is the router and not the host's loopback.
        let words = format!(
            "mayfly.link=eth0 mayfly.ping={SERVER},3 mayfly.resolve=server.test \
             mayfly.tcp={SERVER},{TCP},{FROM_GUEST} mayfly.tcp={ROUTER},{TCP},{FROM_GUEST} \
             mayfly.udp={ROUTER},{UDP},1,1472,9000,65492 \
             mayfly.tcp-serve={GUEST_TCP},{FROM_GUEST}"
        );
        let mayfly = Mayfly::new(["run", "--json", "--net", &net, "--cmdline", &words]);
        let mut running = unprivileged(mayfly).start();
        running.wait_for(&format!("tcp-serve {GUEST_TCP}: ready"));
        let passt = passt_of(running.id());
        exchange_by_tcp(Ipv4Addr::LOCALHOST, FORWARDED_TCP, FROM_GUEST, FROM_GUEST);
        server.finish();
        let outcome = running.outcome();
        outcome.ended(0, "power-off");
        assert!(!is_there(passt), "{outcome}");
        let link = outcome.line("mayfly-guest: eth0: mac=");
        let rest = format!(" mtu=65520 link=up address={HOST}/24 gateway={ROUTER}");
        assert!(link.ends_with(&rest), "{outcome}");
        let received = format!("received={TO_GUEST} fnv={}", sum(TO_GUEST));
        let both = format!(
            "sent={FROM_GUEST} received={FROM_GUEST} fnv={}",
            sum(FROM_GUEST)
        );
        for line in [
            format!("ping {SERVER}: answers=3 of 3"),
            format!("server.test: address={NAMED}"),
            format!("tcp {SERVER}: sent={FROM_GUEST} {received}"),
            format!("tcp {ROUTER}: sent={FROM_GUEST} {received}"),
            format!("udp {ROUTER}: echoed=4 of 4 lost=0 wrong=0"),
            format!("tcp-serve {GUEST_TCP}: {both}"),
        ] {
            outcome.printed(&format!("mayfly-guest: {line}\n"));
        }
        assert!(!outcome.stderr.contains("passt"), "{outcome}");
    });
}

/// Started by root, passt becomes another user, whom the death of a parent does not
/// reach by itself.
#[test]
fn a_guest_of_root_answers_datagrams_and_passt_dies_with_a_killed_mayfly() {
    let _turn = turn_to_boot();
    on_a_host(|_outside| {
        tiny("vmlinux");
        let net = format!("user,mtu=1400,forward=udp:{FORWARDED_UDP}:{GUEST_UDP}");
        let words =
            format!("mayfly.link=eth0 mayfly.udp-serve={GUEST_UDP} mayfly.udp-serve={GUEST_UDP}");
        let mut running =
            Mayfly::new(["run", "--json", "--net", &net, "--cmdline", &words]).start();
        running.wait_for(&format!("udp-serve {GUEST_UDP}: ready"));
        running.wait_for(" mtu=1400 link=up ");
        let passt = passt_of(running.id());
        exchange_by_udp(Ipv4Addr::LOCALHOST, FORWARDED_UDP, &[7; 1000]);
        stop(Ipv4Addr::LOCALHOST, FORWARDED_UDP);
        // SIGKILL.
        drop(running);
        let end = Instant::now() + Duration::from_secs(10);
        while is_there(passt) {
            assert!(Instant::now() < end, "passt is still there");
            thread::sleep(Duration::from_millis(5));
        }
    });
}

/// `mayfly` says this one line and nothing else, and starts no guest.
#[track_caller]
fn refuses(mayfly: Mayfly, line: &str) {
    let outcome = mayfly.outcome();
    assert_eq!(outcome.code, UNUSABLE, "{outcome}");
    assert_eq!(outcome.stderr, format!("mayfly: {line}\n"), "{outcome}");
    assert_eq!(outcome.stdout, "", "{outcome}");
}

#[test]
fn what_passt_lacks_is_told_in_one_line() {
    let bare = |net: &str| {
        let kernel = bare("hello");
        Mayfly::new(["run", "--net", net, "--kernel"]).arg(kernel)
    };
    refuses(
        bare("user").env("PATH", "/nonexistent"),
        "cannot find 'passt', which a user network needs: install it (apt install passt), \
         or use --net tap=NAME",
    );
    in_namespace(|| {
        refuses(
            bare("user"),
            "'passt' cannot make the user network: No external routable interface for IPv4; \
             No external routable interface for IPv6; External interface not usable",
        );
    });
    on_a_host(|_outside| {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = taken.local_addr().expect("its address").port();
        refuses(
            bare(&format!("user,forward=tcp:{port}:80")),
            &format!(
                "'passt' cannot make the user network: Failed to bind any port for \
                 '-t 127.0.0.1/{port}:80', exiting"
            ),
        );
    });
}
