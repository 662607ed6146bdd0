//! Linux guests on taps: with the host, with each other, and without a link.

use std::net::Ipv4Addr;

use super::traffic::{Server, echo_udp, exchange_by_tcp, exchange_by_udp, serve_tcp, stop, sum};
use crate::common::netns::{Queues, bridge, in_namespace, ip, ping, tap};
use crate::common::running::Running;
use crate::common::tiny::{tiny, turn_to_boot};
use crate::common::{HostKind, Mayfly, Outcome, host_kind};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

/// Ports: of the host's servers, the second guest's by TCP being the next one, and of the
/// guests' servers.
const HOST_TCP: u16 = 8;
const HOST_UDP: u16 = 7;
const GUEST_TCP: u16 = 9;
const GUEST_TCP_FOR_HOST: u16 = 10;
const GUEST_UDP: u16 = 7;
/// Of the server of a guest whose link has come back.
const AFTERWARDS: u16 = 17;

/// Bytes in each direction of the connection that the host opens.
const TO_GUEST: usize = 10_000;

/// How much a guest exchanges, by the kind of host: where its kernel is interpreted, a
/// MiB takes ten seconds, and where all of the host is emulated, one without offloads
/// takes half a second.
struct Amounts {
    /// Bytes in each direction of its connection to the host, with offloads and without.
    with_offload: usize,
    without: usize,
    /// Of that to the other guest.
    between_guests: usize,
    /// Lengths of datagrams, the shortest, the longest, and those around one frame.
    datagrams: &'static [usize],
}

impl Amounts {
    fn of_this_host() -> Self {
        match host_kind() {
            HostKind::Hardware => Self {
                with_offload: 64 << 20,
                without: 8 << 20,
                between_guests: 2 << 20,
                datagrams: &[1, 2, 63, 1472, 1473, 2961, 9000, 65506, 65507],
            },
            HostKind::Pvm => Self {
                with_offload: 128 << 10,
                without: 128 << 10,
                between_guests: 32 << 10,
                datagrams: &[1, 1473, 65507],
            },
        }
    }

    /// What this guest and the host send each other.
    fn with_host(&self, guest: &Guest) -> usize {
        match guest.offload {
            true => self.with_offload,
            false => self.without,
        }
    }
}

/// A guest and the way it has its network.
#[derive(Clone, Copy, Debug)]
struct Guest {
    tap: &'static str,
    address: Ipv4Addr,
    transport: &'static str,
    /// Queue pairs, and vCPUs to use them.
    pairs: u32,
    offload: bool,
}

impl Guest {
    /// The default guest with these words, started.
    fn start(&self, words: &str) -> Running {
        // Found in the cache.
        tiny("vmlinux");
        let Self { tap, address, .. } = self;
        let pairs = self.pairs.to_string();
        let offload = if self.offload { "on" } else { "off" };
        let net = format!("tap={tap},queues={pairs},offload={offload},ip={address}/24,gw={HOST}");
        Mayfly::new(["run", "--json", "--transport", self.transport])
            .args(["--cpus", &pairs, "--net", &net])
            .args(["--cmdline", words])
            .start()
    }

    /// Words that show the interface and talk with the host.
    fn words_with_host(&self, amounts: &Amounts, port: u16) -> String {
        let datagrams = list(amounts.datagrams);
        format!(
            "quiet mayfly.link=eth0 mayfly.channels=eth0,1 mayfly.channels=eth0,{} \
             mayfly.feature=eth0,tx-tcp-segmentation mayfly.ping={HOST},3 \
             mayfly.tcp={HOST},{port},{} mayfly.udp={HOST},{HOST_UDP},{datagrams}",
            self.pairs,
            amounts.with_host(self)
        )
    }

    /// What must come of them.
    #[track_caller]
    fn has_talked_with_host(&self, outcome: &Outcome, amounts: &Amounts) {
        let link = outcome.line("mayfly-guest: eth0: mac=");
        let rest = format!(
            " mtu=1500 link=up address={}/24 gateway={HOST}",
            self.address
        );
        assert!(link.ends_with(&rest), "{outcome}");
        let pairs = self.pairs;
        let segmentation = if self.offload { "on" } else { "off" };
        let (bytes, count) = (amounts.with_host(self), amounts.datagrams.len());
        for line in [
            format!("eth0: channels=1 of {pairs}"),
            format!("eth0: channels={pairs} of {pairs}"),
            format!("eth0: tx-tcp-segmentation={segmentation}"),
            format!("ping {HOST}: answers=3 of 3"),
            format!(
                "tcp {HOST}: sent={bytes} received={bytes} fnv={}",
                sum(bytes)
            ),
        ] {
            outcome.printed(&format!("mayfly-guest: {line}\n"));
        }
        all_echoed(outcome, HOST, count);
    }
}

#[test]
fn two_guests_on_a_bridge_talk_with_the_host_and_each_other() {
    let first = Guest {
        tap: "tap0",
        address: FIRST,
        transport: "pci",
        pairs: 2,
        offload: true,
    };
    let second = Guest {
        tap: "tap1",
        address: SECOND,
        transport: "mmio",
        pairs: 1,
        offload: false,
    };
    let _turn = turn_to_boot();
    in_namespace(|| talk(first, second));
}

#[test]
fn two_guests_on_a_bridge_talk_the_other_way_round() {
    if host_kind() == HostKind::Pvm {
        println!("a boot takes many seconds here; this runs on the emulated host");
        return;
    }
    let first = Guest {
        tap: "tap0",
        address: FIRST,
        transport: "mmio",
        pairs: 2,
        offload: true,
    };
    let second = Guest {
        tap: "tap1",
        address: SECOND,
        transport: "pci",
        pairs: 1,
        offload: false,
    };
    let _turn = turn_to_boot();
    in_namespace(|| talk(first, second));
}

/// Each guest talks with the host, the second with the first, and the host with both;
/// then the second loses its link, has it back, and loses its tap.
fn talk(first: Guest, second: Guest) {
    for guest in [first, second] {
        let queues = if guest.pairs > 1 {
            Queues::Many
        } else {
            Queues::One
        };
        tap(guest.tap, queues);
    }
    bridge("br0", &format!("{HOST}/24"), &[first.tap, second.tap]);
    let amounts = Amounts::of_this_host();
    let bytes = amounts.between_guests;
    let servers = [(HOST_TCP, first), (HOST_TCP + 1, second)].map(|(port, guest)| {
        let bytes = amounts.with_host(&guest);
        serve_tcp(port, bytes, bytes)
    });
    echo_udp(HOST_UDP);

    let mut one = first.start(&format!(
        "{} mayfly.tcp-serve={GUEST_TCP},{bytes} \
         mayfly.tcp-serve={GUEST_TCP_FOR_HOST},{TO_GUEST} mayfly.udp-serve={GUEST_UDP}",
        first.words_with_host(&amounts, HOST_TCP)
    ));
    // A server of TCP is waited for; then the first is there for everything else.
    let mut two = second.start(&format!(
        "{} mayfly.tcp={FIRST},{GUEST_TCP},{bytes} mayfly.ping={FIRST},3 \
         mayfly.udp={FIRST},{GUEST_UDP},{} mayfly.udp-serve={GUEST_UDP} \
         mayfly.link-wait=eth0,down mayfly.link-wait=eth0,up \
         mayfly.udp-serve={AFTERWARDS} mayfly.link-wait=eth0,down",
        second.words_with_host(&amounts, HOST_TCP + 1),
        list(amounts.datagrams)
    ));
    one.wait_for(&format!("tcp-serve {GUEST_TCP_FOR_HOST}: ready"));
    exchange_by_tcp(FIRST, GUEST_TCP_FOR_HOST, TO_GUEST, TO_GUEST);
    let ready = format!("udp-serve {GUEST_UDP}: ready");
    two.wait_for(&ready);
    one.wait_for(&ready);
    for guest in [FIRST, SECOND] {
        ping(guest, 3, 56);
        ping(guest, 1, 1472);
        exchange_by_udp(guest, GUEST_UDP, &[7; 65507]);
        stop(guest, GUEST_UDP);
    }
    servers.into_iter().for_each(Server::finish);
    let one = one.outcome();
    two.wait_for(&format!("udp-serve {GUEST_UDP}: datagrams=2 "));
    lose_links(&second, &mut two);
    let two = two.outcome();

    for (guest, outcome) in [(first, &one), (second, &two)] {
        println!("{guest:?} after {:?}", outcome.elapsed);
        outcome.ended(0, "power-off");
        guest.has_talked_with_host(outcome, &amounts);
        counted(&guest, outcome, amounts.with_host(&guest));
    }
    let sums = format!("sent={bytes} received={bytes} fnv={}\n", sum(bytes));
    one.printed(&format!("mayfly-guest: tcp-serve {GUEST_TCP}: {sums}"));
    two.printed(&format!("mayfly-guest: tcp {FIRST}: {sums}"))
        .printed(&format!("mayfly-guest: ping {FIRST}: answers=3 of 3\n"));
    all_echoed(&two, FIRST, amounts.datagrams.len());
    assert_eq!(link_states(&two), ["down", "up", "down"], "{two}");
    assert!(two.stderr.contains("eth0: the link is gone"), "{two}");
}

/// The tap goes down and comes up, and then it is deleted; the guest lives on each time.
fn lose_links(guest: &Guest, running: &mut Running) {
    ip(&["link", "set", guest.tap, "down"]);
    running.wait_for("eth0: link=down");
    ip(&["link", "set", guest.tap, "up"]);
    running.wait_for(&format!("udp-serve {AFTERWARDS}: ready"));
    ping(guest.address, 1, 56);
    stop(guest.address, AFTERWARDS);
    running.wait_for(&format!("udp-serve {AFTERWARDS}: datagrams"));
    ip(&["link", "delete", guest.tap]);
}

/// Numbers as a word of the guest's has them.
fn list(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    numbers.join(",")
}

/// Every datagram came back from `address` as it was, at the first try unless the host is
/// so slow that the guest lost its patience.
#[track_caller]
fn all_echoed(outcome: &Outcome, address: Ipv4Addr, count: usize) {
    let line = outcome.line(&format!("mayfly-guest: udp {address}: "));
    let echoed = format!("echoed={count} of {count} lost=");
    assert!(
        line.starts_with(&echoed) && line.ends_with(" wrong=0"),
        "{outcome}"
    );
    let slow = host_kind() == HostKind::Pvm;
    assert!(slow || line.contains(" lost=0 "), "{outcome}");
}

/// What a guest said of its link while it waited.
fn link_states(outcome: &Outcome) -> Vec<String> {
    let guest = outcome.guest();
    let states = guest
        .lines()
        .filter_map(|line| line.strip_prefix("mayfly-guest: eth0: link="));
    states.map(str::to_string).collect()
}

/// The machine's own numbers are at least those of what must have passed, and the frames
/// are longer than a packet of the network exactly where segments are left to others.
#[track_caller]
fn counted(guest: &Guest, outcome: &Outcome, bytes: usize) {
    /// Of an Ethernet header and a packet of 1500 bytes.
    const FRAME: u64 = 1514;
    let json = outcome.json();
    let net = &json["nets"][0];
    for direction in ["received", "sent"] {
        let number = |name: &str| net[format!("{name}_{direction}")].as_u64();
        let (sum, frames) = (number("bytes"), number("frames"));
        let (Some(sum), Some(frames)) = (sum, frames) else {
            panic!("no numbers: {outcome}");
        };
        assert!(sum > bytes as u64, "{sum} bytes {direction}: {outcome}");
        // Where little is sent, frames that acknowledge are as many as those with segments.
        if host_kind() == HostKind::Hardware {
            let long = sum > frames * FRAME;
            assert_eq!(
                long, guest.offload,
                "{frames} frames {direction}: {outcome}"
            );
        }
    }
}
